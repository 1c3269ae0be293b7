// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that KVM doesn't use CPU time while it waits to refresh a gfn_to_pfn_cache
 * whose page is being invalidated.
 *
 * A cache can't become valid while an invalidation of its page is in flight, i.e.
 * between the mmu_notifier's start() and end().  An invalidation can be preempted.
 * If a realtime task preempts it, and needs the cache, then retrying never ends, as
 * the invalidation doesn't run until the realtime task sleeps.
 *
 * Do that with two SCHED_FIFO threads on a single CPU.  The one with the lower
 * priority drops a mapping that is large enough to take a while, and has the cache's
 * page at its end.  The other one wakes up in the middle of that, and uses the cache,
 * which is invalid.  Its page is still mapped, i.e. only the invalidation keeps the
 * cache from being refreshed.
 */
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "kvm_test_harness.h"
#include "wait_for.h"
#include "xen.h"

/* Xen's pages are the last ones of the memslot, in one mapping with the others. */
#define MEM_SIZE		(512ul << 20)
#define SHINFO_GPA		(XEN_GPA + MEM_SIZE - PAGE_SIZE)
#define VCPU_INFO_GPA		(SHINFO_GPA - PAGE_SIZE)

#define EVTCHN_PORT		15

/* The watchdog must be able to preempt the others, in case there is only one CPU. */
#define PRIO_INVALIDATE		10
#define PRIO_REFRESH		20
#define PRIO_WATCHDOG		30

/* Double the size of what is dropped until that takes long enough. */
#define MIN_DROP_SIZE		(16ul << 20)
#define TARGET_DROP_NS		100000000LL

/*
 * The refresh must wait for at least a quarter of the drop, so that its own cost,
 * which is a lot higher than usual after a preemption, doesn't matter.
 */
#define MIN_WAIT_DIVISOR	4
#define MIN_DROP_FACTOR		40

/*
 * Stop the refresh if it takes (much) longer than the invalidation takes when it
 * runs alone.
 */
#define STUCK_FACTOR		10
#define STUCK_MIN_NS		2000000000LL

/*
 * The refresh may use at most 1/MAX_CPU_DIVISOR of the time it waits.  Spinning
 * uses nearly all of it.
 */
#define MAX_CPU_DIVISOR		3

#define MAX_ATTEMPTS		10
#define TEST_TIMEOUT_SEC	120

enum refresh_by {
	REFRESH_BY_ACTIVATE,
	REFRESH_BY_SEND,
	REFRESH_BY_VCPU,
};

struct fifo_test {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	enum refresh_by refresh_by;
	struct xen_shared_info *shinfo;
	int cpu;

	/* How much is dropped, and how long it takes when undisturbed. */
	size_t drop_size;
	s64 drop_ns;

	/* How long the refresh takes when undisturbed. */
	s64 refresh_ns;

	/* When, after the start of the drop, to start the refresh. */
	s64 delay_ns;

	sem_t start_drop;
	sem_t done;
	bool dropping;

	/* The results of an attempt. */
	pid_t refresh_tid;
	bool preempted_drop;
	bool delivered;
	s64 wall_ns;
	s64 cpu_ns;
};

static void set_shared_info(struct kvm_vm *vm)
{
	xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_SHARED_INFO, SHINFO_GPA / PAGE_SIZE);
}

static void guest_code(void)
{
	u32 port = EVTCHN_PORT;

	for (;;) {
		GUEST_SYNC(0);
		xen_hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, &port);
	}
}

static void run_until_sync(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_SYNC);
}

static void refresh(struct fifo_test *test)
{
	switch (test->refresh_by) {
	case REFRESH_BY_ACTIVATE:
		set_shared_info(test->vm);
		break;
	case REFRESH_BY_SEND:
		xen_vm_send_event(test->vm, test->vcpu->id, EVTCHN_PORT);
		break;
	case REFRESH_BY_VCPU:
		run_until_sync(test->vcpu);
		break;
	}
}

/*
 * Have KVM invalidate its cache of the page, and map the page again.  The page
 * itself is kept, as it belongs to a memfd.
 */
static void invalidate_cache(struct fifo_test *test)
{
	kvm_madvise(test->shinfo, PAGE_SIZE, MADV_DONTNEED);
	WRITE_ONCE(test->shinfo->evtchn_pending[0], 0);
}

/* The end is the page of the cache.  The memfd keeps the contents. */
static void *drop_start(struct fifo_test *test)
{
	return (void *)test->shinfo + PAGE_SIZE - test->drop_size;
}

static void populate(struct fifo_test *test)
{
	memset(drop_start(test), 0xaa, test->drop_size - 2 * PAGE_SIZE);
}

static void drop(struct fifo_test *test)
{
	kvm_madvise(drop_start(test), test->drop_size, MADV_DONTNEED);
}

static void *drop_thread(void *arg)
{
	struct fifo_test *test = arg;

	while (sem_wait(&test->start_drop))
		;

	WRITE_ONCE(test->dropping, true);
	drop(test);
	WRITE_ONCE(test->dropping, false);

	return NULL;
}

static void *refresh_thread(void *arg)
{
	struct fifo_test *test = arg;
	struct timespec delay = {
		.tv_sec = test->delay_ns / NSEC_PER_SEC,
		.tv_nsec = test->delay_ns % NSEC_PER_SEC,
	};
	s64 cpu_ns, wall_ns;

	WRITE_ONCE(test->refresh_tid, kvm_gettid());
	invalidate_cache(test);

	/* The other thread is on the same CPU, it runs while this one sleeps. */
	sem_post(&test->start_drop);
	while (nanosleep(&delay, &delay))
		;

	test->preempted_drop = READ_ONCE(test->dropping);

	wall_ns = now_ns();
	cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);

	refresh(test);

	test->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
	test->wall_ns = now_ns() - wall_ns;

	if (test->refresh_by == REFRESH_BY_ACTIVATE)
		xen_vm_send_event(test->vm, test->vcpu->id, EVTCHN_PORT);
	test->delivered = xen_test_port(test->shinfo->evtchn_pending, EVTCHN_PORT);

	sem_post(&test->done);
	return NULL;
}

static pthread_t create_fifo_thread(struct fifo_test *test, int prio,
				    void *(*fn)(void *))
{
	struct sched_param param = { .sched_priority = prio };
	pthread_attr_t attr;
	pthread_t thread;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(test->cpu, &cpus);

	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);
	pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);

	kvm_pthread_create(&thread, &attr, fn, test);
	pthread_attr_destroy(&attr);

	return thread;
}

/* Other tasks might run as well, use the shortest of a few times. */
#define best_of(nr, measure)				\
({							\
	s64 best = 0, ns;				\
	int n;						\
							\
	for (n = 0; n < (nr); n++) {			\
		ns = (measure);				\
		if (!n || ns < best)			\
			best = ns;			\
	}						\
	best;						\
})

static s64 measure_refresh(struct fifo_test *test)
{
	s64 start;

	invalidate_cache(test);

	start = now_ns();
	refresh(test);
	return now_ns() - start;
}

static s64 measure_drop(struct fifo_test *test)
{
	s64 start;

	populate(test);

	start = now_ns();
	drop(test);
	return now_ns() - start;
}

static void choose_size(struct fifo_test *test)
{
	size_t max_size = sysconf(_SC_AVPHYS_PAGES) * getpagesize() / 2;

	max_size = min_t(size_t, max_size, MEM_SIZE);
	test->drop_size = MIN_DROP_SIZE;

	/* Huge pages would be dropped too fast.  Failure is ok. */
	madvise((void *)test->shinfo + PAGE_SIZE - MEM_SIZE, MEM_SIZE, MADV_NOHUGEPAGE);

	for (;;) {
		test->drop_ns = best_of(2, measure_drop(test));
		if (test->drop_ns >= TARGET_DROP_NS || test->drop_size * 2 > max_size)
			return;

		test->drop_size *= 2;
	}
}

static int set_scheduler(pid_t tid, int policy, int prio)
{
	const struct sched_param param = { .sched_priority = prio };

	return sched_setscheduler(tid, policy, &param);
}

/*
 * Have the refresh preempt the drop.  Returns false if the refresh had to be stopped,
 * i.e. if its priority had to be lowered for the drop to run.
 */
static bool try_to_preempt(struct fifo_test *test)
{
	s64 timeout_ns = max_t(s64, test->drop_ns * STUCK_FACTOR, STUCK_MIN_NS);
	pthread_t dropper, refresher;
	struct timespec timeout;
	bool stuck = false;

	populate(test);

	sem_init(&test->start_drop, 0, 0);
	sem_init(&test->done, 0, 0);
	test->refresh_tid = 0;

	TEST_ASSERT(!set_scheduler(0, SCHED_FIFO, PRIO_WATCHDOG), "Failed to use SCHED_FIFO");

	dropper = create_fifo_thread(test, PRIO_INVALIDATE, drop_thread);
	refresher = create_fifo_thread(test, PRIO_REFRESH, refresh_thread);
	TEST_ASSERT(wait_for(READ_ONCE(test->refresh_tid)), "The refresh doesn't start");

	clock_gettime(CLOCK_REALTIME, &timeout);
	timeout = timespec_add_ns(timeout, timeout_ns);

	while (sem_timedwait(&test->done, &timeout)) {
		if (errno != ETIMEDOUT)
			continue;

		stuck = true;
		TEST_ASSERT(!set_scheduler(test->refresh_tid, SCHED_OTHER, 0),
			    "Failed to lower the priority of the refresh");
		while (sem_wait(&test->done))
			;
		break;
	}

	kvm_pthread_join(refresher, NULL);
	kvm_pthread_join(dropper, NULL);
	TEST_ASSERT(!set_scheduler(0, SCHED_OTHER, 0), "Failed to use SCHED_OTHER");

	sem_destroy(&test->start_drop);
	sem_destroy(&test->done);

	return !stuck;
}

static void create_vm(struct fifo_test *test)
{
	void *mem;

	test->vm = vm_create_with_one_vcpu(&test->vcpu, guest_code);
	mem = xen_vm_add_memory(test->vm, VM_MEM_SRC_SHMEM, MEM_SIZE / PAGE_SIZE);
	test->shinfo = mem + MEM_SIZE - PAGE_SIZE;

	xen_vm_init(test->vm);
	set_shared_info(test->vm);
	xen_vm_set_ipi(test->vm, test->vcpu->id, EVTCHN_PORT);
	xen_vcpu_set_attr(test->vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, VCPU_INFO_GPA);
	run_until_sync(test->vcpu);
}

FIXTURE(xen_gpc_fifo) {
	struct fifo_test test;
};

FIXTURE_VARIANT(xen_gpc_fifo) {
	enum refresh_by refresh_by;
};

FIXTURE_VARIANT_ADD(xen_gpc_fifo, activate) {
	.refresh_by = REFRESH_BY_ACTIVATE,
};

FIXTURE_VARIANT_ADD(xen_gpc_fifo, send) {
	.refresh_by = REFRESH_BY_SEND,
};

FIXTURE_VARIANT_ADD(xen_gpc_fifo, vcpu) {
	.refresh_by = REFRESH_BY_VCPU,
};

FIXTURE_SETUP(xen_gpc_fifo)
{
	self->test.refresh_by = variant->refresh_by;
}

FIXTURE_TEARDOWN(xen_gpc_fifo)
{
	if (self->test.vm)
		kvm_vm_free(self->test.vm);
}

TEST_F_TIMEOUT(xen_gpc_fifo, preempted_invalidation, TEST_TIMEOUT_SEC)
{
	struct fifo_test *test = &self->test;
	bool finished;
	int i;

	if (set_scheduler(0, SCHED_FIFO, PRIO_WATCHDOG))
		SKIP(return, "Can't use SCHED_FIFO: %s", strerror(errno));
	ASSERT_EQ(set_scheduler(0, SCHED_OTHER, 0), 0);

	create_vm(test);
	choose_size(test);
	test->refresh_ns = best_of(5, measure_refresh(test));

	if (test->drop_ns < test->refresh_ns * MIN_DROP_FACTOR)
		SKIP(return, "Dropping %lu MiB takes only %ld us, a refresh %ld us",
		     test->drop_size >> 20, test->drop_ns / 1000,
		     test->refresh_ns / 1000);

	/* Any CPU is fine, as long as it's the same for both threads. */
	test->cpu = sched_getcpu();

	for (i = 0; i < MAX_ATTEMPTS; i++) {
		/* Preempt the drop after 1/6, 1/8, 1/10, 1/6, ... of its duration. */
		test->delay_ns = test->drop_ns / (6 + i % 3 * 2);

		finished = try_to_preempt(test);
		ASSERT_TRUE(test->delivered);

		/*
		 * The drop's syscall is more than the invalidation.  Try again if the
		 * refresh had (almost) nothing to wait for.
		 */
		if (finished && (!test->preempted_drop ||
				 test->wall_ns < test->drop_ns / MIN_WAIT_DIVISOR))
			continue;

		TH_LOG("Refresh %s after %ld us, used %ld us of CPU (drop %ld us, refresh %ld us)",
		       finished ? "finished" : "was stopped", test->wall_ns / 1000,
		       test->cpu_ns / 1000, test->drop_ns / 1000,
		       test->refresh_ns / 1000);

		EXPECT_TRUE(finished);
		EXPECT_LT(test->cpu_ns, test->wall_ns / MAX_CPU_DIVISOR);
		return;
	}

	SKIP(return, "Didn't preempt an invalidation in %d attempts", MAX_ATTEMPTS);
}

int main(int argc, char *argv[])
{
	xen_require_caps();

	return test_harness_run(argc, argv);
}
