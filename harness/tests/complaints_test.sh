#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Feeds complaints with the kernel logs of complaints.data.

set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
printf '# a comment\n\nseries\tInvalid wait context\ta test\n' > "$tmp/known"
export KNOWN_COMPLAINTS=$tmp/known
n=0 failed=0

# expect DESCRIPTION STATUS OUTPUT ARGUMENT...: what complaints says.
expect()
{
	local what=$1 status=$2 wanted=$3 out rc=0

	shift 3
	out=$("$here/../complaints" "$@" 2>&1) || rc=$?
	n=$((n + 1))
	if [ $rc = "$status" ] && [ "$out" = "$wanted" ]; then
		echo "ok $n - $what"
	else
		failed=1
		echo "not ok $n - $what"
		sed 's/^/# /' <<< "status $rc: $out"
	fi
}

# One folder for each of the logs.
awk -v tmp="$tmp" '
	/^== /		{ dir = sprintf("%s/%03d", tmp, ++n); system("mkdir " dir); print substr($0, 4) > (dir "/what"); head = 1; next }
	!n		{ next }
	head && /^status /	{ print $2 > (dir "/status"); print $3 > (dir "/env"); printf "" > (dir "/out"); printf "" > (dir "/log"); next }
	head && /^> /	{ gsub(/\|/, "\t"); print substr($0, 3) > (dir "/out"); next }
			{ head = 0; print > (dir "/log") }' "$here/complaints.data"
for dir in "$tmp"/0*; do
	read -r TREE < "$dir/env"
	export TREE=${TREE#TREE=}
	expect "$(cat "$dir/what")" "$(cat "$dir/status")" "$(cat "$dir/out")" "$dir/log"
done
[ $n -ge 16 ] || { echo "not ok - only $n logs in complaints.data"; failed=1; }

log=$(dirname "$(grep -lx 'suspicious RCU usage' "$tmp"/0*/what)")/log
expect 'with -v, the lines of the first' 1 "1	suspicious RCU usage	WARNING: suspicious RCU usage	boot

  | WARNING: suspicious RCU usage
  | 7.3.4 #1 Not tainted
  | -----------------------------
  | virt/kvm/kvm_main.c:100 suspicious rcu_dereference_check() usage!
  | " -v "$log"
for program in a b; do
	printf '[ 1.0] vm: run %s\n[ 1.1] UBSAN: x\n' $program
done > "$tmp/two"
expect 'of two programs, one' 1 "2	UBSAN	UBSAN: x	a" "$tmp/two"
expect 'of two programs, with -p' 1 "1	UBSAN	UBSAN: x	a
1	UBSAN	UBSAN: x	b" -p "$tmp/two"
expect 'no log' 1 "complaints: $tmp/none: No such file or directory" "$tmp/none"
expect 'no argument' 1 'usage: complaints [-v | -p] LOG'
echo 'next	x	y' > "$tmp/known"
expect 'a bad line of known-complaints' 1 "complaints: $tmp/known:1: not TREE<TAB>regexp<TAB>why" "$tmp/two"

echo "1..$n"
exit $failed
