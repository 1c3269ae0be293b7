// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test reaping the memory of a VM whose process has been killed, but has not
 * yet exited.
 *
 * When the memory of a dying process is reaped, by process_mrelease() or by the
 * OOM reaper, KVM's mmu_notifier is invoked for a non-blockable range, i.e. KVM
 * must not sleep, and must not fail.  Normally, a killed process frees its own
 * memory long before it can be reaped.  To reap the memory of a VM every time,
 * trace the VM's process with PTRACE_O_TRACEEXIT, which stops each of its threads
 * at the start of do_exit(), i.e. killed, but with the mm and KVM's file
 * descriptors intact.
 *
 * In addition, kill and reap VMs that are not traced, many times in a row.  The
 * option "-n rounds", in addition to those of the harness, sets how many times.
 */
#include <dirent.h>
#include <limits.h>
#include <pthread.h>

#include <sys/ptrace.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"
#include "kernel_complaints.h"
#include "kvm_test_harness.h"

/*
 * Allow for (very) slow hosts, e.g. nested virtualization on a kernel with
 * lockdep.  All waits are bounded, and end (well) before the test harness kills the
 * test, so that the test can clean up.  The kselftest runner's limit, 120 seconds for
 * the whole program, can be too low for such hosts, see --override-timeout.
 */
#define WAIT_TIMEOUT_SEC	60
#define TEST_TIMEOUT_SEC	300
#include "vm_process.h"

#include "cgroup_util.h"

#ifdef __x86_64__
#include <asm/kvm_para.h>
#include <asm/pvclock-abi.h>
#endif

#define MAX_VCPUS		4

/*
 * In addition to the vCPUs' threads and the thread group leader, the process may
 * contain KVM's own worker(s), e.g. for recovery of NX huge pages.
 */
#define MAX_THREADS		(MAX_VCPUS + 4)
#define VCPU_THREAD_NAME	"reap-vcpu"

#define TEST_MEM_GPA		0x40000000ul
#define TEST_MEM_GVA		TEST_MEM_GPA
#define TEST_MEM_SLOT		10

#define DEFAULT_MEM_SIZE	(16ul << 20)
#define LARGE_MEM_SIZE		(64ul << 20)

/* Enough for any number of rounds, each of which is bounded by itself. */
#define ROUNDS_TIMEOUT_SEC	(24 * 3600)

/* Shared by the test and by the process that owns the VM. */
struct reap_control {
	/* The number of vCPUs that have run, and now wait for @go. */
	u32 nr_ready;
	bool go;

	/* How many times each vCPU has written all of its memory. */
	u32 nr_passes[MAX_VCPUS];

	/* All vCPUs have written some memory.  Set only if they stay in the guest. */
	bool in_guest;

	/* The process that closes the VM last is ready to do so, and has done so. */
	bool closer_is_ready;
	bool closed;
};

static struct reap_control *control;
static u64 guest_page_size;
static bool guest_stays_in_guest;
static int nr_rounds = 20;

#ifdef __x86_64__
static void guest_enable_pvclock(gva_t gva, gpa_t gpa)
{
	struct pvclock_vcpu_time_info *pvti = (void *)gva;

	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, gpa | KVM_MSR_ENABLED);

	/* KVM writes the clock, through its cache, before it runs the guest again. */
	GUEST_ASSERT_NE(READ_ONCE(pvti->version), 0);
	GUEST_ASSERT_NE(READ_ONCE(pvti->tsc_to_system_mul), 0);
}
#else
static void guest_enable_pvclock(gva_t gva, gpa_t gpa) { }
#endif

static void guest_code(gva_t mem, u64 nr_pages, gva_t pvclock_gva,
		       gpa_t pvclock_gpa)
{
	u64 pass, i;

	if (pvclock_gva)
		guest_enable_pvclock(pvclock_gva, pvclock_gpa);

	GUEST_SYNC(0);

	for (pass = 1; ; pass++) {
		for (i = 0; i < nr_pages; i++)
			WRITE_ONCE(*(u64 *)(mem + i * guest_page_size), pass);

		if (!guest_stays_in_guest)
			GUEST_SYNC(pass);
	}
}

static u64 run_until_sync(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return uc.args[1];
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected ucall %lu, exit reason %s", uc.cmd,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static void *vcpu_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	u64 pass;

	prctl(PR_SET_NAME, VCPU_THREAD_NAME);
	run_until_sync(vcpu);

	__atomic_fetch_add(&control->nr_ready, 1, __ATOMIC_SEQ_CST);
	while (!READ_ONCE(control->go))
		usleep(1000);

	for (;;) {
		pass = run_until_sync(vcpu);
		WRITE_ONCE(control->nr_passes[vcpu->id], pass);
	}

	return NULL;
}

/*
 * Map all memory ahead of time, only to speed up the test.  If that fails, each
 * page is mapped when the guest writes it.
 */
static void prefault_memory(struct kvm_vcpu *vcpu, u64 size)
{
	struct kvm_pre_fault_memory range = {
		.gpa = TEST_MEM_GPA,
		.size = size,
	};

	if (!kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY))
		return;

	/*
	 * Populate the memory in the host first.  Pre-faulting is a read, which
	 * maps a page as writable only if the page is already writable.
	 */
	memset(addr_gpa2hva(vcpu->vm, TEST_MEM_GPA), 0, size);

	while (range.size && (!__vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range) ||
			      errno == EINTR || errno == EAGAIN))
		;
}

/*
 * Body of another process that has the VM's file descriptor.  Close it as soon as
 * @owner, the process that created the VM, begins to free its mm, so that
 * exit_mmap() and the destruction of the VM release KVM's mmu_notifier at the same
 * time.
 *
 * The score is zero if the process has no mm anymore.  Reading it doesn't take a
 * reference to the mm, which would delay the end of the mm.
 */
static void close_vm_last(struct kvm_vm *vm, pid_t owner)
{
	int fd, vm_fd = dup(vm->fd);
	char path[64], score;

	kvm_vm_release(vm);

	snprintf(path, sizeof(path), "/proc/%d/oom_score", owner);
	fd = open(path, O_RDONLY);
	TEST_ASSERT(fd >= 0, "Failed to open %s", path);

	WRITE_ONCE(control->closer_is_ready, true);
	while (pread(fd, &score, 1, 0) == 1 && score != '0')
		;

	kvm_close(vm_fd);
	WRITE_ONCE(control->closed, true);
	_exit(KSFT_PASS);
}

/* Body of the child process, which runs the VM until it is killed. */
static void __noreturn run_vm(int nr_vcpus, bool pvclock, bool prefault,
			      u64 mem_size, bool stay_in_guest, bool close_last)
{
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	pid_t owner = getpid();
	gva_t pvclock_gva = 0;
	gpa_t pvclock_gpa = 0;
	struct kvm_vm *vm;
	u64 nr_pages;
	u64 *mem;
	int i;

	nr_pages = vm_calc_num_guest_pages(VM_MODE_DEFAULT, mem_size);
	vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, nr_vcpus, nr_pages,
				    guest_code, vcpus);

	if (close_last && !fork())
		close_vm_last(vm, owner);

	guest_page_size = vm->page_size;
	sync_global_to_guest(vm, guest_page_size);
	guest_stays_in_guest = stay_in_guest;
	sync_global_to_guest(vm, guest_stays_in_guest);

	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_MEM_GPA,
				    TEST_MEM_SLOT, nr_pages, 0);
	virt_map(vm, TEST_MEM_GVA, TEST_MEM_GPA, nr_pages);

	if (prefault)
		prefault_memory(vcpus[0], mem_size);

	/* Give each vCPU its own share of the memory. */
	nr_pages /= nr_vcpus;

	for (i = 0; i < nr_vcpus; i++) {
		if (pvclock) {
			pvclock_gva = vm_alloc_page(vm);
			pvclock_gpa = addr_gva2gpa(vm, pvclock_gva);
		}

		vcpu_args_set(vcpus[i], 4,
			      TEST_MEM_GVA + i * nr_pages * vm->page_size,
			      nr_pages, pvclock_gva, pvclock_gpa);
	}

	for (i = 0; i < nr_vcpus; i++)
		kvm_pthread_create(&threads[i], NULL, vcpu_thread, vcpus[i]);

	if (stay_in_guest) {
		/* The memory is zero until the guest writes it. */
		for (i = 0; i < nr_vcpus; i++) {
			mem = addr_gpa2hva(vm, TEST_MEM_GPA + i * nr_pages * vm->page_size);
			while (!READ_ONCE(*mem))
				usleep(100);
		}

		/* The vCPUs don't leave KVM_RUN, i.e. don't need the file descriptors. */
		if (close_last) {
			while (!READ_ONCE(control->closer_is_ready))
				usleep(100);
			kvm_vm_release(vm);
		}
		WRITE_ONCE(control->in_guest, true);
	}

	for (;;)
		pause();
}

struct reap_thread {
	pid_t tid;
	bool held;
};

/* The VM's process, as seen by the test. */
struct reap_vm {
	struct vm_process process;
	int kmsg_fd;
	bool stay_in_guest;
	bool close_last;
	int nr_vcpus;
	int nr_threads;
	struct reap_thread threads[MAX_THREADS];
};

/* A number from the status of @pid, or -1 if there's none. */
static long get_status(pid_t pid, const char *format)
{
	char path[64], line[256];
	long number = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	if (!f)
		return -1;

	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, format, &number) == 1)
			break;
	}
	fclose(f);

	return number;
}

/* The anonymous memory mapped by @pid, in bytes, or -1 if it has no mm. */
static long get_anon_rss(pid_t pid)
{
	long kib = get_status(pid, "RssAnon: %ld kB");

	return kib < 0 ? -1 : kib << 10;
}

static int count_threads(pid_t pid)
{
	return get_status(pid, "Threads: %ld");
}

static bool vcpus_are_ready(struct reap_vm *rv)
{
	return READ_ONCE(control->nr_ready) == rv->nr_vcpus;
}

static bool vcpus_have_written_all_memory(struct reap_vm *rv)
{
	int i;

	for (i = 0; i < rv->nr_vcpus; i++) {
		if (!READ_ONCE(control->nr_passes[i]))
			return false;
	}

	return true;
}

/* Check if the thread is stopped in do_exit(), and let it run if it's not. */
static bool thread_is_held(struct reap_thread *thread)
{
	int status;

	if (thread->held)
		return true;

	if (waitpid(thread->tid, &status, __WALL | WNOHANG) != thread->tid ||
	    !WIFSTOPPED(status))
		return false;

	thread->held = status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXIT << 8));
	if (!thread->held)
		ptrace(PTRACE_CONT, thread->tid, NULL, WSTOPSIG(status));

	return thread->held;
}

static bool all_threads_are_held(struct reap_vm *rv)
{
	bool all_held = true;
	int i;

	for (i = 0; i < rv->nr_threads; i++)
		all_held &= thread_is_held(&rv->threads[i]);

	return all_held;
}

static void reap_vm_init(struct reap_vm *rv, int nr_vcpus)
{
	memset(rv, 0, sizeof(*rv));
	rv->nr_vcpus = nr_vcpus;
	rv->kmsg_fd = -1;

	control = kvm_mmap(sizeof(*control), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1);
}

/*
 * Fork the process that runs the VM, and wait until all vCPUs have run (and
 * have enabled their clock), but have yet to write their memory.
 */
static void start_vm(struct __test_metadata *_metadata, struct reap_vm *rv,
		     bool pvclock, u64 mem_size, const char *cgroup)
{
	if (vm_process_fork(&rv->process)) {
		TEST_ASSERT(!cgroup || !cg_enter_current(cgroup),
			    "Failed to enter cgroup %s", cgroup);
		/* The guest, not the host, has to exceed the limit of the cgroup. */
		run_vm(rv->nr_vcpus, pvclock, !cgroup, mem_size,
		       rv->stay_in_guest, rv->close_last);
	}

	wait_for(vcpus_are_ready(rv) || vm_process_has_exited(&rv->process));
	ASSERT_TRUE(vcpus_are_ready(rv));
}

/* Arrange for the threads of the VM's process to be held when they exit. */
static int trace_vm(struct __test_metadata *_metadata, struct reap_vm *rv,
		    bool leader_only)
{
	struct dirent *entry;
	char path[64];
	pid_t tid;
	DIR *dir;
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", rv->process.pid);
	dir = opendir(path);
	ASSERT_NE(dir, NULL);

	while (!r && (entry = readdir(dir))) {
		tid = atoi(entry->d_name);
		if (!tid || (leader_only && tid != rv->process.pid))
			continue;

		ASSERT_LT(rv->nr_threads, MAX_THREADS);

		/* If the test is killed, so is the VM's process. */
		if (ptrace(PTRACE_SEIZE, tid, NULL,
			   PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL))
			r = -errno;
		else
			rv->threads[rv->nr_threads++].tid = tid;
	}
	closedir(dir);

	if (!r)
		ASSERT_GT(rv->nr_threads, leader_only ? 0 : rv->nr_vcpus);
	return r;
}

/* Stop tracing the process and wait for it to exit.  Returns its wait status. */
static int finish_vm(struct reap_vm *rv)
{
	int i;

	for (i = 0; i < rv->nr_threads; i++)
		ptrace(PTRACE_DETACH, rv->threads[i].tid, NULL, NULL);
	rv->nr_threads = 0;

	return vm_process_wait(&rv->process);
}

/* Clean up, no matter how far the test got. */
static void reap_vm_cleanup(struct reap_vm *rv)
{
	if (rv->process.pid > 0) {
		kill(rv->process.pid, SIGKILL);
		wait_for(all_threads_are_held(rv));
		finish_vm(rv);
	}

	vm_process_put(&rv->process);
	if (rv->kmsg_fd >= 0)
		close(rv->kmsg_fd);
	kvm_munmap(control, sizeof(*control));
}

/*
 * The memory was reaped, and no thread of the process has freed anything yet.
 * Check that the process can exit, and that the kernel didn't complain.
 */
static void exit_reaped_vm(struct __test_metadata *_metadata, struct reap_vm *rv)
{
	int status;

	EXPECT_EQ(get_anon_rss(rv->process.pid), 0);

	status = finish_vm(rv);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	EXPECT_EQ(count_kernel_complaints(rv->kmsg_fd), 0);
}

FIXTURE(mrelease) {
	struct reap_vm rv;
};

FIXTURE_VARIANT(mrelease) {
	int nr_vcpus;
	bool pvclock;
	u64 mem_size;
};

FIXTURE_VARIANT_ADD(mrelease, vcpus_1) {
	.nr_vcpus = 1,
	.mem_size = DEFAULT_MEM_SIZE,
};

FIXTURE_VARIANT_ADD(mrelease, vcpus_2) {
	.nr_vcpus = 2,
	.mem_size = DEFAULT_MEM_SIZE,
};

FIXTURE_VARIANT_ADD(mrelease, vcpus_4) {
	.nr_vcpus = 4,
	.mem_size = LARGE_MEM_SIZE,
};

#ifdef __x86_64__
FIXTURE_VARIANT_ADD(mrelease, vcpus_1_pvclock) {
	.nr_vcpus = 1,
	.pvclock = true,
	.mem_size = DEFAULT_MEM_SIZE,
};

FIXTURE_VARIANT_ADD(mrelease, vcpus_4_pvclock) {
	.nr_vcpus = 4,
	.pvclock = true,
	.mem_size = DEFAULT_MEM_SIZE,
};
#endif

FIXTURE_SETUP(mrelease)
{
	reap_vm_init(&self->rv, variant->nr_vcpus);
}

FIXTURE_TEARDOWN(mrelease)
{
	reap_vm_cleanup(&self->rv);
}

static void test_mrelease(struct __test_metadata *_metadata, struct reap_vm *rv,
			  bool pvclock, u64 mem_size, bool wait_for_exit)
{
	int r;

	if (!has_mrelease())
		SKIP(return, "process_mrelease() is not supported");

	start_vm(_metadata, rv, pvclock, mem_size, NULL);

	r = trace_vm(_metadata, rv, false);
	if (r)
		SKIP(return, "Can't trace a child process: %s", strerror(-r));

	/* Get all of the memory mapped into the guest, and in use. */
	WRITE_ONCE(control->go, true);
	wait_for(vcpus_have_written_all_memory(rv) || vm_process_has_exited(&rv->process));
	ASSERT_TRUE(vcpus_have_written_all_memory(rv));
	ASSERT_GE(get_anon_rss(rv->process.pid), (long)mem_size);

	rv->kmsg_fd = open_kmsg();
	ASSERT_EQ(kill(rv->process.pid, SIGKILL), 0);

	if (wait_for_exit)
		ASSERT_TRUE(wait_for(all_threads_are_held(rv)));

	EXPECT_EQ(mrelease(rv->process.pidfd), 0) {
		TH_LOG("process_mrelease() failed: %s", strerror(errno));
	}

	ASSERT_TRUE(wait_for(all_threads_are_held(rv)));

	exit_reaped_vm(_metadata, rv);
}

/* Reap when all threads have left KVM, i.e. all vCPUs have left the guest. */
TEST_F_TIMEOUT(mrelease, stopped, TEST_TIMEOUT_SEC)
{
	test_mrelease(_metadata, &self->rv, variant->pvclock, variant->mem_size, true);
}

/*
 * Reap as soon as the process has been killed, when vCPUs might still execute
 * guest code, or might be leaving the guest.
 */
TEST_F_TIMEOUT(mrelease, running, TEST_TIMEOUT_SEC)
{
	test_mrelease(_metadata, &self->rv, variant->pvclock, variant->mem_size, false);
}

FIXTURE(rounds) {
	struct reap_vm rv;
};

FIXTURE_VARIANT(rounds) {
	int nr_vcpus;
	bool close_last;
};

FIXTURE_VARIANT_ADD(rounds, in_guest) {
	.nr_vcpus = 3,
};

FIXTURE_VARIANT_ADD(rounds, close_last) {
	.nr_vcpus = 1,
	.close_last = true,
};

FIXTURE_SETUP(rounds) { }

FIXTURE_TEARDOWN(rounds)
{
	if (self->rv.nr_vcpus)
		reap_vm_cleanup(&self->rv);
}

/*
 * Kill a VM whose vCPUs are in the guest, and reap it at once, or a bit later.  Its
 * threads aren't stopped, i.e. it exits at the same time, and can be gone before the
 * reaper finds it.
 */
TEST_F_TIMEOUT(rounds, kill_and_reap, ROUNDS_TIMEOUT_SEC)
{
	struct reap_vm *rv = &self->rv;
	s64 end = now_ns() + WAIT_TIMEOUT_SEC * NSEC_PER_SEC;
	int round, status, nr_reaped = 0;

	if (!has_mrelease())
		SKIP(return, "process_mrelease() is not supported");

	for (round = 0; !_metadata->exit_code; round++) {
		/* On a busy host, all of them may be gone before they can be reaped. */
		if (round >= nr_rounds && (nr_reaped || now_ns() >= end))
			break;

		reap_vm_init(rv, variant->nr_vcpus);
		rv->stay_in_guest = true;
		rv->close_last = variant->close_last;
		start_vm(_metadata, rv, false, DEFAULT_MEM_SIZE, NULL);

		WRITE_ONCE(control->go, true);
		ASSERT_TRUE(wait_for(READ_ONCE(control->in_guest)));

		rv->kmsg_fd = open_kmsg();
		ASSERT_EQ(kill(rv->process.pid, SIGKILL), 0);
		if (round % 2)
			usleep(round * 50 % 1000);

		if (!mrelease(rv->process.pidfd))
			nr_reaped++;
		else
			EXPECT_EQ(errno, ESRCH);

		status = finish_vm(rv);
		EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		EXPECT_TRUE(!rv->close_last || wait_for(READ_ONCE(control->closed)));
		EXPECT_EQ(count_kernel_complaints(rv->kmsg_fd), 0);

		reap_vm_cleanup(rv);
		rv->nr_vcpus = 0;
	}

	ksft_print_msg("%d rounds, %d of which were reaped\n", round, nr_reaped);
	if (!nr_reaped && !_metadata->exit_code)
		SKIP(return, "None of %d processes could be reaped", round);
}

FIXTURE(memcg_oom) {
	struct reap_vm rv;
	char *cgroup;
};

FIXTURE_VARIANT(memcg_oom) {
	int nr_vcpus;
	bool pvclock;
	bool vcpus_exit;
};

FIXTURE_VARIANT_ADD(memcg_oom, vcpus_1) {
	.nr_vcpus = 1,
};

FIXTURE_VARIANT_ADD(memcg_oom, vcpus_4) {
	.nr_vcpus = 4,
#ifdef __x86_64__
	.pvclock = true,
#endif
};

/* Stop one thread only, the vCPUs' threads exit before the reaper runs. */
FIXTURE_VARIANT_ADD(memcg_oom, vcpus_4_exit) {
	.nr_vcpus = 4,
	.vcpus_exit = true,
};

FIXTURE_SETUP(memcg_oom)
{
	reap_vm_init(&self->rv, variant->nr_vcpus);
}

FIXTURE_TEARDOWN(memcg_oom)
{
	/* The cgroup can't be removed before its last process is gone. */
	reap_vm_cleanup(&self->rv);

	if (self->cgroup) {
		rmdir(self->cgroup);
		free(self->cgroup);
	}
}

/*
 * Reap by the OOM reaper.  Let the guest's writes exceed the limit of the VM's
 * cgroup, and stop the threads of the process when it's killed, so that only the
 * OOM reaper can free the memory.
 *
 * The host doesn't use the memory, i.e. it's a page fault of the guest, in KVM_RUN,
 * that exceeds the limit, and causes the process to be killed.
 */
TEST_F_TIMEOUT(memcg_oom, oom_reaper, TEST_TIMEOUT_SEC)
{
	struct reap_vm *rv = &self->rv;
	char root[PATH_MAX], buf[16];
	int r, oom_fd;
	long usage;

	if (read_text("/proc/sys/vm/panic_on_oom", buf, sizeof(buf)) > 0 &&
	    atoi(buf) == 2)
		SKIP(return, "vm.panic_on_oom is 2, i.e. the host would panic");

	if (cg_find_controller_root(root, sizeof(root), "memory"))
		SKIP(return, "cgroup v2 is not mounted, or has no memory controller");

	if (cg_read_strstr(root, "cgroup.subtree_control", "memory") &&
	    cg_write(root, "cgroup.subtree_control", "+memory"))
		SKIP(return, "Can't enable the memory controller for cgroups");

	self->cgroup = cg_name_indexed(root, "mmu_notifier_reap_test", getpid());
	ASSERT_NE(self->cgroup, NULL);
	if (cg_create(self->cgroup)) {
		r = errno;
		free(self->cgroup);
		self->cgroup = NULL;
		SKIP(return, "Can't create a cgroup: %s", strerror(r));
	}

	/* There's no such file, and no swap, without CONFIG_SWAP. */
	cg_write(self->cgroup, "memory.swap.max", "0");

	start_vm(_metadata, rv, variant->pvclock, DEFAULT_MEM_SIZE, self->cgroup);

	r = trace_vm(_metadata, rv, variant->vcpus_exit);
	if (r)
		SKIP(return, "Can't trace a child process: %s", strerror(-r));

	/* Let the guest write about half of its memory. */
	usage = cg_read_long(self->cgroup, "memory.current");
	ASSERT_GT(usage, 0);
	ASSERT_EQ(cg_write_numeric(self->cgroup, "memory.max",
				   usage + DEFAULT_MEM_SIZE / 2), 0);

	oom_fd = open_kmsg();
	rv->kmsg_fd = open_kmsg();
	WRITE_ONCE(control->go, true);

	ASSERT_TRUE(wait_for(all_threads_are_held(rv)));
	EXPECT_GT(cg_read_key_long(self->cgroup, "memory.events", "oom_kill "), 0);
	EXPECT_TRUE(kernel_said(oom_fd, VCPU_THREAD_NAME " invoked oom-killer"));
	if (oom_fd >= 0)
		close(oom_fd);

	if (variant->vcpus_exit)
		EXPECT_TRUE(wait_for(count_threads(rv->process.pid) == 1));

	EXPECT_TRUE(wait_for(!get_anon_rss(rv->process.pid)));

	exit_reaped_vm(_metadata, rv);
}

int main(int argc, char *argv[])
{
	int i, nr_args = 1;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-n") && i + 1 < argc)
			nr_rounds = atoi_positive("Number of rounds", argv[++i]);
		else if (!strncmp(argv[i], "-n", 2))
			nr_rounds = atoi_positive("Number of rounds", argv[i] + 2);
		else
			argv[nr_args++] = argv[i];
	}
	argv[nr_args] = NULL;

	/* The VM's process can't skip the test, e.g. if there's no KVM. */
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_USER_MEMORY2));
#ifdef __x86_64__
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_KVM_CLOCKSOURCE2));
#endif

	return test_harness_run(nr_args, argv);
}
