/* SPDX-License-Identifier: GPL-2.0-only */

#ifndef __KVM_INVALIDATE_GATE_H__
#define __KVM_INVALIDATE_GATE_H__ 1

#include <linux/kvm_types.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

/*
 * The gate between invalidations of guest memory, from the mmu_notifier's
 * invalidate_range_start() to its invalidate_range_end(), and everybody who
 * can't have them in flight:
 *
 *  - A swap of the active memslots, as start() and end() must see the same
 *    memslots.  Both look for memslots in the range, and elevate or drop
 *    mmu_invalidate_in_progress if and only if there is one.  The swap waits
 *    until no invalidation is in flight, and holds the gate's lock to keep new
 *    ones out for as long as it takes to store a pointer.
 *
 *  - The refresh of a gfn_to_pfn_cache, as the cache must not become valid for
 *    a page that is being invalidated.  Like the reader of a seqcount, it takes
 *    a snapshot, looks up the page and starts over if an invalidation is, or
 *    was, in flight since the snapshot.
 *
 * This is an rwsem, with the invalidations as its readers, that is unfair by
 * design: invalidations never wait for those who wait for invalidations.
 * start() is called with all kinds of locks held, including those that whoever
 * has to get to end() before the wait is over may need.
 *
 * Context: Task context.  The lock sleeps on PREEMPT_RT, i.e. a non-blockable
 * invalidation must not get here.  It doesn't if the architecture selects
 * CONFIG_KVM_MMU_NOTIFIER_FENCE; on all others that's a known bug of
 * PREEMPT_RT kernels.
 */

static inline void kvm_invalidate_gate_init(struct kvm_invalidate_gate *gate)
{
	spin_lock_init(&gate->lock);
	init_waitqueue_head(&gate->wait);
}

/* An invalidation starts. */
static inline void kvm_invalidate_gate_enter(struct kvm_invalidate_gate *gate)
{
	spin_lock(&gate->lock);
	WRITE_ONCE(gate->nr_active, gate->nr_active + 1);
	spin_unlock(&gate->lock);
}

/* An invalidation ends. */
static inline void kvm_invalidate_gate_leave(struct kvm_invalidate_gate *gate)
{
	bool wake;

	spin_lock(&gate->lock);
	WRITE_ONCE(gate->seq, gate->seq + 1);

	/*
	 * The sequence increase must be visible before nr_active goes to zero.
	 * Pairs with the smp_rmb() in kvm_invalidate_gate_retry().
	 */
	smp_wmb();

	if (!WARN_ON_ONCE(!gate->nr_active))
		WRITE_ONCE(gate->nr_active, gate->nr_active - 1);
	wake = !gate->nr_active;
	spin_unlock(&gate->lock);

	/*
	 * wq_has_sleeper() has a full barrier: store nr_active before looking
	 * for waiters.  Pairs with the one in prepare_to_wait_event(), by which
	 * waiters are on the queue before they look at nr_active.
	 */
	if (wake && wq_has_sleeper(&gate->wait))
		wake_up_all(&gate->wait);
}

/*
 * Wait until no invalidation is in flight, and keep new ones from starting.
 * May sleep.
 */
static inline void kvm_invalidate_gate_lock(struct kvm_invalidate_gate *gate)
{
	might_sleep();

	spin_lock(&gate->lock);
	wait_event_cmd(gate->wait, !gate->nr_active,
		       spin_unlock(&gate->lock), spin_lock(&gate->lock));
}

static inline void kvm_invalidate_gate_unlock(struct kvm_invalidate_gate *gate)
{
	spin_unlock(&gate->lock);
}

/*
 * Wait until no invalidation is in flight.  There can be new ones by the time
 * this returns, i.e. it's useful only to avoid spinning.  Returns -EINTR if the
 * task is being killed.  May sleep.
 */
static inline int kvm_invalidate_gate_wait(struct kvm_invalidate_gate *gate)
{
	if (wait_event_killable(gate->wait, !READ_ONCE(gate->nr_active)))
		return -EINTR;

	return 0;
}

/*
 * Take a snapshot for kvm_invalidate_gate_retry(), before looking up whatever
 * an invalidation might change.
 */
static inline unsigned long kvm_invalidate_gate_snapshot(struct kvm_invalidate_gate *gate)
{
	unsigned long seq = READ_ONCE(gate->seq);

	/* Order the snapshot before the lookup. */
	smp_rmb();
	return seq;
}

/*
 * Returns %true if an invalidation is in flight, or was at any time since the
 * snapshot, i.e. if what was looked up in between can't be used.  The caller
 * must hold a lock that the invalidation acquires after having entered the gate
 * in order to find what was looked up, so that a %false isn't outdated before
 * the result is published.
 */
static inline bool kvm_invalidate_gate_retry(struct kvm_invalidate_gate *gate,
					     unsigned long seq)
{
	if (READ_ONCE(gate->nr_active))
		return true;

	/*
	 * Ensure nr_active is read before the sequence.  Pairs with the
	 * smp_wmb() in kvm_invalidate_gate_leave() to guarantee either the old
	 * (non-zero) value of nr_active or the new (incremented) value of the
	 * sequence is observed.
	 */
	smp_rmb();
	return READ_ONCE(gate->seq) != seq;
}

/*
 * The VM is being destroyed, and its mmu_notifier is gone, at the latest since
 * now, else since the mm's exit.  If it went away between a start() and its
 * end(), the end() will never come.  Forget about such invalidations, and
 * return %true if there were any.
 */
static inline bool kvm_invalidate_gate_reset(struct kvm_invalidate_gate *gate)
{
	bool unbalanced = gate->nr_active;

	/* Only those who hold a reference to the VM can wait. */
	WARN_ON_ONCE(waitqueue_active(&gate->wait));
	gate->nr_active = 0;

	return unbalanced;
}

#endif /* __KVM_INVALIDATE_GATE_H__ */
