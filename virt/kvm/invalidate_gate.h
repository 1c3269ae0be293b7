/* SPDX-License-Identifier: GPL-2.0-only */

#ifndef __KVM_INVALIDATE_GATE_H__
#define __KVM_INVALIDATE_GATE_H__ 1

#include <linux/completion.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/rcuwait.h>
#include <linux/spinlock.h>

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
 *  - The refresh of a gfn_to_pfn_cache, which must not look up a page that is
 *    being invalidated.  It publishes the address of the page, then looks at the
 *    gate, and looks up the page only if no invalidation of that page is in
 *    flight, else it sleeps until there's none.  One that enters the gate after
 *    that finds the address, and with it the cache.
 *
 * The gate's lock is all the ordering that there is between entering the gate
 * and looking at it: of the two critical sections, the second one sees what was
 * written before the first one ended.
 *
 * This is an rwsem, with the invalidations as its readers, that is unfair by
 * design: invalidations never wait for those who wait for invalidations.
 * start() is called with all kinds of locks held, including those that whoever
 * has to get to end() before the wait is over may need.
 *
 * Every range is kept as it is, until there's no more room.  One range around
 * all of them would cover a page that has one below it and one above, and would
 * never shrink while they come and go.  That is why a refresh and a page fault,
 * which uses mmu_invalidate_range_start and _end, differ.
 *
 * For lockdep, the gate is held for read during start() and during end(), but
 * not in between, see kvm_mmu_notifier_invalidate_range_start().  That is enough
 * to complain about a lock that one of them acquires, and that somebody holds
 * who waits for invalidations.
 *
 * Context: Task context.  The lock sleeps on PREEMPT_RT, i.e. a non-blockable
 * invalidation must not get here.  It doesn't if the architecture selects
 * CONFIG_KVM_MMU_NOTIFIER_FENCE; on all others that's a known bug of
 * PREEMPT_RT kernels.
 */

/* Tell lockdep that whoever calls this may wait for the end of invalidations. */
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

/* Returns %false if the range had no room, i.e. every page may have been in it. */
static inline bool kvm_invalidate_gate_forget(struct kvm_invalidate_gate *gate,
					      unsigned long start, unsigned long end)
{
	unsigned int i;

	/* Those that came last tend to be the ones that leave first. */
	for (i = gate->nr_ranges; i--; ) {
		struct kvm_invalidate_range *range = &gate->ranges[i];

		if (range->start == start && range->end == end) {
			*range = gate->ranges[--gate->nr_ranges];
			return true;
		}
	}

	/* Which one of several equal ranges it was that had no room doesn't matter. */
	if (!WARN_ON_ONCE(!gate->nr_unknown))
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

/* Is an invalidation in flight that the page at @hva is in, or may be in? */
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

/* A refresh that sleeps.  All of it belongs to gate->lock, until it's @woken. */
struct kvm_invalidate_waiter {
	struct list_head node;
	unsigned long hva;
	bool woken;
	struct completion done;
};

/*
 * The end of an invalidation of [@start, @end).  Collect those whose page isn't
 * being invalidated anymore, for kvm_invalidate_gate_wake().  If all caches are
 * @closed, nobody has anything to wait for.
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

/* Without the lock, i.e. those with a higher priority don't run into it. */
static inline void kvm_invalidate_gate_wake(struct list_head *wake)
{
	struct kvm_invalidate_waiter *waiter, *next;

	/* It's on the stack of who waits, and gone as soon as it's done. */
	list_for_each_entry_safe(waiter, next, wake, node)
		complete(&waiter->done);
}

/*
 * Look for invalidations that the page at @hva is in.  Returns
 *
 *  - 0 if there are none in flight.  What was stored before this is seen by
 *    invalidations that enter the gate from now on, and whoever called this sees
 *    what those did that have left it.
 *
 *  - -EAGAIN after having slept until there were none, or until all caches were
 *    closed.  There may be new ones: take a new snapshot, and look again.
 *
 *  - -EINTR if the task is being killed.
 */
static inline int kvm_invalidate_gate_wait(struct kvm_invalidate_gate *gate,
					   unsigned long hva)
{
	struct kvm_invalidate_waiter waiter = { .hva = hva };

	kvm_invalidate_gate_may_wait(gate);

	scoped_guard(spinlock, &gate->lock) {
		if (!kvm_invalidate_gate_busy(gate, hva))
			return 0;

		init_completion(&waiter.done);
		list_add_tail(&waiter.node, &gate->waiters);
	}

	if (!wait_for_completion_killable(&waiter.done))
		return -EAGAIN;

	scoped_guard(spinlock, &gate->lock) {
		if (!waiter.woken) {
			list_del(&waiter.node);
			return -EINTR;
		}
	}

	/* Somebody is about to complete it, don't go away before that. */
	wait_for_completion(&waiter.done);
	return -EINTR;
}
#else
/* Nobody wants to know what the range is. */
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

static inline void kvm_invalidate_gate_init(struct kvm_invalidate_gate *gate)
{
	static struct lock_class_key key;

	spin_lock_init(&gate->lock);
	rcuwait_init(&gate->swap);
	lockdep_init_map(&gate->dep_map, "kvm_invalidate_gate", &key, 0);
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	INIT_LIST_HEAD(&gate->waiters);
#endif
	kvm_invalidate_gate_forget_all(gate);
}

/*
 * An invalidation of [@start, @end) starts.  The range can be anything.  If it
 * is empty, or @end is less than @start, it's only counted, and no page is in
 * it, as nothing will be invalidated.
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
 * An invalidation ends, of the very range that it started with.  If the caches
 * are @closed, there's nothing to wait for anymore.  Whoever closes them can't
 * wake those who sleep, as that takes the gate's lock, but what they wait for is
 * in flight, i.e. there's an end() to come.
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
 * There can only be one waiter at a time, it has to hold kvm->slots_lock.  May
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
 * The VM is being destroyed, and its mmu_notifier is gone, at the latest since
 * now, else since the mm's exit.  If it went away between a start() and its
 * end(), the end() will never come.  Forget about such invalidations, and
 * return %true if there were any.
 */
static inline bool kvm_invalidate_gate_reset(struct kvm_invalidate_gate *gate)
{
	bool unbalanced = gate->nr_active;

	/* Only those who hold a reference to the VM can wait. */
	WARN_ON_ONCE(rcuwait_active(&gate->swap));
	kvm_invalidate_gate_forget_all(gate);

	return unbalanced;
}

#endif /* __KVM_INVALIDATE_GATE_H__ */
