// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for gfn_to_pfn_cache, included by pfncache.c.
 *
 * There is no guest, no mm and no virtualization hardware: the lookup of a page
 * and its mapping are stubs.  The stubs call what races with a refresh, i.e. it
 * happens at a known point of the refresh and in the same task.  A work item does
 * what has to wait until the refresh sleeps.
 */

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/debug_locks.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/iopoll.h>
#include <linux/panic.h>
#include <linux/sched/signal.h>
#include <linux/workqueue.h>

/* The fake VM has a memslot of two pages, each in another region of the filter. */
#define GPC_TEST_HVA		(0x10000000UL - PAGE_SIZE)
#define GPC_TEST_GPA		0x20000000ULL
#define GPC_TEST_NR_PAGES	2
#define GPC_TEST_END		(GPC_TEST_NR_PAGES * PAGE_SIZE)

#define GPC_TEST_OFFSET		0x128
#define GPC_TEST_LEN		8

#define GPC_TEST_TIMEOUT_US	(5 * USEC_PER_SEC)
#define GPC_TEST_MAX_LOOKUPS	100000

enum gpc_test_point {
	GPC_BEFORE_REFRESH,
	GPC_BEFORE_LOOKUP,	/* but after the look at the gate */
	GPC_AFTER_LOOKUP,	/* but before the cache can be valid */
	GPC_AT_UNMAP,		/* of the old page, the cache is valid */
	GPC_NR_POINTS,
};

struct gpc_test;
typedef void (*gpc_test_fn)(struct gpc_test *t);

struct gpc_test {
	struct kunit *test;
	struct kvm *kvm;

	/* What the kernel has complained about before. */
	int debug_locks, warned;

	struct kvm_memory_slot slot;
	struct gfn_to_pfn_cache gpc, gpc2;

	/* The pages of the memslot, and one to replace the first one with. */
	struct page *pages[GPC_TEST_NR_PAGES];
	struct page *spare;

	/* The stubs: what to do at a given point, once, and statistics. */
	gpc_test_fn race[GPC_NR_POINTS];
	bool fail_lookup;
	bool fail_map;
	atomic_t nr_lookups;
	atomic_t nr_mapped;

	/* What another task, or a hardirq, does. */
	struct task_struct *task;
	int sig;		/* what is sent to it */
	struct work_struct work;
	gpc_test_fn work_fn;
	bool go, begun, done, slept;
	struct hrtimer timer;
	struct completion timer_done;
	bool in_hardirq, irqs_disabled;
	void *khva;
};

/* KUnit can sleep when an expectation fails, i.e. put the cache before. */
static void *gpc_test_put(struct gfn_to_pfn_cache *gpc)
{
	void *khva = gpc->khva;

	kvm_gpc_put(gpc);
	return khva;
}

static bool gpc_test_tryget(struct gfn_to_pfn_cache *gpc, unsigned long len)
{
	return kvm_gpc_tryget(gpc, len) && gpc_test_put(gpc);
}

static bool gpc_test_tryget_nospin(struct gfn_to_pfn_cache *gpc, unsigned long len)
{
	return kvm_gpc_tryget_nospin(gpc, len) && gpc_test_put(gpc);
}

static int gpc_test_get(struct gfn_to_pfn_cache *gpc, unsigned long len)
{
	int ret = kvm_gpc_get(gpc, len);

	if (!ret)
		gpc_test_put(gpc);
	return ret;
}

/* The mapping that a user of the cache gets, NULL if the cache isn't valid. */
static void *gpc_test_khva(struct gfn_to_pfn_cache *gpc)
{
	return kvm_gpc_tryget(gpc, GPC_TEST_LEN) ? gpc_test_put(gpc) : NULL;
}

static void gpc_test_race(struct gpc_test *t, enum gpc_test_point point)
{
	gpc_test_fn race = t->race[point];

	if (!race)
		return;

	/* During a lookup, invalidations find the cache, but users don't find it valid. */
	if (point == GPC_BEFORE_LOOKUP || point == GPC_AFTER_LOOKUP) {
		KUNIT_EXPECT_TRUE(t->test, llist_on_list(&t->gpc.node));
		KUNIT_EXPECT_EQ(t->test, t->gpc.notifier_hva, GPC_TEST_HVA);
		KUNIT_EXPECT_NULL(t->test, gpc_test_khva(&t->gpc));
	}

	t->race[point] = NULL;
	race(t);
}

static kvm_pfn_t gpc_test_hva_to_pfn(struct kvm_follow_pfn *kfp)
{
	struct gpc_test *t = kunit_get_current_test()->priv;
	unsigned long i = (kfp->hva - GPC_TEST_HVA) >> PAGE_SHIFT;
	kvm_pfn_t pfn = KVM_PFN_ERR_FAULT;
	struct page *page;

	might_sleep();

	/* A refresh that retries forever must not hang the test. */
	if (atomic_inc_return(&t->nr_lookups) > GPC_TEST_MAX_LOOKUPS)
		return pfn;

	gpc_test_race(t, GPC_BEFORE_LOOKUP);

	if (i < GPC_TEST_NR_PAGES && !t->fail_lookup) {
		page = READ_ONCE(t->pages[i]);
		get_page(page);
		*kfp->refcounted_page = page;
		pfn = page_to_pfn(page);
	}

	gpc_test_race(t, GPC_AFTER_LOOKUP);
	return pfn;
}

static void *gpc_test_map(kvm_pfn_t pfn)
{
	struct gpc_test *t = kunit_get_current_test()->priv;

	might_sleep();

	if (t->fail_map)
		return NULL;

	atomic_inc(&t->nr_mapped);
	return page_address(pfn_to_page(pfn));
}

static void gpc_test_unmap(kvm_pfn_t pfn, void *khva)
{
	struct gpc_test *t = kunit_get_current_test()->priv;

	might_sleep();

	if (is_error_noslot_pfn(pfn) || !khva)
		return;

	KUNIT_EXPECT_PTR_EQ(t->test, khva, page_address(pfn_to_page(pfn)));
	atomic_dec(&t->nr_mapped);
	gpc_test_race(t, GPC_AT_UNMAP);
}

/* A page is mapped while a cache has it, but never pinned. */
static void gpc_test_expect_balanced(struct gpc_test *t)
{
	int i;

	KUNIT_EXPECT_EQ(t->test, atomic_read(&t->nr_mapped),
			!!t->gpc.khva + !!t->gpc2.khva);

	for (i = 0; i < GPC_TEST_NR_PAGES; i++)
		KUNIT_EXPECT_EQ(t->test, page_count(t->pages[i]), 1);
	KUNIT_EXPECT_EQ(t->test, page_count(t->spare), 1);
}

/* The mapping that the cache has to get. */
static void *gpc_test_addr(struct gpc_test *t, int page)
{
	return page_address(t->pages[page]) + GPC_TEST_OFFSET;
}

/* Activate the cache for the given page, or move it there. */
static int gpc_test_activate(struct gpc_test *t, int page)
{
	return kvm_gpc_activate_hva(&t->gpc, GPC_TEST_HVA + page * PAGE_SIZE +
				    GPC_TEST_OFFSET, GPC_TEST_LEN);
}

/* The two halves of an invalidation, of a range or of a page. */
static void gpc_test_start_range(struct gpc_test *t, unsigned long start,
				 unsigned long end)
{
	kvm_invalidate_gate_enter(&t->kvm->invalidate_gate, start, end);
	gfn_to_pfn_cache_invalidate_start(t->kvm, start, end);
}

static void gpc_test_start(struct gpc_test *t, int page)
{
	unsigned long hva = GPC_TEST_HVA + page * PAGE_SIZE;

	gpc_test_start_range(t, hva, hva + PAGE_SIZE);
}

static void gpc_test_end_range(struct gpc_test *t, unsigned long start,
			       unsigned long end)
{
	kvm_invalidate_gate_leave(&t->kvm->invalidate_gate, start, end,
				  READ_ONCE(t->kvm->gpc_closed));
}

static void gpc_test_end(struct gpc_test *t, int page)
{
	unsigned long hva = GPC_TEST_HVA + page * PAGE_SIZE;

	gpc_test_end_range(t, hva, hva + PAGE_SIZE);
}

static bool gpc_test_sleeps(struct gpc_test *t)
{
	guard(spinlock)(&t->kvm->invalidate_gate.lock);
	return !list_empty(&t->kvm->invalidate_gate.waiters);
}

static void gpc_test_replace_page(struct gpc_test *t)
{
	struct page *page = t->pages[0];

	WRITE_ONCE(t->pages[0], t->spare);
	t->spare = page;
}

/*
 * What can race with a refresh, which is always one for page 0.
 */
static void gpc_test_invalidate(struct gpc_test *t)
{
	gpc_test_start(t, 0);
	gpc_test_end(t, 0);
}

static void gpc_test_invalidate_other(struct gpc_test *t)
{
	gpc_test_start(t, 1);
	gpc_test_end(t, 1);
}

static void gpc_test_move(struct gpc_test *t)
{
	gpc_test_start(t, 0);
	gpc_test_replace_page(t);
	gpc_test_end(t, 0);
}

static void gpc_test_unmap_page(struct gpc_test *t)
{
	gpc_test_start(t, 0);
	t->fail_lookup = true;
	gpc_test_end(t, 0);
}

static void gpc_test_close(struct gpc_test *t)
{
	gfn_to_pfn_cache_close_all(t->kvm);
}

/* The work item ends the invalidation as soon as the refresh sleeps. */
static void gpc_test_start_move(struct gpc_test *t)
{
	gpc_test_start(t, 0);
	gpc_test_replace_page(t);
	queue_work(system_dfl_wq, &t->work);
}

static void gpc_test_start_move_twice(struct gpc_test *t)
{
	gpc_test_start(t, 0);
	gpc_test_start_move(t);
}

/* The pages before and after the page. */
static void gpc_test_start_others(struct gpc_test *t)
{
	gpc_test_start(t, -1);
	gpc_test_start(t, 1);
	queue_work(system_dfl_wq, &t->work);
}

/* One more than the gate has room for, of other pages. */
static void gpc_test_start_many(struct gpc_test *t)
{
	int i;

	for (i = 1; i <= KVM_INVALIDATE_NR_RANGES + 1; i++)
		gpc_test_start(t, i);
	queue_work(system_dfl_wq, &t->work);
}

/*
 * What can be done while the refresh sleeps.
 */

/* Wait until the refresh is done, if it isn't an end() that wakes it. */
static bool gpc_test_wait_until_done(struct gpc_test *t)
{
	bool done;

	return !read_poll_timeout(READ_ONCE, done, done, USEC_PER_MSEC,
				  GPC_TEST_TIMEOUT_US, false, t->done);
}

/* A task that was preempted isn't asleep, even if it has already set its state. */
static bool gpc_test_is_asleep(struct task_struct *task)
{
	/* A race with the scheduler only delays the result. */
	if (data_race(task_is_runnable(task)))
		return false;

	/*
	 * To fall asleep, a task is dequeued, then counted in nvcsw, and then leaves
	 * the CPU.  Read in that order, the caller reads nvcsw last.
	 */
	smp_rmb();

	/* Pairs with finish_task(). */
	return !smp_load_acquire(&task->on_cpu);
}

/* Is the refresh awake while @fn is called, or shortly after? */
static bool gpc_test_wakes(struct gpc_test *t, gpc_test_fn fn)
{
	int nr_lookups = atomic_read(&t->nr_lookups);
	unsigned long nr_switches;
	bool asleep;

	/* The gate has listed it before it fell asleep. */
	poll_timeout_us(asleep = gpc_test_is_asleep(t->task), asleep, USEC_PER_MSEC,
			GPC_TEST_TIMEOUT_US, false);
	nr_switches = READ_ONCE(t->task->nvcsw);
	fn(t);

	/* Give it time to wake up. */
	msleep(20);

	return !asleep || READ_ONCE(t->task->nvcsw) != nr_switches || READ_ONCE(t->done) ||
	       atomic_read(&t->nr_lookups) != nr_lookups;
}

static void gpc_test_end_once(struct gpc_test *t)
{
	gpc_test_end(t, 0);
}

static void gpc_test_end_twice(struct gpc_test *t)
{
	KUNIT_EXPECT_FALSE(t->test, gpc_test_wakes(t, gpc_test_end_once));
	gpc_test_end_once(t);
}

/* Invalidations of other pages, before, after and at the same time. */
static void gpc_test_others_and_end(struct gpc_test *t)
{
	KUNIT_EXPECT_FALSE(t->test, gpc_test_wakes(t, gpc_test_invalidate_other));

	gpc_test_start(t, 1);
	gpc_test_end_once(t);
	KUNIT_EXPECT_TRUE(t->test, gpc_test_wait_until_done(t));
	gpc_test_end(t, 1);
}

static void gpc_test_end_others(struct gpc_test *t)
{
	gpc_test_end(t, -1);
	gpc_test_end(t, 1);
}

/* Those that the gate has recorded end first. */
static void gpc_test_end_known(struct gpc_test *t)
{
	int i;

	for (i = 1; i <= KVM_INVALIDATE_NR_RANGES; i++)
		gpc_test_end(t, i);
}

static void gpc_test_end_many(struct gpc_test *t)
{
	if (t->slept)
		KUNIT_EXPECT_FALSE(t->test, gpc_test_wakes(t, gpc_test_end_known));
	else
		gpc_test_end_known(t);
	gpc_test_end(t, KVM_INVALIDATE_NR_RANGES + 1);
}

/* Of two that are in flight, the end of the first one is enough. */
static void gpc_test_close_and_end(struct gpc_test *t)
{
	/* Closing the caches wakes no task. */
	KUNIT_EXPECT_FALSE(t->test, gpc_test_wakes(t, gpc_test_close));

	gpc_test_end_once(t);
	KUNIT_EXPECT_TRUE(t->test, gpc_test_wait_until_done(t));
	gpc_test_end_once(t);
}

static void gpc_test_kill_and_end(struct gpc_test *t)
{
	send_sig(t->sig, t->task, 1);

	/* It returns at once.  If it couldn't be killed, it would wait for the end. */
	KUNIT_EXPECT_TRUE(t->test, gpc_test_wait_until_done(t));
	gpc_test_end_once(t);
}

static void gpc_test_work(struct work_struct *work)
{
	struct gpc_test *t = container_of(work, struct gpc_test, work);
	bool sleeps;

	/* A refresh that spins, by mistake, waits for the end, too. */
	poll_timeout_us(sleeps = gpc_test_sleeps(t), sleeps || READ_ONCE(t->done),
			USEC_PER_MSEC, GPC_TEST_TIMEOUT_US, false);

	t->slept = sleeps;
	if (sleeps) {
		KUNIT_EXPECT_NULL(t->test, gpc_test_khva(&t->gpc));
		gpc_test_expect_balanced(t);
	}

	t->work_fn(t);
}

KUNIT_DEFINE_ACTION_WRAPPER(gpc_test_destroy_gate, kvm_invalidate_gate_destroy,
			    struct kvm_invalidate_gate *);

static int gpc_test_init(struct kunit *test)
{
	struct kvm_memslots *slots;
	struct gpc_test *t;
	int i;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	t->kvm = kunit_kzalloc(test, sizeof(*t->kvm), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->kvm);
	t->kvm->gpc_filter = kunit_kzalloc(test, BIT(KVM_GPC_FILTER_ORDER) / BITS_PER_BYTE,
					   GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->kvm->gpc_filter);

	t->test = test;
	t->debug_locks = debug_locks;
	t->warned = test_taint(TAINT_WARN);
	t->task = current;
	t->sig = SIGKILL;
	INIT_WORK(&t->work, gpc_test_work);
	init_completion(&t->timer_done);

	/*
	 * There is only one memslot, the last one that was used, and no other
	 * reference to the VM, i.e. kvm->srcu isn't needed.
	 */
	t->slot.base_gfn = gpa_to_gfn(GPC_TEST_GPA);
	t->slot.npages = GPC_TEST_NR_PAGES;
	t->slot.userspace_addr = GPC_TEST_HVA;
	slots = &t->kvm->__memslots[0][0];
	atomic_long_set(&slots->last_used_slot, (long)&t->slot);
	rcu_assign_pointer(t->kvm->memslots[0], slots);

	KUNIT_ASSERT_EQ(test, kvm_invalidate_gate_init(&t->kvm->invalidate_gate), 0);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, gpc_test_destroy_gate,
							&t->kvm->invalidate_gate), 0);
	init_llist_head(&t->kvm->gpc_list);
	/* Also for a single cache, which most of the tests have. */
	t->kvm->gpc_use_filter = true;
	kvm_gpc_init(&t->gpc, t->kvm);
	kvm_gpc_init(&t->gpc2, t->kvm);

	test->priv = t;

	for (i = 0; i < GPC_TEST_NR_PAGES; i++) {
		t->pages[i] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		KUNIT_ASSERT_NOT_NULL(test, t->pages[i]);
	}
	t->spare = alloc_page(GFP_KERNEL | __GFP_ZERO);
	KUNIT_ASSERT_NOT_NULL(test, t->spare);

	kunit_activate_static_stub(test, hva_to_pfn, gpc_test_hva_to_pfn);
	kunit_activate_static_stub(test, gpc_map, gpc_test_map);
	kunit_activate_static_stub(test, gpc_unmap, gpc_test_unmap);
	return 0;
}

static void gpc_test_exit(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	int i;

	/* No cache was used if the initialization failed. */
	if (!t)
		return;

	if (t->spare) {
		gpc_test_expect_balanced(t);
		kvm_gpc_deactivate(&t->gpc);
		kvm_gpc_deactivate(&t->gpc2);
		gpc_test_expect_balanced(t);
		__free_page(t->spare);
	}

	for (i = 0; i < GPC_TEST_NR_PAGES && t->pages[i]; i++)
		__free_page(t->pages[i]);

	/* Some bugs are only found by lockdep, or by DEBUG_ATOMIC_SLEEP and other WARNs. */
	KUNIT_EXPECT_EQ_MSG(test, debug_locks, t->debug_locks, "see the kernel log");
	KUNIT_EXPECT_EQ_MSG(test, test_taint(TAINT_WARN), t->warned, "see the kernel log");
}

static void test_gpc_hva_and_gpa(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	gpa_t gpa = GPC_TEST_GPA + PAGE_SIZE + GPC_TEST_OFFSET;

	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc2));

	KUNIT_EXPECT_EQ(test, gpc_test_activate(t, 0), 0);
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate(&t->gpc2, gpa, GPC_TEST_LEN), 0);

	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc2), gpc_test_addr(t, 1));

	/* An invalidation affects only the caches of its range. */
	gpc_test_invalidate_other(t);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc2));

	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc2, GPC_TEST_LEN), 0);
	gpc_test_invalidate(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc2), gpc_test_addr(t, 1));
}

/* A valid cache needs no lookup. */
static void test_gpc_refresh_valid(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	void *khva;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	khva = gpc_test_khva(&t->gpc);

	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), 0);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), khva);

	KUNIT_EXPECT_EQ(test, gpc_test_get(&t->gpc, GPC_TEST_LEN), 0);

	/* Not even for another offset. */
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate_hva(&t->gpc, GPC_TEST_HVA,
						   GPC_TEST_LEN), 0);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), khva - GPC_TEST_OFFSET);

	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 1);
}

static void test_gpc_memslots(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	struct kvm_memslots *slots = &t->kvm->__memslots[0][0];
	gpa_t gpa = GPC_TEST_GPA + GPC_TEST_OFFSET;

	KUNIT_ASSERT_EQ(test, kvm_gpc_activate(&t->gpc, gpa, GPC_TEST_LEN), 0);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));

	/* New memslots, but the GPA has the same HVA. */
	slots->generation++;
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), 0);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 1);

	/* The GPA has another HVA. */
	slots->generation++;
	t->slot.userspace_addr += PAGE_SIZE;
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), 0);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 1));
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 2);

	/* The GPA has no memslot. */
	slots->generation++;
	atomic_long_set(&slots->last_used_slot, 0);
	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), -EFAULT);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_NULL(test, t->gpc.khva);
}

struct gpc_test_bad_addr {
	const char *name;
	gpa_t gpa;
	unsigned long hva;
	int ret;
};

static const struct gpc_test_bad_addr gpc_test_bad_addrs[] = {
	{ "GPA, crosses a page", GPC_TEST_GPA + PAGE_SIZE - 1, 0, -EINVAL },
	{ "GPA, no memslot", GPC_TEST_GPA + GPC_TEST_END, 0, -EFAULT },
	{ "HVA, crosses a page", INVALID_GPA, GPC_TEST_HVA + PAGE_SIZE - 1, -EINVAL },
	{ "HVA, no page", INVALID_GPA, GPC_TEST_HVA + GPC_TEST_END, -EFAULT },
};

KUNIT_ARRAY_PARAM_DESC(gpc_test_bad_addr, gpc_test_bad_addrs, name);

static void test_gpc_bad_address(struct kunit *test)
{
	const struct gpc_test_bad_addr *bad = test->param_value;
	struct gpc_test *t = test->priv;
	int i, ret;

	/* First with a cache that was never active, then with a valid one. */
	for (i = 0; i < 2; i++) {
		void *khva = gpc_test_khva(&t->gpc);

		if (kvm_is_error_gpa(bad->gpa))
			ret = kvm_gpc_activate_hva(&t->gpc, bad->hva, GPC_TEST_LEN);
		else
			ret = kvm_gpc_activate(&t->gpc, bad->gpa, GPC_TEST_LEN);
		KUNIT_EXPECT_EQ(test, ret, bad->ret);

		/* An invalid address doesn't move the cache. */
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc),
				    ret == -EINVAL ? khva : NULL);
		gpc_test_expect_balanced(t);

		KUNIT_EXPECT_EQ(test, gpc_test_activate(t, 0), 0);
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));
	}
}

static void test_gpc_bad_len(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	KUNIT_EXPECT_FALSE(test, gpc_test_tryget(&t->gpc, PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, gpc_test_tryget_nospin(&t->gpc, PAGE_SIZE));
	KUNIT_EXPECT_FALSE(test, irqs_disabled());

	/* If the refresh succeeded, the get would retry forever. */
	KUNIT_ASSERT_EQ(test, kvm_gpc_refresh(&t->gpc, PAGE_SIZE), -EINVAL);
	KUNIT_EXPECT_EQ(test, gpc_test_get(&t->gpc, PAGE_SIZE), -EINVAL);

	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));
}

static void test_gpc_failures(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	t->fail_map = true;
	KUNIT_EXPECT_EQ(test, gpc_test_activate(t, 0), -EFAULT);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));

	t->fail_map = false;
	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), 0);

	/* Not an address of userspace, but no error code either. */
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate_hva(&t->gpc, TASK_SIZE_MAX + PAGE_SIZE,
						   GPC_TEST_LEN), -EINVAL);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));

	gpc_test_invalidate(t);
	t->fail_lookup = true;
	KUNIT_EXPECT_EQ(test, gpc_test_get(&t->gpc, GPC_TEST_LEN), -EFAULT);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_NULL(test, t->gpc.khva);
}

static void test_gpc_deactivate(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	int i;

	/* Never activated, i.e. without any address. */
	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), -EINVAL);
	KUNIT_EXPECT_EQ(test, gpc_test_get(&t->gpc, GPC_TEST_LEN), -EINVAL);

	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_EQ(test, gpc_test_activate(t, 0), 0);
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));

		kvm_gpc_deactivate(&t->gpc);
		KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
		KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), -EINVAL);
		KUNIT_EXPECT_EQ(test, gpc_test_get(&t->gpc, GPC_TEST_LEN), -EINVAL);
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_mapped), 0);

		/* Twice is fine. */
		kvm_gpc_deactivate(&t->gpc);

		/* The first activation has linked the cache, for good. */
		KUNIT_ASSERT_PTR_EQ(test, t->kvm->gpc_list.first, &t->gpc.node);
		KUNIT_ASSERT_NULL(test, t->gpc.node.next);
	}

	/* Invalidations find it when it's active again. */
	KUNIT_EXPECT_EQ(test, gpc_test_activate(t, 0), 0);
	gpc_test_invalidate(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));

	/* A second cache doesn't unlink the first. */
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate(&t->gpc2, GPC_TEST_GPA, GPC_TEST_LEN), 0);
	KUNIT_EXPECT_PTR_EQ(test, t->kvm->gpc_list.first, &t->gpc2.node);
	KUNIT_EXPECT_PTR_EQ(test, t->gpc2.node.next, &t->gpc.node);
}

/* A cache that was closed can't be valid again, whatever its state is. */
static void test_gpc_closed(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	int i;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	gpc_test_close(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));

	for (i = 0; i < 2; i++) {
		KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), -EFAULT);
		KUNIT_EXPECT_EQ(test, gpc_test_get(&t->gpc, GPC_TEST_LEN), -EFAULT);
		KUNIT_EXPECT_EQ(test, gpc_test_activate(t, 1), -EFAULT);
		KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_mapped), 0);

		kvm_gpc_deactivate(&t->gpc);
		KUNIT_EXPECT_EQ(test, gpc_test_activate(t, 0), -EFAULT);
	}

	/* Not found when the caches were closed. */
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate(&t->gpc2, GPC_TEST_GPA, GPC_TEST_LEN), -EFAULT);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc2));

	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 1);
}

/* A cache can't be initialized twice, as it may be on the list. */
static void test_gpc_init_once(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	struct gfn_to_pfn_cache *gpc;
	int nr_linked = 0;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	KUNIT_ASSERT_EQ(test, kvm_gpc_activate(&t->gpc2, GPC_TEST_GPA, GPC_TEST_LEN), 0);

	kunit_warning_suppress(test) {
		kvm_gpc_init(&t->gpc2, t->kvm);
		KUNIT_ASSERT_SUPPRESSED_WARNING_COUNT(test, 1);
	}

	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc2), page_address(t->pages[0]));
	kvm_gpc_deactivate(&t->gpc2);
	KUNIT_EXPECT_EQ(test, kvm_gpc_activate(&t->gpc2, GPC_TEST_GPA, GPC_TEST_LEN), 0);

	kvm_for_each_gpc(gpc, t->kvm) {
		if (++nr_linked > 2)
			break;
	}
	KUNIT_EXPECT_EQ(test, nr_linked, 2);

	gpc_test_invalidate(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc2));
}

/* Relative to the first byte of the cache's page. */
struct gpc_test_range {
	const char *name;
	long start, end;
	bool hit;
};

static const struct gpc_test_range gpc_test_ranges[] = {
	{ "below", -(long)PAGE_SIZE, 0, false },
	{ "below, from the middle", -(long)PAGE_SIZE / 2, 0, false },
	{ "first byte", 0, 1, true },
	{ "up to the first byte", -1, 1, true },
	{ "below the cache's offset", 0, GPC_TEST_OFFSET, true },
	{ "above the cache's offset", GPC_TEST_OFFSET + 1, PAGE_SIZE, true },
	{ "last byte", PAGE_SIZE - 1, PAGE_SIZE, true },
	{ "from the last byte", PAGE_SIZE - 1, PAGE_SIZE + 1, true },
	{ "page", 0, PAGE_SIZE, true },
	{ "more than the page", -(long)PAGE_SIZE, 2 * PAGE_SIZE, true },
	{ "everything", -(long)GPC_TEST_HVA, -1 - (long)GPC_TEST_HVA, true },
	{ "above", PAGE_SIZE, 2 * PAGE_SIZE, false },
	{ "above, to the middle", PAGE_SIZE, PAGE_SIZE + PAGE_SIZE / 2, false },
};

KUNIT_ARRAY_PARAM_DESC(gpc_test_range, gpc_test_ranges, name);

/* mm's ranges don't always consist of whole pages, but the cache has a whole page. */
static void test_gpc_unaligned(struct kunit *test)
{
	const struct gpc_test_range *range = test->param_value;
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	gpc_test_start_range(t, GPC_TEST_HVA + range->start, GPC_TEST_HVA + range->end);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc),
			    range->hit ? NULL : gpc_test_addr(t, 0));
	gpc_test_end_range(t, GPC_TEST_HVA + range->start, GPC_TEST_HVA + range->end);
}

static bool gpc_test_filter_has(struct gpc_test *t, int page)
{
	unsigned long hva = GPC_TEST_HVA + page * PAGE_SIZE;

	return kvm_gpc_filter_has(t->kvm, hva, hva + PAGE_SIZE);
}

/* A cache that moves to a region that the filter doesn't know, and back again. */
static void test_gpc_filter_moves(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	int i, page;

	KUNIT_EXPECT_FALSE(test, gpc_test_filter_has(t, 0));
	KUNIT_EXPECT_FALSE(test, gpc_test_filter_has(t, 1));

	for (i = 0; i < 4; i++) {
		page = i % 2;
		KUNIT_ASSERT_EQ(test, gpc_test_activate(t, page), 0);
		KUNIT_EXPECT_TRUE(test, gpc_test_filter_has(t, page));

		/* What the filter has once, it keeps. */
		KUNIT_EXPECT_EQ(test, gpc_test_filter_has(t, 1 - page), i > 0);

		gpc_test_start(t, 1 - page);
		gpc_test_end(t, 1 - page);
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, page));

		gpc_test_start(t, page);
		gpc_test_end(t, page);
		KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	}

	/* The filter isn't used to close the caches. */
	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	bitmap_zero(t->kvm->gpc_filter, 1 << KVM_GPC_FILTER_ORDER);
	gpc_test_close(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
}

/* Ranges of many regions, one of which has the cache. */
static void test_gpc_filter_regions(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	unsigned long region = BIT(KVM_GPC_FILTER_SHIFT);
	unsigned long hva = GPC_TEST_HVA + PAGE_SIZE;
	unsigned long start, end;
	int before, n;

	for (n = 1; n <= KVM_GPC_FILTER_MAX_REGIONS + 2; n++) {
		for (before = 0; before < n; before++) {
			KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 1), 0);

			/* The cache's page is the first one of its region. */
			start = hva - before * region;
			end = start + n * region;
			gpc_test_start_range(t, start, end);
			KUNIT_EXPECT_NULL_MSG(test, gpc_test_khva(&t->gpc),
					      "%d regions, %d before the cache", n, before);
			gpc_test_end_range(t, start, end);
		}

		/* The regions before and after it. */
		KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 1), 0);
		gpc_test_start_range(t, hva - n * region, hva);
		gpc_test_start_range(t, hva + region, hva + (n + 1) * region);
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 1));
		KUNIT_EXPECT_EQ(test, kvm_gpc_filter_has(t->kvm, hva - n * region, hva),
				n > KVM_GPC_FILTER_MAX_REGIONS);
		gpc_test_end_range(t, hva - n * region, hva);
		gpc_test_end_range(t, hva + region, hva + (n + 1) * region);
	}
}

/*
 * The filter is used as soon as there are two caches, and has the regions of the
 * first one, too.
 */
static void test_gpc_filter_second(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	t->kvm->gpc_use_filter = false;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	kvm_gpc_deactivate(&t->gpc);
	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 1), 0);
	KUNIT_EXPECT_FALSE(test, t->kvm->gpc_use_filter);

	bitmap_zero(t->kvm->gpc_filter, 1 << KVM_GPC_FILTER_ORDER);
	gpc_test_invalidate_other(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	KUNIT_ASSERT_EQ(test, kvm_gpc_activate(&t->gpc2, GPC_TEST_GPA + PAGE_SIZE,
					       GPC_TEST_LEN), 0);
	KUNIT_EXPECT_TRUE(test, t->kvm->gpc_use_filter);

	gpc_test_invalidate(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc2), page_address(t->pages[1]));
}

/* A region without a cache, whose bits are set because of other regions. */
static void test_gpc_filter_collision(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	KUNIT_ASSERT_FALSE(test, gpc_test_filter_has(t, 1));

	bitmap_fill(t->kvm->gpc_filter, 1 << KVM_GPC_FILTER_ORDER);
	KUNIT_EXPECT_TRUE(test, gpc_test_filter_has(t, 1));

	gpc_test_start(t, 1);
	gpc_test_end(t, 1);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));

	gpc_test_invalidate(t);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
}

enum gpc_test_from {
	GPC_NEW,		/* The mmu_notifier doesn't know the cache yet. */
	GPC_INVALIDATED,	/* Its mapping is reused if the page is the same. */
	GPC_OTHER_ADDRESS,	/* The cache is valid for page 1. */
};

/* A refresh for page 0: from which state, and when something races with it. */
struct gpc_test_window {
	const char *name;
	enum gpc_test_from from;
	enum gpc_test_point point;

	/* The number of lookups until then. */
	int nr_lookups;
};

static const struct gpc_test_window gpc_test_windows[] = {
	{ "new, before refresh", GPC_NEW, GPC_BEFORE_REFRESH, 0 },
	{ "new, before lookup", GPC_NEW, GPC_BEFORE_LOOKUP, 1 },
	{ "new, after lookup", GPC_NEW, GPC_AFTER_LOOKUP, 1 },
	{ "invalidated, before refresh", GPC_INVALIDATED, GPC_BEFORE_REFRESH, 0 },
	{ "invalidated, before lookup", GPC_INVALIDATED, GPC_BEFORE_LOOKUP, 1 },
	{ "invalidated, after lookup", GPC_INVALIDATED, GPC_AFTER_LOOKUP, 1 },
	{ "other address, before refresh", GPC_OTHER_ADDRESS, GPC_BEFORE_REFRESH, 0 },
	{ "other address, before lookup", GPC_OTHER_ADDRESS, GPC_BEFORE_LOOKUP, 1 },
	{ "other address, after lookup", GPC_OTHER_ADDRESS, GPC_AFTER_LOOKUP, 1 },
};

KUNIT_ARRAY_PARAM_DESC(gpc_test_window, gpc_test_windows, name);

/* What races with a refresh, and what the refresh has to do. */
struct gpc_test_race {
	gpc_test_fn fn;

	/* If @fn leaves an invalidation in flight: called while the refresh sleeps. */
	gpc_test_fn work_fn;

	/* The points at which the refresh has to sleep if @fn is called there. */
	unsigned long sleeps_at;
#define GPC_ANY_POINT	(BIT(GPC_NR_POINTS) - 1)

	/* What was looked up before is outdated. */
	bool outdates;

	/* What the refresh returns. */
	int ret;
};

static int gpc_test_refresh(struct kunit *test, const struct gpc_test_race *race)
{
	const struct gpc_test_window *w = test->param_value;
	struct gpc_test *t = test->priv;
	int ret;

	if (w->from != GPC_NEW)
		KUNIT_ASSERT_EQ(test, gpc_test_activate(t, w->from == GPC_OTHER_ADDRESS), 0);
	if (w->from == GPC_INVALIDATED)
		gpc_test_invalidate(t);

	atomic_set(&t->nr_lookups, 0);
	t->race[w->point] = race->fn;
	t->work_fn = race->work_fn;

	allow_signal(SIGKILL);
	gpc_test_race(t, GPC_BEFORE_REFRESH);
	ret = gpc_test_activate(t, 0);
	WRITE_ONCE(t->done, true);
	flush_work(&t->work);
	flush_signals(current);
	disallow_signal(SIGKILL);

	/* Nothing stays in flight. */
	KUNIT_EXPECT_EQ(test, t->kvm->invalidate_gate.nr_active, 0);
	KUNIT_EXPECT_EQ(test, t->kvm->invalidate_gate.nr_ranges, 0);
	KUNIT_EXPECT_EQ(test, t->kvm->invalidate_gate.nr_unknown, 0);
	KUNIT_EXPECT_FALSE(test, gpc_test_sleeps(t));

	KUNIT_EXPECT_EQ(test, t->slept, !!(race->sleeps_at & BIT(w->point)));
	KUNIT_EXPECT_EQ(test, ret, race->ret);
	return ret;
}

static void gpc_test_refresh_race(struct kunit *test, const struct gpc_test_race *race)
{
	const struct gpc_test_window *w = test->param_value;
	int nr_lookups = race->outdates ? w->nr_lookups : 0;
	struct gpc_test *t = test->priv;
	void *khva;

	/* A refresh that succeeds looks up the page once more. */
	if (!gpc_test_refresh(test, race))
		nr_lookups++;

	khva = race->ret ? NULL : gpc_test_addr(t, 0);
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), khva);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), nr_lookups);

	switch (race->ret) {
	case 0:
		/* From now on, it's the new address that matters. */
		gpc_test_invalidate_other(t);
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), khva);
		gpc_test_invalidate(t);
		KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
		break;
	case -EFAULT:
		/* The caches are closed, i.e. the next refresh fails, too. */
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_mapped), 0);
		KUNIT_EXPECT_EQ(test, gpc_test_get(&t->gpc, GPC_TEST_LEN), -EFAULT);
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), nr_lookups);
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_mapped), 0);
		break;
	case -EINTR:
		/* The task was killed.  The next refresh succeeds. */
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_mapped), 0);
		KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), 0);
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));
		break;
	}
}

/* A test case for each kind of race, which is run for each window. */
#define GPC_TEST_RACE(name, ...)						\
static void test_gpc_##name(struct kunit *test)					\
{										\
	gpc_test_refresh_race(test, &(const struct gpc_test_race) { __VA_ARGS__ }); \
}

GPC_TEST_RACE(race_invalidate, gpc_test_invalidate, .outdates = true)
GPC_TEST_RACE(race_move, gpc_test_move, .outdates = true)
GPC_TEST_RACE(race_close, gpc_test_close, .outdates = true, .ret = -EFAULT)

/* Invalidations of other pages don't matter, whether they end or not. */
GPC_TEST_RACE(race_invalidate_other, gpc_test_invalidate_other)
GPC_TEST_RACE(others_in_flight, gpc_test_start_others, gpc_test_end_others)

/* Invalidations that don't end before the refresh sleeps. */
GPC_TEST_RACE(sleep, gpc_test_start_move, gpc_test_end_once,
	      .sleeps_at = GPC_ANY_POINT, .outdates = true)
GPC_TEST_RACE(sleep_twice, gpc_test_start_move_twice, gpc_test_end_twice,
	      .sleeps_at = GPC_ANY_POINT, .outdates = true)
GPC_TEST_RACE(sleep_others, gpc_test_start_move, gpc_test_others_and_end,
	      .sleeps_at = GPC_ANY_POINT, .outdates = true)
GPC_TEST_RACE(sleep_close, gpc_test_start_move_twice, gpc_test_close_and_end,
	      .sleeps_at = GPC_ANY_POINT, .outdates = true, .ret = -EFAULT)
GPC_TEST_RACE(sleep_killed, gpc_test_start_move, gpc_test_kill_and_end,
	      .sleeps_at = GPC_ANY_POINT, .outdates = true, .ret = -EINTR)

/*
 * The gate can't tell if these hit the page, i.e. a refresh has to wait for them.
 * They don't hit the cache, i.e. what was looked up before isn't outdated.
 */
GPC_TEST_RACE(sleep_many, gpc_test_start_many, gpc_test_end_many,
	      .sleeps_at = BIT(GPC_BEFORE_REFRESH))

/* Afterwards there is no page, the number of lookups depends on the window. */
static void test_gpc_race_unmap(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	gpc_test_refresh(test, &(const struct gpc_test_race) {
		.fn = gpc_test_unmap_page,
		.ret = -EFAULT,
	});
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_mapped), 0);
}

/* The caches are closed before the refresh, i.e. it has nothing to wait for. */
static void test_gpc_closed_in_flight(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	gpc_test_close(t);
	t->work_fn = gpc_test_end_once;
	gpc_test_start_move(t);

	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN), -EFAULT);
	WRITE_ONCE(t->done, true);
	flush_work(&t->work);
	KUNIT_EXPECT_FALSE(test, t->slept);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 1);
}

/* Another task's refresh of the cache takes long. */
static void gpc_test_hold_refresh_lock(struct work_struct *work)
{
	struct gpc_test *t = container_of(work, struct gpc_test, work);

	mutex_lock(&t->gpc.refresh_lock);
	WRITE_ONCE(t->go, true);

	/* Give the other task time to wait for the lock. */
	msleep(20);
	send_sig(t->sig, t->task, 1);
	t->slept = gpc_test_wait_until_done(t);
	mutex_unlock(&t->gpc.refresh_lock);
}

static void test_gpc_lock_killed(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	bool go;
	int i, ret;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	INIT_WORK(&t->work, gpc_test_hold_refresh_lock);
	allow_signal(SIGKILL);

	for (i = 0; i < 2; i++) {
		t->go = false;
		t->done = false;
		queue_work(system_dfl_wq, &t->work);
		read_poll_timeout(READ_ONCE, go, go, USEC_PER_MSEC,
				  GPC_TEST_TIMEOUT_US, false, t->go);

		ret = i ? gpc_test_activate(t, 1) : kvm_gpc_refresh(&t->gpc, GPC_TEST_LEN);
		WRITE_ONCE(t->done, true);
		flush_work(&t->work);
		flush_signals(current);

		KUNIT_EXPECT_EQ(test, ret, -EINTR);
		KUNIT_EXPECT_TRUE(test, t->slept);
		KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));
	}

	disallow_signal(SIGKILL);
}

static void gpc_test_kill_and_invalidate(struct gpc_test *t)
{
	send_sig(t->sig, t->task, 1);
	gpc_test_invalidate(t);
}

/* The task gets a signal, and the page is invalidated, during the lookup. */
static int gpc_test_signal(struct gpc_test *t, int sig,
			   int (*refresh)(struct gfn_to_pfn_cache *gpc, unsigned long len))
{
	int ret;

	gpc_test_invalidate(t);
	atomic_set(&t->nr_lookups, 0);

	t->sig = sig;
	allow_signal(sig);
	t->race[GPC_AFTER_LOOKUP] = gpc_test_kill_and_invalidate;
	ret = refresh(&t->gpc, GPC_TEST_LEN);
	flush_signals(current);
	disallow_signal(sig);

	return ret;
}

/* A refresh that starts over checks for signals, also if it doesn't wait. */
static void test_gpc_killed(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	KUNIT_EXPECT_EQ(test, gpc_test_signal(t, SIGKILL, kvm_gpc_refresh), -EINTR);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 1);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));
}

static void test_gpc_interrupted(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	KUNIT_EXPECT_EQ(test, gpc_test_signal(t, SIGUSR1, kvm_gpc_refresh_interruptible),
			-EINTR);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 1);
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));

	/* Not if the caller doesn't want that. */
	KUNIT_EXPECT_EQ(test, gpc_test_signal(t, SIGUSR1, kvm_gpc_refresh), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 2);
}

/* A signal that doesn't kill, while the refresh sleeps. */
static void test_gpc_sleep_interrupted(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	t->sig = SIGUSR1;
	t->work_fn = gpc_test_kill_and_end;
	allow_signal(SIGUSR1);
	gpc_test_start_move(t);

	KUNIT_EXPECT_EQ(test, kvm_gpc_refresh_interruptible(&t->gpc, GPC_TEST_LEN), -EINTR);
	WRITE_ONCE(t->done, true);
	flush_work(&t->work);
	flush_signals(current);
	disallow_signal(SIGUSR1);
	KUNIT_EXPECT_TRUE(test, t->slept);
	KUNIT_EXPECT_FALSE(test, gpc_test_sleeps(t));
}

/* An invalidation between the refresh and the use of the cache. */
static void test_gpc_get_again(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	void *khva;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	gpc_test_move(t);
	t->race[GPC_AT_UNMAP] = gpc_test_move;

	KUNIT_ASSERT_EQ(test, kvm_gpc_get(&t->gpc, GPC_TEST_LEN), 0);
	khva = gpc_test_put(&t->gpc);

	KUNIT_EXPECT_PTR_EQ(test, khva, gpc_test_addr(t, 0));
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_lookups), 3);
}

static void gpc_test_other_cpu_work(struct work_struct *work)
{
	struct gpc_test *t = container_of(work, struct gpc_test, work);

	while (!READ_ONCE(t->go))
		cpu_relax();
	WRITE_ONCE(t->begun, true);
	t->work_fn(t);
	WRITE_ONCE(t->done, true);
}

/*
 * Hold the cache's lock until @fn, on another CPU, is done, or not done @usecs
 * after it has begun.  Does @fn wait for the lock?
 */
static bool gpc_test_waits(struct gpc_test *t, gpc_test_fn fn, unsigned int usecs)
{
	bool begun, done = false;
	int cpu;

	migrate_disable();
	cpu = cpumask_any_but(cpu_online_mask, smp_processor_id());
	if (cpu >= nr_cpu_ids) {
		migrate_enable();
		kunit_skip(t->test, "needs two CPUs");
	}

	t->go = false;
	t->begun = false;
	t->done = false;
	t->work_fn = fn;
	INIT_WORK(&t->work, gpc_test_other_cpu_work);
	queue_work_on(cpu, system_percpu_wq, &t->work);

	raw_spin_lock_irq(&t->gpc.lock);
	WRITE_ONCE(t->go, true);
	read_poll_timeout_atomic(READ_ONCE, begun, begun, 1, GPC_TEST_TIMEOUT_US,
				 false, t->begun);
	if (begun)
		read_poll_timeout_atomic(READ_ONCE, done, done, 1, usecs, false, t->done);
	raw_spin_unlock_irq(&t->gpc.lock);

	flush_work(&t->work);
	migrate_enable();

	KUNIT_EXPECT_TRUE(t->test, begun);
	return begun && !done;
}

static void test_gpc_locks(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	unsigned int usecs = 20 * USEC_PER_MSEC;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	/*
	 * A cache for another address isn't locked, as it can be busy.  Without the
	 * filter, the cache is looked at.
	 */
	t->kvm->gpc_use_filter = false;
	KUNIT_EXPECT_FALSE(test, gpc_test_waits(t, gpc_test_invalidate_other,
						GPC_TEST_TIMEOUT_US));
	KUNIT_EXPECT_PTR_EQ(test, gpc_test_khva(&t->gpc), gpc_test_addr(t, 0));

	/* Wait for users that found the cache valid. */
	KUNIT_EXPECT_TRUE(test, gpc_test_waits(t, gpc_test_invalidate, usecs));
	KUNIT_EXPECT_NULL(test, gpc_test_khva(&t->gpc));

	/*
	 * The same if the cache isn't valid: another invalidation may be waiting
	 * for its users, too, and a refresh may be about to make it valid.
	 */
	KUNIT_EXPECT_TRUE(test, gpc_test_waits(t, gpc_test_invalidate, usecs));
	KUNIT_EXPECT_TRUE(test, gpc_test_waits(t, gpc_test_close, usecs));
}

static void test_gpc_irqs(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	bool off, off_one, off_none, held;
	unsigned long flags;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	KUNIT_ASSERT_EQ(test, kvm_gpc_activate(&t->gpc2, GPC_TEST_GPA, GPC_TEST_LEN), 0);

	/* Two caches, as for a Xen runstate that is split over two pages. */
	KUNIT_ASSERT_EQ(test, kvm_gpc_get(&t->gpc, GPC_TEST_LEN), 0);
	off = irqs_disabled();
	held = gpc_test_tryget_nospin(&t->gpc2, GPC_TEST_LEN);
	off_one = irqs_disabled();
	kvm_gpc_put(&t->gpc);
	off_none = irqs_disabled();

	KUNIT_EXPECT_TRUE(test, held);
	KUNIT_EXPECT_TRUE(test, off);
	KUNIT_EXPECT_TRUE(test, off_one);
	KUNIT_EXPECT_FALSE(test, off_none);

	local_irq_save(flags);
	t->khva = gpc_test_khva(&t->gpc);
	off = irqs_disabled();
	local_irq_restore(flags);

	KUNIT_EXPECT_PTR_EQ(test, t->khva, gpc_test_addr(t, 0));
	KUNIT_EXPECT_TRUE(test, off);

	/* Interrupts must be restored upon a failure, too. */
	gpc_test_invalidate(t);
	KUNIT_EXPECT_FALSE(test, gpc_test_tryget(&t->gpc, GPC_TEST_LEN));
	KUNIT_EXPECT_FALSE(test, gpc_test_tryget_nospin(&t->gpc, GPC_TEST_LEN));
	KUNIT_EXPECT_FALSE(test, irqs_disabled());
}

/* Two caches that aren't put in reverse order: one is held with interrupts enabled. */
static void test_gpc_put_order(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	bool got, held = false, enabled = false;
	int nr_warnings = 0;

	if (!IS_ENABLED(CONFIG_PROVE_LOCKING) || !debug_locks)
		kunit_skip(test, "needs lockdep");

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);
	KUNIT_ASSERT_EQ(test, kvm_gpc_activate(&t->gpc2, GPC_TEST_GPA, GPC_TEST_LEN), 0);

	kunit_warning_suppress(test) {
		/*
		 * kvm_gpc_put() has to complain.  Lockdep would do so, too: one of
		 * the locks is still held when interrupts are enabled, and other
		 * tests take it in hardirqs.
		 */
		lockdep_off();
		got = kvm_gpc_tryget(&t->gpc, GPC_TEST_LEN);
		held = got && kvm_gpc_tryget_nospin(&t->gpc2, GPC_TEST_LEN);

		if (got)
			kvm_gpc_put(&t->gpc);
		enabled = !irqs_disabled();

		if (held)
			kvm_gpc_put(&t->gpc2);
		lockdep_on();

		nr_warnings = KUNIT_SUPPRESSED_WARNING_COUNT();
	}

	KUNIT_EXPECT_TRUE(test, held);
	KUNIT_EXPECT_TRUE(test, enabled);
	/* The restore complains, too, if interrupts are already enabled. */
	KUNIT_EXPECT_EQ(test, nr_warnings, 1 + IS_ENABLED(CONFIG_DEBUG_IRQFLAGS));
}

/* If the second one waited for the lock, this would be a deadlock. */
static void test_gpc_nospin(struct kunit *test)
{
	struct gpc_test *t = test->priv;
	bool held_again, off, on;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	KUNIT_ASSERT_TRUE(test, kvm_gpc_tryget_nospin(&t->gpc, GPC_TEST_LEN));
	held_again = gpc_test_tryget_nospin(&t->gpc, GPC_TEST_LEN);
	off = irqs_disabled();
	kvm_gpc_put(&t->gpc);
	on = !irqs_disabled();

	KUNIT_EXPECT_FALSE(test, held_again);
	KUNIT_EXPECT_TRUE(test, off);
	KUNIT_EXPECT_TRUE(test, on);
}

/* If the lock was a sleeping one, lockdep would complain. */
static void test_gpc_raw_spinlock(struct kunit *test)
{
	static DEFINE_RAW_SPINLOCK(lock);
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	raw_spin_lock(&lock);
	t->khva = gpc_test_khva(&t->gpc);
	raw_spin_unlock(&lock);

	KUNIT_EXPECT_PTR_EQ(test, t->khva, gpc_test_addr(t, 0));
}

static enum hrtimer_restart gpc_test_timer(struct hrtimer *timer)
{
	struct gpc_test *t = container_of(timer, struct gpc_test, timer);

	t->in_hardirq = in_hardirq();
	t->khva = gpc_test_khva(&t->gpc);
	t->irqs_disabled = irqs_disabled();
	complete(&t->timer_done);

	return HRTIMER_NORESTART;
}

static void test_gpc_hardirq(struct kunit *test)
{
	struct gpc_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	hrtimer_setup(&t->timer, gpc_test_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	hrtimer_start(&t->timer, 0, HRTIMER_MODE_REL_HARD);
	wait_for_completion(&t->timer_done);
	KUNIT_EXPECT_TRUE(test, t->in_hardirq);
	KUNIT_EXPECT_TRUE(test, t->irqs_disabled);
	KUNIT_EXPECT_PTR_EQ(test, t->khva, gpc_test_addr(t, 0));

	/* A cache isn't refreshed in a hardirq. */
	gpc_test_invalidate(t);
	hrtimer_start(&t->timer, 0, HRTIMER_MODE_REL_HARD);
	wait_for_completion(&t->timer_done);
	KUNIT_EXPECT_NULL(test, t->khva);

	hrtimer_cancel(&t->timer);
}

#define GPC_TEST_NR_READERS	4
#define GPC_TEST_NR_MOVES	200
#define GPC_TEST_FREED		0x6b6b6b6b

struct gpc_test_reader {
	struct work_struct work;
	struct gpc_test *t;
	int ret, nr_freed;
};

static void gpc_test_read(struct work_struct *work)
{
	struct gpc_test_reader *reader = container_of(work, struct gpc_test_reader, work);
	struct gpc_test *t = reader->t;

	/* Use the stubs in this task, too. */
	current->kunit_test = t->test;

	do {
		reader->ret = kvm_gpc_get(&t->gpc, sizeof(u32));
		if (reader->ret)
			break;
		reader->nr_freed += READ_ONCE(*(u32 *)t->gpc.khva) == GPC_TEST_FREED;
		kvm_gpc_put(&t->gpc);
		cond_resched();
	} while (!READ_ONCE(t->done));

	current->kunit_test = NULL;
}

/* Many tasks use a cache whose page is replaced again and again. */
static void test_gpc_readers(struct kunit *test)
{
	struct gpc_test_reader *readers;
	struct gpc_test *t = test->priv;
	int i, nr_lookups, nr, ret = 0;
	unsigned long end;

	readers = kunit_kcalloc(test, GPC_TEST_NR_READERS, sizeof(*readers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, readers);
	KUNIT_ASSERT_EQ(test, gpc_test_activate(t, 0), 0);

	for (i = 0; i < GPC_TEST_NR_READERS; i++) {
		readers[i].t = t;
		INIT_WORK(&readers[i].work, gpc_test_read);
		queue_work(system_dfl_wq, &readers[i].work);
	}

	/* If the readers have all CPUs, there is time for some of the moves only. */
	end = jiffies + HZ;
	for (i = 0; i < GPC_TEST_NR_MOVES && !ret && time_before(jiffies, end); i++) {
		gpc_test_start(t, 0);
		WRITE_ONCE(*(u32 *)gpc_test_addr(t, 0), GPC_TEST_FREED);
		gpc_test_replace_page(t);
		WRITE_ONCE(*(u32 *)gpc_test_addr(t, 0), 0);
		usleep_range(10, 100);
		nr_lookups = atomic_read(&t->nr_lookups);
		gpc_test_end(t, 0);

		/* The next move is at any time, or after the lookup of the new page. */
		if (i % 2)
			usleep_range(10, 100);
		else
			ret = poll_timeout_us(nr = atomic_read(&t->nr_lookups),
					      nr != nr_lookups, 100,
					      GPC_TEST_TIMEOUT_US, false);
	}
	WRITE_ONCE(t->done, true);
	KUNIT_EXPECT_EQ(test, ret, 0);

	for (i = 0; i < GPC_TEST_NR_READERS; i++) {
		flush_work(&readers[i].work);
		KUNIT_EXPECT_EQ(test, readers[i].ret, 0);
		KUNIT_EXPECT_EQ(test, readers[i].nr_freed, 0);
	}
}

static struct kunit_case gpc_test_cases[] = {
	KUNIT_CASE(test_gpc_hva_and_gpa),
	KUNIT_CASE(test_gpc_refresh_valid),
	KUNIT_CASE(test_gpc_memslots),
	KUNIT_CASE_PARAM(test_gpc_bad_address, gpc_test_bad_addr_gen_params),
	KUNIT_CASE(test_gpc_bad_len),
	KUNIT_CASE(test_gpc_failures),
	KUNIT_CASE(test_gpc_deactivate),
	KUNIT_CASE(test_gpc_closed),
	KUNIT_CASE(test_gpc_init_once),
	KUNIT_CASE_PARAM(test_gpc_unaligned, gpc_test_range_gen_params),
	KUNIT_CASE(test_gpc_filter_moves),
	KUNIT_CASE(test_gpc_filter_regions),
	KUNIT_CASE(test_gpc_filter_second),
	KUNIT_CASE(test_gpc_filter_collision),
	KUNIT_CASE_PARAM(test_gpc_race_invalidate, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_race_invalidate_other, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_race_move, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_race_unmap, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_race_close, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_sleep, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_sleep_twice, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_sleep_others, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_sleep_many, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_others_in_flight, gpc_test_window_gen_params),
	KUNIT_CASE_PARAM(test_gpc_sleep_close, gpc_test_window_gen_params),
	KUNIT_CASE(test_gpc_closed_in_flight),
	KUNIT_CASE_PARAM(test_gpc_sleep_killed, gpc_test_window_gen_params),
	KUNIT_CASE(test_gpc_lock_killed),
	KUNIT_CASE(test_gpc_killed),
	KUNIT_CASE(test_gpc_interrupted),
	KUNIT_CASE(test_gpc_sleep_interrupted),
	KUNIT_CASE(test_gpc_get_again),
	KUNIT_CASE(test_gpc_locks),
	KUNIT_CASE(test_gpc_irqs),
	KUNIT_CASE(test_gpc_put_order),
	KUNIT_CASE(test_gpc_nospin),
	KUNIT_CASE(test_gpc_raw_spinlock),
	KUNIT_CASE(test_gpc_hardirq),
	KUNIT_CASE(test_gpc_readers),
	{}
};

static struct kunit_suite gpc_test_suite = {
	.name = "kvm_pfncache",
	.init = gpc_test_init,
	.exit = gpc_test_exit,
	.test_cases = gpc_test_cases,
};

kunit_test_suite(gpc_test_suite);
