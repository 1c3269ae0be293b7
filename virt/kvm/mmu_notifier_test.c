// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for KVM's MMU notifier, included by kvm_main.c.
 *
 * The gate is tested alone, everything else with a real mm and a real VM, by the
 * mm's API.  There is no guest, i.e. the vCPUs never enter it.  The VM has memslots
 * without VMAs, so that only the test invalidates them, and the page of a
 * gfn_to_pfn_cache, if the architecture has these.
 *
 * What might block if KVM is broken is done by another task, a job, which the test
 * waits for with a timeout.  If a job doesn't return, it isn't cleaned up, and
 * neither is anything that it uses.
 */

#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/debug_locks.h>
#include <linux/delay.h>
#include <linux/fdtable.h>
#include <linux/iopoll.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/panic.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/task_work.h>

#ifdef CONFIG_ARM64
#include <asm/kvm_emulate.h>
#include <asm/kvm_mmu.h>
#include <asm/kvm_pgtable.h>
#endif
#ifdef CONFIG_X86
#include "mmu.h"
#endif
#ifdef CONFIG_RISCV
#include <asm/kvm_mmu.h>
#endif

/* Without it, non-blockable invalidations are handled like blockable ones. */
#define MN_TEST_HAS_FENCE	(IS_ENABLED(CONFIG_KVM_MMU_NOTIFIER_FENCE) &&	\
				 kvm_arch_has_mmu_notifier_fence())

/* Without them, the gate counts invalidations, but doesn't record their ranges. */
#define MN_TEST_HAS_GPC		IS_ENABLED(CONFIG_HAVE_KVM_PFNCACHE)

#define MN_TEST_TIMEOUT_US	(10 * USEC_PER_SEC)

/* Long enough to find a missing wait. */
#define MN_TEST_SHORT_US	(20 * USEC_PER_MSEC)

#define MN_TEST_HVA		0x10000000UL
#define MN_TEST_NR_PAGES	80
#define MN_TEST_GPC_LEN		8

/* The id is the index.  The last one has the HVAs of half of the second one. */
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

/* What KVM counts, and the values that the test expects. */
struct mn_test_counts {
	unsigned long nr_active;
	long in_progress;
	unsigned long mmu_seq;
	bool fenced;
};

struct mn_test_pair {
	struct mmu_notifier_range range;
	bool in_slot;
};

struct mn_test {
	struct kunit *test;

	/* What the kernel has complained about before. */
	int debug_locks, warned;

	struct kvm_invalidate_gate gate;
	unsigned long wait_hva;

	struct mm_struct *mm;
	struct kvm *kvm;
	struct kvm_vcpu *vcpu;
	struct gfn_to_pfn_cache gpc;
	unsigned long hva;
	struct mn_test_counts counts;

	/* Calls of KVM's start() and end(), while they are intercepted. */
	int nr_starts, nr_ends;

	/* What the fence has called, while that is intercepted. */
	atomic_t nr_fences, nr_unmaps, nr_reclaims;
	bool wrong_fence, wrong_reclaim;

	/* The result of a task that runs the vCPU. */
	struct completion run_done;
	int run_ret;

	/* A job sets @go when it has begun, and continues until @done is set. */
	bool go, done;
	int cpus[2];
	const struct mn_test_lock *lock;
	struct mn_test_pair job_pair;
	atomic_t nr_ready;

	/* A job didn't return. */
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
 * Stay on this CPU, and choose another CPU, or two if possible, for jobs that spin
 * with preemption or interrupts disabled.
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

/* Don't sleep, the job may spin on the CPU that handles timers. */
static void mn_test_wait_for_go(struct mn_test *t, struct mn_test_job *job)
{
	bool go = mn_test_spin_until(READ_ONCE(t->go) || mn_test_is_done(job),
				     MN_TEST_TIMEOUT_US);

	KUNIT_EXPECT_TRUE(t->test, go);
}

static unsigned long mn_test_hva(unsigned int page)
{
	return MN_TEST_HVA + page * PAGE_SIZE;
}

/* The number of refreshes, and swaps of memslots, that sleep. */
static int mn_test_nr_waiters(struct kvm_invalidate_gate *gate)
{
	guard(spinlock)(&gate->lock);
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	return list_count_nodes(&gate->waiters) + rcuwait_active(&gate->swap);
#else
	return rcuwait_active(&gate->swap);
#endif
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
		/* Keep the vCPU, but drop its reference to the VM. */
		close_fd(new->fd);
		task_work_run();
	}

	complete(&new->done);
	do_exit(0);
}

/*
 * A vCPU inherits permissions from the FPU state of the task that creates it.
 * Kthreads, i.e. KUnit and jobs, don't have any, which X86_DEBUG_FPU reports.
 */
static struct kvm_vcpu *mn_test_create_vcpu(struct mn_test *t, int id)
{
	struct mn_test_new_vcpu new = { .kvm = t->kvm, .id = id };
	pid_t pid;

	init_completion(&new.done);

	/* Its exit isn't waited for, kthreads ignore SIGCHLD. */
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

#ifdef CONFIG_HAVE_KVM_PFNCACHE
static void mn_test_gpc_init(struct mn_test *t)
{
	/* The cache of the previous VM isn't used anymore. */
	memset(&t->gpc, 0, sizeof(t->gpc));
	kvm_gpc_init(&t->gpc, t->kvm);
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
	return kvm_gpc_activate_hva(&t->gpc, t->hva, MN_TEST_GPC_LEN);
}

static void mn_test_gpc_deactivate(struct mn_test *t)
{
	kvm_gpc_deactivate(&t->gpc);
}
#else
static void mn_test_gpc_init(struct mn_test *t)
{
}

static bool mn_test_gpc_valid(struct mn_test *t)
{
	return false;
}

static void mn_test_gpc_deactivate(struct mn_test *t)
{
}
#endif

/* kvm_init() registers the device last. */
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

	/* The VM before this one was reaped. */
	mm_flags_clear(MMF_UNSTABLE, t->mm);

	kvm = kvm_create_vm(0, "kunit");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, kvm);
	kvm_uevent_notify_change(KVM_EVENT_CREATE_VM, kvm);
	t->kvm = kvm;
	mn_test_gpc_init(t);

	for (i = 0; i < ARRAY_SIZE(mn_test_slots); i++)
		KUNIT_ASSERT_EQ(test, mn_test_set_slot(t, i, mn_test_slots[i].page,
						       mn_test_slots[i].nr_pages,
						       MN_TEST_GPA(i), 0), 0);

	t->counts = (struct mn_test_counts) {
		.mmu_seq = kvm->mmu_invalidate_seq,
	};
}

/* A VM with a vCPU, a page, and a valid cache of it. */
static void mn_test_create_busy_vm(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_create_vm(test);

	t->vcpu = mn_test_create_vcpu(t, 0);
	KUNIT_ASSERT_NOT_NULL(test, t->vcpu);

	t->hva = kunit_vm_mmap(test, NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, t->hva, 0);

#ifdef CONFIG_HAVE_KVM_PFNCACHE
	KUNIT_ASSERT_EQ(test, mn_test_gpc_activate(t), 0);
	KUNIT_ASSERT_TRUE(test, mn_test_gpc_valid(t));
#endif
}

static void mn_test_destroy_vm(struct mn_test *t)
{
	struct kvm *kvm = t->kvm;

	if (!kvm)
		return;

	/* KVM frees everything else. */
	mn_test_gpc_deactivate(t);
	t->vcpu = NULL;
	t->kvm = NULL;
	kvm_put_kvm(kvm);
}

static void mn_test_free(void *data)
{
	struct mn_test *t = data;

	if (t->stuck)
		return;

	kvm_invalidate_gate_destroy(&t->gate);
	kfree(t);
}

static int mn_test_init(struct kunit *test)
{
	struct mn_test *t = kzalloc_obj(*t);

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->test = test;
	t->debug_locks = debug_locks;
	t->warned = test_taint(TAINT_WARN);

	/* The first action runs last, i.e. after those that end the use of @t. */
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, mn_test_free, t), 0);
	KUNIT_ASSERT_EQ(test, kvm_invalidate_gate_init(&t->gate), 0);
	test->priv = t;
	return 0;
}

static void mn_test_exit(struct kunit *test)
{
	struct mn_test *t = test->priv;

	if (!t)
		return;

	if (!t->stuck)
		mn_test_destroy_vm(t);

	/* Some bugs are only found by lockdep, or by DEBUG_ATOMIC_SLEEP and other WARNs. */
	KUNIT_EXPECT_EQ_MSG(test, debug_locks, t->debug_locks, "see the kernel log");
	KUNIT_EXPECT_EQ_MSG(test, test_taint(TAINT_WARN), t->warned, "see the kernel log");
}

/*
 * Invalidations.
 */
static void mn_test_expect_counts(struct mn_test *t)
{
	struct mn_test_counts *counts = &t->counts;
	struct kvm *kvm = t->kvm;

	KUNIT_EXPECT_EQ(t->test, kvm->invalidate_gate.nr_active, counts->nr_active);
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	KUNIT_EXPECT_EQ(t->test, kvm->invalidate_gate.nr_ranges +
			kvm->invalidate_gate.nr_unknown, counts->nr_active);
#endif
	KUNIT_EXPECT_EQ(t->test, kvm->mmu_invalidate_in_progress, counts->in_progress);
	KUNIT_EXPECT_EQ(t->test, kvm->mmu_invalidate_seq, counts->mmu_seq);

	KUNIT_EXPECT_EQ(t->test, kvm->vm_dead, counts->fenced);
	KUNIT_EXPECT_EQ(t->test, kvm->gpc_closed, counts->fenced && MN_TEST_HAS_GPC);
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
	unsigned long start = mn_test_hva(page);

	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, t->mm, start,
				start + nr_pages * PAGE_SIZE);
}

static void mn_test_start(struct mn_test *t, struct mn_test_pair *pair,
			  unsigned int page, unsigned int nr_pages)
{
	mn_test_range(t, &pair->range, page, nr_pages);
	pair->in_slot = mn_test_in_slot(page, nr_pages);

	mmu_notifier_invalidate_range_start(&pair->range);

	t->counts.nr_active++;
	t->counts.in_progress += pair->in_slot;
	mn_test_expect_counts(t);
}

/* As zap_vma_for_reaping(), whose callers have marked the mm. */
static int mn_test_start_reaping(struct mmu_notifier_range *range)
{
	int ret;

	mm_flags_set(MMF_UNSTABLE, range->mm);

	non_block_start();
	ret = mmu_notifier_invalidate_range_start_nonblock(range);
	non_block_end();

	return ret;
}

static void mn_test_start_nonblock(struct mn_test *t, struct mn_test_pair *pair,
				   unsigned int page, unsigned int nr_pages)
{
	mn_test_range(t, &pair->range, page, nr_pages);
	pair->in_slot = mn_test_in_slot(page, nr_pages);

	KUNIT_EXPECT_EQ(t->test, mn_test_start_reaping(&pair->range), 0);

	if (MN_TEST_HAS_FENCE) {
		t->counts.fenced = true;
	} else {
		t->counts.nr_active++;
		t->counts.in_progress += pair->in_slot;
	}
	mn_test_expect_counts(t);
}

static void mn_test_end(struct mn_test *t, struct mn_test_pair *pair)
{
	bool blockable = mmu_notifier_range_blockable(&pair->range);

	if (!blockable)
		non_block_start();
	mmu_notifier_invalidate_range_end(&pair->range);
	if (!blockable)
		non_block_end();

	if (blockable || !MN_TEST_HAS_FENCE) {
		t->counts.nr_active--;
		t->counts.in_progress -= pair->in_slot;
		t->counts.mmu_seq += pair->in_slot;
	}

	mn_test_expect_counts(t);
}

/* Is the VM fenced off, as seen by the task that is about to free its memory? */
static bool mn_test_is_fenced(struct mn_test *t)
{
	struct kvm *kvm = t->kvm;

	return READ_ONCE(kvm->vm_dead) && READ_ONCE(kvm->gpc_closed) == MN_TEST_HAS_GPC &&
	       READ_ONCE(kvm->mmu_notifier_fenced) && !mn_test_gpc_valid(t) &&
	       kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu);
}

/* As __oom_reap_task_mm(), but without freeing anything. */
static int mn_test_reap(struct mn_test *t)
{
	struct mmu_notifier_range range;
	bool fenced;
	int ret;

	mn_test_range(t, &range, 0, MN_TEST_NR_PAGES);

	mmap_read_lock(t->mm);
	mm_flags_set(MMF_UNSTABLE, t->mm);
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
 * The gate.
 */
static void mn_test_enter(struct mn_test *t, unsigned int page)
{
	kvm_invalidate_gate_enter(&t->gate, mn_test_hva(page), mn_test_hva(page + 1));
}

static void mn_test_leave(struct mn_test *t, unsigned int page)
{
	kvm_invalidate_gate_leave(&t->gate, mn_test_hva(page), mn_test_hva(page + 1), false);
}

#ifdef CONFIG_HAVE_KVM_PFNCACHE
static bool mn_test_busy(struct mn_test *t, unsigned int page)
{
	guard(spinlock)(&t->gate.lock);
	return kvm_invalidate_gate_busy(&t->gate, mn_test_hva(page));
}

static void mn_test_expect_busy(struct mn_test *t, unsigned int page, bool busy)
{
	KUNIT_EXPECT_EQ(t->test, mn_test_busy(t, page), busy);
}
#else
static void mn_test_expect_busy(struct mn_test *t, unsigned int page, bool busy)
{
}
#endif

static void mn_test_expect_idle(struct mn_test *t)
{
	KUNIT_EXPECT_EQ(t->test, t->gate.nr_active, 0);
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	KUNIT_EXPECT_EQ(t->test, t->gate.nr_ranges, 0);
	KUNIT_EXPECT_EQ(t->test, t->gate.nr_unknown, 0);
#endif
}

static void test_gate_counts(struct kunit *test)
{
	struct mn_test *t = test->priv;
	int i;

	for (i = 0; i < 3; i++) {
		KUNIT_EXPECT_EQ(test, t->gate.nr_active, i);
		mn_test_enter(t, i);
	}

	/* In any order. */
	mn_test_leave(t, 1);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 2);
	mn_test_expect_busy(t, 0, true);
	mn_test_expect_busy(t, 1, false);
	mn_test_expect_busy(t, 2, true);
	mn_test_enter(t, 1);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 3);
	mn_test_expect_busy(t, 1, true);

	for (i = 0; i < 3; i++) {
		mn_test_leave(t, i);
		KUNIT_EXPECT_EQ(test, t->gate.nr_active, 2 - i);
		mn_test_expect_busy(t, i, false);
	}
	mn_test_expect_idle(t);

	/* The same start, or the same end, but another range. */
	for (i = 0; i < 2; i++) {
		kvm_invalidate_gate_enter(&t->gate, mn_test_hva(0), mn_test_hva(2));
		mn_test_enter(t, 0);
		mn_test_enter(t, 1);
		kvm_invalidate_gate_leave(&t->gate, mn_test_hva(0), mn_test_hva(2), false);
		mn_test_leave(t, i);
		mn_test_expect_busy(t, i, false);
		mn_test_expect_busy(t, !i, true);
		mn_test_leave(t, !i);
		mn_test_expect_idle(t);
	}
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
	mn_test_enter(t, 0);
	return 0;
}

/* Have another task sleep until nothing is in flight, or nothing that hits @page. */
static struct mn_test_job *mn_test_run_waiter(struct mn_test *t, mn_test_fn fn, int page)
{
	int nr_waiters = mn_test_nr_waiters(&t->gate);
	struct mn_test_job *job;

	WRITE_ONCE(t->wait_hva, mn_test_hva(page));
	job = mn_test_run(t, fn);
	KUNIT_EXPECT_TRUE(t->test,
			  mn_test_until(mn_test_nr_waiters(&t->gate) == nr_waiters + 1));
	return job;
}

/* A task that was preempted isn't asleep, even if it has already set its state. */
static bool mn_test_is_asleep(struct task_struct *task)
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

/* How often any of the jobs has fallen asleep so far, i.e. was awake. */
static unsigned long mn_test_nr_sleeps(struct mn_test_job **jobs, int nr_jobs)
{
	unsigned long nr_sleeps = 0;
	int i;

	/* Give a job that was woken time to run. */
	usleep_range(MN_TEST_SHORT_US, 2 * MN_TEST_SHORT_US);

	for (i = 0; i < nr_jobs; i++) {
		if (!jobs[i])
			continue;

		/* The gate has listed it before it fell asleep. */
		KUNIT_EXPECT_TRUE(jobs[i]->t->test,
				  mn_test_until(mn_test_is_asleep(jobs[i]->task)));
		nr_sleeps += READ_ONCE(jobs[i]->task->nvcsw);
	}
	return nr_sleeps;
}

/* An unbalanced leave() is reported, and the gate can still be locked. */
static void test_gate_underflow(struct kunit *test)
{
	struct mn_test *t = test->priv;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "needs CONFIG_BUG");

	kunit_warning_suppress(test) {
		mn_test_leave(t, 0);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	mn_test_expect_idle(t);
	mn_test_expect_busy(t, 0, false);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_lock)), 0);

	kunit_warning_suppress(test) {
		mn_test_enter(t, 0);
		KUNIT_EXPECT_EQ(test, t->gate.nr_active, 1);
		mn_test_leave(t, 0);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 0);
	}
	mn_test_expect_idle(t);
}

/* Locking the gate waits for all in flight, but an enter() doesn't wait for that. */
static void test_gate_lock_waits(struct kunit *test)
{
	struct mn_test *t = test->priv;
	unsigned long nr_sleeps;
	struct mn_test_job *job;
	int i;

	mn_test_enter(t, 0);
	mn_test_enter(t, 0);

	job = mn_test_run_waiter(t, mn_test_gate_lock, 0);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_enter)), 0);

	nr_sleeps = mn_test_nr_sleeps(&job, 1);
	for (i = 3; i > 0 && !t->stuck; i--) {
		KUNIT_EXPECT_EQ(test, mn_test_nr_sleeps(&job, 1), nr_sleeps);
		KUNIT_EXPECT_FALSE(test, mn_test_is_done(job));
		mn_test_leave(t, 0);
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

/* No invalidation begins or ends while the gate is locked. */
static void test_gate_lock_excludes(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, mn_test_gate_hold, t->cpus[0]);
	mn_test_wait_for_go(t, job);

	mn_test_enter(t, 0);
	KUNIT_EXPECT_TRUE(test, READ_ONCE(t->done));
	mn_test_leave(t, 0);

	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
}

static void test_gate_reset(struct kunit *test)
{
	struct mn_test *t = test->priv;
	int i;

	KUNIT_EXPECT_FALSE(test, kvm_invalidate_gate_reset(&t->gate));

	for (i = 0; i < KVM_INVALIDATE_NR_RANGES + 2; i++)
		mn_test_enter(t, i);
	KUNIT_EXPECT_TRUE(test, kvm_invalidate_gate_reset(&t->gate));
	mn_test_expect_idle(t);
	mn_test_expect_busy(t, 0, false);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_lock)), 0);
	KUNIT_EXPECT_FALSE(test, kvm_invalidate_gate_reset(&t->gate));
}

#ifdef CONFIG_HAVE_KVM_PFNCACHE
/*
 * The ranges in the gate, and the refreshes that wait for them.
 */
/* The range, as seen from a page. */
struct mn_test_gate_range {
	const char *name;
	long start, end;
	bool busy;
};

static const struct mn_test_gate_range mn_test_gate_ranges[] = {
	{ "the page", 0, PAGE_SIZE, true },
	{ "the page before", -PAGE_SIZE, 0, false },
	{ "the page after", PAGE_SIZE, 2 * PAGE_SIZE, false },
	{ "all before and the page", -MN_TEST_HVA, PAGE_SIZE, true },
	{ "all before", -MN_TEST_HVA, 0, false },
	{ "the page and all after", 0, -1 - MN_TEST_HVA, true },
	{ "all after", PAGE_SIZE, -1 - MN_TEST_HVA, false },
	{ "everything", -MN_TEST_HVA, -1 - MN_TEST_HVA, true },
	{ "the first byte", 0, 1, true },
	{ "the last byte", PAGE_SIZE - 1, PAGE_SIZE, true },
	{ "a byte in the middle", 0x123, 0x124, true },
	{ "up to the first byte", -0x123, 1, true },
	{ "from the last byte", PAGE_SIZE - 1, PAGE_SIZE + 0x123, true },
	{ "the last byte before", -1, 0, false },
	{ "the first byte after", PAGE_SIZE, PAGE_SIZE + 1, false },
	{ "empty, the page", 0, 0, false },
	{ "empty, in the page", 0x123, 0x123, false },
	{ "empty, everything", -MN_TEST_HVA, -MN_TEST_HVA, false },
	{ "end before start, the page", PAGE_SIZE, 0, false },
	{ "end before start, in the page", 0x124, 0x123, false },
	{ "end before start, no end", 0, -MN_TEST_HVA, false },
};

KUNIT_ARRAY_PARAM_DESC(mn_test_gate_range, mn_test_gate_ranges, name);

static void test_gate_ranges(struct kunit *test)
{
	const struct mn_test_gate_range *range = test->param_value;
	unsigned long start = MN_TEST_HVA + range->start;
	unsigned long end = MN_TEST_HVA + range->end;
	struct mn_test *t = test->priv;

	kvm_invalidate_gate_enter(&t->gate, start, end);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 1);
	KUNIT_EXPECT_EQ(test, mn_test_busy(t, 0), range->busy);

	/* Among others, and of two equal ones, one ends. */
	mn_test_enter(t, -1);
	mn_test_enter(t, 1);
	kvm_invalidate_gate_enter(&t->gate, start, end);
	KUNIT_EXPECT_EQ(test, mn_test_busy(t, 0), range->busy);
	kvm_invalidate_gate_leave(&t->gate, start, end, false);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 3);
	KUNIT_EXPECT_EQ(test, mn_test_busy(t, 0), range->busy);

	mn_test_leave(t, -1);
	kvm_invalidate_gate_leave(&t->gate, start, end, false);
	KUNIT_EXPECT_FALSE(test, mn_test_busy(t, 0));
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 1));
	mn_test_leave(t, 1);
	mn_test_expect_idle(t);
}

/* More ranges than there is room for. */
static void test_gate_full(struct kunit *test)
{
	const int nr = KVM_INVALIDATE_NR_RANGES;
	struct mn_test *t = test->priv;
	int i;

	for (i = 0; i < nr; i++)
		mn_test_enter(t, i);
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, nr - 1));
	KUNIT_EXPECT_FALSE(test, mn_test_busy(t, nr));

	/* The gate knows only the number of the others, i.e. every page is busy. */
	mn_test_enter(t, nr);
	mn_test_enter(t, 0);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, nr + 2);
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, nr));
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, nr + 10));

	/* There's room again, but not for those that are in flight already. */
	mn_test_leave(t, 1);
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 1));
	mn_test_enter(t, 1);

	/* Of two equal ranges, one is recorded, the other one isn't. */
	mn_test_leave(t, 0);
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, nr + 10));
	mn_test_leave(t, nr);
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 0));
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, nr + 10));
	mn_test_leave(t, 0);
	KUNIT_EXPECT_FALSE(test, mn_test_busy(t, 0));
	KUNIT_EXPECT_FALSE(test, mn_test_busy(t, nr + 10));
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 1));

	for (i = 1; i < nr; i++)
		mn_test_leave(t, i);
	mn_test_expect_idle(t);

	/* All of them have the same range. */
	for (i = 0; i < nr + 3; i++)
		mn_test_enter(t, 0);
	for (i = 0; i < nr + 3; i++) {
		KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 0));
		mn_test_leave(t, 0);
	}
	KUNIT_EXPECT_FALSE(test, mn_test_busy(t, 0));
	mn_test_expect_idle(t);
}

/* -EAGAIN if it had to sleep. */
static int mn_test_gate_wait(struct mn_test *t)
{
	int ret;

	allow_signal(SIGKILL);
	ret = kvm_invalidate_gate_wait(&t->gate, READ_ONCE(t->wait_hva), TASK_KILLABLE);
	flush_signals(current);
	return ret;
}

/* The end of an invalidation wakes only tasks that wait for it. */
static void test_gate_wakes(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *jobs[4];
	unsigned long nr_sleeps;

	mn_test_enter(t, 0);
	mn_test_enter(t, 0);
	mn_test_enter(t, 1);
	mn_test_enter(t, 2);

	jobs[0] = mn_test_run_waiter(t, mn_test_gate_wait, 0);
	jobs[1] = mn_test_run_waiter(t, mn_test_gate_wait, 0);
	jobs[2] = mn_test_run_waiter(t, mn_test_gate_wait, 1);
	jobs[3] = mn_test_run_waiter(t, mn_test_gate_lock, 0);
	nr_sleeps = mn_test_nr_sleeps(jobs, 4);

	/* No task waits for these, or the page is in another one. */
	mn_test_leave(t, 2);
	mn_test_enter(t, 0);
	mn_test_leave(t, 0);
	mn_test_leave(t, 0);
	KUNIT_EXPECT_EQ(test, mn_test_nr_sleeps(jobs, 4), nr_sleeps);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 4);

	/* All tasks that wait for it. */
	nr_sleeps = mn_test_nr_sleeps(&jobs[2], 2);
	mn_test_leave(t, 0);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[0]), -EAGAIN);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[1]), -EAGAIN);
	KUNIT_EXPECT_EQ(test, mn_test_nr_sleeps(&jobs[2], 2), nr_sleeps);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 2);

	/* A refresh, and then, after the last one, the swap. */
	mn_test_enter(t, 2);
	nr_sleeps = mn_test_nr_sleeps(&jobs[3], 1);
	mn_test_leave(t, 1);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[2]), -EAGAIN);
	KUNIT_EXPECT_EQ(test, mn_test_nr_sleeps(&jobs[3], 1), nr_sleeps);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 1);

	mn_test_leave(t, 2);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[3]), 0);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 0);
	mn_test_expect_idle(t);
}

/* A task that waits for a range that isn't recorded waits for all of these. */
static void test_gate_wakes_full(struct kunit *test)
{
	const int nr = KVM_INVALIDATE_NR_RANGES;
	struct mn_test *t = test->priv;
	unsigned long nr_sleeps;
	struct mn_test_job *job;
	int i;

	for (i = 0; i < nr + 2; i++)
		mn_test_enter(t, i);
	job = mn_test_run_waiter(t, mn_test_gate_wait, nr + 10);
	nr_sleeps = mn_test_nr_sleeps(&job, 1);

	for (i = 0; i < nr + 1; i++)
		mn_test_leave(t, i);
	KUNIT_EXPECT_EQ(test, mn_test_nr_sleeps(&job, 1), nr_sleeps);
	KUNIT_EXPECT_FALSE(test, mn_test_is_done(job));

	mn_test_leave(t, nr + 1);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), -EAGAIN);
	mn_test_expect_idle(t);
}

/* The leave() of a range that isn't in flight is reported, and keeps no page busy. */
static void test_gate_mismatch(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "needs CONFIG_BUG");

	kunit_warning_suppress(test) {
		mn_test_enter(t, 0);
		mn_test_leave(t, 1);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	mn_test_expect_idle(t);
	KUNIT_EXPECT_FALSE(test, mn_test_busy(t, 0));

	/* Until all that are in flight have ended, any of them can be the wrong one. */
	mn_test_enter(t, 0);
	mn_test_enter(t, 2);
	mn_test_enter(t, 3);
	job = mn_test_run_waiter(t, mn_test_gate_wait, 0);
	kunit_warning_suppress(test) {
		mn_test_leave(t, 1);
		KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, 1);
	}
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 2);
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 0));
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 2));
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 4));

	mn_test_enter(t, 4);
	mn_test_leave(t, 3);
	mn_test_leave(t, 4);
	KUNIT_EXPECT_TRUE(test, mn_test_busy(t, 0));
	KUNIT_EXPECT_FALSE(test, mn_test_is_done(job));

	mn_test_leave(t, 2);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), -EAGAIN);
	mn_test_expect_idle(t);
	KUNIT_EXPECT_FALSE(test, mn_test_busy(t, 0));

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_lock)), 0);
}

/*
 * Once the caches are closed, the next end() of a blockable invalidation, of any range,
 * wakes the task.
 */
static void test_gate_wakes_closed(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;

	mn_test_enter(t, 0);
	mn_test_enter(t, 0);
	mn_test_enter(t, 1);
	job = mn_test_run_waiter(t, mn_test_gate_wait, 0);

	kvm_invalidate_gate_leave(&t->gate, mn_test_hva(1), mn_test_hva(2), true);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), -EAGAIN);

	mn_test_leave(t, 0);
	mn_test_leave(t, 0);
	mn_test_expect_idle(t);
}

/* Two tasks wait for the same page, one of them is killed. */
static void test_gate_wait_killed(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *jobs[2];
	unsigned long nr_sleeps;

	/* Nothing to wait for. */
	mn_test_enter(t, 1);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_gate_wait)), 0);

	mn_test_enter(t, 0);
	jobs[0] = mn_test_run_waiter(t, mn_test_gate_wait, 0);
	KUNIT_ASSERT_NOT_NULL(test, jobs[0]);
	jobs[1] = mn_test_run_waiter(t, mn_test_gate_wait, 0);
	nr_sleeps = mn_test_nr_sleeps(&jobs[1], 1);

	send_sig(SIGKILL, jobs[0]->task, 1);
	KUNIT_EXPECT_TRUE(test, mn_test_until(mn_test_is_done(jobs[0])));
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 1);
	KUNIT_EXPECT_EQ(test, mn_test_nr_sleeps(&jobs[1], 1), nr_sleeps);
	KUNIT_EXPECT_EQ(test, t->gate.nr_active, 2);

	mn_test_leave(t, 0);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[0]), -EINTR);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, jobs[1]), -EAGAIN);
	KUNIT_EXPECT_EQ(test, mn_test_nr_waiters(&t->gate), 0);

	mn_test_leave(t, 1);
	mn_test_expect_idle(t);
}
#endif /* CONFIG_HAVE_KVM_PFNCACHE */

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
	{ "across the start of a memslot", 15, 2 },
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

	/* First without the fence, then the fence in the middle, then after the fence. */
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

/*
 * A second notifier, which fails if it must not block.  Only a notifier without end()
 * may do that.
 */
static int mn_test_other_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range) ? 0 : -EAGAIN;
}

static const struct mmu_notifier_ops mn_test_other_ops = {
	.invalidate_range_start = mn_test_other_start,
};

/* KVM's notifier, with a count of calls. */
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

	/* The notifier that was registered last is called first. */
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
		ret = mn_test_start_reaping(&range);

		/* Balanced, i.e. the caller must not call end(). */
		KUNIT_EXPECT_EQ(test, ret, -EAGAIN);
		KUNIT_EXPECT_EQ(test, t->nr_starts, i + 2);
		KUNIT_EXPECT_EQ(test, t->nr_ends, i + 1);
		if (MN_TEST_HAS_FENCE)
			t->counts.fenced = true;
		else
			t->counts.mmu_seq++;
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

	/* A page that is affected, and the memslot after the update. */
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

/* These pairs must not wait for the update. */
static int mn_test_pairs_elsewhere(struct mn_test *t)
{
	mn_test_start(t, &t->job_pair, 48, 16);
	mn_test_end(t, &t->job_pair);

	mn_test_start_nonblock(t, &t->job_pair, 0, MN_TEST_NR_PAGES);
	mn_test_end(t, &t->job_pair);
	return 0;
}

/* An update of memslots has to wait for a pair. */
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

/* KVM enters the gate before it looks for memslots, and leaves it after that. */
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

/* Pairs and updates at the same time.  The counts must be balanced. */
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
	int ret = 0;

	mn_test_create_vm(test);

	/*
	 * x86 deletes it when it destroys the VM, i.e. locks the gate.  Most of the
	 * other architectures have no internal memslots.
	 */
	mutex_lock(&t->kvm->slots_lock);
	if (KVM_INTERNAL_MEM_SLOTS)
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

	/* KASAN would find a use of the VM. */
	if (last->nonblock)
		mmu_notifier_invalidate_range_end(&nonblock.range);
	if (last->elsewhere)
		mmu_notifier_invalidate_range_end(&elsewhere.range);
	if (last->in_slot)
		mmu_notifier_invalidate_range_end(&in_slot.range);
}

/* The mm of this task is freed when the task exits, without an end(). */
static int mn_test_own_mm(struct mn_test *t)
{
	struct mn_test_pair pair;

	/* If an assertion fails, the task exits, and the test times out. */
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

	/* The flag is set before the caches are closed, by another task. */
	KUNIT_EXPECT_TRUE(test, mn_test_until(!mn_test_gpc_valid(t)));
	KUNIT_EXPECT_EQ(test, READ_ONCE(t->kvm->gpc_closed), MN_TEST_HAS_GPC);
	KUNIT_EXPECT_FALSE(test, t->kvm->vm_dead);

	KUNIT_EXPECT_EQ(test, mn_test_wait(t, mn_test_run(t, mn_test_destroy)), 0);
}

/*
 * The fence.
 */
static void mn_test_create_vm_to_fence(struct kunit *test)
{
	if (!MN_TEST_HAS_FENCE)
		kunit_skip(test, "the architecture has no fence");

	mn_test_create_busy_vm(test);
}

static void test_mn_fence(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm_vcpu *vcpu;

	mn_test_create_vm_to_fence(test);
	KUNIT_EXPECT_FALSE(test, kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu));

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	t->counts.fenced = true;
	mn_test_expect_counts(t);

	/* This can't be undone. */
	KUNIT_EXPECT_TRUE(test, kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu));
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	KUNIT_EXPECT_EQ(test, mn_test_gpc_activate(t), -EFAULT);
	KUNIT_EXPECT_FALSE(test, mn_test_gpc_valid(t));
#endif

	/* The ioctl() is refused, but may have been started before. */
	vcpu = mn_test_create_vcpu(t, 1);
	KUNIT_ASSERT_NOT_NULL(test, vcpu);
	KUNIT_EXPECT_TRUE(test, kvm_test_request(KVM_REQ_VM_DEAD, vcpu));

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	mn_test_expect_counts(t);
}

/* If the VM died for another reason, its memory may still be in use. */
static void test_mn_fence_dead_vm(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_create_vm_to_fence(test);
	kvm_vm_dead(t->kvm);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	t->counts.fenced = true;
	mn_test_expect_counts(t);
}

/*
 * Change the state of the vCPU as if it ran the guest, or read its page tables, on
 * @cpu.  Returns its old CPU.  The stores here, and in mn_test_exit_guest(), have the
 * order of those of a real vCPU.
 */
static int mn_test_enter_guest(struct kvm_vcpu *vcpu, int cpu, int mode)
{
	int old_cpu = vcpu->cpu;

	WRITE_ONCE(vcpu->cpu, cpu);

	/* Store the CPU before the mode. */
	smp_wmb();

	/* Store the mode before reading requests. */
	smp_store_mb(vcpu->mode, mode);
	return old_cpu;
}

static void mn_test_exit_guest(struct kvm_vcpu *vcpu, int old_cpu)
{
	/* The guest's memory accesses come first. */
	smp_store_release(&vcpu->mode, OUTSIDE_GUEST_MODE);
	WRITE_ONCE(vcpu->cpu, old_cpu);
}

/* If the fence slept, DEBUG_ATOMIC_SLEEP would complain. */
static void test_mn_fence_no_preempt(struct kunit *test)
{
	struct mmu_notifier_range range;
	struct mn_test *t = test->priv;
	int cpu, old_cpu, ret;
	bool fenced;

	mn_test_create_vm_to_fence(test);
	mn_test_range(t, &range, 0, MN_TEST_NR_PAGES);
	mm_flags_set(MMF_UNSTABLE, t->mm);

	preempt_disable();
	non_block_start();

	/* Use another CPU, if there is one, for the fence to send an IPI to. */
	cpu = cpumask_any_but(cpu_online_mask, smp_processor_id());
	old_cpu = mn_test_enter_guest(t->vcpu, cpu < nr_cpu_ids ? cpu : smp_processor_id(),
				      IN_GUEST_MODE);

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
 * Is the fence done too early, or its flag set too early?  A second reaper skips the
 * fence if the flag is set.  It must not be set before the fence is done.
 */
static bool mn_test_is_early(struct mn_test *t)
{
	return mn_test_spin_until(READ_ONCE(t->done) || READ_ONCE(t->kvm->mmu_notifier_fenced),
				  MN_TEST_SHORT_US);
}

/* A vCPU that leaves the mode some time after it was kicked. */
static int mn_test_leave_late(struct mn_test *t, int mode, int kicked_mode)
{
	struct kvm_vcpu *vcpu = t->vcpu;
	bool kicked, early;
	int old_cpu;

	local_irq_disable();
	old_cpu = mn_test_enter_guest(vcpu, smp_processor_id(), mode);
	WRITE_ONCE(t->go, true);

	kicked = mn_test_spin_until(READ_ONCE(vcpu->mode) == kicked_mode &&
				    kvm_test_request(KVM_REQ_VM_DEAD, vcpu),
				    MN_TEST_TIMEOUT_US);
	early = mn_test_is_early(t);

	mn_test_exit_guest(vcpu, old_cpu);
	local_irq_enable();

	return !kicked ? -ETIMEDOUT : early ? -EBUSY : 0;
}

static int mn_test_guest(struct mn_test *t)
{
	return mn_test_leave_late(t, IN_GUEST_MODE, EXITING_GUEST_MODE);
}

/* The host uses the guest's page tables. */
static int mn_test_walker(struct mn_test *t)
{
	return mn_test_leave_late(t, READING_SHADOW_PAGE_TABLES, READING_SHADOW_PAGE_TABLES);
}

#ifdef CONFIG_HAVE_KVM_PFNCACHE
/* A task that found the cache valid, and uses it. */
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
#endif

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

	mn_test_create_vm_to_fence(test);

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

static void test_mn_fence_waits_for_walker(struct kunit *test)
{
	mn_test_fence(test, mn_test_walker);
}

#ifdef CONFIG_HAVE_KVM_PFNCACHE
static void test_mn_fence_waits_for_reader(struct kunit *test)
{
	mn_test_fence(test, mn_test_gpc_reader);
}
#endif

/*
 * The locks that the fence doesn't wait for.
 */
struct mn_test_lock_type {
	int (*lock)(void *lock);
	void (*unlock)(void *lock, int idx);
};

#define MN_TEST_LOCK_TYPE(name, type, lock_it, unlock_it)			\
static int mn_test_##name##_lock(void *p)					\
{										\
	type *lock = p;								\
	int idx = 0;								\
										\
	lock_it;								\
	return idx;								\
}										\
										\
static void mn_test_##name##_unlock(void *p, int idx)				\
{										\
	type *lock = p;								\
										\
	unlock_it;								\
}										\
										\
static const struct mn_test_lock_type mn_test_##name = {			\
	mn_test_##name##_lock, mn_test_##name##_unlock				\
}

MN_TEST_LOCK_TYPE(mutex, struct mutex, mutex_lock(lock), mutex_unlock(lock));
MN_TEST_LOCK_TYPE(spin, spinlock_t, spin_lock(lock), spin_unlock(lock));
MN_TEST_LOCK_TYPE(spin_irq, spinlock_t, spin_lock_irq(lock), spin_unlock_irq(lock));
MN_TEST_LOCK_TYPE(write, rwlock_t, write_lock(lock), write_unlock(lock));
MN_TEST_LOCK_TYPE(srcu, struct srcu_struct, idx = srcu_read_lock(lock),
		  srcu_read_unlock(lock, idx));

#ifdef KVM_HAVE_MMU_RWLOCK
#define mn_test_mmu	mn_test_write
#else
#define mn_test_mmu	mn_test_spin
#endif

static const struct mn_test_lock {
	const char *name;
	const struct mn_test_lock_type *type;
	void *global;
	bool in_kvm, in_vcpu;
	size_t offset;
} mn_test_locks[] = {
#define MN_TEST_KVM_LOCK(type, member)						\
	{ "kvm->" #member, &mn_test_##type, .in_kvm = true,			\
	  .offset = offsetof(struct kvm, member) }
#define MN_TEST_VCPU_LOCK(type, member)						\
	{ "vcpu->" #member, &mn_test_##type, .in_vcpu = true,			\
	  .offset = offsetof(struct kvm_vcpu, member) }
	{ "kvm_lock", &mn_test_mutex, .global = &kvm_lock },
	MN_TEST_KVM_LOCK(mutex, lock),
	MN_TEST_VCPU_LOCK(mutex, mutex),
	MN_TEST_KVM_LOCK(mutex, slots_lock),
#ifdef CONFIG_HAVE_KVM_IRQCHIP
	MN_TEST_KVM_LOCK(mutex, irqfds.resampler_lock),
#endif
	MN_TEST_KVM_LOCK(mutex, irq_lock),
#ifdef CONFIG_X86
	MN_TEST_KVM_LOCK(mutex, arch.apic_map_lock),
#endif
#ifdef CONFIG_ARM64
	MN_TEST_KVM_LOCK(mutex, arch.config_lock),
#endif
	MN_TEST_KVM_LOCK(srcu, srcu),
	MN_TEST_KVM_LOCK(srcu, irq_srcu),
	MN_TEST_KVM_LOCK(mutex, slots_arch_lock),
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	{ "gpc->refresh_lock", &mn_test_mutex,
	  .offset = offsetof(struct mn_test, gpc.refresh_lock) },
#endif
	MN_TEST_VCPU_LOCK(write, pid_lock),
	MN_TEST_KVM_LOCK(mmu, mmu_lock),
#ifdef CONFIG_X86_64
	MN_TEST_KVM_LOCK(spin, arch.tdp_mmu_pages_lock),
#endif
#ifdef CONFIG_X86
	MN_TEST_KVM_LOCK(spin, arch.mmu_unsync_pages_lock),
#endif
	MN_TEST_KVM_LOCK(spin, invalidate_gate.lock),
#ifdef CONFIG_KVM_MMIO
	MN_TEST_KVM_LOCK(spin, ring_lock),
#endif
#ifdef CONFIG_HAVE_KVM_IRQCHIP
	MN_TEST_KVM_LOCK(spin_irq, irqfds.lock),
#endif
};

static void *mn_test_lock_of(struct mn_test *t, const struct mn_test_lock *lock)
{
	if (lock->global)
		return lock->global;

	return (lock->in_kvm ? (void *)t->kvm :
		lock->in_vcpu ? (void *)t->vcpu : (void *)t) + lock->offset;
}

KUNIT_ARRAY_PARAM_DESC(mn_test_lock, mn_test_locks, name);

static int mn_test_hold_lock(struct mn_test *t)
{
	void *lock = mn_test_lock_of(t, t->lock);
	int idx = t->lock->type->lock(lock);
	bool done;

	WRITE_ONCE(t->go, true);
	done = mn_test_spin_until(READ_ONCE(t->done), MN_TEST_TIMEOUT_US);
	t->lock->type->unlock(lock, idx);

	return done ? 0 : -ETIMEDOUT;
}

static void test_mn_fence_lock(struct kunit *test)
{
	struct mn_test *t = test->priv;

	t->lock = test->param_value;
	mn_test_fence(test, mn_test_hold_lock);
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

/* start() doesn't return before the VM is fenced off, for none of the reapers. */
static void test_mn_reapers(struct kunit *test)
{
	struct mn_test_job *jobs[MN_TEST_NR_REAPERS];
	struct mn_test *t = test->priv;
	int i, j, cpu;

	if (num_online_cpus() < MN_TEST_NR_REAPERS)
		kunit_skip(test, "needs two CPUs");

	for (i = 0; i < MN_TEST_NR_REAPS && !t->stuck; i++) {
		mn_test_create_vm_to_fence(test);
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

/*
 * What the fence calls.  If the tests are run by debugfs, the host may have other VMs.
 */
static void mn_test_trace_fence(void *data, struct kvm *kvm, unsigned int nr_caches)
{
	struct mn_test *t = data;

	if (kvm != READ_ONCE(t->kvm))
		return;

	atomic_inc(&t->nr_fences);
	if (nr_caches != MN_TEST_HAS_GPC || !READ_ONCE(kvm->mmu_notifier_fenced))
		t->wrong_fence = true;
}

/*
 * The tracepoint doesn't have the VM, and other VMs can have the same addresses.  But
 * the test and its jobs use the mm of its VM, and no other task does.
 */
static void mn_test_trace_unmap(void *data, unsigned long start, unsigned long end)
{
	struct mn_test *t = data;
	struct mm_struct *mm = READ_ONCE(t->mm);

	if (mm && mm == current->mm)
		atomic_inc(&t->nr_unmaps);
}

static void mn_test_untrace_fence(void *data)
{
	unregister_trace_kvm_mmu_notifier_fence(mn_test_trace_fence, data);
	tracepoint_synchronize_unregister();
}

static void mn_test_untrace_unmap(void *data)
{
	unregister_trace_kvm_unmap_hva_range(mn_test_trace_unmap, data);
	tracepoint_synchronize_unregister();
}

/* The tracepoint fires once for all reapers.  Nothing is unmapped, or traced as such. */
static void test_mn_fence_trace(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_pair pair;

	if (!IS_ENABLED(CONFIG_TRACEPOINTS))
		kunit_skip(test, "needs CONFIG_TRACEPOINTS");

	KUNIT_ASSERT_EQ(test, register_trace_kvm_mmu_notifier_fence(mn_test_trace_fence, t), 0);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, mn_test_untrace_fence, t), 0);
	KUNIT_ASSERT_EQ(test, register_trace_kvm_unmap_hva_range(mn_test_trace_unmap, t), 0);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, mn_test_untrace_unmap, t), 0);

	mn_test_fence(test, mn_test_guest);
	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_fences), 1);
	KUNIT_EXPECT_FALSE(test, t->wrong_fence);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_unmaps), 0);

	mn_test_start(t, &pair, 20, 1);
	mn_test_end(t, &pair);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_fences), 1);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_unmaps), 1);
}

#ifdef CONFIG_X86
/* Fence off a VM whose vCPU is in the guest, by one reaper alone. */
static void mn_test_fence_guest(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, mn_test_guest, t->cpus[0]);
	mn_test_wait_for_go(t, job);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);

	t->counts.fenced = true;
	mn_test_expect_counts(t);
}

static void mn_test_reclaimed(struct kvm *kvm)
{
	struct kunit *test = kunit_get_current_test();
	struct mn_test *t = test ? test->priv : NULL;

	/*
	 * Other VMs need the real one.  Their tasks must not look for the test, as it
	 * doesn't wait for them when it ends.
	 */
	if (!t || kvm != t->kvm) {
		if (kvm_x86_ops.guest_memory_reclaimed)
			kvm_x86_ops.guest_memory_reclaimed(kvm);
		return;
	}

	atomic_inc(&t->nr_reclaims);
	if (READ_ONCE(t->vcpu->mode) != OUTSIDE_GUEST_MODE ||
	    !kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu) || !READ_ONCE(kvm->gpc_closed) ||
	    READ_ONCE(kvm->mmu_notifier_fenced))
		t->wrong_reclaim = true;
}

static void mn_test_restore_reclaim(void *data)
{
	static_call_update(kvm_x86_guest_memory_reclaimed, kvm_x86_ops.guest_memory_reclaimed);
}

/*
 * CPU caches are written back once, after the vCPUs were kicked out of the guest, and
 * before the flag says that the fence is done.
 */
static void test_mn_fence_reclaims(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_create_vm_to_fence(test);
	static_call_update(kvm_x86_guest_memory_reclaimed, mn_test_reclaimed);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, mn_test_restore_reclaim, NULL), 0);

	mn_test_fence_guest(test);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_reclaims), 1);
	KUNIT_EXPECT_FALSE(test, t->wrong_reclaim);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_reclaims), 1);
}

#define MN_TEST_FAULT_PAGES	2

/* Returns more than 0 if the vCPU may continue, i.e. also if the fault is stale. */
static int mn_test_page_fault(struct mn_test *t, unsigned int page)
{
	struct kvm_vcpu *vcpu = t->vcpu;
	int r;

	mutex_lock(&vcpu->mutex);
	vcpu_load(vcpu);
	kvm_vcpu_srcu_read_lock(vcpu);

	r = kvm_mmu_reload(vcpu);
	if (!r)
		r = kvm_mmu_page_fault(vcpu, MN_TEST_GPA(3) + page * PAGE_SIZE,
				       PFERR_USER_MASK | PFERR_WRITE_MASK, NULL, 0);

	kvm_vcpu_srcu_read_unlock(vcpu);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return r;
}

/*
 * A page fault that has started when the VM is fenced off looks up the page in the
 * mm, but doesn't map it.  Mapping it might replace a stale SPTE.
 */
static void test_mn_fence_page_fault(struct kunit *test)
{
	struct kvm_userspace_memory_region2 mem = {
		.slot = 3,
		.guest_phys_addr = MN_TEST_GPA(3),
		.memory_size = MN_TEST_FAULT_PAGES * PAGE_SIZE,
	};
	struct mn_test *t = test->priv;
	int i;

	mn_test_create_vm_to_fence(test);

	mem.userspace_addr = kunit_vm_mmap(test, NULL, 0, mem.memory_size, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, mem.userspace_addr, 0);
	for (i = 0; i < MN_TEST_FAULT_PAGES; i++) {
		int __user *p = u64_to_user_ptr(mem.userspace_addr + i * PAGE_SIZE);

		KUNIT_ASSERT_EQ(test, put_user(1, p), 0);
	}
	KUNIT_ASSERT_EQ(test, kvm_vm_ioctl_set_memory_region(t->kvm, &mem), 0);

	KUNIT_EXPECT_GT(test, mn_test_page_fault(t, 0), 0);
	KUNIT_EXPECT_EQ(test, t->vcpu->stat.pf_fixed, 1);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);

	KUNIT_EXPECT_GT(test, mn_test_page_fault(t, 1), 0);
	KUNIT_EXPECT_EQ(test, t->vcpu->stat.pf_fixed, 1);
	KUNIT_EXPECT_EQ(test, atomic64_read(&t->kvm->stat.pages_4k), 1);
}
#endif /* CONFIG_X86 */

#ifdef CONFIG_RISCV
#define MN_TEST_VALUE		0x11223344UL

/* Map the page into the guest, as if by a page fault. */
static int mn_test_map(struct mn_test *t, struct kvm_gstage_mapping *map)
{
	gpa_t gpa = MN_TEST_GPA(3);
	struct kvm_vcpu *vcpu = t->vcpu;
	int r;

	memset(map, 0, sizeof(*map));

	mutex_lock(&vcpu->mutex);
	vcpu_load(vcpu);
	kvm_vcpu_srcu_read_lock(vcpu);
	r = kvm_riscv_mmu_map(vcpu, gfn_to_memslot(t->kvm, gpa_to_gfn(gpa)), gpa, t->hva,
			      true, map);
	kvm_vcpu_srcu_read_unlock(vcpu);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return r;
}

/* Read the page as KVM does it on behalf of the guest, i.e. by HLV. */
static unsigned long mn_test_read(struct mn_test *t, struct kvm_cpu_trap *trap)
{
	struct kvm_vcpu *vcpu = t->vcpu;
	unsigned long value;

	memset(trap, 0, sizeof(*trap));

	mutex_lock(&vcpu->mutex);
	vcpu_load(vcpu);
	value = kvm_riscv_vcpu_unpriv_read(vcpu, false, MN_TEST_GPA(3), trap);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);

	return value;
}

/* A VM with a page at MN_TEST_GPA(3) that isn't mapped into the guest yet. */
static void mn_test_create_vm_to_map(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm_userspace_memory_region2 mem = {
		.slot = 3,
		.guest_phys_addr = MN_TEST_GPA(3),
		.memory_size = PAGE_SIZE,
	};

	mn_test_create_vm_to_fence(test);
	mem.userspace_addr = t->hva;
	KUNIT_ASSERT_EQ(test, put_user(MN_TEST_VALUE, (unsigned long __user *)t->hva), 0);
	KUNIT_ASSERT_EQ(test, kvm_vm_ioctl_set_memory_region(t->kvm, &mem), 0);
}

/* A page fault of a dead VM doesn't map anything. */
static void test_mn_fence_page_fault(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm_gstage_mapping map;

	mn_test_create_vm_to_map(test);
	KUNIT_EXPECT_EQ(test, mn_test_map(t, &map), 0);
	KUNIT_EXPECT_NE(test, pte_val(map.pte), 0);
	mn_test_destroy_vm(t);

	mn_test_create_vm_to_map(test);
	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	KUNIT_EXPECT_EQ(test, mn_test_map(t, &map), 0);
	KUNIT_EXPECT_EQ(test, pte_val(map.pte), 0);
}

/* Guest memory isn't read once the VM is dead, although it's still mapped. */
static void test_mn_fence_hlv(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm_gstage_mapping map;
	struct kvm_cpu_trap trap;

	mn_test_create_vm_to_map(test);

	mn_test_read(t, &trap);
	KUNIT_EXPECT_EQ(test, trap.scause, EXC_LOAD_GUEST_PAGE_FAULT);

	KUNIT_ASSERT_EQ(test, mn_test_map(t, &map), 0);
	KUNIT_EXPECT_EQ(test, mn_test_read(t, &trap), MN_TEST_VALUE);
	KUNIT_EXPECT_EQ(test, trap.scause, 0);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	KUNIT_EXPECT_EQ(test, mn_test_read(t, &trap), 0);
	KUNIT_EXPECT_EQ(test, trap.scause, EXC_LOAD_GUEST_PAGE_FAULT);
	KUNIT_EXPECT_EQ(test, trap.stval, MN_TEST_GPA(3));
	KUNIT_EXPECT_EQ(test, t->vcpu->mode, OUTSIDE_GUEST_MODE);
}

static int mn_test_reader(struct mn_test *t)
{
	struct kvm_cpu_trap trap;

	WRITE_ONCE(t->go, true);
	while (!READ_ONCE(t->done)) {
		mn_test_read(t, &trap);
		cond_resched();
	}

	return READ_ONCE(t->vcpu->mode) == OUTSIDE_GUEST_MODE ? 0 : -EBUSY;
}

/* Others see that guest memory is being read, i.e. the fence waits for that. */
static void test_mn_hlv_mode(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mn_test_job *job;
	bool seen;

	mn_test_create_vm_to_map(test);

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, mn_test_reader, t->cpus[0]);
	mn_test_wait_for_go(t, job);
	seen = mn_test_spin_until(READ_ONCE(t->vcpu->mode) == READING_SHADOW_PAGE_TABLES,
				  MN_TEST_TIMEOUT_US);
	WRITE_ONCE(t->done, true);
	mn_test_put_cpus(t);

	KUNIT_EXPECT_TRUE(test, seen);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
}
#endif /* CONFIG_RISCV */

/* The task shares the mm, as tasks of the VM do, and, unlike kthreads, has FPU state. */
static int mn_test_run_vcpu(void *data)
{
	struct mn_test *t = data;
	struct kvm_vcpu *vcpu = t->vcpu;

	/* The ioctl() is refused, but may have been started before. */
	mutex_lock(&vcpu->mutex);
	vcpu->wants_to_run = true;
	t->run_ret = kvm_arch_vcpu_ioctl_run(vcpu);
	vcpu->wants_to_run = false;
	mutex_unlock(&vcpu->mutex);

	complete(&t->run_done);
	do_exit(0);
}

/* Without that, KVM_RUN fails for another reason. */
static int mn_test_init_vcpu(struct mn_test *t)
{
#ifdef CONFIG_ARM64
	struct kvm_vcpu_init init = { .target = KVM_ARM_TARGET_GENERIC_V8 };
	struct file file = { .private_data = t->vcpu };

	if (copy_to_user((void __user *)t->hva, &init, sizeof(init)))
		return -EFAULT;

	return kvm_vcpu_ioctl(&file, KVM_ARM_VCPU_INIT, t->hva);
#else
	return 0;
#endif
}

static void test_mn_fence_run(struct kunit *test)
{
	struct mn_test *t = test->priv;
	int i;

	mn_test_create_vm_to_fence(test);
	KUNIT_ASSERT_EQ(test, mn_test_init_vcpu(t), 0);
	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);

	for (i = 0; i < 2; i++) {
		init_completion(&t->run_done);
		KUNIT_ASSERT_GT(test, user_mode_thread(mn_test_run_vcpu, t,
						       CLONE_VM | CLONE_FILES | SIGCHLD), 0);
		t->stuck = !wait_for_completion_timeout(&t->run_done,
							usecs_to_jiffies(MN_TEST_TIMEOUT_US));
		KUNIT_ASSERT_FALSE(test, t->stuck);
		KUNIT_EXPECT_EQ(test, t->run_ret, -EIO);
	}
}

#ifdef CONFIG_ARM64
/* Protected KVM has no fence, its page tables are the hypervisor's. */
static void test_mn_fence_refused(struct kunit *test)
{
	mn_test_need_kvm(test);
	KUNIT_EXPECT_EQ(test, kvm_arch_has_mmu_notifier_fence(), !is_protected_kvm_enabled());
}

/* A VM with a page at MN_TEST_GPA(3) that isn't mapped into the guest yet. */
static void mn_test_create_vm_to_map(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct kvm_userspace_memory_region2 mem = {
		.slot = 3,
		.guest_phys_addr = MN_TEST_GPA(3),
		.memory_size = PAGE_SIZE,
	};

	mn_test_create_vm_to_fence(test);
	mem.userspace_addr = t->hva;
	KUNIT_ASSERT_EQ(test, mn_test_init_vcpu(t), 0);
	KUNIT_ASSERT_EQ(test, kvm_vm_ioctl_set_memory_region(t->kvm, &mem), 0);
}

/* Returns 1 if the vCPU may continue, i.e. also if the fault is stale. */
static int mn_test_page_fault(struct mn_test *t)
{
	struct kvm_vcpu *vcpu = t->vcpu;
	int r;

	mutex_lock(&vcpu->mutex);
	vcpu_load(vcpu);

	vcpu->arch.fault.esr_el2 = FIELD_PREP(ESR_ELx_EC_MASK, ESR_ELx_EC_DABT_LOW) |
				   ESR_ELx_IL | ESR_ELx_WNR | ESR_ELx_FSC_FAULT_L(3);
	vcpu->arch.fault.far_el2 = MN_TEST_GPA(3);
	vcpu->arch.fault.hpfar_el2 = HPFAR_EL2_NS |
				     FIELD_PREP(HPFAR_EL2_FIPA, MN_TEST_GPA(3) >> 12);
	r = kvm_handle_guest_abort(vcpu);

	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return r;
}

static bool mn_test_is_mapped(struct mn_test *t)
{
	kvm_pte_t pte = 0;
	s8 level;

	guard(read_lock)(&t->kvm->mmu_lock);
	return !kvm_pgtable_get_leaf(t->kvm->arch.mmu.pgt, MN_TEST_GPA(3), &pte, &level) &&
	       kvm_pte_valid(pte);
}

/* A page fault of a dead VM doesn't map anything. */
static void test_mn_fence_page_fault(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_create_vm_to_map(test);
	KUNIT_EXPECT_EQ(test, mn_test_page_fault(t), 1);
	KUNIT_EXPECT_TRUE(test, mn_test_is_mapped(t));
	mn_test_destroy_vm(t);

	mn_test_create_vm_to_map(test);
	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	KUNIT_EXPECT_EQ(test, mn_test_page_fault(t), 1);
	KUNIT_EXPECT_FALSE(test, mn_test_is_mapped(t));
}

/*
 * The CPU that has the vCPU loaded may still have walks in progress that the guest
 * has started.
 */
static int mn_test_irqs_off(struct mn_test *t)
{
	bool kicked, early;

	local_irq_disable();
	WRITE_ONCE(t->vcpu->cpu, smp_processor_id());
	/* Whoever sees @go, and then reaps, sees the CPU. */
	smp_store_release(&t->go, true);

	kicked = mn_test_spin_until(kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu),
				    MN_TEST_TIMEOUT_US);
	early = mn_test_is_early(t);

	WRITE_ONCE(t->vcpu->cpu, -1);
	local_irq_enable();

	return !kicked ? -ETIMEDOUT : early ? -EBUSY : 0;
}

static void test_mn_fence_waits_for_cpu(struct kunit *test)
{
	mn_test_fence(test, mn_test_irqs_off);
}

/* A task that cleans caches because of a mapping. */
static int mn_test_cleaner(struct mn_test *t)
{
	bool kicked, early;

	guard(raw_spinlock)(&t->kvm->arch.s2_clean_lock);
	WRITE_ONCE(t->go, true);

	kicked = mn_test_spin_until(kvm_test_request(KVM_REQ_VM_DEAD, t->vcpu),
				    MN_TEST_TIMEOUT_US);
	early = mn_test_is_early(t) || READ_ONCE(t->kvm->arch.s2_clean_closed);

	return !kicked ? -ETIMEDOUT : early ? -EBUSY : 0;
}

static void test_mn_fence_waits_for_cleaner(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_fence(test, mn_test_cleaner);
	KUNIT_EXPECT_TRUE(test, t->kvm->arch.s2_clean_closed);
}

static int mn_test_keep_from_cleaning(struct mn_test *t)
{
	bool early;

	guard(raw_spinlock)(&t->kvm->arch.s2_clean_lock);
	WRITE_ONCE(t->go, true);
	early = mn_test_spin_until(READ_ONCE(t->done), MN_TEST_SHORT_US);

	return early ? -EBUSY : 0;
}

static void mn_test_flush(struct mn_test *t)
{
	/* As if the guest had enabled its caches, before that there is nothing to do. */
	*vcpu_hcr(t->vcpu) &= ~HCR_TVM;
	kvm_set_way_flush(t->vcpu);
	WRITE_ONCE(t->done, true);
}

static void mn_test_unmap(struct mn_test *t)
{
	struct mmu_notifier_range range;

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, t->mm, t->hva, t->hva + PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	WRITE_ONCE(t->done, true);
	mmu_notifier_invalidate_range_end(&range);
}

static const struct mn_test_clean {
	const char *name;
	void (*fn)(struct mn_test *t);
} mn_test_cleans[] = {
	{ "set/way", mn_test_flush },
	{ "unmap", mn_test_unmap },
};

KUNIT_ARRAY_PARAM_DESC(mn_test_clean, mn_test_cleans, name);

/* Caches are cleaned with the lock held that the fence takes. */
static void test_mn_clean_locks(struct kunit *test)
{
	const struct mn_test_clean *clean = test->param_value;
	struct mn_test *t = test->priv;
	struct mn_test_job *job;

	if (cpus_have_final_cap(ARM64_HAS_STAGE2_FWB))
		kunit_skip(test, "caches aren't cleaned with FWB");

	mn_test_create_vm_to_map(test);
	KUNIT_ASSERT_EQ(test, mn_test_page_fault(t), 1);
	KUNIT_ASSERT_TRUE(test, mn_test_is_mapped(t));

	mn_test_take_cpus(t);
	job = mn_test_run_on(t, mn_test_keep_from_cleaning, t->cpus[0]);
	mn_test_wait_for_go(t, job);
	clean->fn(t);
	mn_test_put_cpus(t);
	KUNIT_EXPECT_EQ(test, mn_test_wait(t, job), 0);
}

static unsigned int mn_test_nr_cleaned;

static void mn_test_count_cleaned(void *addr, size_t size)
{
	mn_test_nr_cleaned++;
}

/* How often would caches be cleaned? */
static unsigned int mn_test_count_cleans(struct mn_test *t, const struct mn_test_clean *clean)
{
	struct kvm_pgtable *pgt = t->kvm->arch.mmu.pgt;
	struct kvm_pgtable_mm_ops *old_ops = pgt->mm_ops, ops = *old_ops;

	ops.dcache_clean_inval_poc = mn_test_count_cleaned;
	mn_test_nr_cleaned = 0;

	pgt->mm_ops = &ops;
	clean->fn(t);
	pgt->mm_ops = old_ops;

	return mn_test_nr_cleaned;
}

/* Caches of a VM that was fenced off aren't cleaned. */
static void test_mn_fence_cleans_nothing(struct kunit *test)
{
	const struct mn_test_clean *clean = test->param_value;
	struct mn_test *t = test->priv;

	if (cpus_have_final_cap(ARM64_HAS_STAGE2_FWB))
		kunit_skip(test, "caches aren't cleaned with FWB");

	mn_test_create_vm_to_map(test);
	KUNIT_ASSERT_EQ(test, mn_test_page_fault(t), 1);
	KUNIT_ASSERT_TRUE(test, mn_test_is_mapped(t));
	KUNIT_EXPECT_NE(test, mn_test_count_cleans(t, clean), 0);
	mn_test_destroy_vm(t);

	mn_test_create_vm_to_map(test);
	KUNIT_ASSERT_EQ(test, mn_test_page_fault(t), 1);
	KUNIT_ASSERT_TRUE(test, mn_test_is_mapped(t));
	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	KUNIT_EXPECT_EQ(test, mn_test_count_cleans(t, clean), 0);
}
#endif /* CONFIG_ARM64 */

static long mn_test_ioctl(long (*ioctl)(struct file *, unsigned int, unsigned long),
			  void *data, unsigned int cmd, unsigned long arg)
{
	struct file file = { .private_data = data };

	return ioctl(&file, cmd, arg);
}

static void mn_test_expect_ioctls(struct mn_test *t, long vm, long vcpu, long device)
{
	static const struct kvm_device_ops ops = {};
	struct kvm_device dev = { .kvm = t->kvm, .ops = &ops };

	KUNIT_EXPECT_EQ(t->test, mn_test_ioctl(kvm_vm_ioctl, t->kvm, KVM_CHECK_EXTENSION,
					       KVM_CAP_USER_MEMORY), vm);
	KUNIT_EXPECT_EQ(t->test, mn_test_ioctl(kvm_vcpu_ioctl, t->vcpu, KVM_RUN, 1), vcpu);
	KUNIT_EXPECT_EQ(t->test, mn_test_ioctl(kvm_device_ioctl, &dev,
					       KVM_HAS_DEVICE_ATTR, 0), device);
}

/* All ioctl()s are refused, on the VM, its vCPUs and its devices. */
static void test_mn_fence_ioctl(struct kunit *test)
{
	struct mn_test *t = test->priv;

	mn_test_create_vm_to_fence(test);
	mn_test_expect_ioctls(t, 1, -EINVAL, -EPERM);

	KUNIT_EXPECT_EQ(test, mn_test_reap(t), 0);
	mn_test_expect_ioctls(t, -EIO, -EIO, -EIO);
}

/* Only an mm that is being reaped may have a range that isn't blockable. */
static void test_mn_not_reaped(struct kunit *test)
{
	struct mn_test *t = test->priv;
	struct mmu_notifier_range range;
	int i;

	if (!IS_ENABLED(CONFIG_BUG))
		kunit_skip(test, "needs CONFIG_BUG");

	mn_test_create_vm(test);
	mn_test_range(t, &range, 20, 1);

	for (i = 0; i < 2; i++) {
		kunit_warning_suppress(test) {
			KUNIT_EXPECT_EQ(test,
					mmu_notifier_invalidate_range_start_nonblock(&range), 0);
			mmu_notifier_invalidate_range_end(&range);
			KUNIT_EXPECT_SUPPRESSED_WARNING_COUNT(test, i ? 0 : 1);
		}
		mm_flags_set(MMF_UNSTABLE, t->mm);
	}
}

static struct kunit_case mn_test_cases[] = {
	KUNIT_CASE(test_gate_counts),
	KUNIT_CASE(test_gate_underflow),
	KUNIT_CASE(test_gate_lock_waits),
	KUNIT_CASE(test_gate_lock_excludes),
	KUNIT_CASE(test_gate_reset),
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	KUNIT_CASE_PARAM(test_gate_ranges, mn_test_gate_range_gen_params),
	KUNIT_CASE(test_gate_full),
	KUNIT_CASE(test_gate_mismatch),
	KUNIT_CASE(test_gate_wakes),
	KUNIT_CASE(test_gate_wakes_full),
	KUNIT_CASE(test_gate_wakes_closed),
	KUNIT_CASE(test_gate_wait_killed),
#endif
	KUNIT_CASE_PARAM(test_mn_pairs, mn_test_where_gen_params),
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
	KUNIT_CASE(test_mn_fence_waits_for_walker),
#ifdef CONFIG_HAVE_KVM_PFNCACHE
	KUNIT_CASE(test_mn_fence_waits_for_reader),
#endif
	KUNIT_CASE_PARAM(test_mn_fence_lock, mn_test_lock_gen_params),
	KUNIT_CASE(test_mn_reapers),
	KUNIT_CASE(test_mn_fence_trace),
#ifdef CONFIG_X86
	KUNIT_CASE(test_mn_fence_reclaims),
	KUNIT_CASE(test_mn_fence_page_fault),
#endif
#ifdef CONFIG_RISCV
	KUNIT_CASE(test_mn_fence_page_fault),
	KUNIT_CASE(test_mn_fence_hlv),
	KUNIT_CASE(test_mn_hlv_mode),
#endif
	KUNIT_CASE(test_mn_fence_run),
	KUNIT_CASE(test_mn_fence_ioctl),
	KUNIT_CASE(test_mn_not_reaped),
#ifdef CONFIG_ARM64
	KUNIT_CASE(test_mn_fence_refused),
	KUNIT_CASE(test_mn_fence_page_fault),
	KUNIT_CASE(test_mn_fence_waits_for_cpu),
	KUNIT_CASE(test_mn_fence_waits_for_cleaner),
	KUNIT_CASE_PARAM(test_mn_clean_locks, mn_test_clean_gen_params),
	KUNIT_CASE_PARAM(test_mn_fence_cleans_nothing, mn_test_clean_gen_params),
#endif
	{}
};

static struct kunit_suite mn_test_suite = {
	.name = "kvm_mmu_notifier",
	.init = mn_test_init,
	.exit = mn_test_exit,
	.test_cases = mn_test_cases,
};

kunit_test_suite(mn_test_suite);
