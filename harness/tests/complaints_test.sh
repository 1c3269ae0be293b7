#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Feeds complaints with the kernel's ways of complaining.

set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
: > "$tmp/known"
export KNOWN_COMPLAINTS=$tmp/known
n=0 failed=0

# expect DESCRIPTION STATUS [LINE...]: complaints about the log on stdin. "|"
# stands for a tab in LINE.
expect()
{
	local what=$1 status=$2 out rc=0

	shift 2
	cat > "$tmp/log"
	out=$("$here/../complaints" "$tmp/log") || rc=$?
	n=$((n + 1))
	if [ $rc = "$status" ] && [ "$out" = "$(printf '%s\n' "$@" | tr '|' '\t')" ]; then
		echo "ok $n - $what"
	else
		failed=1
		echo "not ok $n - $what"
		sed 's/^/# /' <<< "status $rc: $out"
	fi
}

expect 'an empty log' 0 < /dev/null

expect 'a normal boot' 0 << 'EOF'
[    0.000000] Linux version 7.3.4 (gcc) #1 SMP PREEMPT_RT
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.012000] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on!
[    0.013000] WARNING: Flushing system-wide workqueues will be prohibited in near future.
[    0.050000] rcu: 	CONFIG_RCU_FANOUT set to non-default value of 32.
[    0.060000] ** WARNING: This is not a debugging kernel **
[    0.070000] kvm_amd: Nested Paging enabled
[    0.080000] Oopsie: not one of ours
[    7.000000] vm: run a
[    7.100000] a[71]: segfault at 0 ip 0000000000401000 sp 00007ffd error 4
[    7.200000] INFO: lockdep is turned off.
[    7.300000] vm: done a rc=0
[    7.300000] vm: end
EOF

sleeping()
{
	cat << EOF
[$1] BUG: sleeping function called from invalid context at kernel/locking/spinlock_rt.c:48
[$1] in_atomic(): 0, irqs_disabled(): 0, non_block: 1, pid: $2, name: reap
[$1] preempt_count: 0, expected: 0
[$1] RCU nest depth: 0, expected: 0
[$1] 1 lock held by reap/$2:
[$1]  #0: ffff888005a31b60 (&kvm->mn_invalidate_lock){+.+.}-{3:3}, at: kvm_mmu_notifier_invalidate_range_start+0x5b/0x2f0
[$1] CPU: 1 UID: 0 PID: $2 Comm: reap Not tainted 7.3.4 #1 PREEMPT_{RT,(full)}
[$1] Call Trace:
[$1]  <TASK>
[$1]  dump_stack_lvl+0x6f/0xb0
[$1]  __might_resched.cold+0xd4/0x105
[$1]  </TASK>
EOF
}

expect 'a sleeping function, twice, counts as one text' 1 \
	'2|sleeping function|BUG: sleeping function called from invalid context at kernel/locking/spinlock_rt.c:48|reap' << EOF
[    7.0] vm: run reap
$(sleeping '    8.125081' 68)
$(sleeping '    9.500000' 71)
[    9.6] vm: done reap rc=0
EOF

invalid_wait()
{
	cat << 'EOF'
[   10.000000] 
[   10.000001] =============================
[   10.000002] [ BUG: Invalid wait context ]
[   10.000003] 7.3.4 #1 Tainted: G        W
[   10.000004] -----------------------------
[   10.000005] swapper/0/0 is trying to lock:
[   10.000006] ffffc900002a1d48 (&gpc->lock){....}-{3:3}, at: kvm_xen_set_evtchn_fast+0xd6/0x330
[   10.000007] other info that might help us debug this:
[   10.000008] context-{2:2}
[   10.000009] stack backtrace:
[   10.000010]  <IRQ>
[   10.000011]  __lock_acquire+0x91d/0x1a40
[   10.000012]  </TASK>
EOF
}
expect 'an invalid wait context' 1 '1|wait context|[ BUG: Invalid wait context ]|boot' < <(invalid_wait)

expect 'lockdep, of which the banner counts once' 1 \
	'1|lockdep|WARNING: possible circular locking dependency detected|boot' \
	'1|lockdep|WARNING: inconsistent lock state|boot' \
	'1|lockdep|WARNING: held lock freed!|boot' << 'EOF'
[    8.1] ======================================================
[    8.1] WARNING: possible circular locking dependency detected
[    8.1] 7.3.4 #1 Not tainted
[    8.1] ------------------------------------------------------
[    8.1] a/71 is trying to acquire lock:
[    8.1] ffff888005a31b60 (&kvm->slots_lock){+.+.}-{4:4}, at: f+0x10/0x20
[    8.1] 
but task is already holding lock:
[    8.1] ffff888005a31b60 (&kvm->lock){+.+.}-{4:4}, at: g+0x10/0x20
[    8.1] 
which lock already depends on the new lock.

[    8.1]  </TASK>
[    8.2] ================================
[    8.2] WARNING: inconsistent lock state
[    8.2] 7.3.4 #1 Not tainted
[    8.3] =========================
[    8.3] WARNING: held lock freed!
EOF

expect 'suspicious RCU usage' 1 '1|suspicious RCU usage|WARNING: suspicious RCU usage|boot' << 'EOF'
[    8.1] =============================
[    8.1] WARNING: suspicious RCU usage
[    8.1] 7.3.4 #1 Not tainted
[    8.1] -----------------------------
[    8.1] virt/kvm/kvm_main.c:100 suspicious rcu_dereference_check() usage!
EOF

expect 'WARN() with a message' 1 \
	'1|WARNING|WARNING: include/linux/entry-common.h:292 at do_syscall_64, CPU#N: xen_shinfo_test/N: syscall 16 left IRQs disabled|xen_shinfo_test' << 'EOF'
[    7.0] vm: run xen_shinfo_test
[    8.1] ------------[ cut here ]------------
[    8.1] WARNING: include/linux/entry-common.h:292 at do_syscall_64+0x1b6/0x210, CPU#1: xen_shinfo_test/68
[    8.1] syscall 16 left IRQs disabled
[    8.1] Modules linked in:
[    8.1] CPU: 1 UID: 0 PID: 68 Comm: xen_shinfo_test Not tainted 7.3.4 #1
[    8.1] RIP: 0010:do_syscall_64+0x1b6/0x210
[    8.1] ---[ end trace 0000000000000000 ]---
EOF

expect 'the message before the WARNING, and a WARN_ON() without one' 1 \
	'1|WARNING|WARNING: at f, CPU#N: kworker: syscall 16 left IRQs disabled|boot' \
	'1|WARNING|WARNING: a.c:1 at f, CPU#N: kworker|boot' << 'EOF'
[    8.1] ------------[ cut here ]------------
[    8.1] syscall 16 left IRQs disabled
[    8.1] WARNING: at f+0x1/0x2, CPU#1: kworker/1:2/68
[    8.1] ---[ end trace 0000000000000000 ]---
[    8.2] ------------[ cut here ]------------
[    8.2] WARNING: a.c:1 at f+0x1/0x2, CPU#1: kworker/u8:2+ev/68
[    8.2] Modules linked in:
[    8.2] ---[ end trace 0000000000000000 ]---
EOF

expect 'what a WARN() says makes its kind' 1 \
	'1|refcount_t|WARNING: lib/refcount.c:28 at refcount_warn_saturate, CPU#N: a/N: refcount_t: underflow; use-after-free.|boot' \
	'1|list corruption|WARNING: lib/list_debug.c:29 at __list_add_valid_or_report, CPU#N: a/N: list_add corruption. next->prev should be prev (ADDR), but was ADDR. (next=ADDR).|boot' \
	'1|DEBUG_OBJECTS|WARNING: lib/debugobjects.c:629 at debug_print_object, CPU#N: a/N: ODEBUG: free active (active state 0) object: ADDR object type: hrtimer hint: f|boot' << 'EOF'
[    8.1] ------------[ cut here ]------------
[    8.1] WARNING: lib/refcount.c:28 at refcount_warn_saturate+0x61/0x90, CPU#0: a/68
[    8.1] refcount_t: underflow; use-after-free.
[    8.1] ---[ end trace 0000000000000000 ]---
[    8.2] ------------[ cut here ]------------
[    8.2] WARNING: lib/list_debug.c:29 at __list_add_valid_or_report+0x61/0x90, CPU#0: a/68
[    8.2] list_add corruption. next->prev should be prev (ffff888005a31b60), but was 0000000000000000. (next=ffff888005a31b68).
[    8.2] ---[ end trace 0000000000000000 ]---
[    8.3] ------------[ cut here ]------------
[    8.3] WARNING: lib/debugobjects.c:629 at debug_print_object+0x61/0x90, CPU#0: a/68
[    8.3] ODEBUG: free active (active state 0) object: ffff888005a31b60 object type: hrtimer hint: f+0x0/0x10
[    8.3] ---[ end trace 0000000000000000 ]---
EOF

expect 'BUG(), then the panic' 1 \
	'1|BUG|kernel BUG at mm/memory.c:12!|a' \
	'1|panic|Kernel panic - not syncing: Fatal exception|a' << 'EOF'
[    7.0] vm: run a
[    8.1] ------------[ cut here ]------------
[    8.1] kernel BUG at mm/memory.c:12!
[    8.1] Oops: invalid opcode: 0000 [#1] SMP NOPTI
[    8.1] ---[ end trace 0000000000000000 ]---
[    8.2] Kernel panic - not syncing: Fatal exception
EOF

expect 'oopses' 1 \
	'1|Oops|BUG: kernel NULL pointer dereference, address: ADDR|boot' \
	'1|Oops|Oops: general protection fault, probably for non-canonical address ADDR: 0000|boot' << 'EOF'
[    8.1] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    8.1] #PF: supervisor read access in kernel mode
[    8.1] Oops: Oops: 0000 [#1] SMP NOPTI
[    8.1] ---[ end trace 0000000000000000 ]---
[    8.2] Oops: general protection fault, probably for non-canonical address 0x6b6b6b6b6b6b6b6b: 0000 [#2] SMP NOPTI
[    8.2] ---[ end trace 0000000000000000 ]---
EOF

expect 'sanitizers and poison' 1 \
	'1|KASAN|BUG: KASAN: slab-use-after-free in kvm_gpc_invalidate|boot' \
	'1|KCSAN|BUG: KCSAN: data-race in f / g|boot' \
	'1|UBSAN|UBSAN: shift-out-of-bounds in virt/kvm/a.c:1:2|boot' \
	'1|page poisoning|pagealloc: memory corruption|boot' << 'EOF'
[    8.1] ==================================================================
[    8.1] BUG: KASAN: slab-use-after-free in kvm_gpc_invalidate+0x61/0x90
[    8.1] Read of size 8 at addr ffff888005a31b60 by task a/68
[    8.2] ==================================================================
[    8.2] BUG: KCSAN: data-race in f / g
[    8.2] 
[    8.3] ------------[ cut here ]------------
[    8.3] UBSAN: shift-out-of-bounds in virt/kvm/a.c:1:2
[    8.3] shift exponent 64 is too large for 32-bit type 'int'
[    8.3] ---[ end trace ]---
[    8.4] pagealloc: memory corruption
[    8.4] ffff888005a31b60: 00 00 00 00
EOF

expect 'lockups, stalls, hangs and other BUGs, after the program too' 1 \
	'1|RCU stall|rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:|a' \
	'1|RCU stall|rcu: INFO: rcu_preempt self-detected stall on CPU|a' \
	'1|soft lockup|watchdog: BUG: soft lockup - CPU#N stuck for Ns! [a:N]|a' \
	'1|hung task|INFO: task a:N blocked for more than N seconds.|a' \
	'1|scheduling while atomic|BUG: scheduling while atomic: a/N|after a' \
	'1|BUG|BUG: workqueue leaked atomic, lock or RCU: kworker[N]|after a' << 'EOF'
[    7.0] vm: run a
[   28.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[   28.1] 
[   28.2] rcu: INFO: rcu_preempt self-detected stall on CPU
[   28.2] 
[   30.0][    T1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:68]
[   31.0][   C1] INFO: task a:68 blocked for more than 120 seconds.
[   32.0] vm: done a rc=0
[   32.1] BUG: scheduling while atomic: a/68/0x00000002
[   32.1] 
[   32.2] BUG: workqueue leaked atomic, lock or RCU: kworker[68]
EOF

printf 'series\tInvalid wait context\ta test\n' > "$tmp/known"
TREE=series expect 'a known one does not count' 0 \
	'1|known wait context|[ BUG: Invalid wait context ]|boot' < <(invalid_wait)
TREE=base expect 'known, but in the other tree' 1 \
	'1|wait context|[ BUG: Invalid wait context ]|boot' < <(invalid_wait)
TREE=series expect 'a known one does not hide another' 1 \
	'1|sleeping function|BUG: sleeping function called from invalid context at kernel/locking/spinlock_rt.c:48|boot' \
	'1|known wait context|[ BUG: Invalid wait context ]|boot' << EOF
$(sleeping '    8.125081' 68)
$(invalid_wait)
EOF

echo "1..$n"
exit $failed
