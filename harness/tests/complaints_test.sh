#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Feeds complaints with the kernel logs of complaints.data.

. "$(dirname "$0")/tap.sh"
export KNOWN_COMPLAINTS=$tmp/known
printf '# a comment\n\nseries\tInvalid wait context\ta test\n' > "$tmp/known"

# expect WHAT STATUS OUTPUT ARGUMENT...: what complaints says.
expect()
{
	local out rc=0

	out=$("$H/complaints" "${@:4}" 2>&1) || rc=$?
	[ $rc = "$2" ] && [ "$out" = "$3" ]
	result $? "$1" "status $rc: $out"
}

# A file for each log, after the comment at the top.
csplit -s -f "$tmp/data" "$H/tests/complaints.data" '/^== /' '{*}'
rm "$tmp/data00"
for data in "$tmp"/data*; do
	read -r status TREE < <(sed -n 's/^status //p' "$data")
	export TREE=${TREE#TREE=}
	grep -vE '^(== |status |> )' "$data" > "$data.log"
	expect "$(sed -n 's/^== //p' "$data")" "$status" "$(sed -n 's/^> //p' "$data" | tr '|' '\t')" "$data.log"
done
[ $n -ge 16 ]
result $? 'all logs of complaints.data' "only $n of them"

expect 'with -v, the lines of the first' 1 "1	suspicious RCU usage	WARNING: suspicious RCU usage	boot

  | WARNING: suspicious RCU usage
  | 7.3.4 #1 Not tainted
  | -----------------------------
  | virt/kvm/kvm_main.c:100 suspicious rcu_dereference_check() usage!
  | " -v "$(grep -lx '== suspicious RCU usage' "$tmp"/data*).log"
printf '[ 1.0] vm: run %s\n[ 1.1] UBSAN: x\n' a b > "$tmp/two"
expect 'of two programs' 1 "1	UBSAN	UBSAN: x	a
1	UBSAN	UBSAN: x	b" "$tmp/two"
# Of the file that is used: one of the two functions is enough, but not a part of its name.
printf '[ 1.%s] BUG: KCSAN: data-race in %s\n' 0 'pvclock_gtod_notify / x' 1 'x / kvm_mmu_faultin_pfn' \
	2 pvclock_gtod_notify 3 'my_pvclock_gtod_notify / x' > "$tmp/races"
KNOWN_COMPLAINTS=$H/known-complaints expect 'known races' 1 "1	known KCSAN	BUG: KCSAN: data-race in pvclock_gtod_notify / x	boot
1	known KCSAN	BUG: KCSAN: data-race in x / kvm_mmu_faultin_pfn	boot
1	known KCSAN	BUG: KCSAN: data-race in pvclock_gtod_notify	boot
1	KCSAN	BUG: KCSAN: data-race in my_pvclock_gtod_notify / x	boot" "$tmp/races"
echo 'next	x	y' > "$tmp/known"
refuse << EOF
no log | complaints: $tmp/none: No such file or directory | KNOWN_COMPLAINTS=/dev/null complaints $tmp/none
no argument | usage: complaints [-v] LOG | complaints
a bad line of known-complaints | complaints: $tmp/known:1: not WHAT<TAB>regexp<TAB>why | complaints $tmp/two
EOF
finish
