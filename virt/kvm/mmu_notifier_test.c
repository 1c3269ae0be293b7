// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for KVM's MMU notifier, included by kvm_main.c.
 *
 * The gate is tested alone, all else with a real mm and a real VM, by way of
 * the mm's API.  There is no guest, none of the vCPUs is ever run.  All memory
 * of the VM but the page of a gfn_to_pfn_cache is memslots without VMAs, so that
 * there is nobody else who could invalidate it.
 *
 * Whatever might block if it's broken is done by another task, a job, which the
 * test waits for with a timeout.  A job that doesn't come back is left behind
 * with all that it uses.
 */

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/fdtable.h>
#include <linux/iopoll.h>
#include <linux/kthread.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/prandom.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/task_work.h>

#define MN_TEST_TIMEOUT_US	(10 * USEC_PER_SEC)

/* Long enough for somebody who should wait, but doesn't. */
#define MN_TEST_SHORT_US	(20 * USEC_PER_MSEC)

#define MN_TEST_HVA		0x10000000UL
#define MN_TEST_NR_PAGES	80
#define MN_TEST_GPC_LEN		8

/* The id is the index; the last one is an alias of half of the second. */
static const struct mn_test_slot {
	unsigned int page, nr_pages;
} mn_test_slots[] = {
	{ 16, 16 },
	{ 48, 16 },
	{ 56, 8 },
};

#define MN_TEST_GPA(id)		((gpa_t)(id) << 28)

/* Where there's no memslot. */
#define MN_TEST_HOLE		32
#define MN_TEST_HOLE_PAGES	16

/* What KVM counts, or should have counted. */
struct mn_test_counts {
	unsigned long nr_active, seq;
	long in_progress;
	unsigned long mmu_seq;
	bool fenced;
};

struct mn_test_pair {
	struct mmu_notifier_range range;
	bool open, in_slot;
};

struct mn_test {
	struct kunit *test;
	struct kvm_invalidate_gate gate;

	struct mm_struct *mm;
	struct kvm *kvm;
	struct kvm_vcpu *vcpu;
	struct gfn_to_pfn_cache gpc;
	unsigned long gpc_hva;
	struct mn_test_counts counts;

	/* Of KVM's start() and end(), for as long as they're intercepted. */
	int nr_starts, nr_ends;

	/* A job that does something until it's told that it's done. */
	bool go, done;
	int cpus[2];
	const struct mn_test_lock *locks;
	int nr_locks, srcu_idx, irq_srcu_idx;
	struct mn_test_pair job_pair;
	atomic_t nr_ready;

	/* A job didn't come back. */
	bool stuck;
};

typedef int (*mn_test_fn)(struct mn_test *t);

struct mn_test_job {
	struct mn_test *t;
	mn_test_fn fn;
	struct task_struct *task;
	struct completion done;
	int ret;
};

#define mn_test_until(cond)							\
	(!poll_timeout_us(, cond, USEC_PER_MSEC, MN_TEST_TIMEOUT_US, false))

/* With preemption or interrupts disabled, maybe on another CPU. */
#define mn_test_spin_until(cond, timeout_us)					\
	(!poll_timeout_us(, cond, 0, timeout_us, false))

static int mn_test_job_fn(void *data)
{
	struct mn_test_job *job = data;
	struct mm_struct *mm = job->t->mm;

	if (mm)
		kthread_use_mm(mm);
	job->ret = job->fn(job->t);
	if (mm) {
		kthread_unuse_mm(mm);
		mmput(mm);
	}

	complete(&job->done);
	return 0;
}

/* Have another task call @fn, with the VM's mm if there is one. */
static struct mn_test_job *mn_test_run_on(struct mn_test *t, mn_test_fn fn, int cpu)
{
	struct mn_test_job *job = kzalloc_obj(*job);
	struct task_struct *task;

	if (!job)
		goto fail;

	job->t = t;
	job->fn = fn;
	init_completion(&job->done);

	task = kthread_create(mn_test_job_fn, job, "kvm_mn_test");
	if (IS_ERR(task))
		goto fail;

	if (cpu < nr_cpu_ids)
		kthread_bind(task, cpu);
	if (t->mm)
		mmget(t->mm);
	job->task = get_task_struct(task);
	wake_up_process(task);
	return job;

fail:
	kfree(job);
	KUNIT_FAIL(t->test, "can't create a task");
	return NULL;
}

static struct mn_test_job *mn_test_run(struct mn_test *t, mn_test_fn fn)
{
	return mn_test_run_on(t, fn, nr_cpu_ids);
}

static int mn_test_wait(struct mn_test *t, struct mn_test_job *job)
{
	int ret;

	if (!job)
		return -ENOMEM;

	if (!wait_for_completion_timeout(&job->done, usecs_to_jiffies(MN_TEST_TIMEOUT_US))) {
		t->stuck = true;
		return -ETIMEDOUT;
	}

	ret = job->ret;
	put_task_struct(job->task);
	kfree(job);
	return ret;
}

static bool mn_test_is_done(struct mn_test_job *job)
{
	return job && completion_done(&job->done);
}

/*
 * Stay on this CPU, and pick another one, or two if there are, for jobs that spin
 * and disable preemption or interrupts.
 */
static void mn_test_take_cpus(struct mn_test *t)
{
	int cpu, i = 0;

	t->cpus[0] = nr_cpu_ids;
	t->cpus[1] = nr_cpu_ids;
	t->go = false;
	t->done = false;

	migrate_disable();
	for_each_online_cpu(cpu)
		if (cpu != smp_processor_id() && i < ARRAY_SIZE(t->cpus))
			t->cpus[i++] = cpu;

	if (!i) {
		migrate_enable();
		kunit_skip(t->test, "needs two CPUs");
	}
}

static void mn_test_put_cpus(struct mn_test *t)
{
	migrate_enable();
}

/* Don't sleep, the CPU that the job has for itself may be in charge of timers. */
static void mn_test_wait_for_go(struct mn_test *t, struct mn_test_job *job)
{
	bool go = mn_test_spin_until(READ_ONCE(t->go) || mn_test_is_done(job),
				     MN_TEST_TIMEOUT_US);

	KUNIT_EXPECT_TRUE(t->test, go);
}

static int mn_test_nr_waiters(struct kvm_invalidate_gate *gate)
{
	guard(spinlock_irq)(&gate->wait.lock);
	return list_count_nodes(&gate->wait.head);
}

/*
 * The VM.
 */
static int mn_test_set_slot(struct mn_test *t, int id, unsigned int page,
			    unsigned int nr_pages, gpa_t gpa, u32 flags)
{
	struct kvm_userspace_memory_region2 mem = {
		.slot = id,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = nr_pages * PAGE_SIZE,
		.userspace_addr = MN_TEST_HVA + page * PAGE_SIZE,
	};

	return kvm_vm_ioctl_set_memory_region(t->kvm, &mem);
}

struct mn_test_new_vcpu {
	struct kvm *kvm;
	int id, fd;
	struct completion done;
};

static int mn_test_new_vcpu_fn(void *data)
{
	struct mn_test_new_vcpu *new = data;

	new->fd = kvm_vm_ioctl_create_vcpu(new->kvm, new->id);
	if (new->fd >= 0) {
		/* The vCPU stays, but its reference to the VM has to go. */
		close_fd(new->fd);
		task_work_run();
	}

	complete(&new->done);
	do_exit(0);
}

/*
 * A vCPU inherits permissions from the FPU state of the task that creates it.
 * Kthreads, i.e. KUnit and jobs, don't have any, as X86_DEBUG_FPU would tell.
 */
static struct kvm_vcpu *mn_test_create_vcpu(struct mn_test *t, int id)
{
	struct mn_test_new_vcpu new = { .kvm = t->kvm, .id = id };
	pid_t pid;

	init_completion(&new.done);

	/* Nobody waits for it, kthreads ignore SIGCHLD. */
	pid = user_mode_thread(mn_test_new_vcpu_fn, &new, CLONE_FILES | SIGCHLD);
	KUNIT_EXPECT_GT(t->test, pid, 0);
	if (pid < 0)
		return NULL;

	wait_for_completion(&new.done);
	KUNIT_EXPECT_GE(t->test, new.fd, 0);
	if (new.fd < 0)
		return NULL;

	return kvm_get_vcpu_by_id(t->kvm, id);
}

/* The last thing that kvm_init() does is to register the device. */
static void mn_test_need_kvm(struct kunit *test)
{
	if (!kvm_dev.list.next || list_empty(&kvm_dev.list))
		kunit_skip(test, "no hardware virtualization, or KVM isn't loaded");
}

static void mn_test_create_vm(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm *kvm;
	int i;

	mn_test_need_kvm(test);

	KUNIT_ASSERT_EQ(test, kunit_attach_mm(), 0);
	t->mm = current->mm;

	kvm = kvm_create_vm(0, "kunit");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, kvm);
	kvm_uevent_notify_change(KVM_EVENT_CREATE_VM, kvm);
	kvm_gpc_init(&t->gpc, kvm);
	t->kvm = kvm;

	for (i = 0; i < ARRAY_SIZE(mn_test_slots); i++)
		KUNIT_ASSERT_EQ(test, mn_test_set_slot(t, i, mn_test_slots[i].page,
						       mn_test_slots[i].nr_pages,
						       MN_TEST_GPA(i), 0), 0);

	t->counts = (struct mn_test_counts) {
		.seq = kvm->invalidate_gate.seq,
		.mmu_seq = kvm->mmu_invalidate_seq,
	};
}

static bool mn_test_gpc_valid(struct mn_test *t)
{
	guard(srcu)(&t->kvm->srcu);

	if (!kvm_gpc_tryget(&t->gpc, MN_TEST_GPC_LEN))
		return false;

	kvm_gpc_put(&t->gpc);
	return true;
}

static int mn_test_gpc_activate(struct mn_test *t)
{
	guard(srcu)(&t->kvm->srcu);
	return kvm_gpc_activate_hva(&t->gpc, t->gpc_hva, MN_TEST_GPC_LEN);
}

/* A VM with something to fence off. */
static void mn_test_create_busy_vm(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_create_vm(test);

	t->vcpu = mn_test_create_vcpu(t, 0);
	KUNIT_ASSERT_NOT_NULL(test, t->vcpu);

	t->gpc_hva = kunit_vm_mmap(test, NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, t->gpc_hva, 0);
	KUNIT_ASSERT_EQ(test, mn_test_gpc_activate(t), 0);
	KUNIT_ASSERT_TRUE(test, mn_test_gpc_valid(t));
}

static void mn_test_destroy_vm(struct mn_test *t)
{
	struct kvm *kvm = t->kvm;

	if (!kvm)
		return;

	/* All else is KVM's. */
	kvm_gpc_deactivate(&t->gpc);
	t->vcpu = NULL;
	t->kvm = NULL;
	kvm_put_kvm(kvm);
}

static int mn_test_init(struct kunit *test)
{
	struct mn_test *t = kzalloc_obj(*t);

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->test = test;
	kvm_invalidate_gate_init(&t->gate);
	test->priv = t;
	return 0;
}

static void mn_test_exit(struct kunit *test)
{
	struct mn_test *t = test->priv;

	if (!t || t->stuck)
		return;

	mn_test_destroy_vm(t);
	kfree(t);
}

/*
 * Invalidations.
 */
static void mn_test_expect_counts(struct mn_test *t)
{
	struct mn_test_counts *counts = &t->counts;
	struct kvm *kvm = t->kvm;

	KUNIT_EXPECT_EQ(t->test, kvm->invalidate_gate.nr_active, counts->nr_active);
	KUNIT_EXPECT_EQ(t->test, kvm->invalidate_gate.seq, counts->seq);
	KUNIT_EXPECT_EQ(t->test, kvm->mmu_invalidate_in_progress, counts->in_progress);
	KUNIT_EXPECT_EQ(t->test, kvm->mmu_invalidate_seq, counts->mmu_seq);

	KUNIT_EXPECT_EQ(t->test, kvm->vm_dead, counts->fenced);
	KUNIT_EXPECT_EQ(t->test, kvm->gpc_closed, counts->fenced);
	KUNIT_EXPECT_EQ(t->test, kvm->mmu_notifier_fenced, counts->fenced);
	KUNIT_EXPECT_FALSE(t->test, kvm->vm_bugged);
}

static bool mn_test_in_slot(unsigned int page, unsigned int nr_pages)
{
	const struct mn_test_slot *slot = mn_test_slots;
	int i;

	for (i = 0; i < ARRAY_SIZE(mn_test_slots); i++, slot++)
		if (page < slot->page + slot->nr_pages && slot->page < page + nr_pages)
			return true;
	return false;
}

static void mn_test_range(struct mn_test *t, struct mmu_notifier_range *range,
			  unsigned int page, unsigned int nr_pages)
{
	unsigned long start = MN_TEST_HVA + page * PAGE_SIZE;

	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, t->mm, start,
				start + nr_pages * PAGE_SIZE);
}

static void mn_test_start(struct mn_test *t, struct mn_test_pair *pair,
			  unsigned int page, unsigned int nr_pages)
{
	mn_test_range(t, &pair->range, page, nr_pages);
	pair->open = true;
	pair->in_slot = mn_test_in_slot(page, nr_pages);

	mmu_notifier_invalidate_range_start(&pair->range);

	t->counts.nr_active++;
	t->counts.in_progress += pair->in_slot;
	mn_test_expect_counts(t);
}

static void mn_test_start_nonblock(struct mn_test *t, struct mn_test_pair *pair,
				   unsigned int page, unsigned int nr_pages)
{
	int ret;

	mn_test_range(t, &pair->range, page, nr_pages);
	pair->open = true;

	non_block_start();
	ret = mmu_notifier_invalidate_range_start_nonblock(&pair->range);
	non_block_end();

	KUNIT_EXPECT_EQ(t->test, ret, 0);
	t->counts.fenced = true;
	mn_test_expect_counts(t);
}

static void mn_test_end(struct mn_test *t, struct mn_test_pair *pair)
{
	pair->open = false;

	if (mmu_notifier_range_blockable(&pair->range)) {
		mmu_notifier_invalidate_range_end(&pair->range);

		t->counts.nr_active--;
		t->counts.seq++;
		t->counts.in_progress -= pair->in_slot;
		t->counts.mmu_seq += pair->in_slot;
	} else {
		non_block_start();
		mmu_notifier_invalidate_range_end(&pair->range);
		non_block_end();
	}

	mn_test_expect_counts(t);
}

/* Is the VM fenced off, as seen by whoever is about to free its memory? */
static bool mn_test_is_fenced(struct mn_test *t)
{
	struct kvm *kvm = t->kvm;

	return READ_ONCE(kvm->vm_dead) && READ_ONCE(kvm->gpc_closed) &&
	       READ_ONCE(kvm->mmu_notifier_fenced) && !mn_test_gpc_valid(t) &&
	       kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu);
}

/* As zap_vma_for_reaping(), but don't free anything. */
static int mn_test_reap(struct mn_test *t)
{
	struct mmu_notifier_range range;
	bool fenced;
	int ret;

	mn_test_range(t, &range, 0, MN_TEST_NR_PAGES);

	mmap_read_lock(t->mm);
	non_block_start();
	ret = mmu_notifier_invalidate_range_start_nonblock(&range);
	WRITE_ONCE(t->done, true);
	fenced = mn_test_is_fenced(t);
	if (!ret)
		mmu_notifier_invalidate_range_end(&range);
	non_block_end();
	mmap_read_unlock(t->mm);

	return ret ?: fenced ? 0 : -EIO;
}

/*
 * The gate, alone.
 */
static void test_gate_counts(struct kunit *test)
{
	struct mn_test *t = test->priv;
	int i;

	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, t->gate.nr_active, i);
		kvm_invalidate_gate_enter(&t->gate);
	}

	/* Two that overlap. */
	kvm_invalidate_gate_leave(&t->gate);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 2);
	KUNIT_EXPECT_EQ(test, t->gate.seq, 1);
	kvm_invalidate_gate_enter(&t->gate);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 3);
	KUNIT_EXPECT_EQ(test, t->gate.seq, 1);

	for (i = 2; i >= 0; i--) {
		kvm_invalidate_gate_leave(&t->gate);
		KUNIT_EXPECT_EQ(test, t->gate.nr_active, i);
	}
	KUNIT_EXPECT_EQ(test, t->gate.seq, 4);
}

static int mn_test_gate_lock(struct mn_test *t)
{
	unsigned long nr_active;

	kvm_invalidate_gate_lock(&t->gate);
	nr_active = t->gate.nr_active;
	kvm_invalidate_gate_unlock(&t->gate);

	return nr_active;
}

static int mn_test_gate_enter(struct mn_test *t)
{
	kvm_invalidate_gate_enter(&t->gate);
	return 0;
}

static int mn_test_gate_wait(struct mn_test *t)
{
	int ret;

	allow_signal(SIGKILL);
	ret = kvm_invalidate_gate_wait(&t->gate);
	flush_signals(current);
	return ret;
}

/* A leave() too many is reported, and doesn't shut the gate forever. */
static void test_gate_underflow(struct kunit *test)
{
	struct mn_test *t = test->priv;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "needs CONFIG_BUG");

	kunit_warning_suppress(test) {
		kvm_invalidate_gate_leave(&t->gate);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 0);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_lock)), 0);

	kunit_warning_suppress(test) {
		kvm_invalidate_gate_enter(&t->gate);
		KUNIT_EXPECT_EQ(test, t->gate.nr_active, 1);
		kvm_invalidate_gate_leave(&t->gate);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 0);
	}
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 0);
}

static void test_gate_retry(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm_invalidate_gate *gate = &t->gate;
	unsigned long before, during, after;

	before = kvm_invalidate_gate_snapshot(gate);
	KUNIT_EXPECT_FALSE(test, kvm_invalidate_gate_retry(gate, before));

	kvm_invalidate_gate_enter(gate);
	KUNIT_EXPECT_TRUE(test, kvm_invalidate_gate_retry(gate, before));
	during = kvm_invalidate_gate_snapshot(gate);
	KUNIT_EXPECT_TRUE(test, kvm_invalidate_gate_retry(gate, during));

	/* The first of two that overlap ends. */
	kvm_invalidate_gate_enter(gate);
	kvm_invalidate_gate_leave(gate);
	during = kvm_invalidate_gate_snapshot(gate);
	KUNIT_EXPECT_TRUE(test, kvm_invalidate_gate_retry(gate, during));

	kvm_invalidate_gate_leave(gate);
	KUNIT_EXPECT_TRUE(test, kvm_invalidate_gate_retry(gate, before));
	KUNIT_EXPECT_TRUE(test, kvm_invalidate_gate_retry(gate, during));
	after = kvm_invalidate_gate_snapshot(gate);
	KUNIT_EXPECT_FALSE(test, kvm_invalidate_gate_retry(gate, after));
}

/* Locking the gate waits for all that are in flight, who wait for nobody. */
static void test_gate_lock_waits(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;
	int i;

	kvm_invalidate_gate_enter(&t->gate);
	kvm_invalidate_gate_enter(&t->gate);

	job = mn_test_run(t, mn_test_gate_lock);
	KUNIT_EXPECT_TRUE(test, mn_test_until(mn_test_nr_waiters(&t->gate) == 1));
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_enter)), 0);

	for (i = 3; i > 0 && !t->stuck; i--) {
		usleep_range(MN_TEST_SHORT_US, 2 * MN_TEST_SHORT_US);
		KUNIT_EXPECT_FALSE(test, mn_test_is_done(job));
		kvm_invalidate_gate_leave(&t->gate);
	}

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
}

static int mn_test_gate_hold(struct mn_test *t)
{
	kvm_invalidate_gate_lock(&t->gate);
	WRITE_ONCE(t->go, true);
	mdelay(MN_TEST_SHORT_US / USEC_PER_MSEC);
	WRITE_ONCE(t->done, true);
	kvm_invalidate_gate_unlock(&t->gate);

	return 0;
}

/* No invalidation begins or ends while the memslots are being swapped. */
static void test_gate_lock_excludes(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, mn_test_gate_hold, t->cpus[0]);
	mn_test_wait_for_go(t, job);

	kvm_invalidate_gate_enter(&t->gate);
	KUNIT_EXPECT_TRUE(test, READ_ONCE(t->done));
	kvm_invalidate_gate_leave(&t->gate);

	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
}

static void test_gate_wakes_all(struct kunit *test)
{
	static const mn_test_fn fns[] = {
		mn_test_gate_wait, mn_test_gate_lock, mn_test_gate_wait, mn_test_gate_lock,
	};
	struct mn_test_job *jobs[ARRAY_SIZE(fns)];
	struct mn_test *t = test->priv;
	int i;

	kvm_invalidate_gate_enter(&t->gate);
	kvm_invalidate_gate_enter(&t->gate);

	for (i = 0; i < ARRAY_SIZE(fns); i++)
		jobs[i] = mn_test_run(t, fns[i]);
	KUNIT_EXPECT_TRUE(test, mn_test_until(mn_test_nr_waiters(&t->gate) == ARRAY_SIZE(fns)));

	kvm_invalidate_gate_leave(&t->gate);
	usleep_range(MN_TEST_SHORT_US, 2 * MN_TEST_SHORT_US);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), ARRAY_SIZE(fns));

	kvm_invalidate_gate_leave(&t->gate);
	for (i = 0; i < ARRAY_SIZE(fns); i++)
		KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[i]), 0);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 0);
}

static void test_gate_wait_killed(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;

	/* Nothing to wait for. */
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_wait)), 0);

	kvm_invalidate_gate_enter(&t->gate);
	job = mn_test_run(t, mn_test_gate_wait);
	KUNIT_ASSERT_NOT_NULL(test, job);
	KUNIT_EXPECT_TRUE(test, mn_test_until(mn_test_nr_waiters(&t->gate) == 1));

	send_sig(SIGKILL, job->task, 1);
	KUNIT_EXPECT_TRUE(test, mn_test_until(mn_test_is_done(job)));
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 1);

	kvm_invalidate_gate_leave(&t->gate);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), -EINTR);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 0);
}

static void test_gate_reset(struct kunit *test)
{
	struct mn_test *t = test->priv;

	KUNIT_EXPECT_FALSE(test, kvm_invalidate_gate_reset(&t->gate));

	kvm_invalidate_gate_enter(&t->gate);
	kvm_invalidate_gate_enter(&t->gate);
	KUNIT_EXPECT_TRUE(test, kvm_invalidate_gate_reset(&t->gate));
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 0);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_lock)), 0);
	KUNIT_EXPECT_FALSE(test, kvm_invalidate_gate_reset(&t->gate));
}

/*
 * Pairs of start() and end().
 */
struct mn_test_where {
	const char *name;
	unsigned int page, nr_pages;
};

static const struct mn_test_where mn_test_wheres[] = {
	{ "one page of a memslot", 20, 1 },
	{ "a memslot", 16, 16 },
	{ "two memslots, same HVAs", 58, 2 },
	{ "across the begin of a memslot", 15, 2 },
	{ "across the end of a memslot", 31, 2 },
	{ "across two memslots", 20, 30 },
	{ "everything", 0, MN_TEST_NR_PAGES },
	{ "up to a memslot", 0, 16 },
	{ "a hole", MN_TEST_HOLE, MN_TEST_HOLE_PAGES },
	{ "beyond all memslots", 64, 1 },
};

KUNIT_ARRAY_PARAM_DESC(mn_test_where, mn_test_wheres, name);

static void test_mn_pairs(struct kunit *test)
{
	const struct mn_test_where *w = test->param_value;
	struct mn_test_pair a, b, reap;
	struct mn_test *t = test->priv;
	int i;

	mn_test_create_vm(test);
	mn_test_expect_counts(t);

	/* Once without fence, once with a fence in the middle, then behind it. */
	for (i = 0; i < 3; i++) {
		mn_test_start(t, &a, w->page, w->nr_pages);
		mn_test_start(t, &b, w->page, w->nr_pages);
		if (i)
			mn_test_start_nonblock(t, &reap, w->page, w->nr_pages);
		mn_test_end(t, &a);
		if (i)
			mn_test_end(t, &reap);
		mn_test_end(t, &b);
	}

	mn_test_start_nonblock(t, &reap, w->page, w->nr_pages);
	mn_test_end(t, &reap);
}

static unsigned int mn_test_seed;
module_param(mn_test_seed, uint, 0644);
MODULE_PARM_DESC(mn_test_seed, "Seed of KUnit's random MMU notifier invalidations, 0 for any");

#define MN_TEST_NR_PAIRS	8
#define MN_TEST_NR_STEPS	2000

/* The first half of it without non-blockable ones, then the VM is dead. */
static void test_mn_random_pairs(struct kunit *test)
{
	u32 seed = mn_test_seed ?: get_random_u32();
	struct mn_test_pair *pairs, *pair;
	struct mn_test *t = test->priv;
	unsigned int page, nr_pages;
	struct rnd_state rnd;
	int i;

	pairs = kunit_kcalloc(test, MN_TEST_NR_PAIRS, sizeof(*pairs), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, pairs);
	mn_test_create_vm(test);

	kunit_info(test, "kvm.mn_test_seed=%u", seed);
	prandom_seed_state(&rnd, seed);

	/* The first mistake is the interesting one. */
	for (i = 0; i < MN_TEST_NR_STEPS && test->status == KUNIT_SUCCESS; i++) {
		pair = &pairs[prandom_u32_state(&rnd) % MN_TEST_NR_PAIRS];
		if (pair->open) {
			mn_test_end(t, pair);
			continue;
		}

		page = prandom_u32_state(&rnd) % MN_TEST_NR_PAGES;
		nr_pages = 1 + prandom_u32_state(&rnd) % min(MN_TEST_NR_PAGES - page, 20);
		if (i < MN_TEST_NR_STEPS / 2 || prandom_u32_state(&rnd) % 2)
			mn_test_start(t, pair, page, nr_pages);
		else
			mn_test_start_nonblock(t, pair, page, nr_pages);
	}
	if (test->status != KUNIT_SUCCESS)
		kunit_err(test, "step %d\n", i);

	for (i = 0; i < MN_TEST_NR_PAIRS; i++)
		if (pairs[i].open)
			mn_test_end(t, &pairs[i]);
}

/*
 * A second notifier, which fails if it must not block.  To have no end() is a
 * condition for that.
 */
static int mn_test_other_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range) ? 0 : -EAGAIN;
}

static const struct mmu_notifier_ops mn_test_other_ops = {
	.invalidate_range_start = mn_test_other_start,
};

/* KVM's notifier, and how often it's called, by this task. */
static int mn_test_kvm_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct mn_test *t = kunit_get_current_test()->priv;

	t->nr_starts++;
	return kvm_mmu_notifier_invalidate_range_start(mn, range);
}

static void mn_test_kvm_end(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct mn_test *t = kunit_get_current_test()->priv;

	t->nr_ends++;
	kvm_mmu_notifier_invalidate_range_end(mn, range);
}

static const struct mmu_notifier_ops mn_test_kvm_ops = {
	.invalidate_range_start = mn_test_kvm_start,
	.invalidate_range_end = mn_test_kvm_end,
	.release = kvm_mmu_notifier_release,
};

struct mn_test_order {
	const char *name;
	bool before;
};

static const struct mn_test_order mn_test_orders[] = {
	{ "called before KVM", true },
	{ "called after KVM", false },
};

KUNIT_ARRAY_PARAM_DESC(mn_test_order, mn_test_orders, name);

/* If a notifier fails, mm calls end() of those that have one. */
static void test_mn_other_fails(struct kunit *test)
{
	const struct mn_test_order *order = test->param_value;
	struct mmu_notifier other = { .ops = &mn_test_other_ops };
	struct mn_test *t = test->priv;
	struct mmu_notifier_range range;
	struct mn_test_pair a, b;
	int i, ret;

	mn_test_need_kvm(test);

	/* What is registered last is called first. */
	KUNIT_ASSERT_EQ(test, kunit_attach_mm(), 0);
	if (!order->before)
		KUNIT_ASSERT_EQ(test, mmu_notifier_register(&other, current->mm), 0);
	mn_test_create_vm(test);
	t->kvm->mmu_notifier.ops = &mn_test_kvm_ops;
	if (order->before)
		KUNIT_ASSERT_EQ(test, mmu_notifier_register(&other, t->mm), 0);

	mn_test_start(t, &a, 20, 1);
	for (i = 0; i < 2; i++) {
		mn_test_range(t, &range, 20, 1);
		non_block_start();
		ret = mmu_notifier_invalidate_range_start_nonblock(&range);
		non_block_end();

		/* Balanced, i.e. the caller must not call end(). */
		KUNIT_EXPECT_EQ(test, ret, -EAGAIN);
		KUNIT_EXPECT_EQ(test, t->nr_starts, i + 2);
		KUNIT_EXPECT_EQ(test, t->nr_ends, i + 1);
		t->counts.fenced = true;
		mn_test_expect_counts(t);
	}
	mn_test_start(t, &b, MN_TEST_HOLE, 1);
	mn_test_end(t, &a);
	mn_test_end(t, &b);
	KUNIT_EXPECT_EQ(test, t->nr_starts, t->nr_ends);

	mmu_notifier_unregister(&other, t->mm);
}

/*
 * Invalidations and memslots.
 */
static int mn_test_add_slot(struct mn_test *t)
{
	return mn_test_set_slot(t, 3, MN_TEST_HOLE, MN_TEST_HOLE_PAGES, MN_TEST_GPA(3), 0);
}

static int mn_test_move_slot(struct mn_test *t)
{
	return mn_test_set_slot(t, 0, 16, 16, MN_TEST_GPA(4), 0);
}

static int mn_test_move_slot_back(struct mn_test *t)
{
	return mn_test_set_slot(t, 0, 16, 16, MN_TEST_GPA(0), 0);
}

static int mn_test_log_slot(struct mn_test *t)
{
	return mn_test_set_slot(t, 0, 16, 16, MN_TEST_GPA(0), KVM_MEM_LOG_DIRTY_PAGES);
}

static int mn_test_delete_slot(struct mn_test *t)
{
	return mn_test_set_slot(t, 0, 16, 0, 0, 0);
}

static int mn_test_delete_added_slot(struct mn_test *t)
{
	return mn_test_set_slot(t, 3, MN_TEST_HOLE, 0, 0, 0);
}

struct mn_test_update {
	const char *name;
	mn_test_fn fn;

	/* What it's about, and the memslot as it should be afterwards. */
	unsigned int page;
	int id;
	unsigned int nr_pages;
	gpa_t gpa;
	u32 flags;
};

static const struct mn_test_update mn_test_updates[] = {
	{ "add", mn_test_add_slot, MN_TEST_HOLE, 3, MN_TEST_HOLE_PAGES, MN_TEST_GPA(3), 0 },
	{ "move", mn_test_move_slot, 16, 0, 16, MN_TEST_GPA(4), 0 },
	{ "delete", mn_test_delete_slot, 16, 0, 0, 0, 0 },
	{ "flags", mn_test_log_slot, 16, 0, 16, 0, KVM_MEM_LOG_DIRTY_PAGES },
};

KUNIT_ARRAY_PARAM_DESC(mn_test_update, mn_test_updates, name);

/* Pairs that must not wait for the update. */
static int mn_test_pairs_elsewhere(struct mn_test *t)
{
	mn_test_start(t, &t->job_pair, 48, 16);
	mn_test_end(t, &t->job_pair);

	mn_test_start_nonblock(t, &t->job_pair, 0, MN_TEST_NR_PAGES);
	mn_test_end(t, &t->job_pair);
	return 0;
}

/* An update of memslots in the middle of a pair has to wait. */
static void test_mn_memslots(struct kunit *test)
{
	const struct mn_test_update *update = test->param_value;
	struct mn_test *t = test->priv;
	struct kvm_memory_slot *slot;
	struct kvm_memslots *slots;
	struct mn_test_pair pair;
	struct mn_test_job *job;

	mn_test_create_vm(test);
	slots = rcu_access_pointer(t->kvm->memslots[0]);

	mn_test_start(t, &pair, update->page, 1);
	job = mn_test_run(t, update->fn);
	KUNIT_EXPECT_TRUE(test, mn_test_until(mn_test_nr_waiters(&t->kvm->invalidate_gate) == 1));

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_pairs_elsewhere)), 0);

	usleep_range(MN_TEST_SHORT_US, 2 * MN_TEST_SHORT_US);
	KUNIT_EXPECT_FALSE(test, mn_test_is_done(job));
	KUNIT_EXPECT_PTR_EQ(test, rcu_access_pointer(t->kvm->memslots[0]), slots);

	if (t->stuck)
		return;

	mn_test_end(t, &pair);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
	mn_test_expect_counts(t);

	guard(srcu)(&t->kvm->srcu);
	slot = id_to_memslot(kvm_memslots(t->kvm), update->id);
	KUNIT_EXPECT_EQ(test, slot ? slot->npages : 0, update->nr_pages);
	if (slot && update->nr_pages) {
		KUNIT_EXPECT_EQ(test, slot->base_gfn, gpa_to_gfn(update->gpa));
		KUNIT_EXPECT_EQ(test, slot->flags, update->flags);
	}
}

/* Hold mmu_lock, which start() and end() acquire if they find a memslot. */
static int mn_test_hold_until_entered(struct mn_test *t)
{
	bool entered;

	KVM_MMU_LOCK(t->kvm);
	WRITE_ONCE(t->go, true);
	entered = mn_test_spin_until(READ_ONCE(t->kvm->invalidate_gate.nr_active),
				     MN_TEST_TIMEOUT_US);
	KVM_MMU_UNLOCK(t->kvm);

	return entered ? 0 : -ETIMEDOUT;
}

static int mn_test_hold_unless_left(struct mn_test *t)
{
	bool left;

	KVM_MMU_LOCK(t->kvm);
	WRITE_ONCE(t->go, true);
	left = mn_test_spin_until(!READ_ONCE(t->kvm->invalidate_gate.nr_active),
				  MN_TEST_SHORT_US);
	KVM_MMU_UNLOCK(t->kvm);

	return left ? -EBUSY : 0;
}

/* Enter the gate before looking for memslots, and don't leave before that's done. */
static void test_mn_memslots_order(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_pair pair;
	struct mn_test_job *job;

	mn_test_create_vm(test);

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, mn_test_hold_until_entered, t->cpus[0]);
	mn_test_wait_for_go(t, job);
	mn_test_start(t, &pair, 20, 1);
	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, mn_test_hold_unless_left, t->cpus[0]);
	mn_test_wait_for_go(t, job);
	mn_test_end(t, &pair);
	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
}

#define MN_TEST_NR_UPDATES	20

static int mn_test_update_slots(struct mn_test *t)
{
	int i, ret = 0;

	for (i = 0; i < MN_TEST_NR_UPDATES && !ret; i++) {
		ret = mn_test_add_slot(t) ?:
		      mn_test_move_slot(t) ?:
		      mn_test_move_slot_back(t) ?:
		      mn_test_delete_added_slot(t);
	}

	return ret;
}

/* Pairs and updates at the same time.  Whatever happens, it must add up. */
static void test_mn_memslots_race(struct kunit *test)
{
	unsigned long end = jiffies + usecs_to_jiffies(MN_TEST_TIMEOUT_US);
	struct mmu_notifier_range a, b;
	struct mn_test *t = test->priv;
	struct mn_test_job *job;
	unsigned int i;

	mn_test_create_vm(test);
	job = mn_test_run(t, mn_test_update_slots);

	for (i = 0; !mn_test_is_done(job) && time_before(jiffies, end); i++) {
		mn_test_range(t, &a, i % MN_TEST_NR_PAGES, 1);
		mn_test_range(t, &b, (7 * i) % MN_TEST_NR_PAGES, 20);

		mmu_notifier_invalidate_range_start(&a);
		mmu_notifier_invalidate_range_start(&b);
		mmu_notifier_invalidate_range_end(&a);
		mmu_notifier_invalidate_range_end(&b);
		usleep_range(10, 100);
	}
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);

	t->counts.seq += 2 * i;
	t->counts.mmu_seq = t->kvm->mmu_invalidate_seq;
	mn_test_expect_counts(t);
}

/*
 * The end of the VM, or of the mm, between start() and end().
 */
struct mn_test_last {
	const char *name;
	bool in_slot, elsewhere, nonblock;
};

static const struct mn_test_last mn_test_lasts[] = {
	{ "no pair", false, false, false },
	{ "in a memslot", true, false, false },
	{ "elsewhere", false, true, false },
	{ "non-blockable", false, false, true },
	{ "all", true, true, true },
};

KUNIT_ARRAY_PARAM_DESC(mn_test_last, mn_test_lasts, name);

/* Returns the number of WARNs. */
static int mn_test_destroy(struct mn_test *t)
{
	int nr_warnings = 0;

	kunit_warning_suppress(t->test) {
		mn_test_destroy_vm(t);
		nr_warnings = KUNIT_SUPPRESSED_WARNING_COUNT();
	}

	return nr_warnings;
}

static void test_mn_destroy(struct kunit *test)
{
	const struct mn_test_last *last = test->param_value;
	struct mn_test_pair in_slot, elsewhere, nonblock;
	struct kvm_userspace_memory_region2 mem = {
		.slot = KVM_USER_MEM_SLOTS,
		.guest_phys_addr = MN_TEST_GPA(5),
		.memory_size = PAGE_SIZE,
		.userspace_addr = MN_TEST_HVA,
	};
	struct mn_test *t = test->priv;
	int ret;

	mn_test_create_vm(test);

	/* x86 deletes it when destroying the VM, i.e. locks the gate. */
	mutex_lock(&t->kvm->slots_lock);
	ret = kvm_set_internal_memslot(t->kvm, &mem);
	mutex_unlock(&t->kvm->slots_lock);
	KUNIT_ASSERT_EQ(test, ret, 0);

	if (last->in_slot)
		mn_test_start(t, &in_slot, 20, 1);
	if (last->elsewhere)
		mn_test_start(t, &elsewhere, MN_TEST_HOLE, 1);
	if (last->nonblock)
		mn_test_start_nonblock(t, &nonblock, 20, 1);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_destroy)), 0);

	/* Up to KASAN to find a use of the VM. */
	if (last->nonblock)
		mmu_notifier_invalidate_range_end(&nonblock.range);
	if (last->elsewhere)
		mmu_notifier_invalidate_range_end(&elsewhere.range);
	if (last->in_slot)
		mmu_notifier_invalidate_range_end(&in_slot.range);
}

/* The mm of this task goes away with the task, without an end(). */
static int mn_test_own_mm(struct mn_test *t)
{
	struct mn_test_pair pair;

	/* An assertion that fails ends this task, and the test times out. */
	mn_test_create_busy_vm(t->test);
	mn_test_start(t, &pair, 20, 1);
	t->mm = NULL;
	return 0;
}

static void test_mn_release(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_need_kvm(test);

	KUNIT_ASSERT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_own_mm)), 0);

	KUNIT_EXPECT_TRUE(test, mn_test_until(READ_ONCE(t->kvm->gpc_closed)));
	KUNIT_EXPECT_FALSE(test, mn_test_gpc_valid(t));
	KUNIT_EXPECT_FALSE(test, t->kvm->vm_dead);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_destroy)), 0);
}

/*
 * The fence.
 */
static void test_mn_fence(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm_vcpu *vcpu;

	mn_test_create_busy_vm(test);
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu));

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	t->counts.fenced = true;
	mn_test_expect_counts(t);

	/* For good. */
	KUNIT_EXPECT_TRUE(test, kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu));
	KUNIT_EXPECT_EQ(test, mn_test_gpc_activate(t), -EFAULT);
	KUNIT_EXPECT_FALSE(test, mn_test_gpc_valid(t));

	/* The ioctl is refused, but may have been under way. */
	vcpu = mn_test_create_vcpu(t, 1);
	KUNIT_ASSERT_NOT_NULL(test, vcpu);
	KUNIT_EXPECT_TRUE(test, kvm_test_request(KVM_REQ_VM_DEAD, vcpu));

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	mn_test_expect_counts(t);
}

/* That a VM died for another reason doesn't mean that its memory isn't used. */
static void test_mn_fence_dead_vm(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_create_busy_vm(test);
	kvm_vm_dead(t->kvm);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	t->counts.fenced = true;
	mn_test_expect_counts(t);
}

/*
 * Make it look as if the vCPU was running the guest on @cpu, and return where
 * it was.  The order of the stores, and of those in mn_test_exit_guest(), is
 * that of a vCPU that does so.
 */
static int mn_test_enter_guest(struct kvm_vcpu *vcpu, int cpu)
{
	int old_cpu = vcpu->cpu;

	WRITE_ONCE(vcpu->cpu, cpu);

	/* Store the mode before reading requests. */
	smp_store_mb(vcpu->mode, IN_GUEST_MODE);
	return old_cpu;
}

static void mn_test_exit_guest(struct kvm_vcpu *vcpu, int old_cpu)
{
	/* The guest's memory accesses come first. */
	smp_store_release(&vcpu->mode, OUTSIDE_GUEST_MODE);
	WRITE_ONCE(vcpu->cpu, old_cpu);
}

/* It's up to DEBUG_ATOMIC_SLEEP to complain. */
static void test_mn_fence_no_preempt(struct kunit *test)
{
	struct mmu_notifier_range range;
	struct mn_test *t = test->priv;
	int cpu, old_cpu, ret;
	bool fenced;

	mn_test_create_busy_vm(test);
	mn_test_range(t, &range, 0, MN_TEST_NR_PAGES);

	preempt_disable();
	non_block_start();

	/* Another CPU to send an IPI to, if there is one. */
	cpu = cpumask_any_but(cpu_online_mask, smp_processor_id());
	old_cpu = mn_test_enter_guest(t->vcpu, cpu < nr_cpu_ids ? cpu : smp_processor_id());

	ret = mmu_notifier_invalidate_range_start_nonblock(&range);
	fenced = mn_test_is_fenced(t);
	mmu_notifier_invalidate_range_end(&range);

	mn_test_exit_guest(t->vcpu, old_cpu);

	non_block_end();
	preempt_enable();

	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_TRUE(test, fenced);
	t->counts.fenced = true;
	mn_test_expect_counts(t);
}

/*
 * Is the fence, or a second one that would take the first one's word for it, done
 * before it should be?
 */
static bool mn_test_is_early(struct mn_test *t)
{
	return mn_test_spin_until(READ_ONCE(t->done) || READ_ONCE(t->kvm->mmu_notifier_fenced),
				  MN_TEST_SHORT_US);
}

/* A guest that doesn't exit at once when it's kicked. */
static int mn_test_guest(struct mn_test *t)
{
	struct kvm_vcpu *vcpu = t->vcpu;
	bool kicked, early;
	int old_cpu;

	local_irq_disable();
	old_cpu = mn_test_enter_guest(vcpu, smp_processor_id());
	WRITE_ONCE(t->go, true);

	kicked = mn_test_spin_until(READ_ONCE(vcpu->mode) == EXITING_GUEST_MODE &&
				    kvm_test_request(KVM_REQ_VM_DEAD, vcpu),
				    MN_TEST_TIMEOUT_US);
	early = mn_test_is_early(t);

	mn_test_exit_guest(vcpu, old_cpu);
	local_irq_enable();

	return !kicked ? -ETIMEDOUT : early ? -EBUSY : 0;
}

/* Somebody who found the cache valid, and uses it. */
static int mn_test_gpc_reader(struct mn_test *t)
{
	bool closed, early;

	guard(srcu)(&t->kvm->srcu);

	if (!kvm_gpc_tryget(&t->gpc, MN_TEST_GPC_LEN))
		return -EAGAIN;
	WRITE_ONCE(t->go, true);

	closed = mn_test_spin_until(READ_ONCE(t->kvm->gpc_closed), MN_TEST_TIMEOUT_US);
	early = mn_test_is_early(t);
	kvm_gpc_put(&t->gpc);

	return !closed ? -ETIMEDOUT : early ? -EBUSY : 0;
}

/* A second reaper, at the same time as the first one. */
static int mn_test_second_reaper(struct mn_test *t)
{
	if (!mn_test_spin_until(READ_ONCE(t->go), MN_TEST_TIMEOUT_US))
		return -ETIMEDOUT;

	return mn_test_reap(t);
}

/* Fence off a VM while another task does @fn. */
static void mn_test_fence(struct kunit *test, mn_test_fn fn)
{
	struct mn_test_job *job, *reaper = NULL;
	struct mn_test *t = test->priv;

	mn_test_create_busy_vm(test);

	mn_test_take_cpus(t);
	if (t->cpus[1] < nr_cpu_ids)
		reaper = mn_test_run_on(t, mn_test_second_reaper, t->cpus[1]);
	job = mn_test_run_on(t, fn, t->cpus[0]);
	mn_test_wait_for_go(t, job);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	mn_test_put_cpus(t);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
	if (reaper)
		KUNIT_EXPECT_EQ(test, mn_test_wait(t, reaper), 0);

	t->counts.fenced = true;
	mn_test_expect_counts(t);
}

static void test_mn_fence_waits_for_guest(struct kunit *test)
{
	mn_test_fence(test, mn_test_guest);
}

static void test_mn_fence_waits_for_reader(struct kunit *test)
{
	mn_test_fence(test, mn_test_gpc_reader);
}

/*
 * The locks that the fence doesn't wait for, in the order in which they nest.
 */
struct mn_test_lock {
	const char *name;
	void (*lock)(struct mn_test *t);
	void (*unlock)(struct mn_test *t);
};

#define MN_TEST_LOCK(name, lock, unlock)					\
static void mn_test_lock_##name(struct mn_test *t)				\
{										\
	lock;									\
}										\
										\
static void mn_test_unlock_##name(struct mn_test *t)				\
{										\
	unlock;									\
}

MN_TEST_LOCK(kvm_lock, mutex_lock(&kvm_lock), mutex_unlock(&kvm_lock))
MN_TEST_LOCK(lock, mutex_lock(&t->kvm->lock), mutex_unlock(&t->kvm->lock))
MN_TEST_LOCK(vcpu_mutex, mutex_lock(&t->vcpu->mutex), mutex_unlock(&t->vcpu->mutex))
MN_TEST_LOCK(slots_lock, mutex_lock(&t->kvm->slots_lock), mutex_unlock(&t->kvm->slots_lock))
MN_TEST_LOCK(resampler_lock, mutex_lock(&t->kvm->irqfds.resampler_lock),
	     mutex_unlock(&t->kvm->irqfds.resampler_lock))
MN_TEST_LOCK(irq_lock, mutex_lock(&t->kvm->irq_lock), mutex_unlock(&t->kvm->irq_lock))
MN_TEST_LOCK(srcu, t->srcu_idx = srcu_read_lock(&t->kvm->srcu),
	     srcu_read_unlock(&t->kvm->srcu, t->srcu_idx))
MN_TEST_LOCK(irq_srcu, t->irq_srcu_idx = srcu_read_lock(&t->kvm->irq_srcu),
	     srcu_read_unlock(&t->kvm->irq_srcu, t->irq_srcu_idx))
MN_TEST_LOCK(slots_arch_lock, mutex_lock(&t->kvm->slots_arch_lock),
	     mutex_unlock(&t->kvm->slots_arch_lock))
MN_TEST_LOCK(refresh_lock, mutex_lock(&t->gpc.refresh_lock), mutex_unlock(&t->gpc.refresh_lock))
MN_TEST_LOCK(pid_lock, write_lock(&t->vcpu->pid_lock), write_unlock(&t->vcpu->pid_lock))
MN_TEST_LOCK(mmu_lock, write_lock(&t->kvm->mmu_lock), write_unlock(&t->kvm->mmu_lock))
MN_TEST_LOCK(gate, spin_lock(&t->kvm->invalidate_gate.lock),
	     spin_unlock(&t->kvm->invalidate_gate.lock))
MN_TEST_LOCK(ring_lock, spin_lock(&t->kvm->ring_lock), spin_unlock(&t->kvm->ring_lock))
MN_TEST_LOCK(irqfds_lock, spin_lock_irq(&t->kvm->irqfds.lock),
	     spin_unlock_irq(&t->kvm->irqfds.lock))

#ifdef CONFIG_X86
MN_TEST_LOCK(apic_map_lock, mutex_lock(&t->kvm->arch.apic_map_lock),
	     mutex_unlock(&t->kvm->arch.apic_map_lock))
MN_TEST_LOCK(mmu_unsync_pages_lock, spin_lock(&t->kvm->arch.mmu_unsync_pages_lock),
	     spin_unlock(&t->kvm->arch.mmu_unsync_pages_lock))
#endif
#ifdef CONFIG_X86_64
MN_TEST_LOCK(tdp_mmu_pages_lock, spin_lock(&t->kvm->arch.tdp_mmu_pages_lock),
	     spin_unlock(&t->kvm->arch.tdp_mmu_pages_lock))
#endif

#define MN_TEST_LOCK_PARAM(name, desc)	{ desc, mn_test_lock_##name, mn_test_unlock_##name }

static const struct mn_test_lock mn_test_locks[] = {
	MN_TEST_LOCK_PARAM(kvm_lock, "kvm_lock"),
	MN_TEST_LOCK_PARAM(lock, "kvm->lock"),
	MN_TEST_LOCK_PARAM(vcpu_mutex, "vcpu->mutex"),
	MN_TEST_LOCK_PARAM(slots_lock, "kvm->slots_lock"),
	MN_TEST_LOCK_PARAM(resampler_lock, "kvm->irqfds.resampler_lock"),
	MN_TEST_LOCK_PARAM(irq_lock, "kvm->irq_lock"),
#ifdef CONFIG_X86
	MN_TEST_LOCK_PARAM(apic_map_lock, "kvm->arch.apic_map_lock"),
#endif
	MN_TEST_LOCK_PARAM(srcu, "kvm->srcu"),
	MN_TEST_LOCK_PARAM(irq_srcu, "kvm->irq_srcu"),
	MN_TEST_LOCK_PARAM(slots_arch_lock, "kvm->slots_arch_lock"),
	MN_TEST_LOCK_PARAM(refresh_lock, "gpc->refresh_lock"),
	MN_TEST_LOCK_PARAM(pid_lock, "vcpu->pid_lock"),
	MN_TEST_LOCK_PARAM(mmu_lock, "kvm->mmu_lock"),
#ifdef CONFIG_X86_64
	MN_TEST_LOCK_PARAM(tdp_mmu_pages_lock, "kvm->arch.tdp_mmu_pages_lock"),
#endif
#ifdef CONFIG_X86
	MN_TEST_LOCK_PARAM(mmu_unsync_pages_lock, "kvm->arch.mmu_unsync_pages_lock"),
#endif
	MN_TEST_LOCK_PARAM(gate, "kvm->invalidate_gate.lock"),
	MN_TEST_LOCK_PARAM(ring_lock, "kvm->ring_lock"),
	MN_TEST_LOCK_PARAM(irqfds_lock, "kvm->irqfds.lock"),
};

KUNIT_ARRAY_PARAM_DESC(mn_test_lock, mn_test_locks, name);

static int mn_test_hold_locks(struct mn_test *t)
{
	bool done;
	int i;

	for (i = 0; i < t->nr_locks; i++)
		t->locks[i].lock(t);
	WRITE_ONCE(t->go, true);

	done = mn_test_spin_until(READ_ONCE(t->done), MN_TEST_TIMEOUT_US);

	while (i--)
		t->locks[i].unlock(t);

	return done ? 0 : -ETIMEDOUT;
}

static void test_mn_fence_lock(struct kunit *test)
{
	struct mn_test *t = test->priv;

	t->locks = test->param_value;
	t->nr_locks = 1;
	mn_test_fence(test, mn_test_hold_locks);
}

static void test_mn_fence_all_locks(struct kunit *test)
{
	struct mn_test *t = test->priv;

	t->locks = mn_test_locks;
	t->nr_locks = ARRAY_SIZE(mn_test_locks);
	mn_test_fence(test, mn_test_hold_locks);
}

#define MN_TEST_NR_REAPERS	2
#define MN_TEST_NR_REAPS	10

static int mn_test_reaper(struct mn_test *t)
{
	atomic_inc(&t->nr_ready);
	if (!mn_test_spin_until(atomic_read(&t->nr_ready) == MN_TEST_NR_REAPERS,
				MN_TEST_TIMEOUT_US))
		return -ETIMEDOUT;

	return mn_test_reap(t);
}

/* None of them returns from start() before the VM is fenced off. */
static void test_mn_reapers(struct kunit *test)
{
	struct mn_test_job *jobs[MN_TEST_NR_REAPERS];
	struct mn_test *t = test->priv;
	int i, j, cpu;

	if (num_online_cpus() < MN_TEST_NR_REAPERS)
		kunit_skip(test, "needs two CPUs");

	for (i = 0; i < MN_TEST_NR_REAPS && !t->stuck; i++) {
		mn_test_create_busy_vm(test);
		atomic_set(&t->nr_ready, 0);

		cpu = -1;
		for (j = 0; j < MN_TEST_NR_REAPERS; j++) {
			cpu = cpumask_next(cpu, cpu_online_mask);
			jobs[j] = mn_test_run_on(t, mn_test_reaper, cpu);
		}
		for (j = 0; j < MN_TEST_NR_REAPERS; j++)
			KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[j]), 0);

		t->counts.fenced = true;
		mn_test_expect_counts(t);
		if (!t->stuck)
			mn_test_destroy_vm(t);
	}
}

static struct kunit_case mn_test_cases[] = {
	KUNIT_CASE(test_gate_counts),
	KUNIT_CASE(test_gate_underflow),
	KUNIT_CASE(test_gate_retry),
	KUNIT_CASE(test_gate_lock_waits),
	KUNIT_CASE(test_gate_lock_excludes),
	KUNIT_CASE(test_gate_wakes_all),
	KUNIT_CASE(test_gate_wait_killed),
	KUNIT_CASE(test_gate_reset),
	KUNIT_CASE_PARAM(test_mn_pairs, mn_test_where_gen_params),
	KUNIT_CASE(test_mn_random_pairs),
	KUNIT_CASE_PARAM(test_mn_other_fails, mn_test_order_gen_params),
	KUNIT_CASE_PARAM(test_mn_memslots, mn_test_update_gen_params),
	KUNIT_CASE(test_mn_memslots_order),
	KUNIT_CASE(test_mn_memslots_race),
	KUNIT_CASE_PARAM(test_mn_destroy, mn_test_last_gen_params),
	KUNIT_CASE(test_mn_release),
	KUNIT_CASE(test_mn_fence),
	KUNIT_CASE(test_mn_fence_dead_vm),
	KUNIT_CASE(test_mn_fence_no_preempt),
	KUNIT_CASE(test_mn_fence_waits_for_guest),
	KUNIT_CASE(test_mn_fence_waits_for_reader),
	KUNIT_CASE_PARAM(test_mn_fence_lock, mn_test_lock_gen_params),
	KUNIT_CASE(test_mn_fence_all_locks),
	KUNIT_CASE(test_mn_reapers),
	{}
};

static struct kunit_suite mn_test_suite = {
	.name = "kvm_mmu_notifier",
	.init = mn_test_init,
	.exit = mn_test_exit,
	.test_cases = mn_test_cases,
};

kunit_test_suite(mn_test_suite);
