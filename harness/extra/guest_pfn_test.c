// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for gfn_to_pfn_caches of pages that a vCPU uses in guest mode.
 * Included by kvm_main.c after mmu_notifier_test.c, whose fixtures they use.
 *
 * Most of them have no guest: a job is the vCPU, and disables interrupts while it is
 * in guest mode.
 */

/* Long enough for a real vCPU to enter. */
#define GUEST_PFN_TEST_RUN_US	(500 * USEC_PER_MSEC)

struct guest_pfn_test {
	struct mn_test mn;		/* first, as mn_test_free() frees it */
	struct gfn_to_pfn_cache gpc;	/* of mn.vcpu */
	struct mmu_notifier_range range;
	struct kvm_vcpu *vcpu;		/* that is in guest mode */
	struct task_struct *task;	/* that is in KVM_RUN */
	int nr_entries;
	bool kicked_early;
};

static struct guest_pfn_test *guest_pfn_test_of(struct mn_test *t)
{
	return container_of(t, struct guest_pfn_test, mn);
}

static int guest_pfn_test_init(struct kunit *test)
{
	struct guest_pfn_test *g = kzalloc_obj(*g);

	KUNIT_ASSERT_NOT_NULL(test, g);
	g->mn.test = test;
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, mn_test_free, &g->mn), 0);
	test->priv = &g->mn;
	return 0;
}

static void guest_pfn_test_exit(struct kunit *test)
{
	struct guest_pfn_test *g = test->priv;

	if (g && g->gpc.kvm && !g->mn.stuck)
		kvm_gpc_deactivate(&g->gpc);
	mn_test_exit(test);
}

/* As the vCPU's task does before it enters. */
static int guest_pfn_test_get(struct mn_test *t)
{
	struct guest_pfn_test *g = guest_pfn_test_of(t);
	kvm_pfn_t pfn = KVM_PFN_ERR_FAULT;
	int ret;

	guard(mutex)(&t->vcpu->mutex);
	guard(srcu)(&t->kvm->srcu);

	ret = kvm_gpc_guest_get(&g->gpc, MN_TEST_GPC_LEN, &pfn);
	return ret ?: is_error_noslot_pfn(pfn) ? -EFAULT : 0;
}

/* A VM with a vCPU, a cache of that vCPU, and a cache of another page. */
static struct guest_pfn_test *guest_pfn_test_create(struct kunit *test)
{
	struct guest_pfn_test *g = guest_pfn_test_of(test->priv);
	struct mn_test *t = test->priv;
	unsigned long hva;

	mn_test_create_busy_vm(test);
	g->vcpu = t->vcpu;
	kvm_gpc_init_guest(&g->gpc, t->vcpu);

	/* The middle one of three pages. */
	hva = kunit_vm_mmap(test, NULL, 0, 3 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, hva, 0);
	hva += PAGE_SIZE;
	mmu_notifier_range_init(&g->range, MMU_NOTIFY_CLEAR, 0, t->mm, hva, hva + PAGE_SIZE);

	scoped_guard(mutex, &t->vcpu->mutex) {
		guard(srcu)(&t->kvm->srcu);
		KUNIT_ASSERT_EQ(test, kvm_gpc_activate_hva(&g->gpc, hva, MN_TEST_GPC_LEN), 0);
	}
	KUNIT_ASSERT_EQ(test, guest_pfn_test_get(t), 0);
	KUNIT_ASSERT_TRUE(test, kvm_gpc_guest_valid(t->vcpu));
	return g;
}

static void guest_pfn_test_invalidate(struct mn_test *t, unsigned long hva)
{
	struct mmu_notifier_range range;

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, t->mm, hva, hva + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	mmu_notifier_invalidate_range_end(&range);
}

static bool guest_pfn_test_may_enter(struct kvm_vcpu *vcpu)
{
	return !kvm_test_request(KVM_REQ_VM_DEAD, vcpu) && kvm_gpc_guest_valid(vcpu);
}

/*
 * A vCPU that stays in guest mode for some time after it was kicked, and then tries
 * to enter again at once, before it has handled the IPI.
 */
static int guest_pfn_test_guest(struct mn_test *t)
{
	struct guest_pfn_test *g = guest_pfn_test_of(t);
	struct kvm_vcpu *vcpu = g->vcpu;
	bool kicked = false, early = false;
	int old_cpu;

	local_irq_disable();
	old_cpu = mn_test_enter_guest(vcpu, smp_processor_id(), IN_GUEST_MODE);

	while (guest_pfn_test_may_enter(vcpu) && !g->nr_entries++) {
		WRITE_ONCE(t->go, true);
		kicked = mn_test_spin_until(READ_ONCE(vcpu->mode) == EXITING_GUEST_MODE ||
					    READ_ONCE(t->done), MN_TEST_TIMEOUT_US);
		/* The mode was changed after that. */
		smp_rmb();
		g->kicked_early = guest_pfn_test_may_enter(vcpu);

		/* start() doesn't return. */
		early = mn_test_spin_until(READ_ONCE(t->done), MN_TEST_SHORT_US);
		mn_test_exit_guest(vcpu, old_cpu);
		mn_test_enter_guest(vcpu, smp_processor_id(), IN_GUEST_MODE);
	}

	mn_test_exit_guest(vcpu, old_cpu);
	local_irq_enable();

	return !kicked ? -ETIMEDOUT : early ? -EBUSY : 0;
}

/* What the first of two start()s does before it has kicked the vCPU. */
static void guest_pfn_test_half_start(struct guest_pfn_test *g)
{
	guard(raw_spinlock_irq)(&g->gpc.lock);
	g->gpc.invalidate_seq++;
	WRITE_ONCE(g->gpc.valid, false);
}

static int guest_pfn_test_start(struct mn_test *t)
{
	struct mmu_notifier_range range = guest_pfn_test_of(t)->range;

	mmu_notifier_invalidate_range_start(&range);
	WRITE_ONCE(t->done, true);
	mmu_notifier_invalidate_range_end(&range);
	return 0;
}

static int guest_pfn_test_first_start(struct mn_test *t)
{
	if (!mn_test_spin_until(READ_ONCE(t->go), MN_TEST_TIMEOUT_US))
		return -ETIMEDOUT;

	return guest_pfn_test_start(t);
}

/* After mn_test_take_cpus(). */
static struct mn_test_job *guest_pfn_test_enter(struct mn_test *t)
{
	struct mn_test_job *job;

	job = mn_test_run_on(t, guest_pfn_test_guest, t->cpus[0]);
	mn_test_wait_for_go(t, job);
	return job;
}

/* The vCPU has left guest mode once, when it was told to, and didn't enter again. */
static void guest_pfn_test_expect_left(struct mn_test *t, struct mn_test_job *job)
{
	struct guest_pfn_test *g = guest_pfn_test_of(t);

	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(t->test, mn_test_wait(t, job), 0);
	KUNIT_EXPECT_EQ(t->test, g->nr_entries, 1);
	KUNIT_EXPECT_FALSE(t->test, g->kicked_early);
}

/*
 * start() returns when the vCPU has left guest mode.  The vCPU is kicked when the
 * cache is invalid, else it would enter again.
 */
static void test_guest_pfn_kick(struct kunit *test)
{
	struct guest_pfn_test *g = guest_pfn_test_create(test);
	struct mn_test_job *job;
	int mode;

	mn_test_take_cpus(&g->mn);
	job = guest_pfn_test_enter(&g->mn);
	guest_pfn_test_start(&g->mn);
	mode = READ_ONCE(g->vcpu->mode);
	guest_pfn_test_expect_left(&g->mn, job);
	KUNIT_EXPECT_EQ(test, mode, OUTSIDE_GUEST_MODE);
}

/*
 * The second of two overlapping start()s doesn't return before that either, though
 * the first one has made the cache invalid.  With three CPUs, the first one waits
 * for the vCPU, too.  With two, it is about to kick the vCPU.
 */
static void test_guest_pfn_overlap(struct kunit *test)
{
	struct guest_pfn_test *g = guest_pfn_test_create(test);
	struct mn_test_job *first = NULL, *job;
	struct mn_test *t = &g->mn;
	bool invalid;
	int mode;

	mn_test_take_cpus(t);
	if (t->cpus[1] < nr_cpu_ids)
		first = mn_test_run_on(t, guest_pfn_test_first_start, t->cpus[1]);
	job = guest_pfn_test_enter(t);
	if (!first)
		guest_pfn_test_half_start(g);
	invalid = mn_test_spin_until(!READ_ONCE(g->gpc.valid), MN_TEST_TIMEOUT_US);

	guest_pfn_test_start(t);
	mode = READ_ONCE(g->vcpu->mode);
	guest_pfn_test_expect_left(t, job);
	if (first)
		KUNIT_EXPECT_EQ(test, mn_test_wait(t, first), 0);
	KUNIT_EXPECT_TRUE(test, invalid);
	KUNIT_EXPECT_EQ(test, mode, OUTSIDE_GUEST_MODE);
}

/* The fence leaves no vCPU in guest mode, and needs no help of the caches for that. */
static void test_guest_pfn_reap(struct kunit *test)
{
	struct guest_pfn_test *g;
	struct mn_test_job *job;
	int mode, ret;

	if (!MN_TEST_HAS_FENCE)
		kunit_skip(test, "needs CONFIG_KVM_MMU_NOTIFIER_FENCE");

	g = guest_pfn_test_create(test);
	mn_test_take_cpus(&g->mn);
	job = guest_pfn_test_enter(&g->mn);
	ret = mn_test_reap(&g->mn);
	mode = READ_ONCE(g->vcpu->mode);
	guest_pfn_test_expect_left(&g->mn, job);
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_EQ(test, mode, OUTSIDE_GUEST_MODE);
	KUNIT_EXPECT_FALSE(test, kvm_gpc_guest_valid(g->vcpu));
}

/* A vCPU that must not be kicked. */
static int guest_pfn_test_calm_guest(struct mn_test *t)
{
	struct kvm_vcpu *vcpu = guest_pfn_test_of(t)->vcpu;
	bool kicked, done;
	int old_cpu;

	local_irq_disable();
	old_cpu = mn_test_enter_guest(vcpu, smp_processor_id(), IN_GUEST_MODE);
	WRITE_ONCE(t->go, true);
	done = mn_test_spin_until(READ_ONCE(t->done) ||
				  READ_ONCE(vcpu->mode) != IN_GUEST_MODE, MN_TEST_TIMEOUT_US);
	kicked = READ_ONCE(vcpu->mode) != IN_GUEST_MODE;
	mn_test_exit_guest(vcpu, old_cpu);
	local_irq_enable();

	return kicked ? -EBUSY : !done ? -ETIMEDOUT : 0;
}

/* Invalidate the page at @hva while the vCPU is in guest mode. */
static void guest_pfn_test_no_kick(struct guest_pfn_test *g, unsigned long hva)
{
	struct mn_test *t = &g->mn;
	struct mn_test_job *job;

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, guest_pfn_test_calm_guest, t->cpus[0]);
	mn_test_wait_for_go(t, job);
	guest_pfn_test_invalidate(t, hva);
	WRITE_ONCE(t->done, true);
	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(t->test, mn_test_wait(t, job), 0);
}

/* Nobody is kicked but the vCPUs whose caches are hit. */
static void test_guest_pfn_unrelated(struct kunit *test)
{
	struct guest_pfn_test *g = guest_pfn_test_create(test);
	struct mn_test *t = &g->mn;

	/* Without a cache, next to the cache, and a cache that no vCPU uses. */
	guest_pfn_test_no_kick(g, mn_test_hva(MN_TEST_HOLE));
	guest_pfn_test_no_kick(g, g->range.start - PAGE_SIZE);
	guest_pfn_test_no_kick(g, g->range.end);
	KUNIT_EXPECT_TRUE(test, mn_test_gpc_valid(t));
	guest_pfn_test_no_kick(g, t->hva);
	KUNIT_EXPECT_FALSE(test, mn_test_gpc_valid(t));
	KUNIT_EXPECT_TRUE(test, kvm_gpc_guest_valid(t->vcpu));

	/* The cache of another vCPU. */
	g->vcpu = mn_test_create_vcpu(t, 1);
	KUNIT_ASSERT_NOT_NULL(test, g->vcpu);
	guest_pfn_test_no_kick(g, g->range.start);
	KUNIT_EXPECT_FALSE(test, kvm_gpc_guest_valid(t->vcpu));
	KUNIT_EXPECT_TRUE(test, kvm_gpc_guest_valid(g->vcpu));
}

/* The cache is valid after a refresh, which waits for the end of the invalidation. */
static void test_guest_pfn_refresh(struct kunit *test)
{
	struct guest_pfn_test *g = guest_pfn_test_create(test);
	struct mn_test *t = &g->mn;
	struct mn_test_job *job;

	mmu_notifier_invalidate_range_start(&g->range);
	KUNIT_EXPECT_FALSE(test, kvm_gpc_guest_valid(t->vcpu));
	job = mn_test_run(t, guest_pfn_test_get);
	KUNIT_EXPECT_TRUE(test, mn_test_until(mn_test_nr_waiters(&t->kvm->invalidate_gate) == 1));
	KUNIT_EXPECT_FALSE(test, kvm_gpc_guest_valid(t->vcpu));

	mmu_notifier_invalidate_range_end(&g->range);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
	KUNIT_EXPECT_TRUE(test, kvm_gpc_guest_valid(t->vcpu));

	/* The vCPU doesn't use the page anymore. */
	guest_pfn_test_invalidate(t, g->range.start);
	KUNIT_EXPECT_FALSE(test, kvm_gpc_guest_valid(t->vcpu));
	scoped_guard(mutex, &t->vcpu->mutex)
		kvm_gpc_guest_put(&g->gpc);
	KUNIT_EXPECT_TRUE(test, kvm_gpc_guest_valid(t->vcpu));
}

#ifdef CONFIG_X86
static int guest_pfn_test_run_vcpu(void *data)
{
	struct guest_pfn_test *g = data;

	/* Kthreads, i.e. KUnit, ignore signals, and so does a task that they create. */
	allow_signal(SIGKILL);
	g->task = get_task_struct(current);
	WRITE_ONCE(g->mn.go, true);
	return mn_test_run_vcpu(&g->mn);
}

/* KVM_RUN, which is interrupted after an exit of the guest or after a timeout. */
static int guest_pfn_test_run(struct guest_pfn_test *g, unsigned int timeout_us)
{
	struct mn_test *t = &g->mn;
	pid_t pid;

	t->go = false;
	init_completion(&t->run_done);
	pid = user_mode_thread(guest_pfn_test_run_vcpu, g, CLONE_VM | CLONE_FILES | SIGCHLD);
	KUNIT_ASSERT_GT(t->test, pid, 0);
	KUNIT_ASSERT_TRUE(t->test, mn_test_until(READ_ONCE(t->go)));

	poll_timeout_us(, READ_ONCE(t->vcpu->stat.exits) || completion_done(&t->run_done),
			USEC_PER_MSEC, timeout_us, false);
	send_sig(SIGKILL, g->task, 1);
	put_task_struct(g->task);
	t->stuck = !wait_for_completion_timeout(&t->run_done,
						usecs_to_jiffies(MN_TEST_TIMEOUT_US));
	KUNIT_ASSERT_FALSE(t->test, t->stuck);
	return t->run_ret;
}

/*
 * A real vCPU doesn't enter with an invalid cache, but tries to until its task is
 * interrupted.  After a refresh it enters.
 */
static void test_guest_pfn_run(struct kunit *test)
{
	struct guest_pfn_test *g = guest_pfn_test_create(test);
	struct mn_test *t = &g->mn;

	guest_pfn_test_invalidate(t, g->range.start);
	KUNIT_EXPECT_EQ(test, guest_pfn_test_run(g, GUEST_PFN_TEST_RUN_US), -EINTR);
	KUNIT_EXPECT_EQ(test, t->vcpu->stat.exits, 0);

	KUNIT_EXPECT_EQ(test, guest_pfn_test_get(t), 0);
	guest_pfn_test_run(g, MN_TEST_TIMEOUT_US);
	KUNIT_EXPECT_GT(test, t->vcpu->stat.exits, 0);
}
#endif

static struct kunit_case guest_pfn_test_cases[] = {
	KUNIT_CASE(test_guest_pfn_kick),
	KUNIT_CASE(test_guest_pfn_overlap),
	KUNIT_CASE(test_guest_pfn_reap),
	KUNIT_CASE(test_guest_pfn_unrelated),
	KUNIT_CASE(test_guest_pfn_refresh),
#ifdef CONFIG_X86
	KUNIT_CASE(test_guest_pfn_run),
#endif
	{}
};

static struct kunit_suite guest_pfn_test_suite = {
	.name = "kvm_guest_pfn",
	.init = guest_pfn_test_init,
	.exit = guest_pfn_test_exit,
	.test_cases = guest_pfn_test_cases,
};

kunit_test_suite(guest_pfn_test_suite);
