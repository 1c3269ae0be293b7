#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# kut.sh CHECKS OPTION...: a program of the guest that runs one of the KVM-unit-tests in
# QEMU, as their own script does it, without what looks for QEMU and accelerators. Each
# check, FILE=TEXT, must be so. It ends as a KVM selftest does: with 0, or 4 if it is skipped,
# and why.

out=/tmp/out
for check in $1; do
	[ "$(cat "${check%%=*}" 2>/dev/null)" = "${check#*=}" ] ||
		{ echo "# SKIP $check is not so"; exit 4; }
done
shift
{
	qemu-system-x86_64 -L /qemu --no-reboot -nodefaults -device pc-testdev -device pci-testdev \
		-device isa-debug-exit,iobase=0xf4,iosize=0x4 -display none -serial stdio "$@" 2>&1
	echo $? > /tmp/status
} | tee $out
read -r status < /tmp/status

# isa-debug-exit makes 2 * n + 1 of the n that a test exits with. QEMU itself ends with 1 if
# it does not like its arguments.
why=$(grep '^qemu-system-x86_64: ' $out | grep -m 1 -v ': warning: ')
case $status:$why in
1:)	exit 0 ;;
1:*)	;;
155:*)	echo "# SKIP $(sed -n 's/.*SKIP: //p' $out | tail -n 1)"
	exit 4 ;;
137:* | 139:* | 1[2-9][02468]:*)
	exit "$status" ;;
*)	why=$(grep -m 1 'FAIL: ' $out) || why="status $status" ;;
esac
echo "not ok $why"
exit 1
