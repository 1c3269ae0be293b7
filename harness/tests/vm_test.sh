#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts refuse, and with which words. Needs no kernel.

set -uo pipefail
H=$(cd "$(dirname "$0")/.." && pwd)
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export BUILD=$tmp/build
unset STAGE_FD LINUX RUN ARGS FLAVOUR TREE TEST CPUS MEM TIMEOUT SHELL_ TCG
n=0 failed=0

ok()
{
	n=$((n + 1))
	echo "ok $n - $1"
}

not_ok()
{
	n=$((n + 1)) failed=1
	echo "not ok $n - $1"
	sed 's/^/# /' <<< "$2"
}

# refuses DESCRIPTION WORDS COMMAND...: it fails, with one line that has WORDS.
refuses()
{
	local what=$1 words=$2 out rc=0

	shift 2
	out=$("$@" 2>&1 </dev/null) || rc=$?
	if [ $rc != 0 ] && [ "$(grep -cv '^\[' <<< "$out")" = 1 ] && [[ $out == *"$words"* ]]; then
		ok "$what"
	else
		not_ok "$what" "status $rc: $out"
	fi
}

# Programs
cat > "$tmp/dynamic.c" << 'EOF'
int main(void) { return 0; }
EOF
gcc -o "$tmp/dynamic" "$tmp/dynamic.c"
echo text > "$tmp/text"
printf '#!/bin/sh\n' > "$tmp/script"
chmod +x "$tmp/script"
cp "$tmp/text" "$tmp/exec_text"
chmod +x "$tmp/exec_text"

refuses 'no RUN' 'RUN= is empty' "$H/vm"
refuses 'RUN that is not there' "no file $tmp/none" env RUN="$tmp/none" "$H/vm"
refuses 'RUN that is a folder' "no file $tmp" env RUN="$tmp" "$H/vm"
refuses 'RUN that is not executable' 'is not executable' env RUN="$tmp/text" "$H/vm"
refuses 'RUN that is no program' 'neither an ELF' env RUN="$tmp/exec_text" "$H/vm"
refuses 'RUN that is dynamic' 'dynamically linked' env RUN="$tmp/dynamic" "$H/vm"
refuses 'the second of two in RUN' "no file $tmp/none" env RUN="$tmp/script $tmp/none" "$H/vm"
refuses 'too many CPUS' 'CPUS=99' env RUN="$tmp/script" CPUS=99 "$H/vm"
refuses 'MEM without a unit' 'MEM=lots' env RUN="$tmp/script" MEM=lots "$H/vm"
refuses 'TCG of another kind' 'TCG=both: multi or single' env RUN="$tmp/script" TCG=both "$H/vm"
refuses 'TIMEOUT of 0' 'TIMEOUT=0' env RUN="$tmp/script" TIMEOUT=0 "$H/vm"
refuses 'a shell without a terminal' 'needs a terminal' "$H/vm" --shell
refuses 'unknown FLAVOUR' "unknown FLAVOUR 'vanilla': one of kcsan perf-rt perf rt std" env RUN="$tmp/script" FLAVOUR=vanilla "$H/vm"
refuses 'the common config as FLAVOUR' "unknown FLAVOUR 'common'" "$H/kernel" common base
refuses 'the debug config as FLAVOUR' "unknown FLAVOUR 'debug'" "$H/kernel" debug base
refuses 'no TEST' 'TEST= is empty' "$H/selftest"
refuses 'unknown set of tools' "unknown set of tools 'x'" "$H/tools" x

# Mutants: parsed before anything is built
refuses 'unknown mutant' "no mutant 'gpc-no-retri'; near it: gpc-no-retry" "$H/mutate" gpc-no-retri
refuses 'unknown mutant, part of a name' "no mutant 'runstate'; near it: xen-runstate-" "$H/mutate" runstate

# Tools: a PATH that has only what the script itself needs.
mkdir "$tmp/bin"
for c in bash dirname date id sort grep readelf mktemp rm apt-get; do
	ln -s "$(type -P $c)" "$tmp/bin/"
done
printf '#!/bin/sh\necho 1000\n' > "$tmp/id"
chmod +x "$tmp/id"
ln -sf ../id "$tmp/bin/id"
PATH=$tmp/bin refuses 'missing tools, not root' 'missing: apt-get install' bash "$H/tools" build
rm "$tmp/bin/apt-get"
PATH=$tmp/bin refuses 'missing tools, no Debian' 'missing: ' bash "$H/tools" build
printf '#!/bin/sh\necho QEMU emulator version 6.1.0\n' > "$tmp/bin/qemu-system-x86_64"
chmod +x "$tmp/bin/qemu-system-x86_64"
PATH=$tmp/bin:$PATH refuses 'an old QEMU' 'QEMU 6.1.0 is too old' "$H/tools" boot
printf '#!/bin/sh\necho QEMU emulator version 8.1.0\n' > "$tmp/bin/qemu-system-x86_64"
PATH=$tmp/bin:$PATH refuses 'a QEMU without SVM' 'does not know -cpu EPYC,+svm' "$H/tools" boot
rm "$tmp/bin/qemu-system-x86_64"

# LINUX: just enough of a tree
linux=$tmp/linux
mkdir "$linux"
refuses 'LINUX that is not there' 'is not a directory' env LINUX="$tmp/none" "$H/base"
refuses 'LINUX that is no kernel' 'is not a kernel tree' env LINUX="$linux" "$H/base"
printf 'VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\nEXTRAVERSION =\nmrproper:\n\trm -f .config\n' > "$linux/Makefile"
touch "$linux/Kbuild" "$linux/.config" "$linux/a.o"
mkdir -p "$linux/virt/kvm"
echo 'int kvm;' > "$linux/virt/kvm/kvm_main.c"

state()
{
	(cd "$linux" && find . -printf '%p %m %T@ %s\n' | sort)
}

# takes DESCRIPTION: a $BUILD/src from $linux, which stays as it is.
takes()
{
	local before out rc=0

	before=$(state)
	rm -rf "$BUILD"
	out=$(LINUX=$linux "$H/base" 2>&1) || rc=$?
	if [ $rc = 0 ] && [ "$(state)" = "$before" ] && [ -e "$BUILD/src/virt/kvm/kvm_main.c" ] &&
	   [ ! -e "$BUILD/src/.config" ] && [ ! -e "$BUILD/src/a.o" ] && [ -d "$BUILD/src/.git" ] &&
	   [[ $out == *"is Linux 6.12.1, the series was made for linux-source-"* ]]; then
		ok "$1"
	else
		not_ok "$1" "status $rc: $out"
	fi
}

chmod -R a-w "$linux"
takes 'LINUX without git, read-only, is left as it is'
refuses 'unknown TREE' "unknown TREE 'next': base, series" env LINUX="$linux" RUN="$tmp/script" TREE=next "$H/vm"
chmod -R u+w "$linux"
refuses 'selftest of an unknown TREE' "unknown TREE 'next'" env LINUX="$linux" TEST=x86/smm_test TREE=next "$H/selftest"
refuses 'selftests of an unknown TREE' "unknown TREE 'next'" env LINUX="$linux" "$H/selftests" next
refuses 'no LINUX after one' 'set LINUX= again' "$H/base"
mv "$linux" "$tmp/other"
refuses 'another LINUX after one' 'or set BUILD=' env LINUX="$tmp/other" "$H/base"
mv "$tmp/other" "$linux"

git -C "$linux" init -q
git -C "$linux" add Makefile Kbuild virt
git -C "$linux" -c user.name=t -c user.email=t@t commit -qm t
chmod -R a-w "$linux"
takes 'LINUX with git, read-only, is left as it is'
chmod -R u+w "$linux"
echo 'int changed;' >> "$linux/virt/kvm/kvm_main.c"
rm -rf "$BUILD"
out=$(LINUX=$linux "$H/base" 2>&1)
if [[ $out == *'uncommitted changes: they are not used'* ]] &&
   ! grep -q changed "$BUILD/src/virt/kvm/kvm_main.c"; then
	ok 'uncommitted changes in LINUX are not used'
else
	not_ok 'uncommitted changes in LINUX are not used' "$out"
fi

# Debian's package
rm -rf "$BUILD"
mkdir -p "$BUILD/base"
read -r _ deb < "$H/base.sha256"
echo damaged > "$BUILD/base/$deb"
refuses 'a package with another checksum' 'does not have the checksum' "$H/base"
rm -rf "$BUILD"
cat > "$tmp/apt.conf" << EOF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "/dev/null";
EOF
APT_CONFIG=$tmp/apt.conf refuses 'no package source' 'no Debian package source' "$H/base"
[ ! -e "$BUILD/src" ] && [ ! -e "$BUILD/base/src.new/Makefile" ] && ok 'nothing half-made is left' ||
	not_ok 'nothing half-made is left' "$(ls "$BUILD")"

printf '#!/bin/sh\necho "Filesystem 1G-blocks Used Available Use%% Mounted"; echo "x 9 4 5 50%% /"\n' > "$tmp/bin/df"
chmod +x "$tmp/bin/df"
rm "$tmp/bin/id"
PATH=$tmp/bin:$PATH refuses 'a full disk' 'GB are needed' env LINUX="$linux" "$H/base"

echo "1..$n"
exit $failed
