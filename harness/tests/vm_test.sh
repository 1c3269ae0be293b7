#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts refuse, and with which words. Needs no kernel.

set -uo pipefail
H=$(cd "$(dirname "$0")/.." && pwd)
tmp=$(mktemp -d)
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT
export BUILD=$tmp/build
unset STAGE_FD LINUX RUN ARGS FLAVOUR TREE TEST CPUS MEM TIMEOUT TCG QEMU HERD7 ARCH MODE BUSYBOX HARNESS_TOP MAKELEVEL MAKEFLAGS
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
refuses 'TCG of another kind' 'TCG=both: auto, multi or single' env RUN="$tmp/script" TCG=both "$H/vm"
refuses 'TIMEOUT of 0' 'TIMEOUT=0' env RUN="$tmp/script" TIMEOUT=0 "$H/vm"
refuses 'a shell without a terminal' 'needs a terminal' "$H/vm" --shell
refuses 'an argument that vm does not know' "unknown argument '--prompt'" env RUN="$tmp/script" "$H/vm" --prompt
refuses 'two arguments' 'usage: vm' env RUN="$tmp/script" "$H/vm" --check --shell
refuses 'RUN that is dynamic, with --check' 'dynamically linked' env RUN="$tmp/dynamic" "$H/vm" --check
out=$(RUN=$tmp/script "$H/vm" --check 2>&1) && [ -z "$out" ] && ok 'good RUN, with --check' ||
	not_ok 'good RUN, with --check' "$out"
[ "$(make -s -n -C "$H/.." vm | sed 's,.*/,,' | paste -sd,)" = 'vm --check,deps,vm' ] && ok 'make vm refuses before it installs' ||
	not_ok 'make vm refuses before it installs' "$(make -s -n -C "$H/.." vm)"
refuses 'unknown ARCH' "unknown ARCH 's390': x86_64" env RUN="$tmp/script" ARCH=s390 "$H/vm"
refuses 'unknown MODE' "unknown MODE 'el2': vhe, nofwb, nvhe or protected" env RUN="$tmp/script" ARCH=arm64 MODE=el2 "$H/vm"
refuses 'MODE of x86_64' 'MODE=nvhe is for ARCH=arm64 only' env RUN="$tmp/script" MODE=nvhe "$H/vm"
refuses 'ARCH that is not run' 'is only compiled, nothing can be run' env RUN="$tmp/script" ARCH=loongarch64 "$H/vm"
gcc -static -o "$tmp/static" "$tmp/dynamic.c"
refuses 'RUN for another ARCH' "$tmp/static is not a program for riscv64" env RUN="$tmp/static" ARCH=riscv64 "$H/vm"
refuses 'unknown ARCH of a kernel' "unknown ARCH 's390': x86_64" env ARCH=s390 "$H/kernel" rt base
refuses 'unknown FLAVOUR' "unknown FLAVOUR 'vanilla': one of kcsan perf-rt perf rt std" env RUN="$tmp/script" FLAVOUR=vanilla "$H/vm"
refuses 'the common config as FLAVOUR' "unknown FLAVOUR 'common'" "$H/kernel" common base
refuses 'the debug config as FLAVOUR' "unknown FLAVOUR 'debug'" "$H/kernel" debug base
refuses 'no TEST' 'TEST= is empty' "$H/run.py" --selftest ''
refuses 'unknown set of deps' "unknown set 'x'" "$H/deps" x
refuses 'unknown check of compile-check' "unknown check 'x'" "$H/compile-check" x
refuses 'arguments of bisect-check' "unknown argument 'x'" "$H/bisect-check" x
refuses 'unknown litmus test' "no test 'MP+gpc-lin' in Documentation/litmus-tests/kvm; near it: MP+gpc-link" "$H/litmus" MP+gpc-lin
[ ! -e "$BUILD/herd7" ] && [ ! -e "$BUILD/herd7.new" ] && ok 'herd7 is not downloaded for it' || not_ok 'herd7 is not downloaded for it' "$(ls "$BUILD")"
for script in bench/liveness.py bisect-check check compile-check complaints deps kernel kvm-unit-tests lint litmus mutate run.py vm; do
	out=$("$H/$script" --help 2>&1) && [[ $out == "${script##*/}"[\ :]* ]] &&
		ok "$script --help" || not_ok "$script --help" "$out"
done

# Mutants: parsed before anything is built
refuses 'unknown mutant' "no mutant 'gpc-no-retri'; near it: gpc-no-retry" "$H/mutate" gpc-no-retri
refuses 'unknown mutant, part of a name' "no mutant 'runstate'; near it: xen-runstate-" "$H/mutate" runstate

# Deps: a PATH that has only what the script itself needs.
mkdir "$tmp/bin"
for c in bash dirname date id sort paste grep readelf mkdir tail apt-get; do
	ln -s "$(type -P $c)" "$tmp/bin/"
done
# fake NAME TEXT: a script in its place.
fake()
{
	rm -f "$tmp/bin/$1"
	printf '#!/bin/sh\n%s\n' "$2" > "$tmp/bin/$1"
	chmod +x "$tmp/bin/$1"
}
fake id 'echo 1000'
PATH=$tmp/bin refuses 'missing tools, not root' 'missing: apt-get install' bash "$H/deps" build
while read -r arch gcc qemu; do
	PATH=$tmp/bin ARCH=$arch refuses "missing cross compiler for $arch" " $gcc" bash "$H/deps" build
	[ -z "$qemu" ] || PATH=$tmp/bin ARCH=$arch refuses "missing QEMU for $arch" " $qemu" bash "$H/deps" boot
done << 'EOF'
arm64 gcc-aarch64-linux-gnu qemu-system-arm
riscv64 gcc-riscv64-linux-gnu qemu-system-riscv64
loongarch64 clang-19
EOF
rm "$tmp/bin/apt-get"
PATH=$tmp/bin refuses 'missing tools, no Debian' 'on Fedora: dnf install' bash "$H/deps" build
fake id 'echo 0'
fake apt-get 'echo first; echo "E: no such mirror"; exit 100'
out=$(PATH=$tmp/bin bash "$H/deps" build 2>&1)
if [ $? = 1 ] && [[ $out == *"installing "*"E: no such mirror"*"deps: cannot install "*"see $BUILD/deps.log" ]]; then
	ok 'apt fails'
else
	not_ok 'apt fails' "$out"
fi
fake qemu 'echo QEMU emulator version 6.1.0'
refuses 'an old QEMU' 'QEMU 6.1.0 is too old' env QEMU="$tmp/bin/qemu" "$H/deps" boot
fake qemu 'echo QEMU emulator version 8.1.0'
refuses 'a QEMU without SVM' 'does not know -cpu EPYC,+svm' env QEMU="$tmp/bin/qemu" "$H/deps" boot
refuses 'no QEMU' "$tmp/none does not run" env QEMU="$tmp/none" RUN="$tmp/script" "$H/vm"
fake qemu-system-x86_64 'echo QEMU emulator version 9.2.0 EPYC svm'
printf '%s\n' 'Dir::Etc::SourceList "/dev/null";' 'Dir::Etc::SourceParts "/dev/null";' > "$tmp/apt.conf"
rm "$tmp/bin/apt-get"
for again in '' ', the second time'; do
	out=$(APT_CONFIG=$tmp/apt.conf PATH=$tmp/bin:$PATH "$H/deps" boot 2>&1) &&
		[[ $out == *"QEMU 9.2.0 is used, a newer one cannot be had (no Debian package source"* ]] &&
		[[ -z $again || $out != *fetching* ]] && ok "no newer QEMU$again" || not_ok "no newer QEMU$again" "$out"
done
rm "$tmp/bin/qemu-system-x86_64"
for arch in aarch64 riscv64; do
	fake qemu-system-$arch 'echo QEMU emulator version 10.0.2'
done
APT_CONFIG=$tmp/apt.conf PATH=$tmp/bin:$PATH ARCH=arm64 refuses 'no busybox' 'no busybox for arm64 (no Debian package source' "$H/deps" boot
APT_CONFIG=$tmp/apt.conf PATH=$tmp/bin:$PATH ARCH=arm64 refuses 'no busybox, the second time' 'set BUSYBOX=' "$H/deps" boot
PATH=$tmp/bin:$PATH ARCH=arm64 BUSYBOX=$tmp/static refuses 'a QEMU without the processor' 'does not know -cpu max' "$H/deps" boot
rm "$tmp"/bin/qemu-system-*
# tcg VERSION: what TCG=auto is with it.
tcg()
{
	bash -c '. "$0/lib.sh"; qemu_version=$1; find_tcg; echo $tcg' "$H" "$1"
}
[ "$(tcg 7.2.15) $(tcg 9.9) $(tcg 10.0.2) $(tcg 11.0)" = 'single single multi multi' ] && ok 'TCG=auto' || not_ok 'TCG=auto' "$(tcg 10.0)"
refuses 'no space' 'GB of free space, and a test needs ' bash -c '. "$0/lib.sh"; need_space 1000000 "a test"' "$H"
rm -rf "$BUILD"

# What a script has started ends with make, even if something else is in between.
cat > "$tmp/leaf" << EOF
. $H/lib.sh
end_with_top
"\${with_me[@]}" sleep 1000 & echo \$! > $tmp/pid
wait
EOF
printf '. %s/lib.sh\n(bash %s/leaf)\ntrue\n' "$H" "$tmp" > "$tmp/top"
printf 'all:\n\t@bash %s/top\n' "$tmp" > "$tmp/Makefile"
for sig in TERM KILL; do
	rm -f "$tmp/pid"
	make -s -C "$tmp" > /dev/null 2>&1 &
	for ((i = 0; i < 50; i++)); do
		[ ! -s "$tmp/pid" ] || break
		sleep 0.1
	done
	sleep 0.5
	alive=$(kill -0 "$(cat "$tmp/pid")" && echo yes)
	kill -$sig $!
	wait $! 2> /dev/null
	for ((i = 0; i < 50; i++)); do
		kill -0 "$(cat "$tmp/pid")" 2> /dev/null || break
		sleep 0.1
	done
	[ "$alive" = yes ] && ! kill -0 "$(cat "$tmp/pid")" 2> /dev/null && ok "nothing survives a make that gets SIG$sig" ||
		not_ok "nothing survives a make that gets SIG$sig" "process $(cat "$tmp/pid")"
done

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
refuses 'selftest of an unknown TREE' "unknown TREE 'next'" env LINUX="$linux" TREE=next "$H/run.py" --selftest x86/smm_test
refuses 'scenario on an unknown TREE' "unknown TREE 'next'" env LINUX="$linux" "$H/run.py" mrelease --tree=next
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
APT_CONFIG=$tmp/apt.conf refuses 'no package source' 'no Debian package source' "$H/base"
[ ! -e "$BUILD/src" ] && [ ! -e "$BUILD/base/src.new/Makefile" ] && ok 'nothing half-made is left' ||
	not_ok 'nothing half-made is left' "$(ls "$BUILD")"

printf '#!/bin/sh\necho "Filesystem 1G-blocks Used Available Use%% Mounted"; echo "x 9 4 5 50%% /"\n' > "$tmp/bin/df"
chmod +x "$tmp/bin/df"
rm "$tmp/bin/id"
PATH=$tmp/bin:$PATH refuses 'a full disk' 'GB are needed' env LINUX="$linux" "$H/base"

echo "1..$n"
exit $failed
