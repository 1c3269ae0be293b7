#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the scripts refuse, and with which words. Needs no kernel.

. "$(dirname "$0")/tap.sh"
unset FLAVOUR TREE
export BUILD=$tmp/build

# Programs
echo 'int main(void) { return 0; }' > "$tmp/main.c"
gcc -o "$tmp/dynamic" "$tmp/main.c"
gcc -static -o "$tmp/static" "$tmp/main.c"
echo text | tee "$tmp/text" > "$tmp/exec_text"
script script ''
chmod +x "$tmp/exec_text"

export RUN=$tmp/script
refuse < "$H/tests/refusals.data"
mkdir "$tmp/no_queue"
cp -r "$H" "$tmp/no_queue/"
refuse <<< "BASE without a queue | patches/stable/7.2/series is missing | BASE=7.2 $tmp/no_queue/harness/base"
! compgen -G "$BUILD/herd7*" > /dev/null
result $? 'herd7 is not downloaded for it' "$(ls "$BUILD")"
out=$("$H/vm" --check 2>&1) && [ -z "$out" ]
result $? 'good RUN, with --check' "$out"
out=$(make -s -n -C "$H/.." vm | sed 's,.*/,,' | paste -sd,)
[ "$out" = 'vm --check,deps,vm' ]
result $? 'make vm refuses before it installs' "$out"
for script in bench/liveness.py check compile-check complaints deps kernel \
	      litmus mutate run.py vm; do
	out=$("$H/$script" --help 2>&1) && [[ $out == "${script##*/}"[\ :]* ]]
	result $? "$script --help" "$out"
done

# Deps: a PATH that has only what the script itself needs.
mkdir "$tmp/bin"
for c in bash dirname date id sort paste grep readelf mkdir tail apt-get; do
	ln -s "$(type -P $c)" "$tmp/bin/"
done
deps="PATH=$tmp/bin bash $H/deps"
script bin/id 'echo 1000'
refuse << EOF
missing tools, not root | missing: apt-get install | $deps build
missing cross compiler for arm64 | gcc-aarch64-linux-gnu | ARCH=arm64 $deps build
missing QEMU for arm64 | qemu-system-arm | ARCH=arm64 $deps boot
missing cross compiler for riscv64 | gcc-riscv64-linux-gnu | ARCH=riscv64 $deps build
missing QEMU for riscv64 | qemu-system-riscv64 | ARCH=riscv64 $deps boot
missing cross compiler for loongarch64 | clang-19 | ARCH=loongarch64 $deps build
EOF
rm "$tmp/bin/apt-get"
refuse <<< "missing tools, no Debian | on Fedora: dnf install | $deps build"
script bin/id 'echo 0'
script bin/apt-get 'echo first; echo "E: no such mirror"; exit 100'
out=$(PATH=$tmp/bin bash "$H/deps" build 2>&1)
[ $? = 1 ] && [[ $out == *"installing "*"E: no such mirror"*"deps: cannot install "*"see $BUILD/deps.log" ]]
result $? 'apt fails' "$out"
rm "$tmp/bin/apt-get"

# QEMU
script bin/qemu 'echo QEMU emulator version 6.1.0'
refuse <<< "an old QEMU | QEMU 6.1.0 is too old | QEMU=$tmp/bin/qemu deps boot"
script bin/qemu 'echo QEMU emulator version 8.1.0'
refuse <<< "a QEMU without SVM | does not know -cpu EPYC,+svm | QEMU=$tmp/bin/qemu deps boot"
script bin/qemu-system-x86_64 'echo QEMU emulator version 9.2.0 EPYC svm'
printf '%s\n' 'Dir::Etc::SourceList "/dev/null";' 'Dir::Etc::SourceParts "/dev/null";' > "$tmp/apt.conf"
apt="APT_CONFIG=$tmp/apt.conf PATH=$tmp/bin:\$PATH"
for again in '' ', the second time'; do
	out=$(eval "$apt $H/deps boot" 2>&1) &&
		[[ $out == *"QEMU 9.2.0 is used, a newer one cannot be had (no Debian package source"* ]] &&
		[[ -z $again || $out != *fetching* ]]
	result $? "no newer QEMU$again" "$out"
done
rm "$tmp/bin/qemu-system-x86_64"
mkdir -p "$BUILD/there"
echo no network > "$BUILD/there.failed"
out=$(bash -c '. "$0/lib.sh"; fetch it bookworm there it' "$H" 2>&1)
result $? 'what is there need not be fetched' "$out"
script bin/qemu-system-aarch64 'echo QEMU emulator version 10.0.2'
refuse << EOF
no busybox | no busybox for arm64 (no Debian package source | ARCH=arm64 $apt deps boot
no busybox, the second time | set BUSYBOX= | ARCH=arm64 $apt deps boot
a QEMU without the processor | does not know -cpu max | ARCH=arm64 BUSYBOX=$tmp/static $apt deps boot
EOF
rm "$tmp"/bin/qemu-system-*
out=
for version in 7.2.15 9.9 10.0.2 11.0; do
	script bin/qemu "echo QEMU emulator version $version"
	out+="$(QEMU=$tmp/bin/qemu bash -c '. "$0/lib.sh"; find_qemu; echo "$tcg"' "$H") "
done
[ "$out" = 'single single multi multi ' ]
result $? 'TCG=auto' "$out"
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
gone()
{
	! kill -0 "$pid" 2> /dev/null
}
for sig in TERM KILL; do
	rm -f "$tmp/pid"
	make -s -C "$tmp" > /dev/null 2>&1 &
	wait_for 9 [ -s "$tmp/pid" ]
	sleep 0.5
	pid=$(cat "$tmp/pid") alive=no
	gone || alive=yes
	kill -$sig $!
	wait $! 2> /dev/null
	wait_for 9 gone && [ $alive = yes ]
	result $? "nothing survives a make that gets SIG$sig" "process $pid, alive before: $alive"
done

# LINUX: just enough of a tree
linux=$tmp/linux
mkdir "$linux"
refuse << EOF
LINUX that is not there | is not a directory | LINUX=$tmp/none base
LINUX that is no kernel | is not a kernel tree | LINUX=$linux base
EOF
printf 'VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\nEXTRAVERSION =\n' > "$linux/Makefile"
printf '.*\n!.gitignore\n*.o\n' > "$linux/.gitignore"
touch "$linux/Kbuild" "$linux/.config" "$linux/a.o"
mkdir -p "$linux/virt/kvm"
echo 'int kvm;' > "$linux/virt/kvm/kvm_main.c"

state()
{
	(cd "$linux" && find . -printf '%p %m %T@ %s\n' | sort)
}

# takes WHAT: a $BUILD/src from $linux, which is read-only and stays as it is.
takes()
{
	local before out

	chmod -R a-w "$linux"
	before=$(state)
	rm -rf "$BUILD"
	out=$(LINUX=$linux "$H/base" 2>&1) && [ "$(state)" = "$before" ] &&
		[ -e "$BUILD/src/virt/kvm/kvm_main.c" ] && [ -d "$BUILD/src/.git" ] &&
		[ ! -e "$BUILD/src/.config" ] && [ ! -e "$BUILD/src/a.o" ] &&
		[[ $out == *"is Linux 6.12.1, the series was made for linux-source-"* ]]
	result $? "$1" "$out"
}

takes 'LINUX without git, read-only, is left as it is'
refuse <<< "unknown TREE | unknown TREE 'next': base, series | LINUX=$linux TREE=next vm"
chmod -R u+w "$linux"
mv "$linux" "$tmp/other"
refuse <<< "another LINUX after one | or set BUILD= | LINUX=$tmp/other base"
mv "$tmp/other" "$linux"
refuse << EOF
selftest of an unknown TREE | unknown TREE 'next' | LINUX=$linux TREE=next run.py --path x86/smm_test
scenario on an unknown TREE | unknown TREE 'next' | LINUX=$linux TREE=next run.py mrelease
no LINUX after one | set LINUX= again | base
EOF
git -C "$linux" init -q
git -C "$linux" add Makefile Kbuild virt
git -C "$linux" -c user.name=t -c user.email=t@t commit -qm t
takes 'LINUX with git, read-only, is left as it is'
chmod -R u+w "$linux"
echo 'int changed;' >> "$linux/virt/kvm/kvm_main.c"
rm -rf "$BUILD"
out=$(LINUX=$linux "$H/base" 2>&1)
[[ $out == *'uncommitted changes: they are not used'* ]] && ! grep -q changed "$BUILD/src/virt/kvm/kvm_main.c"
result $? 'uncommitted changes in LINUX are not used' "$out"

# Debian's package
rm -rf "$BUILD"
mkdir -p "$BUILD/base"
read -r _ deb _ < "$H/base.sha256"
echo damaged > "$BUILD/base/$deb"
refuse <<< 'a package with another checksum | does not have the checksum | base'
rm -rf "$BUILD"
for base in 6.12 7.2; do
	refuse <<< "BASE=$base is not here | no Debian package source | BASE=$base APT_CONFIG=$tmp/apt.conf base"
done
rm -rf "$BUILD"
refuse <<< "no package source | no Debian package source | APT_CONFIG=$tmp/apt.conf base"
[ ! -e "$BUILD/src" ] && [ ! -e "$BUILD/base/src.new/Makefile" ]
result $? 'nothing half-made is left' "$(ls "$BUILD")"
script bin/df 'echo "Filesystem 1G-blocks Used Available Use% Mounted"; echo "x 9 4 5 50% /"'
rm "$tmp/bin/id"
refuse <<< "a full disk | GB of free space, and the tree with two kernels needs | LINUX=$linux PATH=$tmp/bin:\$PATH base"
finish
