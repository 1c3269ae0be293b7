#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.py kvm-unit-tests with a stub tree: tests that pass, fail, are skipped, are broken or do not
# end; what it refuses; and what they come to on both trees of FLAVOUR (rt): two boots.

. "$(dirname "$0")/tap.sh"
unset TREE
BUILD=${BUILD:-$H/../build} kut=$tmp/kut

# flat NAME TEXT [STATUS]: it prints that, and exits with that status, or never.
flat()
{
	as --32 -o "$tmp/flat.o" << EOF && ld -m elf_i386 -Ttext 0x100000 -o "$kut/x86/$1" "$tmp/flat.o"
	.long 0x1badb002, 0, -0x1badb002
	.globl _start
_start:	mov \$text, %esi
	mov \$(end - text), %ecx
	mov \$0x3f8, %edx
	rep outsb
	mov \$${3:-0}, %eax
	mov \$0xf4, %edx
	${3:+out %eax, %dx}
1:	hlt
	jmp 1b
text:	.ascii "$2\n"
end:
EOF
}

mkdir -p "$kut/x86"
touch "$kut/x86/run"
cp "$H/tests/unittests.cfg" "$kut/x86/"
refuse << EOF
no KUT | KUT= is empty: give it a tree | run.py kvm-unit-tests
KUT that is no such tree | has no x86/unittests.cfg | KUT=$tmp run.py kvm-unit-tests
KUT for another ARCH | has no arm64/unittests.cfg | KUT=$kut ARCH=arm64 run.py kvm-unit-tests
KUT that is not built | is not built: there is no x86/good.flat | KUT=$kut run.py kvm-unit-tests
unknown test | no test 'what' | KUT=$kut ONLY=what run.py kvm-unit-tests
EOF

flat good.flat 'PASS: all' 0 && flat bad.flat 'FAIL: one is not two' 1 &&
	flat skip.flat 'SKIP: no VMX' 77 && flat never.flat waiting || exit 1
out=$(KUT=$kut TIMEOUT=20 "$H/run.py" kvm-unit-tests 2>&1)
result $? 'the same on both' "$out"
table=$(cat "$BUILD/kvm-unit-tests/${FLAVOUR:-rt}.txt")
for test in good:pass good-params:pass bad:fail skips:skip check:skip checked:pass never:timeout wrong:fail; do
	grep -qE "^${test%:*} +${test#*:} +${test#*:} " <<< "$table"
	result $? "$test" "$table"
done
grep -qF 'one is not two' <<< "$table" && grep -qF 'no VMX' <<< "$table" &&
	grep -qF 'ostype=Hurd is not so' <<< "$table" && ! grep -qE '^(other|no) ' <<< "$table"
result $? 'reasons, and what is left out' "$table"
finish
