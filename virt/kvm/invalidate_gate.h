/* SPDX-License-Identifier: GPL-2.0-only */

#ifndef __KVM_INVALIDATE_GATE_H__
#define __KVM_INVALIDATE_GATE_H__ 1

#include <linux/completion.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/rcuwait.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

/*
 * The gate keeps invalidations of guest memory apart from operations that must
 * not overlap with them.  An invalidation enters the gate in the mmu_notifier's
 * invalidate_range_start(), and leaves it in invalidate_range_end().  In
 * between, it is in flight.  Two operations depend on the gate:
 *
 *  - The swap of the active memslots.  start() and end() must see the same
 *    memslots: both look for memslots in the range, and increment or decrement
 *    mmu_invalidate_in_progress only if there is one.  The swap waits until no
 *    invalidation is in flight.  It then holds the gate's lock while it stores
 *    the pointer, which keeps new invalidations out.
 *
 *  - The refresh of a gfn_to_pfn_cache, which must not look up a page that is
 *    being invalidated.  The refresh publishes the address of the page, then
 *    checks the gate.  If an invalidation of that page is in flight, the
 *    refresh sleeps until there is none.  Otherwise, it looks up the page.  An
 *    invalidation that enters the gate after the check sees the address, and
 *    therefore finds the cache.
 *
 * The gate's lock provides all of the ordering between entering the gate and
 * checking it: of two critical sections, the second one sees everything that
 * was written before the first one ended.
 *
 * The gate works like an rwsem with the invalidations as its readers, but it is
 * unfair by design: an invalidation never waits for a task that waits for
 * invalidations.  start() is called with various locks held.  If start() waited
 * for such a task, another invalidation could need one of these locks to reach
 * its end(), and the wait would never end.
 *
 * Each range is recorded separately, as long as there is room.  A single range
 * around all of them would also cover the pages between two ranges, and would
 * not shrink while invalidations come and go.  Page faults do use a single
 * range, mmu_invalidate_range_start and mmu_invalidate_range_end.
 *
 * For lockdep, the gate is held for read during start() and during end(), but
 * not in between, see kvm_mmu_notifier_invalidate_range_start().  This is
 * sufficient to report a lock that start() or end() acquires, if a task holds
 * that lock while it waits for invalidations.
 *
 * Context: Task context.  The lock is a sleeping lock on PREEMPT_RT, so a
 * non-blockable invalidation must not use the gate.  It doesn't if the
 * architecture has the fence, see kvm_mmu_notifier_is_reap().  Otherwise it
 * does, which is a known bug of PREEMPT_RT kernels.
 */

/* Tell lockdep that the caller may wait for the end of invalidations. */
static inline void kvm_invalidate_gate_may_wait(struct kvm_invalidate_gate *gate)
{
	might_sleep();
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	lock_map_sync(&gate->dep_map);
#endif
}

#ifdef CONFIG_HAVE_KVM_PFNCACHE
static inline void kvm_invalidate_gate_record(struct kvm_invalidate_gate *gate,
					      unsigned long start, unsigned long end)
{
	struct kvm_invalidate_range *range;

	if (gate->nr_ranges == KVM_INVALIDATE_NR_RANGES) {
		gate->nr_unknown++;
		return;
	}

	range = &gate->ranges[gate->nr_ranges++];
	range->start = start;
	range->end = end;
}

/* Returns %false if the range was not recorded because there was no room. */
static inline bool kvm_invalidate_gate_forget(struct kvm_invalidate_gate *gate,
					      unsigned long start, unsigned long end)
{
	unsigned int i;

	/*
	 * Search backwards, the latest invalidations tend to end first.  Of
	 * equal ranges, this may not be the one that ends, but one that was not
	 * recorded.  Then, every page is busy for longer than needed.
	 */
	for (i = gate->nr_ranges; i--; ) {
		struct kvm_invalidate_range *range = &gate->ranges[i];

		if (range->start == start && range->end == end) {
			*range = gate->ranges[--gate->nr_ranges];
			return true;
		}
	}

	/*
	 * If no start() had this range, don't let the one that should have
	 * ended keep its pages busy forever: treat all that are in flight as
	 * unknown, so that there is none left when they have ended.
	 */
	if (WARN_ON_ONCE(!gate->nr_unknown)) {
		gate->nr_ranges = 0;
		gate->nr_unknown = gate->nr_active;
		return false;
	}

	gate->nr_unknown--;

	return false;
}

static inline void kvm_invalidate_gate_forget_all(struct kvm_invalidate_gate *gate)
{
	WARN_ON_ONCE(!list_empty(&gate->waiters));
	gate->nr_active = 0;
	gate->nr_unknown = 0;
	gate->nr_ranges = 0;
}

/* Is any byte of the page at @hva in [@start, @end)? */
static inline bool kvm_invalidate_range_has_page(unsigned long start, unsigned long end,
						 unsigned long hva)
{
	return start < end && start < hva + PAGE_SIZE && hva < end;
}

/* Is the page at @hva, or may it be, in a range that is in flight? */
static inline bool kvm_invalidate_gate_busy(struct kvm_invalidate_gate *gate,
					    unsigned long hva)
{
	unsigned int i;

	lockdep_assert_held(&gate->lock);

	if (gate->nr_unknown)
		return true;

	for (i = 0; i < gate->nr_ranges; i++) {
		if (kvm_invalidate_range_has_page(gate->ranges[i].start,
						  gate->ranges[i].end, hva))
			return true;
	}

	return false;
}

/* A refresh that sleeps.  gate->lock protects the fields until @woken. */
struct kvm_invalidate_waiter {
	struct list_head node;
	unsigned long hva;
	bool woken;
	struct completion done;
};

/*
 * Remove the range [@start, @end), and move the waiters whose page isn't being
 * invalidated anymore to @wake, for kvm_invalidate_gate_wake().  If all caches
 * are @closed, move all waiters.
 */
static inline void kvm_invalidate_gate_collect(struct kvm_invalidate_gate *gate,
					       unsigned long start, unsigned long end,
					       bool closed, struct list_head *wake)
{
	struct kvm_invalidate_waiter *waiter, *next;

	if (!kvm_invalidate_gate_forget(gate, start, end)) {
		start = 0;
		end = ULONG_MAX;
	}

	list_for_each_entry_safe(waiter, next, &gate->waiters, node) {
		if (closed ||
		    (kvm_invalidate_range_has_page(start, end, waiter->hva) &&
		     !kvm_invalidate_gate_busy(gate, waiter->hva))) {
			waiter->woken = true;
			list_move_tail(&waiter->node, wake);
		}
	}
}

/*
 * Wake without gate->lock, so that a waiter with a higher priority doesn't have
 * to wait for the lock.
 */
static inline void kvm_invalidate_gate_wake(struct list_head *wake)
{
	struct kvm_invalidate_waiter *waiter, *next;

	/* @waiter is on another task's stack, and invalid once completed. */
	list_for_each_entry_safe(waiter, next, wake, node)
		complete(&waiter->done);
}

int kvm_invalidate_gate_sleep(struct kvm_invalidate_gate *gate, unsigned long hva,
			      unsigned int state)
	__releases(&gate->lock);

/*
 * Check for invalidations of the page at @hva.  Returns
 *
 *  - 0 if none is in flight.  Invalidations that enter the gate later see what
 *    was stored before this call, and the caller sees the effects of the
 *    invalidations that have left the gate.
 *
 *  - -EAGAIN after sleeping until none was in flight, or until all caches were
 *    closed.  New invalidations may have started since: take a new snapshot of
 *    the sequence, and check again.
 *
 *  - -EINTR if a signal has ended the sleep, according to @state, which is
 *    TASK_KILLABLE or TASK_INTERRUPTIBLE.
 */
static inline int kvm_invalidate_gate_wait(struct kvm_invalidate_gate *gate,
					   unsigned long hva, unsigned int state)
{
	kvm_invalidate_gate_may_wait(gate);

	spin_lock(&gate->lock);
	if (unlikely(kvm_invalidate_gate_busy(gate, hva)))
		return kvm_invalidate_gate_sleep(gate, hva, state);
	spin_unlock(&gate->lock);

	return 0;
}
#else
/* The ranges are only used by the refresh of a gfn_to_pfn_cache. */
static inline void kvm_invalidate_gate_record(struct kvm_invalidate_gate *gate,
					      unsigned long start, unsigned long end)
{
}

static inline void kvm_invalidate_gate_forget_all(struct kvm_invalidate_gate *gate)
{
	gate->nr_active = 0;
}

static inline void kvm_invalidate_gate_collect(struct kvm_invalidate_gate *gate,
					       unsigned long start, unsigned long end,
					       bool closed, struct list_head *wake)
{
}

static inline void kvm_invalidate_gate_wake(struct list_head *wake)
{
}
#endif /* CONFIG_HAVE_KVM_PFNCACHE */

static inline int kvm_invalidate_gate_init(struct kvm_invalidate_gate *gate)
{
	static struct lock_class_key key;

#ifdef CONFIG_HAVE_KVM_PFNCACHE
	gate->ranges = kcalloc(KVM_INVALIDATE_NR_RANGES, sizeof(*gate->ranges),
			       GFP_KERNEL_ACCOUNT);
	if (!gate->ranges)
		return -ENOMEM;

	INIT_LIST_HEAD(&gate->waiters);
#endif
	spin_lock_init(&gate->lock);
	rcuwait_init(&gate->swap);
	lockdep_init_map(&gate->dep_map, "kvm_invalidate_gate", &key, 0);
	kvm_invalidate_gate_forget_all(gate);

	return 0;
}

static inline void kvm_invalidate_gate_destroy(struct kvm_invalidate_gate *gate)
{
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	kfree(gate->ranges);
#endif
}

/*
 * Start an invalidation of [@start, @end).  Any range is allowed.  An empty
 * range, or one with @end less than @start, is counted, but contains no page,
 * as nothing will be invalidated.
 */
static inline void kvm_invalidate_gate_enter(struct kvm_invalidate_gate *gate,
					     unsigned long start, unsigned long end)
{
	spin_lock(&gate->lock);
	gate->nr_active++;
	kvm_invalidate_gate_record(gate, start, end);
	spin_unlock(&gate->lock);
}

/*
 * End an invalidation.  @start and @end are those that it was started with.  If
 * the caches are @closed, wake all waiters, as there is nothing to wait for
 * anymore.  gfn_to_pfn_cache_close_all() can't wake them, because that requires
 * the gate's lock.  There is an end() to come, as a refresh only waits for
 * invalidations that are in flight.
 */
static inline void kvm_invalidate_gate_leave(struct kvm_invalidate_gate *gate,
					     unsigned long start, unsigned long end,
					     bool closed)
{
	LIST_HEAD(wake);
	bool wake_swap;

	spin_lock(&gate->lock);
	if (!WARN_ON_ONCE(!gate->nr_active)) {
		gate->nr_active--;
		kvm_invalidate_gate_collect(gate, start, end, closed, &wake);
	}
	wake_swap = !gate->nr_active && rcuwait_active(&gate->swap);
	spin_unlock(&gate->lock);

	kvm_invalidate_gate_wake(&wake);
	if (wake_swap)
		rcuwait_wake_up(&gate->swap);
}

/*
 * Wait until no invalidation is in flight, and keep new ones from starting.
 * There can only be one waiter at a time, which must hold kvm->slots_lock.  May
 * sleep.
 */
static inline void kvm_invalidate_gate_lock(struct kvm_invalidate_gate *gate)
{
	kvm_invalidate_gate_may_wait(gate);

	spin_lock(&gate->lock);
	prepare_to_rcuwait(&gate->swap);
	while (gate->nr_active) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		spin_unlock(&gate->lock);
		schedule();
		spin_lock(&gate->lock);
	}
	finish_rcuwait(&gate->swap);
}

static inline void kvm_invalidate_gate_unlock(struct kvm_invalidate_gate *gate)
{
	spin_unlock(&gate->lock);
}

/*
 * The VM is being destroyed.  Its mmu_notifier was unregistered now, or was
 * already removed when the mm exited.  If the notifier was removed between a
 * start() and its end(), that end() will never be called.  Drop such
 * invalidations, and return %true if there were any.
 */
static inline bool kvm_invalidate_gate_reset(struct kvm_invalidate_gate *gate)
{
	bool unbalanced = gate->nr_active;

	/* A waiter would hold a reference to the VM. */
	WARN_ON_ONCE(rcuwait_active(&gate->swap));
	kvm_invalidate_gate_forget_all(gate);

	return unbalanced;
}

#endif /* __KVM_INVALIDATE_GATE_H__ */
