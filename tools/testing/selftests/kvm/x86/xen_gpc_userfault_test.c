// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test what waits for the refresh of a gfn_to_pfn_cache that doesn't end.
 *
 * A refresh looks up the page of the cache, with kvm->srcu and the cache's
 * refresh_lock held.  Userspace decides how long that takes if the page is registered
 * with a userfaultfd.  An update of the memslots waits for kvm->srcu, i.e. has to wait
 * for the refresh.  Nothing else may wait for it: neither invalidations, even of the
 * same page, nor users of other caches, nor the exit of the process.
 *
 * The userfault isn't answered before all of that was tested.  The test has the
 * userfaultfd, too, so that the exit of the VM's process doesn't close it.
 */
#include <poll.h>
#include <pthread.h>

#include <linux/userfaultfd.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"
#include "kernel_complaints.h"
#include "kvm_test_harness.h"
#include "vm_process.h"
#include "xen.h"

#define TEST_TIMEOUT_SEC	120

#define OTHER_GPA		0xd0000000ULL
#define OTHER_SLOT		11

/* The page of the cache that is refreshed, of another cache, and of no cache. */
#define SHINFO_OFFSET		(0 * PAGE_SIZE)
#define PVTIME_OFFSET		(1 * PAGE_SIZE)
#define DATA_OFFSET		(2 * PAGE_SIZE)
#define SOURCE_OFFSET		(3 * PAGE_SIZE)
#define NR_PAGES		4

#define EVTCHN_PORT		15
#define NR_ROUNDS		3

static struct kvm_vm *vm;
static struct kvm_vcpu *vcpu;
static void *mem;
static int uffd;

static void guest_code(void)
{
	for (;;)
		GUEST_SYNC(0);
}

static void __uffd_ioctl(unsigned long cmd, const char *name, void *arg)
{
	TEST_ASSERT(!ioctl(uffd, cmd, arg), "%s failed: %s", name, strerror(errno));
}

#define uffd_ioctl(cmd, arg) __uffd_ioctl(cmd, #cmd, arg)

static void uffd_register(u64 offset, u64 mode)
{
	struct uffdio_register reg = {
		.range = { (u64)mem + offset, PAGE_SIZE },
		.mode = mode,
	};

	uffd_ioctl(UFFDIO_REGISTER, &reg);
}

/* If the page is registered, the next access to it waits. */
static void discard_page(u64 offset)
{
	kvm_madvise(mem + offset, PAGE_SIZE, MADV_DONTNEED);
}

/* Answer the userfault. */
static void fill_page(u64 offset)
{
	struct uffdio_zeropage zero = { .range = { (u64)mem + offset, PAGE_SIZE } };

	uffd_ioctl(UFFDIO_ZEROPAGE, &zero);
}

static void set_pvtime(void)
{
	xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
			  XEN_GPA + PVTIME_OFFSET);
}

/* A function that runs in a thread of its own, as it might not return. */
struct task {
	void (*fn)(void);
	pthread_t thread;
	pid_t tid;
	bool done;
};

static void *task_thread(void *arg)
{
	struct task *task = arg;

	WRITE_ONCE(task->tid, kvm_gettid());
	task->fn();
	WRITE_ONCE(task->done, true);
	return NULL;
}

static void start_task(struct task *task, void (*fn)(void))
{
	task->fn = fn;
	task->tid = 0;
	task->done = false;
	kvm_pthread_create(&task->thread, NULL, task_thread, task);
}

static bool finish_task(struct task *task)
{
	if (!wait_for(READ_ONCE(task->done)))
		return false;

	kvm_pthread_join(task->thread, NULL);
	return true;
}

/* Is the task asleep in the kernel, and can't be woken by a signal? */
static bool task_waits(struct task *task)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", READ_ONCE(task->tid));
	f = fopen(path, "r");
	if (!f)
		return false;

	if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(f);

	return state == 'D';
}

static void send_event(void)
{
	xen_vm_send_event(vm, vcpu->id, EVTCHN_PORT);
}

static void add_memslot(void)
{
	vm_set_user_memory_region(vm, OTHER_SLOT, 0, OTHER_GPA, PAGE_SIZE,
				  mem + DATA_OFFSET);
}

static void madvise_page_of_cache(void)
{
	discard_page(SHINFO_OFFSET);
}

static void madvise_other_page(void)
{
	memset(mem + SOURCE_OFFSET, 1, PAGE_SIZE);
	discard_page(SOURCE_OFFSET);
}

static void mprotect_all(void)
{
	TEST_ASSERT(!mprotect(mem, NR_PAGES * PAGE_SIZE, PROT_READ), "mprotect() failed");
	TEST_ASSERT(!mprotect(mem, NR_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE),
		    "mprotect() failed");
}

static void fork_process(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	TEST_ASSERT(waitpid(pid, NULL, 0) == pid, "waitpid() failed");
}

/* A vCPU that refreshes a cache of its own. */
static void run_vcpu(void)
{
	discard_page(PVTIME_OFFSET);
	set_pvtime();
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);
	TEST_ASSERT(READ_ONCE(*(u32 *)(mem + PVTIME_OFFSET)), "The clock wasn't written");
}

/* All ioctl()s of the userfaultfd, on pages other than the one that is waited for. */
static void uffdio(void)
{
	struct uffdio_range range = { (u64)mem + DATA_OFFSET, PAGE_SIZE };
	struct uffdio_writeprotect wp = {
		.range = range,
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct uffdio_copy copy = {
		.src = (u64)mem + SOURCE_OFFSET,
		.dst = range.start,
		.len = PAGE_SIZE,
	};
	struct uffdio_move move = {
		.src = (u64)mem + SOURCE_OFFSET,
		.dst = range.start,
		.len = PAGE_SIZE,
	};

	uffd_register(DATA_OFFSET, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	memset(mem + SOURCE_OFFSET, 1, PAGE_SIZE);

	discard_page(DATA_OFFSET);
	uffd_ioctl(UFFDIO_COPY, &copy);
	uffd_ioctl(UFFDIO_WRITEPROTECT, &wp);
	wp.mode = 0;
	uffd_ioctl(UFFDIO_WRITEPROTECT, &wp);

	discard_page(DATA_OFFSET);
	uffd_ioctl(UFFDIO_MOVE, &move);

	discard_page(DATA_OFFSET);
	fill_page(DATA_OFFSET);
	uffd_ioctl(UFFDIO_UNREGISTER, &range);
}

static bool open_uffd(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MOVE,
	};

	/* Note, by default only privileged users can handle KVM's faults. */
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return uffd >= 0 && !ioctl(uffd, UFFDIO_API, &api);
}

/* Create a VM, and start a refresh of its shared_info, which waits for an answer. */
static void start_refresh(struct task *refresh, struct task *memslot)
{
	struct pollfd pollfd = { .events = POLLIN };

	TEST_ASSERT(open_uffd(), "userfaultfd() failed: %s", strerror(errno));
	pollfd.fd = uffd;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	mem = xen_vm_add_memory(vm, VM_MEM_SRC_ANONYMOUS, NR_PAGES);
	memset(mem, 0, NR_PAGES * PAGE_SIZE);

	xen_vm_init(vm);
	xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_SHARED_INFO,
			(XEN_GPA + SHINFO_OFFSET) / PAGE_SIZE);
	set_pvtime();
	vcpu_run(vcpu);

	uffd_register(SHINFO_OFFSET, UFFDIO_REGISTER_MODE_MISSING);
	discard_page(SHINFO_OFFSET);
	start_task(refresh, send_event);
	TEST_ASSERT(poll(&pollfd, 1, WAIT_TIMEOUT_SEC * 1000) == 1,
		    "The refresh doesn't look up its page");

	if (memslot) {
		start_task(memslot, add_memslot);
		TEST_ASSERT(wait_for(task_waits(memslot)),
			    "The memslot update doesn't wait for the refresh");
	}
}

static const struct {
	const char *name;
	void (*fn)(void);
} independent[] = {
	{ "MADV_DONTNEED of the page of the cache", madvise_page_of_cache },
	{ "MADV_DONTNEED of another page", madvise_other_page },
	{ "mprotect() of all pages", mprotect_all },
	{ "fork()", fork_process },
	{ "KVM_RUN, with a refresh of another cache", run_vcpu },
	{ "UFFDIO_*", uffdio },
};

FIXTURE(userfault) { };

FIXTURE_VARIANT(userfault) {
	bool memslot_update;
};

FIXTURE_VARIANT_ADD(userfault, refresh) { };
FIXTURE_VARIANT_ADD(userfault, refresh_and_memslot_update) { .memslot_update = true };

FIXTURE_SETUP(userfault)
{
	if (!open_uffd())
		SKIP(return, "A userfaultfd isn't available: %s", strerror(errno));
	kvm_close(uffd);
}

FIXTURE_TEARDOWN(userfault) { }

/* The process isn't killed, and its other tasks don't wait. */
TEST_F_TIMEOUT(userfault, alive, TEST_TIMEOUT_SEC)
{
	struct task refresh, memslot, task;
	int kmsg_fd = open_kmsg(), i;

	start_refresh(&refresh, variant->memslot_update ? &memslot : NULL);

	for (i = 0; i < ARRAY_SIZE(independent); i++) {
		start_task(&task, independent[i].fn);
		if (finish_task(&task))
			continue;

		TH_LOG("%s waits for the refresh", independent[i].name);
		EXPECT_TRUE(false);
		fill_page(SHINFO_OFFSET);
		ASSERT_TRUE(finish_task(&task));
		break;
	}

	if (i == ARRAY_SIZE(independent)) {
		EXPECT_FALSE(READ_ONCE(refresh.done));
		EXPECT_FALSE(variant->memslot_update && READ_ONCE(memslot.done));
		fill_page(SHINFO_OFFSET);
	}

	ASSERT_TRUE(finish_task(&refresh));
	if (variant->memslot_update)
		ASSERT_TRUE(finish_task(&memslot));
	EXPECT_EQ(count_kernel_complaints(kmsg_fd), 0);
	kvm_vm_free(vm);
}

/* Shared by the test and the process that owns the VM. */
struct control {
	bool ready;
	bool exit;
	int uffd;
};

enum ending { ENDING_EXIT, ENDING_KILL, ENDING_REAP };

static void test_ending(struct __test_metadata *_metadata, bool memslot_update,
			enum ending ending)
{
	int kmsg_fd = open_kmsg(), i, nr_reaped = 0;
	struct task refresh, memslot;
	struct control *control;
	struct vm_process p;
	s64 end = now_ns() + WAIT_TIMEOUT_SEC * NSEC_PER_SEC;

	control = kvm_mmap(sizeof(*control), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1);

	for (i = 0; !_metadata->exit_code; i++) {
		/* On a busy host, the process may be gone before it can be reaped. */
		if (i >= NR_ROUNDS &&
		    (ending != ENDING_REAP || nr_reaped || now_ns() >= end))
			break;

		memset(control, 0, sizeof(*control));
		if (vm_process_fork(&p)) {
			start_refresh(&refresh, memslot_update ? &memslot : NULL);
			control->uffd = uffd;
			__atomic_store_n(&control->ready, true, __ATOMIC_RELEASE);
			while (!READ_ONCE(control->exit))
				usleep(1000);
			_exit(KSFT_PASS);
		}
		ASSERT_TRUE(vm_process_wait_ready(&p, &control->ready));
		uffd = vm_process_get_fd(&p, control->uffd);

		if (ending == ENDING_EXIT)
			WRITE_ONCE(control->exit, true);
		else
			ASSERT_EQ(kill(p.pid, SIGKILL), 0);

		if (ending == ENDING_REAP) {
			if (!mrelease(p.pidfd))
				nr_reaped++;
			else
				EXPECT_EQ(errno, ESRCH);
		}

		EXPECT_NE(vm_process_wait(&p), -1) {
			TH_LOG("The process waits for the refresh");
		}
		EXPECT_EQ(count_kernel_complaints(kmsg_fd), 0);
		kvm_close(uffd);
		vm_process_put(&p);
	}

	if (ending == ENDING_REAP && !nr_reaped && !_metadata->exit_code)
		SKIP(return, "None of %d processes could be reaped", i);
}

TEST_F_TIMEOUT(userfault, exit, TEST_TIMEOUT_SEC)
{
	test_ending(_metadata, variant->memslot_update, ENDING_EXIT);
}

TEST_F_TIMEOUT(userfault, kill, TEST_TIMEOUT_SEC)
{
	test_ending(_metadata, variant->memslot_update, ENDING_KILL);
}

TEST_F_TIMEOUT(userfault, reap, TEST_TIMEOUT_SEC)
{
	if (!has_mrelease())
		SKIP(return, "process_mrelease() is not supported");

	test_ending(_metadata, variant->memslot_update, ENDING_REAP);
}

int main(int argc, char *argv[])
{
	xen_require_caps();

	return test_harness_run(argc, argv);
}
