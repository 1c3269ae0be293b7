// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for KVM's Xen support, included by xen.c.
 *
 * There is no guest, no mm and no virtualization hardware.  The VM has only what
 * this code uses, and the lookup of its pages is a stub.  To act as a task that does
 * not belong to the VM, e.g. the workqueue of irqfds, a test gives the VM another mm.
 */

#include <kunit/test.h>
#include <kunit/static_stub.h>
#include <linux/cpumask.h>
#include <linux/debug_locks.h>
#include <linux/hw_breakpoint.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/panic.h>
#include <linux/perf_event.h>
#include <linux/preempt.h>

#include "../../../virt/kvm/kvm_mm.h"

#define XEN_TEST_HVA		0x10000000UL
#define XEN_TEST_GPA		0x20000000ULL
#define XEN_TEST_POISON		0x5a
#define XEN_TEST_TIMEOUT	(5 * HZ)

/* The pages of the VM's only memslot. */
enum {
	XEN_SHARED_INFO,
	XEN_VCPU_INFO,
	XEN_RUNSTATE,
	XEN_RUNSTATE2,
	XEN_NR_PAGES,
};

struct xen_test {
	struct kunit *test;
	struct kvm *kvm;
	struct kvm_vcpu *vcpu;
	struct kvm_memory_slot slot;
	struct page *pages[XEN_NR_PAGES];

	/* What the kernel has complained about before. */
	int debug_locks, warned;

	/* An mm without users, for a VM to which the current task doesn't belong. */
	struct mm_struct *mm;

	/* The lookup of pages. */
	bool fail_lookup, signal, update_memslots, send_signal;
	int nr_lookups;

	/* Preemption, and another CPU that reads the guest's memory. */
	struct preempt_notifier notifier;
	struct irq_work work;
	struct task_struct *task;
	bool in_update;
	int countdown;
	int nr_preempted, nr_read, nr_torn, nr_flagged;
	u64 *entry_time, *times;
};

static kvm_pfn_t xen_test_hva_to_pfn(struct kvm_follow_pfn *kfp)
{
	struct xen_test *t = kunit_get_current_test()->priv;
	unsigned long i = (kfp->hva - XEN_TEST_HVA) >> PAGE_SHIFT;

	t->nr_lookups++;
	if (i >= XEN_NR_PAGES || t->fail_lookup)
		return KVM_PFN_ERR_FAULT;
	if (t->signal && (kfp->flags & FOLL_INTERRUPTIBLE))
		return KVM_PFN_ERR_SIGPENDING;

	if (t->update_memslots)
		kvm_memslots(t->kvm)->generation++;
	if (t->send_signal)
		send_sig(SIGUSR1, current, 1);

	get_page(t->pages[i]);
	*kfp->refcounted_page = t->pages[i];
	return page_to_pfn(t->pages[i]);
}

static gpa_t xen_test_gpa(int page)
{
	return XEN_TEST_GPA + page * PAGE_SIZE;
}

static void *xen_test_addr(struct xen_test *t, int page)
{
	return page_address(t->pages[page]);
}

/* As by the MMU notifier. */
static void xen_test_invalidate(struct gfn_to_pfn_cache *gpc)
{
	guard(raw_spinlock_irq)(&gpc->lock);
	gpc->valid = false;
}

static int xen_test_set_attr(struct xen_test *t, u16 type, u64 value)
{
	struct kvm_xen_hvm_attr attr = { .type = type };

	if (type == KVM_XEN_ATTR_TYPE_SHARED_INFO)
		attr.u.shared_info.gfn = value;
	else
		attr.u.long_mode = value;
	return kvm_xen_hvm_set_attr(t->kvm, &attr);
}

static int xen_test_set_vcpu_attr(struct xen_test *t, u16 type, u64 value)
{
	struct kvm_xen_vcpu_attr attr = { .type = type };

	if (type == KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT)
		attr.u.runstate.state = value;
	else
		attr.u.gpa = value;
	return kvm_xen_vcpu_set_attr(t->vcpu, &attr);
}

static void xen_test_set_mode(struct xen_test *t, bool long_mode)
{
	KUNIT_ASSERT_EQ(t->test, xen_test_set_attr(t, KVM_XEN_ATTR_TYPE_LONG_MODE,
						   long_mode), 0);

	/* The wall clock's address is that of events in the other mode. */
	memset(xen_test_addr(t, XEN_SHARED_INFO), 0, PAGE_SIZE);
}

static void xen_test_set_shared_info(struct xen_test *t)
{
	KUNIT_ASSERT_EQ(t->test, xen_test_set_attr(t, KVM_XEN_ATTR_TYPE_SHARED_INFO,
						   gpa_to_gfn(xen_test_gpa(XEN_SHARED_INFO))), 0);
}

static void xen_test_set_vcpu_info(struct xen_test *t)
{
	KUNIT_ASSERT_EQ(t->test, xen_test_set_vcpu_attr(t, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
							xen_test_gpa(XEN_VCPU_INFO)), 0);
}

static void xen_test_set_runstate(struct xen_test *t, gpa_t gpa)
{
	KUNIT_ASSERT_EQ(t->test, xen_test_set_vcpu_attr(t, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
							gpa), 0);
}

static void xen_test_free(void *page)
{
	__free_page(page);
}

KUNIT_DEFINE_ACTION_WRAPPER(xen_test_destroy_gate, kvm_invalidate_gate_destroy,
			    struct kvm_invalidate_gate *);

static int xen_test_init(struct kunit *test)
{
	struct kvm_xen_hvm_config config = { .msr = KVM_XEN_MSR_MIN_INDEX };
	struct kvm_memslots *slots;
	struct kvm_vcpu *vcpu;
	struct xen_test *t;
	struct kvm *kvm;
	int i;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	t->mm = kunit_kzalloc(test, sizeof(*t->mm), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->mm);
	kvm = kunit_kzalloc(test, sizeof(*kvm), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, kvm);
	vcpu = kunit_kzalloc(test, sizeof(*vcpu), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, vcpu);

	for (i = 0; i < XEN_NR_PAGES; i++) {
		struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);

		KUNIT_ASSERT_NOT_NULL(test, page);
		KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, xen_test_free, page), 0);
		t->pages[i] = page;
	}
	kvm->gpc_filter = kunit_kzalloc(test, BIT(KVM_GPC_FILTER_ORDER) / BITS_PER_BYTE,
					GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, kvm->gpc_filter);

	t->test = test;
	t->debug_locks = debug_locks;
	t->warned = test_taint(TAINT_WARN);
	t->kvm = kvm;
	t->vcpu = vcpu;

	/* There is only one memslot, the last one that was used. */
	t->slot.base_gfn = gpa_to_gfn(XEN_TEST_GPA);
	t->slot.npages = XEN_NR_PAGES;
	t->slot.userspace_addr = XEN_TEST_HVA;
	slots = &kvm->__memslots[0][0];
	atomic_long_set(&slots->last_used_slot, (long)&t->slot);
	rcu_assign_pointer(kvm->memslots[0], slots);
	kvm->mm = current->mm;

	raw_spin_lock_init(&kvm->arch.tsc_write_lock);
	seqcount_raw_spinlock_init(&kvm->arch.pvclock_sc, &kvm->arch.tsc_write_lock);
	KUNIT_ASSERT_EQ(test, kvm_invalidate_gate_init(&kvm->invalidate_gate), 0);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, xen_test_destroy_gate,
							&kvm->invalidate_gate), 0);
	init_llist_head(&kvm->gpc_list);
	kvm_xen_init_vm(kvm);

	vcpu->kvm = kvm;
	vcpu->cpu = -1;
	rcuwait_init(&vcpu->wait);
	kvm_xen_init_vcpu(vcpu);
	/* It may have come online after an event was left to all vCPUs. */
	KUNIT_EXPECT_TRUE(test, kvm_check_request(KVM_REQ_XEN_EVTCHN, vcpu));
	xa_init(&kvm->vcpu_array);
	KUNIT_ASSERT_EQ(test, init_srcu_struct(&kvm->srcu), 0);

	/* From now on, xen_test_exit() has something to undo. */
	test->priv = t;

	KUNIT_ASSERT_EQ(test, xa_err(xa_store(&kvm->vcpu_array, 0, vcpu, GFP_KERNEL)), 0);
	atomic_set(&kvm->online_vcpus, 1);

	kunit_activate_static_stub(test, hva_to_pfn, xen_test_hva_to_pfn);

	/* This enables kvm_xen_enabled. */
	KUNIT_ASSERT_EQ(test, kvm_xen_hvm_config(kvm, &config), 0);
	return 0;
}

static void xen_test_exit(struct kunit *test)
{
	struct xen_test *t = test->priv;
	int i;

	/* Nothing but memory was allocated if the initialization failed. */
	if (!t)
		return;

	kvm_xen_destroy_vcpu(t->vcpu);
	kvm_xen_destroy_vm(t->kvm);
	xa_destroy(&t->kvm->vcpu_array);
	cleanup_srcu_struct(&t->kvm->srcu);

	/* Before a module that has this suite can be removed. */
	static_key_deferred_flush(&kvm_xen_enabled);

	for (i = 0; i < XEN_NR_PAGES; i++)
		KUNIT_EXPECT_EQ(test, page_count(t->pages[i]), 1);

	/* Some bugs are only found by lockdep, or by DEBUG_ATOMIC_SLEEP and other WARNs. */
	KUNIT_EXPECT_EQ_MSG(test, debug_locks, t->debug_locks, "see the kernel log");
	KUNIT_EXPECT_EQ_MSG(test, test_taint(TAINT_WARN), t->warned, "see the kernel log");
}

/*
 * The runstate.
 */
static u64 xen_test_sum(const u64 *times)
{
	return times[RUNSTATE_running] + times[RUNSTATE_runnable] +
	       times[RUNSTATE_blocked] + times[RUNSTATE_offline];
}

/* As kvm_sched_out(). */
static void xen_test_sched_out(struct preempt_notifier *notifier,
			       struct task_struct *next)
{
	struct xen_test *t = container_of(notifier, struct xen_test, notifier);

	if (!task_is_runnable(current))
		return;

	t->nr_preempted += t->in_update;
	kvm_xen_update_runstate(t->vcpu, RUNSTATE_runnable, true);
}

static void xen_test_sched_in(struct preempt_notifier *notifier, int cpu)
{
}

static struct preempt_ops xen_test_preempt_ops = {
	.sched_in = xen_test_sched_in,
	.sched_out = xen_test_sched_out,
};

static void xen_test_work(struct irq_work *work)
{
	struct xen_test *t = container_of(work, struct xen_test, work);

	wake_up_process(t->task);
}

/* Called by an access to runstate_entry_time, in a context like that of an NMI. */
static void xen_test_breakpoint(struct perf_event *event,
				struct perf_sample_data *data, struct pt_regs *regs)
{
	struct xen_test *t = event->overflow_handler_context;

	if (t->countdown && !--t->countdown)
		irq_work_queue(&t->work);
}

/* Runs instead of the test as soon as it's woken up. */
static int xen_test_preemptor(void *data)
{
	sched_set_fifo(current);

	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (kthread_should_stop())
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static void xen_test_create_task(struct xen_test *t, int (*fn)(void *), int cpu)
{
	t->task = kthread_create(fn, t, "kvm_xen_test");
	if (IS_ERR(t->task)) {
		t->task = NULL;
		KUNIT_FAIL(t->test, "can't create a task");
		return;
	}
	kthread_bind(t->task, cpu);
	wake_up_process(t->task);
}

/*
 * All time is accounted, and accounted once, even if the task is preempted right after
 * one of its first accesses to the entry time.
 */
static void test_xen_runstate_preempted(struct kunit *test)
{
	struct xen_test *t = test->priv;
	struct kvm_vcpu_xen *vx = &t->vcpu->arch.xen;
	struct perf_event * __percpu *breakpoint;
	struct perf_event_attr attr;
	int i, nr_wrong = 0;

	if (!preempt_model_preemptible())
		kunit_skip(test, "needs a preemptible kernel");

	hw_breakpoint_init(&attr);
	attr.bp_addr = (unsigned long)&vx->runstate_entry_time;
	attr.bp_len = HW_BREAKPOINT_LEN_4;
	attr.bp_type = HW_BREAKPOINT_RW;
	breakpoint = register_wide_hw_breakpoint(&attr, xen_test_breakpoint, t);
	if (IS_ERR_PCPU(breakpoint))
		kunit_skip(test, "needs a hardware breakpoint");

	migrate_disable();
	t->work = IRQ_WORK_INIT_HARD(xen_test_work);
	xen_test_create_task(t, xen_test_preemptor, smp_processor_id());
	if (!t->task)
		goto out;

	preempt_notifier_inc();
	preempt_notifier_init(&t->notifier, &xen_test_preempt_ops);
	preempt_notifier_register(&t->notifier);

	/* On a busy host, the interrupt often comes too late. */
	for (i = 0; i < 400 || (i < 40000 && t->nr_preempted < 100); i++) {
		scoped_guard(preempt) {
			t->in_update = true;
			t->countdown = 1 + i % 4;
		}
		kvm_xen_update_runstate(t->vcpu, RUNSTATE_running, false);
		scoped_guard(preempt) {
			t->countdown = 0;
			t->in_update = false;
			nr_wrong += xen_test_sum(vx->runstate_times) != vx->runstate_entry_time;
		}
	}

	preempt_notifier_unregister(&t->notifier);
	preempt_notifier_dec();
	irq_work_sync(&t->work);
	kthread_stop(t->task);

	KUNIT_EXPECT_EQ(test, nr_wrong, 0);
	KUNIT_EXPECT_GE(test, t->nr_preempted, 100);
	KUNIT_EXPECT_GT(test, vx->runstate_times[RUNSTATE_running], 0);
	KUNIT_EXPECT_GT(test, vx->runstate_times[RUNSTATE_runnable], 0);
out:
	migrate_enable();
	unregister_wide_hw_breakpoint(breakpoint);
}

static u64 xen_test_guest_state(struct xen_test *t)
{
	return READ_ONCE(*(u32 *)xen_test_addr(t, XEN_RUNSTATE));
}

/* The scheduler's update skips the area if it isn't accessible at once. */
static void test_xen_runstate_atomic(struct kunit *test)
{
	struct xen_test *t = test->priv;
	struct gfn_to_pfn_cache *gpc = &t->vcpu->arch.xen.runstate_cache;

	kvm_xen_update_runstate(t->vcpu, RUNSTATE_running, false);
	xen_test_set_runstate(t, xen_test_gpa(XEN_RUNSTATE));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);
	KUNIT_EXPECT_EQ(test, xen_test_guest_state(t), RUNSTATE_running);

	kvm_xen_update_runstate(t->vcpu, RUNSTATE_runnable, true);
	KUNIT_EXPECT_EQ(test, xen_test_guest_state(t), RUNSTATE_runnable);

	/* In use. */
	KUNIT_ASSERT_TRUE(test, kvm_gpc_tryget(gpc, 1));
	kvm_xen_update_runstate(t->vcpu, RUNSTATE_offline, true);
	kvm_gpc_put(gpc);
	KUNIT_EXPECT_EQ(test, xen_test_guest_state(t), RUNSTATE_runnable);

	/* Not valid. */
	xen_test_invalidate(gpc);
	kvm_xen_update_runstate(t->vcpu, RUNSTATE_offline, true);
	KUNIT_EXPECT_EQ(test, xen_test_guest_state(t), RUNSTATE_runnable);
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);

	kvm_xen_update_runstate(t->vcpu, RUNSTATE_blocked, false);
	KUNIT_EXPECT_EQ(test, xen_test_guest_state(t), RUNSTATE_blocked);
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 2);

	/* Userspace can set "runnable", too, and can sleep, unlike the scheduler. */
	xen_test_invalidate(gpc);
	KUNIT_EXPECT_EQ(test, xen_test_set_vcpu_attr(t, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT,
						     RUNSTATE_runnable), 0);
	KUNIT_EXPECT_EQ(test, xen_test_guest_state(t), RUNSTATE_runnable);
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 3);
	KUNIT_EXPECT_FALSE(test, irqs_disabled());
}

/* Do the two pages have the expected contents? */
static bool xen_test_runstate_matches(struct xen_test *t, unsigned int offset)
{
	struct kvm_vcpu_xen *vx = &t->vcpu->arch.xen;
	unsigned int pos = offset, i, pad = t->kvm->arch.xen.long_mode ? 4 : 0;
	u8 *expected = kunit_kmalloc(t->test, 2 * PAGE_SIZE, GFP_KERNEL);
	bool split = offset + 0x2c + pad > PAGE_SIZE, matches;

	KUNIT_ASSERT_NOT_NULL(t->test, expected);
	memset(expected, XEN_TEST_POISON, 2 * PAGE_SIZE);

	memcpy(expected + pos, &vx->current_runstate, 4);
	pos += 4;
	/* The padding is written only if the area is split over two pages. */
	if (split)
		memset(expected + pos, 0, pad);
	pos += pad;
	memcpy(expected + pos, &vx->runstate_entry_time, 8);
	pos += 8;
	for (i = 0; i < 4; i++, pos += 8)
		memcpy(expected + pos, &vx->runstate_times[i], 8);

	matches = !memcmp(expected, xen_test_addr(t, XEN_RUNSTATE), PAGE_SIZE) &&
		  !memcmp(expected + PAGE_SIZE, xen_test_addr(t, XEN_RUNSTATE2), PAGE_SIZE);
	kunit_kfree(t->test, expected);
	return matches;
}

static void xen_test_poison(struct xen_test *t)
{
	memset(xen_test_addr(t, XEN_RUNSTATE), XEN_TEST_POISON, PAGE_SIZE);
	memset(xen_test_addr(t, XEN_RUNSTATE2), XEN_TEST_POISON, PAGE_SIZE);
}

/* The area can have any address, and can be split over two pages. */
static void test_xen_runstate_area(struct kunit *test)
{
	struct xen_test *t = test->priv;
	unsigned int offset;
	int i, mode;

	for (mode = 0; mode < 2; mode++) {
		xen_test_set_mode(t, mode);
		t->kvm->arch.xen.runstate_update_flag = true;

		for (i = 1; i <= 56; i++) {
			offset = PAGE_SIZE - i;
			xen_test_poison(t);
			xen_test_set_runstate(t, xen_test_gpa(XEN_RUNSTATE) + offset);
			KUNIT_EXPECT_TRUE(test, xen_test_runstate_matches(t, offset));

			xen_test_invalidate(&t->vcpu->arch.xen.runstate_cache);
			xen_test_invalidate(&t->vcpu->arch.xen.runstate2_cache);
			kvm_xen_update_runstate(t->vcpu, i % 4, false);
			KUNIT_EXPECT_TRUE(test, xen_test_runstate_matches(t, offset));
		}
	}

	/* A change of the mode can extend the area to the second page. */
	offset = PAGE_SIZE - sizeof(struct compat_vcpu_runstate_info);
	xen_test_set_mode(t, false);
	xen_test_poison(t);
	xen_test_set_runstate(t, xen_test_gpa(XEN_RUNSTATE) + offset);
	KUNIT_EXPECT_TRUE(test, xen_test_runstate_matches(t, offset));
	KUNIT_EXPECT_FALSE(test, t->vcpu->arch.xen.runstate2_cache.active);

	xen_test_set_mode(t, true);
	xen_test_poison(t);
	kvm_xen_update_runstate(t->vcpu, RUNSTATE_blocked, true);
	KUNIT_EXPECT_FALSE(test, irqs_disabled());
	KUNIT_EXPECT_EQ(test, *(u8 *)xen_test_addr(t, XEN_RUNSTATE2), XEN_TEST_POISON);

	kvm_xen_update_runstate(t->vcpu, RUNSTATE_blocked, false);
	KUNIT_EXPECT_FALSE(test, irqs_disabled());
	KUNIT_EXPECT_TRUE(test, xen_test_runstate_matches(t, offset));
}

/* What a guest has to do to read the times.  KCSAN doesn't see a guest, either. */
static int __no_kcsan xen_test_guest(void *data)
{
	struct xen_test *t = data;
	u64 times[4], entry_time;
	int i;

	while (!kthread_should_stop()) {
		/* Pair with the barriers in kvm_xen_update_runstate_guest(). */
		entry_time = READ_ONCE(*t->entry_time);
		smp_rmb(); /* before the times */
		for (i = 0; i < 4; i++)
			times[i] = READ_ONCE(t->times[i]);
		smp_rmb(); /* before entry_time is read again */

		if (entry_time & XEN_RUNSTATE_UPDATE) {
			WRITE_ONCE(t->nr_flagged, t->nr_flagged + 1);
		} else if (entry_time == READ_ONCE(*t->entry_time)) {
			if (xen_test_sum(times) != entry_time)
				WRITE_ONCE(t->nr_torn, t->nr_torn + 1);
			WRITE_ONCE(t->nr_read, t->nr_read + 1);
		}
		cond_resched();
	}
	return 0;
}

struct xen_test_layout {
	const char *name;
	int offset;
};

static const struct xen_test_layout xen_test_layouts[] = {
	{ "one page", 0x100 },
	{ "times in the second page", PAGE_SIZE - 0x10 },
	{ "entry time in the second page", PAGE_SIZE - 0x8 },
};

KUNIT_ARRAY_PARAM_DESC(xen_test_layout, xen_test_layouts, name);

/* XEN_RUNSTATE_UPDATE tells the guest to read the times again. */
static void test_xen_runstate_update_flag(struct kunit *test)
{
	const struct xen_test_layout *layout = test->param_value;
	struct xen_test *t = test->priv;
	unsigned long end = jiffies + XEN_TEST_TIMEOUT;
	int i, cpu, page[2], pos[2] = { layout->offset + 8, layout->offset + 16 };

	for (i = 0; i < 2; i++)
		page[i] = pos[i] < PAGE_SIZE ? XEN_RUNSTATE : XEN_RUNSTATE2;
	t->entry_time = xen_test_addr(t, page[0]) + offset_in_page(pos[0]);
	t->times = xen_test_addr(t, page[1]) + offset_in_page(pos[1]);

	xen_test_set_mode(t, true);
	t->kvm->arch.xen.runstate_update_flag = true;
	kvm_xen_update_runstate(t->vcpu, RUNSTATE_running, false);
	xen_test_set_runstate(t, xen_test_gpa(XEN_RUNSTATE) + layout->offset);

	migrate_disable();
	cpu = cpumask_any_but(cpu_online_mask, smp_processor_id());
	if (cpu >= nr_cpu_ids) {
		migrate_enable();
		kunit_skip(test, "needs two CPUs");
	}

	xen_test_create_task(t, xen_test_guest, cpu);
	if (!t->task)
		goto out;

	/*
	 * In a VM, the two CPUs may not run at the same time.  Then, the flag is seen
	 * only if the host preempts this CPU while the flag is set.  If that takes long,
	 * once is enough.
	 */
	for (i = 0; time_before(jiffies, end + 5 * XEN_TEST_TIMEOUT); i++) {
		int enough = time_before(jiffies, end) ? 100 : 1;

		kvm_xen_update_runstate(t->vcpu, i % 4, false);
		if (READ_ONCE(t->nr_flagged) >= enough && READ_ONCE(t->nr_read) >= enough)
			break;
		if (READ_ONCE(t->nr_torn))
			break;
		cond_resched();
	}
	kthread_stop(t->task);

	KUNIT_EXPECT_EQ(test, t->nr_torn, 0);
	KUNIT_EXPECT_GT(test, t->nr_flagged, 0);
	KUNIT_EXPECT_GT(test, t->nr_read, 0);
	KUNIT_EXPECT_EQ(test, *t->entry_time, t->vcpu->arch.xen.runstate_entry_time);
out:
	migrate_enable();
}

/*
 * Events.
 */
struct xen_test_mode {
	const char *name;
	bool long_mode;
	int port, sel, nr_ports;
};

static const struct xen_test_mode xen_test_modes[] = {
	{ "32-bit", false, 99, 3, 1024 },
	{ "64-bit", true, 197, 3, 4096 },
};

KUNIT_ARRAY_PARAM_DESC(xen_test_mode, xen_test_modes, name);

static unsigned long *xen_test_pending(struct xen_test *t)
{
	void *si = xen_test_addr(t, XEN_SHARED_INFO);

	return si + (t->kvm->arch.xen.long_mode ?
		     offsetof(struct shared_info, evtchn_pending) :
		     offsetof(struct compat_shared_info, evtchn_pending));
}

static unsigned long *xen_test_mask(struct xen_test *t)
{
	void *si = xen_test_addr(t, XEN_SHARED_INFO);

	return si + (t->kvm->arch.xen.long_mode ?
		     offsetof(struct shared_info, evtchn_mask) :
		     offsetof(struct compat_shared_info, evtchn_mask));
}

/* Is there this event, and no other one? */
static bool xen_test_is_pending(struct xen_test *t, int port)
{
	int nr = max_evtchn_port(t->kvm);

	return test_bit(port, xen_test_pending(t)) &&
	       bitmap_weight(xen_test_pending(t), nr) == 1;
}

static bool xen_test_none_pending(struct xen_test *t)
{
	return bitmap_empty(xen_test_pending(t), max_evtchn_port(t->kvm));
}

static u64 xen_test_guest_sel(struct xen_test *t)
{
	void *vi = xen_test_addr(t, XEN_VCPU_INFO);

	if (t->kvm->arch.xen.long_mode)
		return ((struct vcpu_info *)vi)->evtchn_pending_sel;
	return ((struct compat_vcpu_info *)vi)->evtchn_pending_sel;
}

static u8 xen_test_guest_upcall(struct xen_test *t)
{
	struct vcpu_info *vi = xen_test_addr(t, XEN_VCPU_INFO);

	return vi->evtchn_upcall_pending;
}

static int xen_test_send(struct xen_test *t, int port)
{
	struct kvm_xen_evtchn e = { .port = port, .vcpu_idx = -1 };

	return kvm_xen_set_evtchn_fast(&e, t->kvm);
}

/* As by KVM_XEN_HVM_EVTCHN_SEND. */
static int xen_test_ioctl(struct xen_test *t, int port)
{
	struct kvm_irq_routing_xen_evtchn e = {
		.port = port,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	return kvm_xen_hvm_evtchn_send(t->kvm, &e);
}

/* As by the workqueue of irqfds. */
static int xen_test_irqfd(struct xen_test *t, int port)
{
	struct kvm_kernel_irq_routing_entry e = {
		.xen_evtchn = { .port = port, .vcpu_idx = -1 },
	};
	struct mm_struct *mm = t->kvm->mm;
	int ret;

	t->kvm->mm = t->mm;
	ret = evtchn_set_fn(&e, t->kvm, KVM_USERSPACE_IRQ_SOURCE_ID, 1, false);
	t->kvm->mm = mm;

	KUNIT_EXPECT_EQ(t->test, atomic_read(&t->mm->mm_users), 0);
	KUNIT_EXPECT_EQ(t->test, atomic_read(&t->mm->mm_count), 0);
	return ret;
}

static bool xen_test_take_request(struct xen_test *t, int request)
{
	bool set = kvm_test_request(request, t->vcpu);

	kvm_clear_request(request, t->vcpu);
	return set;
}

/* As by KVM_RUN, or by an ioctl() that must not be interrupted. */
static void xen_test_inject_by(struct xen_test *t, struct kvm_vcpu *vcpu, bool interruptible)
{
	guard(srcu)(&t->kvm->srcu);
	kvm_xen_inject_events(vcpu, interruptible);
}

static void xen_test_inject(struct xen_test *t)
{
	xen_test_inject_by(t, t->vcpu, true);
}

static void xen_test_setup_events(struct xen_test *t)
{
	const struct xen_test_mode *mode = t->test->param_value;

	xen_test_set_mode(t, mode ? mode->long_mode : true);
	xen_test_set_shared_info(t);
	xen_test_set_vcpu_info(t);
	t->nr_lookups = 0;
}

static void test_xen_event(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;

	xen_test_setup_events(t);

	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port), 1);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_EQ(test, xen_test_guest_sel(t), BIT_ULL(mode->sel));
	KUNIT_EXPECT_EQ(test, xen_test_guest_upcall(t), 1);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port), 0);
	KUNIT_EXPECT_FALSE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->nr_ports), -EINVAL);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 0);
}

/* A masked event doesn't interrupt the guest, but ends the poll for it. */
static void test_xen_event_masked(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;
	unsigned long *poll_mask = t->kvm->arch.xen.poll_mask;

	xen_test_setup_events(t);

	set_bit(mode->port, xen_test_mask(t));
	set_bit(mode->port + 1, xen_test_mask(t));
	set_bit(mode->port + 2, xen_test_mask(t));

	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port), -ENOTCONN);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_FALSE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	/* The vCPU polls another event. */
	clear_bit(mode->port, xen_test_pending(t));
	t->vcpu->arch.xen.poll_evtchn = mode->port + 1;
	set_bit(0, poll_mask);
	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port), -ENOTCONN);
	KUNIT_EXPECT_FALSE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	KUNIT_EXPECT_TRUE(test, test_bit(0, poll_mask));

	/* This event. */
	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port + 1), -ENOTCONN);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	KUNIT_EXPECT_FALSE(test, test_bit(0, poll_mask));

	/* More than one event. */
	t->vcpu->arch.xen.poll_evtchn = -1;
	set_bit(0, poll_mask);
	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port + 2), -ENOTCONN);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	KUNIT_EXPECT_FALSE(test, test_bit(0, poll_mask));

	KUNIT_EXPECT_EQ(test, xen_test_guest_sel(t), 0);
	KUNIT_EXPECT_EQ(test, xen_test_guest_upcall(t), 0);
}

/* KVM checks all ports that the guest polls. */
static void test_xen_poll(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;
	evtchn_port_t ports[128];
	int i, nr;

	xen_test_setup_events(t);

	for (i = 0; i < ARRAY_SIZE(ports); i++)
		ports[i] = mode->nr_ports - 1 - i;

	for (nr = 1; nr <= ARRAY_SIZE(ports); nr++) {
		KUNIT_EXPECT_FALSE(test, wait_pending_event(t->vcpu, nr, ports));

		/* The event is that of the last port, or of the port after that. */
		set_bit(ports[nr - 1], xen_test_pending(t));
		KUNIT_EXPECT_TRUE(test, wait_pending_event(t->vcpu, nr, ports));
		KUNIT_EXPECT_FALSE(test, wait_pending_event(t->vcpu, nr - 1, ports));
		clear_bit(ports[nr - 1], xen_test_pending(t));
	}

	/* Don't wait if shared_info can't be read. */
	xen_test_invalidate(&t->kvm->arch.xen.shinfo_cache);
	KUNIT_EXPECT_TRUE(test, wait_pending_event(t->vcpu, 1, ports));
	KUNIT_EXPECT_TRUE(test, wait_pending_event(t->vcpu, 0, ports));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 0);
}

/* If vcpu_info isn't accessible, the vCPU has to deliver the event. */
static void test_xen_event_no_vcpu_info(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;
	struct kvm_vcpu_xen *vx = &t->vcpu->arch.xen;

	xen_test_setup_events(t);
	xen_test_invalidate(&vx->vcpu_info_cache);

	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port), 1);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_EQ(test, vx->evtchn_pending_sel, BIT(mode->sel));
	KUNIT_EXPECT_EQ(test, xen_test_guest_sel(t), 0);
	KUNIT_EXPECT_EQ(test, xen_test_guest_upcall(t), 0);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	KUNIT_EXPECT_TRUE(test, kvm_xen_has_pending_events(t->vcpu));

	/* The vCPU can't access it now, either. */
	t->fail_lookup = true;
	xen_test_inject(t);
	KUNIT_EXPECT_EQ(test, vx->evtchn_pending_sel, BIT(mode->sel));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);

	t->fail_lookup = false;
	xen_test_inject(t);
	KUNIT_EXPECT_EQ(test, vx->evtchn_pending_sel, 0);
	KUNIT_EXPECT_EQ(test, xen_test_guest_sel(t), BIT_ULL(mode->sel));
	KUNIT_EXPECT_EQ(test, xen_test_guest_upcall(t), 1);
	KUNIT_EXPECT_FALSE(test, kvm_xen_has_pending_events(t->vcpu));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 2);
}

/* If shared_info isn't accessible, only tasks that can sleep refresh it. */
static void test_xen_event_no_shared_info(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;
	struct kvm_vcpu_xen *vx = &t->vcpu->arch.xen;

	xen_test_setup_events(t);
	xen_test_invalidate(&t->kvm->arch.xen.shinfo_cache);

	KUNIT_EXPECT_EQ(test, xen_test_send(t, mode->port), -EWOULDBLOCK);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 0);
	KUNIT_EXPECT_FALSE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	/* The timer can't sleep. */
	vx->timer_virq = mode->port;
	vx->timer_expires = 1;
	xen_timer_callback(&vx->timer);
	KUNIT_EXPECT_EQ(test, atomic_read(&vx->timer_pending), 1);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 0);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	/* The vCPU can sleep. */
	kvm_xen_inject_timer_irqs(t->vcpu);
	KUNIT_EXPECT_EQ(test, atomic_read(&vx->timer_pending), 0);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);
	vx->timer_virq = 0;

	/* An ioctl() can sleep. */
	clear_bit(mode->port, xen_test_pending(t));
	xen_test_invalidate(&t->kvm->arch.xen.shinfo_cache);
	KUNIT_EXPECT_EQ(test, xen_test_ioctl(t, mode->port), 0);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 2);
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
}

/* Raise an event that can't be delivered. */
static void xen_test_defer(struct xen_test *t, int port)
{
	xen_test_invalidate(&t->kvm->arch.xen.shinfo_cache);
	KUNIT_EXPECT_EQ(t->test, xen_test_irqfd(t, port), 1);
	KUNIT_EXPECT_TRUE(t->test, xen_test_none_pending(t));
}

/* An irqfd doesn't fault in memory of the VM, in particular if the mm is gone. */
static void test_xen_irqfd(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;
	int last = mode->nr_ports - 1;

	xen_test_setup_events(t);

	/* If shared_info is accessible, the vCPU has nothing to do. */
	KUNIT_EXPECT_EQ(test, xen_test_irqfd(t, mode->port), 1);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	clear_bit(mode->port, xen_test_pending(t));

	xen_test_invalidate(&t->kvm->arch.xen.shinfo_cache);
	KUNIT_EXPECT_EQ(test, xen_test_irqfd(t, mode->port), 1);
	KUNIT_EXPECT_EQ(test, xen_test_irqfd(t, last), 1);
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 0);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
	KUNIT_EXPECT_TRUE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	/* The same event once more: it's merged, but the vCPU is woken up again. */
	KUNIT_EXPECT_EQ(test, xen_test_irqfd(t, mode->port), 0);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	KUNIT_EXPECT_EQ(test, xen_test_irqfd(t, mode->nr_ports), -EINVAL);

	xen_test_inject(t);
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	KUNIT_EXPECT_TRUE(test, test_bit(last, xen_test_pending(t)));
	clear_bit(last, xen_test_pending(t));
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_EQ(test, xen_test_guest_upcall(t), 1);

	/* Nothing of that is delivered once more with the next event. */
	clear_bit(mode->port, xen_test_pending(t));
	xen_test_defer(t, last);
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, test_bit(last, xen_test_pending(t)));
	clear_bit(last, xen_test_pending(t));
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
}

/* Another vCPU is the first to return to the guest. */
static void test_xen_irqfd_other_vcpu(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;
	struct kvm_vcpu *other;

	other = kunit_kzalloc(test, sizeof(*other), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, other);
	other->kvm = t->kvm;
	other->vcpu_id = 1;
	other->vcpu_idx = 1;

	xen_test_setup_events(t);
	KUNIT_ASSERT_EQ(test, xa_err(xa_store(&t->kvm->vcpu_array, 1, other, GFP_KERNEL)), 0);
	atomic_set(&t->kvm->online_vcpus, 2);

	xen_test_defer(t, mode->port);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_UNBLOCK, other));

	/* It delivers the event, but the event isn't its own. */
	xen_test_inject_by(t, other, true);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_EQ(test, xen_test_guest_sel(t), BIT_ULL(mode->sel));
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_UNBLOCK, other));

	/* There is nothing left to deliver. */
	clear_bit(mode->port, xen_test_pending(t));
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);

	atomic_set(&t->kvm->online_vcpus, 1);
}

/* The wait for shared_info is interrupted, or was in vain. */
static void test_xen_irqfd_waits(struct kunit *test)
{
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;

	xen_test_setup_events(t);

	/* KVM_RUN leaves the event to its next call, and must not block then. */
	xen_test_defer(t, mode->port);
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));
	t->signal = true;
	xen_test_inject(t);
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
	KUNIT_EXPECT_TRUE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	KUNIT_EXPECT_TRUE(test, xen_test_take_request(t, KVM_REQ_UNBLOCK));

	t->signal = false;
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	clear_bit(mode->port, xen_test_pending(t));

	/* Other ioctls don't. */
	xen_test_defer(t, mode->port);
	t->signal = true;
	xen_test_inject_by(t, t->vcpu, false);
	t->signal = false;
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	clear_bit(mode->port, xen_test_pending(t));

	/* The memslots are updated before the event is delivered. */
	xen_test_defer(t, mode->port);
	t->update_memslots = true;
	t->nr_lookups = 0;
	xen_test_inject(t);
	KUNIT_EXPECT_EQ(test, t->nr_lookups, 1);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	clear_bit(mode->port, xen_test_pending(t));

	/* A signal comes, too. */
	xen_test_defer(t, mode->port);
	allow_signal(SIGUSR1);
	t->send_signal = true;
	xen_test_inject(t);
	t->send_signal = false;
	t->update_memslots = false;
	flush_signals(current);
	disallow_signal(SIGUSR1);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
	KUNIT_EXPECT_TRUE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, mode->port));
}

/* Changes of shared_info before the event is delivered. */
static void test_xen_irqfd_changes(struct kunit *test)
{
	struct kvm_xen_vcpu_attr attr = { .type = KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR };
	const struct xen_test_mode *mode = test->param_value;
	struct xen_test *t = test->priv;
	int port = mode->port;

	xen_test_setup_events(t);

	/* The vCPU is saved, with both pages missing. */
	xen_test_defer(t, port);
	xen_test_invalidate(&t->vcpu->arch.xen.vcpu_info_cache);
	KUNIT_EXPECT_EQ(test, kvm_xen_vcpu_get_attr(t->vcpu, &attr), 0);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, port));
	KUNIT_EXPECT_EQ(test, xen_test_guest_sel(t), BIT_ULL(mode->sel));
	KUNIT_EXPECT_EQ(test, xen_test_guest_upcall(t), 1);
	clear_bit(port, xen_test_pending(t));

	/* The vCPU can't access the page, either.  The next event delivers both. */
	xen_test_defer(t, port);
	t->fail_lookup = true;
	xen_test_inject(t);
	t->fail_lookup = false;
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_XEN_EVTCHN, t->vcpu));
	xen_test_defer(t, port + 1);
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, test_bit(port + 1, xen_test_pending(t)));
	clear_bit(port + 1, xen_test_pending(t));
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, port));
	clear_bit(port, xen_test_pending(t));

	/* The guest masks the event. */
	xen_test_defer(t, port);
	set_bit(port, xen_test_mask(t));
	memset(xen_test_addr(t, XEN_VCPU_INFO), 0, PAGE_SIZE);
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, port));
	KUNIT_EXPECT_EQ(test, xen_test_guest_upcall(t), 0);
	clear_bit(port, xen_test_mask(t));
	clear_bit(port, xen_test_pending(t));

	/* The guest changes the mode. */
	xen_test_defer(t, port);
	xen_test_set_mode(t, !mode->long_mode);
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, port));
	clear_bit(port, xen_test_pending(t));
	xen_test_set_mode(t, mode->long_mode);

	/* The new mode may not have the port. */
	if (mode->long_mode) {
		xen_test_defer(t, mode->nr_ports - 1);
		xen_test_set_mode(t, false);
		xen_test_inject(t);
		KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
		xen_test_set_mode(t, true);
	}

	/* shared_info moves. */
	xen_test_defer(t, port);
	KUNIT_EXPECT_EQ(test, xen_test_set_attr(t, KVM_XEN_ATTR_TYPE_SHARED_INFO,
						gpa_to_gfn(xen_test_gpa(XEN_RUNSTATE))), 0);
	swap(t->pages[XEN_SHARED_INFO], t->pages[XEN_RUNSTATE]);
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_is_pending(t, port));
	clear_bit(port, xen_test_pending(t));

	/* It's deactivated, and activated again. */
	xen_test_defer(t, port);
	KUNIT_EXPECT_EQ(test, xen_test_set_attr(t, KVM_XEN_ATTR_TYPE_SHARED_INFO,
						KVM_XEN_INVALID_GFN), 0);
	xen_test_irqfd(t, port);
	xen_test_set_shared_info(t);
	xen_test_inject(t);
	KUNIT_EXPECT_TRUE(test, xen_test_none_pending(t));
}

static struct kunit_case xen_test_cases[] = {
	KUNIT_CASE(test_xen_runstate_preempted),
	KUNIT_CASE(test_xen_runstate_atomic),
	KUNIT_CASE(test_xen_runstate_area),
	KUNIT_CASE_PARAM(test_xen_runstate_update_flag, xen_test_layout_gen_params),
	KUNIT_CASE_PARAM(test_xen_event, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_event_masked, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_poll, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_event_no_vcpu_info, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_event_no_shared_info, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_irqfd, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_irqfd_other_vcpu, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_irqfd_waits, xen_test_mode_gen_params),
	KUNIT_CASE_PARAM(test_xen_irqfd_changes, xen_test_mode_gen_params),
	{}
};

static struct kunit_suite xen_test_suite = {
	.name = "kvm_xen",
	.init = xen_test_init,
	.exit = xen_test_exit,
	.test_cases = xen_test_cases,
};

kunit_test_suite(xen_test_suite);
