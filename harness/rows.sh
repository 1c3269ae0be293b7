# SPDX-License-Identifier: GPL-2.0
# Sourced by demo, check, and others: the runs that show what the series is about.

ROWS="mrelease oom preempted shinfo lifetime"

# The others take longer, or show less of the base, and are run by check only.
declare -A ROW_TITLE=(
	[mrelease]="reap by process_mrelease"
	[oom]="reap by memcg OOM"
	[preempted]="reap while a preempted vCPU holds mmu_lock"
	[shinfo]="upstream's x86/xen_shinfo_test"
	[lifetime]="writes after exit"
	[fifo]="refresh against a preempted invalidation"
	[irqfd]="irqfd while shared_info is not accessible"
	[stress]="stress by events and invalidations"
	[rounds]="reap of VMs that nobody holds"
	[userfault]="refresh that waits for a userfault"
	[prefault]="pre-fault the memory of a VM that dies"
	[null]="memslot update after mprotect() at address 0"
)
declare -A ROW_TEST=(
	[mrelease]=mmu_notifier_reap_test
	[oom]=mmu_notifier_reap_test
	[shinfo]=x86/xen_shinfo_test
	[lifetime]=x86/xen_gpc_lifetime_test
	[fifo]=x86/xen_gpc_fifo_test
	[irqfd]=x86/xen_gpc_irqfd_test
	[stress]=x86/xen_gpc_stress_test
	[rounds]=mmu_notifier_reap_test
	[userfault]=x86/xen_gpc_userfault_test
	[prefault]=x86/pre_fault_dead_vm_test
	[null]=mmu_notifier_null_test
)
# Not selftests, but programs of ours.
declare -A ROW_PROGRAM=(
	[preempted]=harness/extra/preempted.c
)
declare -A ROW_ARGS=(
	[mrelease]="-f mrelease"
	[oom]="-f memcg_oom"
	[rounds]="-f rounds"
)
# Pages are moved between nodes.
declare -A ROW_APPEND=(
	[stress]=numa=fake=2
)
# With a thread for each CPU, QEMU 7.2 mixes up the registers of a guest and of its
# host, after some minutes of the stress test: a vCPU is found at the instruction after the
# host's VMRUN, on the host's stack, and never gets away from there.
declare -A ROW_TCG=(
	[stress]=single
)

ROWS_DIR=${ROWS_DIR:-$BUILD/rows}

# run_program NAME FILE: compile and run it, with what vm has from the environment.
run_program()
{
	local bin=$BUILD/programs/$1

	mkdir -p "${bin%/*}"
	gcc -O2 -Wall -static -pthread -o "$bin" "$ROOT/$2" && RUN=$bin "$ROOT/harness/vm"
}

# run_row ROW FLAVOUR TREE: run it and leave in $ROWS_DIR/ROW-FLAVOUR-TREE.*:
# out (what was printed), log (the kernel log), tsv (complaints), rc (the
# program's exit status; 101 if there was none).
run_row()
{
	local r=$ROWS_DIR/$1-$2-$3 rc=0 run=("$ROOT/harness/selftest")

	mkdir -p "$ROWS_DIR"
	rm -f "$r".*
	[ -z "${ROW_PROGRAM[$1]:-}" ] || run=(run_program "$1" "${ROW_PROGRAM[$1]}")
	(
		export TEST=${ROW_TEST[$1]:-} ARGS=${ROW_ARGS[$1]:-} TCG=${TCG:-${ROW_TCG[$1]:-}}
		export FLAVOUR=$2 TREE=$3 NAME=$1 CPUS=4 APPEND="${APPEND:-} ${ROW_APPEND[$1]:-}" LOG=$r.log
		"${run[@]}"
	) > "$r.out" 2>&1 || rc=$?
	[ $rc != 130 ] || exit 130
	[ -e "$r.log" ] || { cat "$r.out" >&2; return 101; }
	"$ROOT/harness/complaints" "$r.log" > "$r.tsv" || true
	[ $rc = 101 ] || rc=$(sed -n 's/.*vm: done .* rc=\([0-9]*\)$/\1/p' "$r.log" | tail -n 1)
	echo "${rc:-101}" > "$r.rc"
}

# said ROW FLAVOUR TREE: what the program itself calls its result, if it does.
said()
{
	sed -n 's/^# result: //p' "$ROWS_DIR/$1-$2-$3.out"
}

# cell ROW FLAVOUR TREE: what it came to, in a few words.
cell()
{
	local r=$ROWS_DIR/$1-$2-$3 words result

	result=$(said "$@")
	words=$(awk -F'\t' '{ n[$2] += $1 } END { for (k in n) print n[k] " " k }' "$r.tsv" |
		sort -rn | paste -sd, | sed 's/,/, /g')
	case $(cat "$r.rc") in
	0)	;;
	4)	words="skipped${words:+, $words}" ;;
	101)	words="no answer${words:+, $words}" ;;
	*)	[ -n "$result" ] ||
			result="$(grep -c '^not ok' "$r.out") of $(grep -cE '^(not )?ok' "$r.out") tests fail"
		words="$result${words:+, $words}" ;;
	esac
	echo "${words:-clean}"
}

# is_clean ROW FLAVOUR TREE: run it; the test must pass and nobody complain. There
# is a second try if it was QEMU, see ROW_TCG: no guest of the tests runs up there.
is_clean()
{
	run_row "$@" || return
	if [ "$(cell "$@")" != clean ] && [ ! -s "$ROWS_DIR/$1-$2-$3.tsv" ] &&
	   grep -q 'vCPU [0-9]*: rip 0xffffffff' "$ROWS_DIR/$1-$2-$3.out"; then
		echo "vm: QEMU itself failed, a vCPU has the registers of its host; a second try"
		# It replaces what the first one left.
		grep '^# *vCPU [0-9]*: rip\|^not ok' "$ROWS_DIR/$1-$2-$3.out"
		run_row "$@" || return
	fi
	cell "$@"
	cat "$ROWS_DIR/$1-$2-$3.out"
	[ "$(cell "$@")" = clean ] && ! lacks_something "$@"
}

# lacks_something ROW FLAVOUR TREE: the machine has all that the stress test wants, but for
# huge pages with PREEMPT_RT. What is skipped nonetheless is printed once more.
lacks_something()
{
	local skips thp=stress.thp

	[ "$1" = stress ] || return
	[ "$2" != std ] || thp=none
	skips=$(grep -E '^ok [0-9]+ .*# SKIP' "$ROWS_DIR/$1-$2-$3.out" | grep -vF "$thp") || return
	sed 's/^ok /not ok, it must not be skipped: /' <<< "$skips"
}

# The base must complain, and in the expected way, or the row can't be trusted.
base_complains()
{
	local r=$ROWS_DIR/$1-rt-base

	run_row "$1" rt base || return
	cell "$1" rt base
	cat "$r.tsv"
	case $1 in
	mrelease | oom | rounds)
		# The test must have noticed by itself, too.
		grep -qP '\tsleeping function\t.*spinlock_rt' "$r.tsv" && [ "$(cat "$r.rc")" = 1 ] ;;
	shinfo)	grep -qP '\tsleeping function\t.*spinlock_rt' "$r.tsv" &&
		grep -qP 'left IRQs disabled' "$r.tsv" ;;
	fifo | irqfd) [ "$(cat "$r.rc")" = 1 ] ;;
	# The tests end with TEST_ASSERT().
	prefault)
		grep -qP '\tWARNING\t.*kvm_vcpu_ioctl' "$r.tsv" && [ "$(cat "$r.rc")" = 254 ] ;;
	null)	grep -q 'The memslot update hangs' "$r.out" && [ "$(cat "$r.rc")" = 254 ] ;;
	preempted)
		said "$1" rt base | grep -q '^did not return' ;;
	lifetime)
		grep -q 'Stale write to page' "$r.out" && [ "$(cat "$r.rc")" = 1 ] ;;
	esac
}
