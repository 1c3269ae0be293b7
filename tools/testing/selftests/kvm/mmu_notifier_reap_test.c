// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test reaping the memory of a VM whose process has been killed, but has not
 * yet exited.
 *
 * When the memory of a dying process is reaped, by process_mrelease() or by the
 * OOM reaper, KVM's mmu_notifier is invoked for a non-blockable range, i.e. KVM
 * must not sleep, and must not fail.  Normally a killed process frees its
 * memory by itself long before anyone can reap it.  To reap the memory of a VM
 * every time, trace the VM's process with PTRACE_O_TRACEEXIT, which holds each
 * of its threads at the start of do_exit(), i.e. killed, but with the mm and
 * KVM's file descriptors intact.
 */
#include <dirent.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"
#include "kernel_splats.h"
#include "kvm_test_harness.h"

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

#define TEST_MEM_GPA		0x40000000ul
#define TEST_MEM_GVA		TEST_MEM_GPA
#define TEST_MEM_SLOT		10

#define DEFAULT_MEM_SIZE	(16ul << 20)
#define LARGE_MEM_SIZE		(64ul << 20)

/*
 * Allow for (very) slow hosts, e.g. nested virtualization on a kernel with
 * lockdep.  All waits are bounded, and give up (well) before the harness kills
 * the test, so that the test can clean up after itself.
 */
#define WAIT_TIMEOUT_SEC	60
#define TEST_TIMEOUT_SEC	300

/* Shared by the test and by the process that owns the VM. */
struct reap_control {
	/* Number of vCPUs that have run, and now wait for @go. */
	u32 nr_ready;
	bool go;

	/* Number of times each vCPU has written all of its memory. */
	u32 nr_passes[MAX_VCPUS];
};

static struct reap_control *control;
static u64 guest_page_size;

#ifdef __x86_64__
static void guest_enable_pvclock(gva_t gva, gpa_t gpa)
{
	struct pvclock_vcpu_time_info *pvti = (void *)gva;

	wrmsr(MSR_KVM_SYSTEM_TIME_NEW, gpa | KVM_MSR_ENABLED);

	/*
	 * KVM writes the clock, by way of its cache of the page, before it runs
	 * the guest again.
	 */
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
 * Map all memory ahead of time, purely to speed up the test.  Failure is ok, in
 * that case each page is mapped when the guest writes it.
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
	memset(addr_gpa2hva(vcpu->vm, TEST_MEM_GPA), 0xaa, size);

	while (range.size && (!__vcpu_ioctl(vcpu, KVM_PRE_FAULT_MEMORY, &range) ||
			      errno == EINTR || errno == EAGAIN))
		;
}

/* Body of the child process, which runs the VM until it is killed. */
static void run_vm(int nr_vcpus, bool pvclock, bool prefault, u64 mem_size)
{
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	pthread_t threads[MAX_VCPUS];
	gva_t pvclock_gva = 0;
	gpa_t pvclock_gpa = 0;
	struct kvm_vm *vm;
	u64 nr_pages;
	int i;

	nr_pages = vm_calc_num_guest_pages(VM_MODE_DEFAULT, mem_size);
	vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, nr_vcpus, nr_pages,
				    guest_code, vcpus);

	guest_page_size = vm->page_size;
	sync_global_to_guest(vm, guest_page_size);

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

	for (;;)
		pause();
}

/*
 * Poll for @cond, which isn't signalled in any other way.  Evaluates to whether
 * or not the condition became true in time.
 */
#define wait_for(cond)							\
({									\
	struct timespec start;						\
	bool ok;							\
									\
	clock_gettime(CLOCK_MONOTONIC, &start);				\
	while (!(ok = (cond)) &&					\
	       timespec_elapsed(start).tv_sec < WAIT_TIMEOUT_SEC)	\
		usleep(1000);						\
	ok;								\
})

struct reap_thread {
	pid_t tid;
	bool held;
};

/* The VM's process, as seen by the test. */
struct reap_vm {
	pid_t pid;
	int pidfd;
	int kmsg_fd;
	int nr_vcpus;
	int nr_threads;
	struct reap_thread threads[MAX_THREADS];
};

static int mrelease(struct reap_vm *rv)
{
	return syscall(__NR_process_mrelease, rv->pidfd, 0);
}

/* The anonymous memory mapped by @pid, in bytes, or -1 if it has no mm. */
static long get_anon_rss(pid_t pid)
{
	char path[64], line[256];
	long kib = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	if (!f)
		return -1;

	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "RssAnon: %ld kB", &kib) == 1)
			break;
	}
	fclose(f);

	return kib < 0 ? -1 : kib << 10;
}

static bool vm_process_has_exited(struct reap_vm *rv)
{
	siginfo_t info = {};

	return waitid(P_PID, rv->pid, &info, WEXITED | WNOHANG | WNOWAIT) ||
	       info.si_pid;
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
	rv->pidfd = -1;
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
	pid_t parent = getpid();

	rv->pid = fork();
	if (!rv->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(KSFT_FAIL);

		TEST_ASSERT(!cgroup || !cg_enter_current(cgroup),
			    "Failed to enter cgroup %s", cgroup);
		/* The limit of a cgroup is for the guest to exceed, not the host. */
		run_vm(rv->nr_vcpus, pvclock, !cgroup, mem_size);
		_exit(KSFT_FAIL);
	}
	ASSERT_GT(rv->pid, 0);

	rv->pidfd = syscall(__NR_pidfd_open, rv->pid, 0);
	ASSERT_GE(rv->pidfd, 0);

	wait_for(vcpus_are_ready(rv) || vm_process_has_exited(rv));
	ASSERT_TRUE(vcpus_are_ready(rv));
}

/* Arrange for all threads of the VM's process to be held when they exit. */
static int trace_vm(struct __test_metadata *_metadata, struct reap_vm *rv)
{
	struct dirent *entry;
	char path[64];
	pid_t tid;
	DIR *dir;
	int r = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", rv->pid);
	dir = opendir(path);
	ASSERT_NE(dir, NULL);

	while (!r && (entry = readdir(dir))) {
		tid = atoi(entry->d_name);
		if (!tid)
			continue;

		ASSERT_LT(rv->nr_threads, MAX_THREADS);

		/* Don't leave a live VM behind if the test is killed. */
		if (ptrace(PTRACE_SEIZE, tid, NULL,
			   PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL))
			r = -errno;
		else
			rv->threads[rv->nr_threads++].tid = tid;
	}
	closedir(dir);

	if (!r)
		ASSERT_GT(rv->nr_threads, rv->nr_vcpus);
	return r;
}

/* Let go of the process and wait for it to exit.  Returns its wait status. */
static int finish_vm(struct reap_vm *rv)
{
	int status, i;

	for (i = 0; i < rv->nr_threads; i++)
		ptrace(PTRACE_DETACH, rv->threads[i].tid, NULL, NULL);
	rv->nr_threads = 0;

	if (!wait_for(waitpid(rv->pid, &status, WNOHANG) == rv->pid))
		return -1;

	rv->pid = 0;
	return status;
}

/* Leave nothing behind, regardless of how far the test got. */
static void reap_vm_cleanup(struct reap_vm *rv)
{
	if (rv->pid > 0) {
		kill(rv->pid, SIGKILL);
		wait_for(all_threads_are_held(rv));
		finish_vm(rv);
	}

	if (rv->pidfd >= 0)
		close(rv->pidfd);
	if (rv->kmsg_fd >= 0)
		close(rv->kmsg_fd);
	kvm_munmap(control, sizeof(*control));
}

/*
 * The memory is gone, and all threads of the process have yet to free it, or
 * anything else.  Check that the process can exit, and that KVM behaved.
 */
static void exit_reaped_vm(struct __test_metadata *_metadata, struct reap_vm *rv)
{
	int status;

	EXPECT_EQ(get_anon_rss(rv->pid), 0);

	status = finish_vm(rv);
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	EXPECT_EQ(count_kernel_splats(rv->kmsg_fd), 0);
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

	/* There's no process yet, i.e. the only thing that's wrong is the fd. */
	if (!mrelease(rv) || errno != EBADF)
		SKIP(return, "process_mrelease() is not supported");

	start_vm(_metadata, rv, pvclock, mem_size, NULL);

	r = trace_vm(_metadata, rv);
	if (r)
		SKIP(return, "Can't trace a child process: %s", strerror(-r));

	/* Get all of the memory mapped into the guest, and in use. */
	WRITE_ONCE(control->go, true);
	wait_for(vcpus_have_written_all_memory(rv) || vm_process_has_exited(rv));
	ASSERT_TRUE(vcpus_have_written_all_memory(rv));
	ASSERT_GE(get_anon_rss(rv->pid), (long)mem_size);

	rv->kmsg_fd = open_kmsg();
	ASSERT_EQ(kill(rv->pid, SIGKILL), 0);

	if (wait_for_exit)
		ASSERT_TRUE(wait_for(all_threads_are_held(rv)));

	EXPECT_EQ(mrelease(rv), 0) {
		TH_LOG("process_mrelease() failed: %s", strerror(errno));
	}

	ASSERT_TRUE(wait_for(all_threads_are_held(rv)));

	exit_reaped_vm(_metadata, rv);
}

/* Reap when all threads have left KVM, and so all vCPUs have left the guest. */
TEST_F_TIMEOUT(mrelease, stopped, TEST_TIMEOUT_SEC)
{
	test_mrelease(_metadata, &self->rv, variant->pvclock, variant->mem_size, true);
}

/*
 * Reap as soon as the process has been killed, when vCPUs might still execute
 * guest code, or be anywhere on their way out of it.
 */
TEST_F_TIMEOUT(mrelease, running, TEST_TIMEOUT_SEC)
{
	test_mrelease(_metadata, &self->rv, variant->pvclock, variant->mem_size, false);
}

FIXTURE(memcg_oom) {
	struct reap_vm rv;
	char *cgroup;
};

FIXTURE_VARIANT(memcg_oom) {
	int nr_vcpus;
	bool pvclock;
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
 * Reap by way of the OOM reaper.  Let the guest's writes exceed the limit of
 * the VM's cgroup, and hold the process when it's killed so that the OOM reaper
 * has to step in.  Nobody else can free the memory while all threads are held.
 */
TEST_F_TIMEOUT(memcg_oom, oom_reaper, TEST_TIMEOUT_SEC)
{
	struct reap_vm *rv = &self->rv;
	char root[PATH_MAX], buf[16];
	long usage;
	int r;

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

	r = trace_vm(_metadata, rv);
	if (r)
		SKIP(return, "Can't trace a child process: %s", strerror(-r));

	/* Let the guest get through half of its memory. */
	usage = cg_read_long(self->cgroup, "memory.current");
	ASSERT_GT(usage, 0);
	ASSERT_EQ(cg_write_numeric(self->cgroup, "memory.max",
				   usage + DEFAULT_MEM_SIZE / 2), 0);

	rv->kmsg_fd = open_kmsg();
	WRITE_ONCE(control->go, true);

	ASSERT_TRUE(wait_for(all_threads_are_held(rv)));
	EXPECT_GT(cg_read_key_long(self->cgroup, "memory.events", "oom_kill "), 0);

	EXPECT_TRUE(wait_for(!get_anon_rss(rv->pid)));

	exit_reaped_vm(_metadata, rv);
}

int main(int argc, char *argv[])
{
	/* Check here what the VM's process can't skip, e.g. if there's no KVM. */
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_USER_MEMORY2));
#ifdef __x86_64__
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_KVM_CLOCKSOURCE2));
#endif

	return test_harness_run(argc, argv);
}
