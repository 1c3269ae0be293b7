#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# vm against a kernel: FLAVOUR (rt) and TREE (base), built if it is not yet.
# A boot takes 7 to 15 seconds; there are eight.

set -uo pipefail
H=$(cd "$(dirname "$0")/.." && pwd)
export FLAVOUR=${FLAVOUR:-rt} TREE=${TREE:-base} TIMEOUT=200
unset STAGE_FD RUN ARGS CPUS MEM APPEND CPU ICOUNT TCG HARNESS_TOP MAKELEVEL MAKEFLAGS
tmp=$(mktemp -d)
export NAME=boot_test-$$
trap 'rm -rf "$tmp"' EXIT
n=0 failed=0

"$H/kernel" "$FLAVOUR" "$TREE" || exit 1

# script NAME < TEXT: a program for the guest.
script()
{
	{ echo '#!/bin/sh'; cat; } > "$tmp/$1"
	chmod +x "$tmp/$1"
}

# boot DESCRIPTION STATUS STDOUT WORDS...: what vm answers. WORDS are on stderr.
boot()
{
	local what=$1 want=$2 stdout=$3 rc=0 words bad=

	shift 3
	"$H/vm" > "$tmp/out" 2> "$tmp/err" < /dev/null || rc=$?
	[ $rc = "$want" ] || bad="status $rc"
	[ "$(cat "$tmp/out")" = "$stdout" ] || bad+=" stdout"
	for words; do
		grep -qF -- "$words" "$tmp/err" || bad+=" no '$words'"
	done
	n=$((n + 1))
	if [ -z "$bad" ]; then
		echo "ok $n - $what"
	else
		failed=1
		echo "not ok $n - $what"
		{ echo "$bad"; cat "$tmp/out" "$tmp/err"; } | sed 's/^/# /'
	fi
}

script good << 'EOF'
id -u
[ -c /dev/kvm ] && grep -q memory /sys/fs/cgroup/cgroup.subtree_control && echo "$# $2"
EOF
script bad << 'EOF'
echo "output <6>[    0.0] BUG: of a program"
echo "and its errors" >&2
exit 3
EOF
RUN="$tmp/good $tmp/bad $tmp/good" ARGS="a 'b c'" boot 'programs, arguments, output, status' 3 \
"0
2 b c
output <6>[    0.0] BUG: of a program
and its errors
0
2 b c" 'bad: exit status 3'

script complain << 'EOF'
echo '<3>BUG: sleeping function called from invalid context at a.c:1' > /dev/kmsg
echo done
EOF
RUN="$tmp/bad $tmp/complain" boot 'the kernel complains' 100 \
"output <6>[    0.0] BUG: of a program
and its errors
done" 'BUG: sleeping function called from invalid context at a.c:1	complain' 'would be status 3'

script crash << 'EOF'
reboot -f
EOF
RUN=$tmp/crash boot 'the guest goes away' 101 '' 'the guest went down while crash ran'

script forever << 'EOF'
echo started
sleep 1000
EOF
RUN=$tmp/forever TIMEOUT=30 boot 'a timeout' 101 started 'timeout: forever still ran after 30 s'

RUN=$tmp/good CPU=EPYC,-svm boot 'no SVM' 101 '' 'KVM did not load in the guest: kvm_amd: SVM not supported'

# fake TEXT: a QEMU that does what TEXT says. $real is the real one.
real=$(. "$H/lib.sh" && find_qemu && printf '%q ' "${qemu[@]}") || exit 1
fake()
{
	printf '#!/bin/bash\n[ "$1" != --version ] || { echo QEMU emulator version 10.0.0; exit; }\n%s\n' "$1" > "$tmp/qemu"
	chmod +x "$tmp/qemu"
	export QEMU=$tmp/qemu
}
abort='echo "qemu: assertion failed: (something)" >&2; kill -ABRT $$'
fake "$abort"
RUN=$tmp/good boot 'QEMU aborts' 101 '' \
	'QEMU itself failed (status 134), a second try: qemu: assertion failed' \
	'QEMU itself failed (status 134): qemu: assertion failed'
RUN=$tmp/good ONCE=1 boot 'QEMU aborts, no second try' 101 '' \
	'QEMU itself failed (status 134): qemu: assertion failed'
# The first time only.
fake "[ ! -e $tmp/aborted ] || exec $real \"\$@\"; touch $tmp/aborted; $abort"
RUN=$tmp/good boot 'QEMU aborts, the second try is good' 0 \
"0
0 " 'QEMU itself failed (status 134), a second try'

# The boot gets stuck: always, then the first time only. QEMU's status is 0 then.
stuck="trap 'exit 0' TERM; sleep 1000 & wait"
fake "$stuck"
RUN=$tmp/good BOOT=2 boot 'no boot' 101 '' 'no boot, a second try' 'no boot in 2 s'
fake "[ ! -e $tmp/stuck ] || exec $real \"\$@\"; touch $tmp/stuck; $stuck"
RUN=$tmp/good BOOT=30 boot 'no boot, the second try is good' 0 \
"0
0 " 'no boot, a second try'
unset QEMU

# ends DESCRIPTION SIGNAL COMMAND...: started, then ended by the signal, it leaves no QEMU.
ends()
{
	local what=$1 sig=$2 rc=0 pid

	shift 2
	# A shell that runs in the background ignores ^C, and so would vm.
	RUN=$tmp/forever env --default-signal=INT "$@" > "$tmp/out" 2>&1 < /dev/null &
	pid=$!
	for _ in $(seq 120); do
		! grep -q started "$tmp/out" || break
		sleep 0.5
	done
	kill -"$sig" $pid
	wait $pid 2> /dev/null || rc=$?
	for _ in $(seq 20); do
		pgrep -f "$NAME" > /dev/null || break
		sleep 0.2
	done
	n=$((n + 1))
	if [ $rc -gt 128 ] && grep -q started "$tmp/out" && ! pgrep -f "$NAME" > /dev/null; then
		echo "ok $n - $what"
	else
		failed=1
		echo "not ok $n - $what"
		{ echo "status $rc"; pgrep -af "$NAME"; cat "$tmp/out"; } | sed 's/^/# /'
	fi
}
ends '^C leaves no QEMU' INT "$H/vm"
ends 'the end of make leaves no QEMU' KILL make -s -C "$H/.." vm

echo "1..$n"
exit $failed
