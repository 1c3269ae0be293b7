#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# vm against a kernel: FLAVOUR (rt) and TREE (base), built if it is not yet.
# A boot takes 7 to 15 seconds; there are eight.

. "$(dirname "$0")/tap.sh"
export FLAVOUR=${FLAVOUR:-rt} TREE=${TREE:-base} TIMEOUT=200 LOG=$tmp/log
"$H/kernel" "$FLAVOUR" "$TREE" || exit 1

# boot WHAT STATUS STDOUT WORDS...: what vm answers. WORDS are on stderr.
boot()
{
	local rc=0 words bad=''

	"$H/vm" > "$tmp/out" 2> "$tmp/err" < /dev/null || rc=$?
	[ $rc = "$2" ] || bad="status $rc"
	[ "$(cat "$tmp/out")" = "$3" ] || bad+=" stdout"
	for words in "${@:4}"; do
		grep -qF -- "$words" "$tmp/err" || bad+=" no '$words'"
	done
	[ -z "$bad" ]
	result $? "$1" "$bad"$'\n'"$(cat "$tmp/out" "$tmp/err")"
}

script good 'id -u
[ -c /dev/kvm ] && grep -qx pvclock_gtod_notify /known-races && grep -q memory /sys/fs/cgroup/cgroup.subtree_control && echo "$# $2"'
script bad 'echo "output <6>[    0.0] BUG: of a program"; echo "and its errors" >&2; exit 3'
script complain 'echo "<3>BUG: sleeping function called from invalid context at a.c:1" > /dev/kmsg; echo done'
script crash 'reboot -f'
script forever 'echo started; sleep 1000'
bad='output <6>[    0.0] BUG: of a program
and its errors'
RUN="$tmp/good $tmp/bad $tmp/good" ARGS="a 'b c'" boot 'programs, arguments, output, status' 3 \
	$'0\n2 b c\n'"$bad"$'\n0\n2 b c' 'bad: exit status 3'
RUN="$tmp/bad $tmp/complain" boot 'the kernel complains' 100 "$bad"$'\ndone' \
	'BUG: sleeping function called from invalid context at a.c:1	complain' 'would be status 3'
RUN=$tmp/crash boot 'the guest goes away' 101 '' 'the guest went down while crash ran'
RUN=$tmp/forever TIMEOUT=30 boot 'a timeout' 101 started 'timeout: forever still ran after 30 s'
export RUN=$tmp/good
CPU=EPYC,-svm boot 'no SVM' 101 '' 'KVM did not load in the guest: kvm_amd: SVM not supported'

# fake TEXT: a QEMU that does what TEXT says. $once is an end of TEXT after which the second
# try has the real one.
real=$(. "$H/lib.sh" && find_qemu && printf '%q ' "${qemu[@]}") || exit 1
once="[ ! -e $tmp/once ] || exec $real \"\$@\"; touch $tmp/once;"
fake()
{
	script qemu "[ \"\$1\" != --version ] || { echo QEMU emulator version 10.0.0; exit; }"$'\n'"$1"
	rm -f "$tmp/once"
}
export QEMU=$tmp/qemu
abort='echo "qemu: assertion failed: (something)" >&2; kill -ABRT $$'
why='QEMU itself failed (status 134)'
fake "$abort"
boot 'QEMU aborts' 101 '' "$why, a second try: qemu: assertion failed" "$why: qemu: assertion failed"
ONCE=1 boot 'QEMU aborts, no second try' 101 '' "$why: qemu: assertion failed"
fake 'echo killed >&2; kill -KILL $$'
boot 'QEMU is killed' 101 '' 'QEMU itself failed (status 137): killed'
fake "$once $abort"
boot 'QEMU aborts, the second try is good' 0 $'0\n0 ' "$why, a second try"
# The boot gets stuck. QEMU's status is 0 then.
stuck="trap 'exit 0' TERM; sleep 1000 & wait"
fake "$stuck"
BOOT=2 boot 'no boot' 101 '' 'no boot, a second try' 'no boot in 2 s'
fake "$once $stuck"
BOOT=30 boot 'no boot, the second try is good' 0 $'0\n0 ' 'no boot, a second try'
unset QEMU

gone()
{
	! pgrep -f "$LOG" > /dev/null
}

# ends WHAT SIGNAL COMMAND...: started, then ended by the signal, it leaves no QEMU.
ends()
{
	local rc=0 pid

	# A shell that runs in the background ignores ^C, and so would vm.
	RUN=$tmp/forever env --default-signal=INT "${@:3}" > "$tmp/out" 2>&1 < /dev/null &
	pid=$!
	wait_for 60 grep -q started "$tmp/out"
	kill -"$2" $pid
	wait $pid 2> /dev/null || rc=$?
	wait_for 5 gone && [ $rc -gt 128 ] && grep -q started "$tmp/out"
	result $? "$1" "status $rc"$'\n'"$(pgrep -af "$LOG"; cat "$tmp/out")"
}
ends '^C leaves no QEMU' INT "$H/vm"
ends 'the end of make leaves no QEMU' KILL make -s -C "$H/.." vm
finish
