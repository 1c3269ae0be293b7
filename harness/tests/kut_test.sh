#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# kvm-unit-tests with a stub tree: tests that pass, fail, are
# skipped, are broken or do not end; what it refuses; and what they come to on both
# trees of FLAVOUR (rt): two boots.

set -uo pipefail
H=$(cd "$(dirname "$0")/.." && pwd)
BUILD=${BUILD:-$H/../build}
unset STAGE_FD KUT TREE ONLY LIMIT CPUS MEM
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=0 failed=0

result()
{
	n=$((n + 1))
	[ "$2" = 0 ] && { echo "ok $n - $1"; return; }
	failed=1
	echo "not ok $n - $1"
	sed 's/^/# /' <<< "$3"
}

refuses()
{
	local out rc=0

	out=$("${@:3}" 2>&1 </dev/null) || rc=$?
	[ $rc != 0 ] && [ "$(wc -l <<< "$out")" = 1 ] && [[ $out == *"$2"* ]]
	result "$1" $? "status $rc: $out"
}

# flat NAME STATUS TEXT: it prints that, and exits with that status, or never.
flat()
{
	cat > "$tmp/flat.s" << EOT
	.code32
	.globl _start
	.section .text
	.align 4
	.long 0x1badb002, 0, -0x1badb002
_start:	mov \$text, %esi
	mov \$0x3f8, %edx
1:	lodsb
	test %al, %al
	jz 2f
	out %al, %dx
	jmp 1b
2:	mov \$$2, %eax
	test %eax, %eax
	js 3f
	mov \$0xf4, %edx
	out %eax, %dx
3:	hlt
	jmp 3b
text:	.asciz "$3\n"
EOT
	as --32 -o "$tmp/flat.o" "$tmp/flat.s" &&
		ld -m elf_i386 -Ttext 0x100000 -e _start -o "$kut/x86/$1" "$tmp/flat.o" || exit 1
}

kut=$tmp/kut
refuses 'no KUT' 'KUT= is empty: give it a tree' "$H/kvm-unit-tests"
refuses 'KUT that is no such tree' 'has no x86/unittests.cfg' env KUT="$tmp" "$H/kvm-unit-tests"
mkdir -p "$kut/x86"
touch "$kut/x86/run"
cat > "$kut/x86/unittests.cfg" << 'EOT'
# a comment
[good]
file = good.flat
smp = $(($MAX_SMP / 2))
test_args = 'two words'
[good-params]
file = good.flat
extra_params = """-cpu qemu64 \
	-m 64"""
timeout = 240s
[bad]
file = bad.flat
[skips]
file = skip.flat
[check]
file = good.flat
check = /proc/sys/kernel/ostype=Hurd
[checked]
file = good.flat
check = /proc/sys/kernel/ostype=Linux
[never]
file = never.flat
[wrong]
file = good.flat
qemu_params = -cpu nonesuch
[other]
file = other.flat
arch = i386
[no]
file = other.flat
groups = nodefault
EOT
refuses 'KUT that is not built' 'is not built: there is no x86/bad.flat' env KUT="$kut" "$H/kvm-unit-tests"
refuses 'unknown test' "no test 'what' in unittests.cfg" env KUT="$kut" ONLY=what "$H/kvm-unit-tests"
refuses 'unknown TREE' 'TREE=next: base or series' env KUT="$kut" TREE=next "$H/kvm-unit-tests"

flat good.flat 0 'PASS: all'
flat bad.flat 1 'FAIL: one is not two'
flat skip.flat 77 'SKIP: no VMX'
flat never.flat -1 'waiting'
rc=0
out=$(KUT=$kut LIMIT=20 "$H/kvm-unit-tests" 2>&1) || rc=$?
table=$(cat "$BUILD/kvm-unit-tests/${FLAVOUR:-rt}.txt")
result 'the same on both' $rc "$out"
while read -r name outcome; do
	grep -qE "^$name +$outcome +$outcome " <<< "$table"
	result "$name: $outcome" $? "$table"
done <<< 'good pass
good-params pass
bad fail
skips skip
check skip
checked pass
never timeout
wrong fail'
grep -qF 'one is not two' <<< "$table" && grep -qF 'no VMX' <<< "$table" &&
	grep -qF 'ostype=Hurd is not so' <<< "$table" && ! grep -qE '^(other|no) ' <<< "$table"
result 'reasons, and what is left out' $? "$table"
echo "1..$n"
exit $failed
