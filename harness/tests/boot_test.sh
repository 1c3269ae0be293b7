#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# vm against a kernel: FLAVOUR (rt) and TREE (base), built if it is not yet.
# A boot takes 7 to 15 seconds; there are seven.

set -uo pipefail
H=$(cd "$(dirname "$0")/.." && pwd)
export FLAVOUR=${FLAVOUR:-rt} TREE=${TREE:-base} TIMEOUT=200
unset STAGE_FD RUN ARGS CPUS MEM APPEND CPU ICOUNT SHELL_
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

mkdir "$tmp/bin"
printf '#!/bin/sh\necho "qemu: assertion failed: (something)" >&2\nkill -ABRT $$\n' > "$tmp/bin/qemu-system-x86_64"
chmod +x "$tmp/bin/qemu-system-x86_64"
PATH=$tmp/bin:$PATH RUN=$tmp/good boot 'QEMU aborts' 101 '' \
	'QEMU itself failed (status 134), a second try: qemu: assertion failed' \
	'QEMU itself failed (status 134): qemu: assertion failed'
PATH=$tmp/bin:$PATH RUN=$tmp/good ONCE=1 boot 'QEMU aborts, no second try' 101 '' \
	'QEMU itself failed (status 134): qemu: assertion failed'
# The first time only.
qemu=$(PATH=${PATH#"$tmp/bin:"} type -P qemu-system-x86_64)
printf '#!/bin/sh\n[ -e %s/aborted ] && exec %s "$@"\ntouch %s/aborted\nkill -ABRT $$\n' "$tmp" "$qemu" "$tmp" > "$tmp/bin/qemu-system-x86_64"
PATH=$tmp/bin:$PATH RUN=$tmp/good boot 'QEMU aborts, the second try is good' 0 \
"0
0 " 'QEMU itself failed (status 134), a second try'

# The boot gets stuck: always, then the first time only.
printf '#!/bin/sh\nexec sleep 1000\n' > "$tmp/bin/qemu-system-x86_64"
PATH=$tmp/bin:$PATH RUN=$tmp/good BOOT=2 boot 'no boot' 101 '' 'no boot, a second try' 'no boot in 2 s'
printf '#!/bin/sh\n[ -e %s/stuck ] && exec %s "$@"\ntouch %s/stuck\nexec sleep 1000\n' "$tmp" "$qemu" "$tmp" > "$tmp/bin/qemu-system-x86_64"
PATH=$tmp/bin:$PATH RUN=$tmp/good BOOT=30 boot 'no boot, the second try is good' 0 \
"0
0 " 'no boot, a second try'

# A shell that runs in the background ignores ^C, and so would vm.
RUN=$tmp/forever env --default-signal=INT "$H/vm" > "$tmp/out" 2>&1 < /dev/null &
pid=$!
for _ in $(seq 60); do
	! grep -q started "$tmp/out" || break
	sleep 0.5
done
kill -INT $pid
rc=0
wait $pid || rc=$?
n=$((n + 1))
if [ $rc = 130 ] && ! pgrep -f "$NAME" > /dev/null; then
	echo "ok $n - ^C leaves no QEMU"
else
	failed=1
	echo "not ok $n - ^C leaves no QEMU"
	{ echo "status $rc"; pgrep -af "$NAME"; cat "$tmp/out"; } | sed 's/^/# /'
fi

echo "1..$n"
exit $failed
