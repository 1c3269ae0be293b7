#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# run.py kvm-unit-tests with stubs of what "make standalone" makes: tests that pass, fail, are
# skipped or do not end; what it refuses; and what they come to on both trees of FLAVOUR (rt).

. "$(dirname "$0")/tap.sh"
unset TREE
BUILD=${BUILD:-$H/../build} kut=$tmp/kut
mkdir -p "$kut/tests"

# stub NAME TEXT [STATUS]: a script with a guest that prints that, and exits with that status,
# or never. 5 stands for tests that are not run by default.
stub()
{
	as --32 -o "$tmp/flat.o" << EOF && ld -m elf_i386 -Ttext 0x100000 -o "$tmp/flat" "$tmp/flat.o"
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
	cat > "$kut/tests/$1" << EOF
#!/usr/bin/env bash
echo BUILD_HEAD=abc123
[ ${3:-0} != 5 ] || [ "\$run_all_tests" ] || { echo -e '\e[33mSKIP\e[0m $1 (manual run only)'; exit 2; }
base64 -d <<< '$(base64 "$tmp/flat")' > /tmp/flat
qemu-system-x86_64 --no-reboot -nodefaults -device isa-debug-exit,iobase=0xf4,iosize=0x4 -display none \\
	-serial stdio -machine accel=\$ACCEL -smp \$((MAX_SMP / 2)) -kernel /tmp/flat > >(cat > /dev/stderr)
rc=\$((\$? / 2))
wait \$!
[ \$rc != 77 ] || echo -e '\e[33mSKIP\e[0m $1 '
exit \$rc
EOF
	chmod +x "$kut/tests/$1"
}

refuse << EOF
no KUT | KUT= is empty: give it a tree | run.py kvm-unit-tests
KUT that is not built | has no tests for x86_64: there, run make standalone | KUT=$kut run.py kvm-unit-tests
EOF
stub good 'PASS: all' 0 && stub bad 'FAIL: one is not two' 1 && stub skip 'SKIP: no VMX' 77 &&
	stub manual 'FAIL: asked for' 5 && stub never waiting || exit 1
refuse << EOF
KUT for another ARCH | has no tests for arm64 | KUT=$kut ARCH=arm64 run.py kvm-unit-tests
unknown test | no test 'what' | KUT=$kut ONLY=what run.py kvm-unit-tests
EOF

export KUT=$kut TIMEOUT=40
out=$("$H/run.py" kvm-unit-tests 2>&1)
result $? 'the same on both' "$out"
table=$(cat "$BUILD/kvm-unit-tests/${FLAVOUR:-rt}.txt")
for line in 'good +pass +pass ' 'bad +fail +fail .* FAIL: one is not two' 'skip +skip +skip .* no VMX' \
	'manual +skip +skip .*manual run only' 'never +timeout +timeout ' '# .*, KVM-unit-tests abc123,'; do
	grep -qE "^$line" <<< "$table"
	result $? "${line%% *}" "$table"
done
out=$(ONLY=manual "$H/run.py" kvm-unit-tests 2>&1)
grep -qE '^manual +fail +fail .* FAIL: asked for' <<< "$out"
result $? 'a test that is named is run' "$out"
finish
