// SPDX-License-Identifier: GPL-2.0
/*
 * Reap a VM whose mmu_lock is held by a task that does not get a CPU.
 *
 * A vCPU thread handles a page fault of its guest, i.e. holds mmu_lock for read,
 * when a SCHED_FIFO task of higher priority takes the CPU away from it.  Then the
 * VM's process is killed, and process_mrelease() is called on another CPU.  Does it
 * return, with the memory freed, while the FIFO task runs?  If it waits for
 * mmu_lock it doesn't: the holder has to run, in order to unlock, and the rwlock of
 * PREEMPT_RT doesn't lend anybody's priority to a reader.
 *
 * Nothing in the kernel helps with that.  The stack of the vCPU thread, in /proc,
 * tells that it was interrupted in a function that is called with mmu_lock held;
 * if it was elsewhere, let it go on for a while, and try again.  That takes root,
 * two CPUs, PREEMPT_RT (elsewhere, who holds mmu_lock isn't preempted) and x86's
 * TDP MMU.  Exit status 4 if that isn't there.
 *
 * Arguments: number of VMs (3), how long the FIFO task runs, in seconds (3).
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

#define PAGE		4096ul
#define MEM_SIZE	(64ul << 20)
#define MAX_VMS		20

/* Called by a page fault, with mmu_lock held for read. */
#define LOCKED_FUNCTION	"kvm_tdp_mmu_map"

/* The CPU of the vCPU and of the FIFO task; everybody else is on others. */
#define BUSY_CPU	1

/* Below the kernel's interrupt threads, which have 50. */
#define PRIO_VCPU	10
#define PRIO_BUSY	20

/* Written by the process of the VM. */
static struct {
	volatile pid_t tid;
	volatile bool done;
} *shared;

static sem_t busy_start;
static volatile bool busy_running, busy_stop;

/* process_mrelease(), by a thread of its own. */
static struct {
	int pidfd, ret;
	volatile bool returned;
	double took;
} reap;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static __attribute__((noreturn)) void skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("ok 1 # SKIP ");
	vprintf(fmt, args);
	printf("\n");
	exit(4);
}

static void xioctl(int fd, unsigned long cmd, void *arg, const char *what)
{
	if (ioctl(fd, cmd, arg) < 0)
		err(1, "%s", what);
}
#define xioctl(fd, cmd, arg) xioctl(fd, cmd, arg, #cmd)

/* This thread, and those which it creates, are on a CPU, or on all but that. */
static void set_cpu(int cpu, bool only)
{
	cpu_set_t cpus;
	int i;

	CPU_ZERO(&cpus);
	for (i = 0; i < CPU_SETSIZE; i++) {
		if ((i == cpu) == only)
			CPU_SET(i, &cpus);
	}
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		err(1, "sched_setaffinity");
}

static void set_fifo(int prio)
{
	struct sched_param param = { .sched_priority = prio };

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		err(1, "SCHED_FIFO");
}

/* The process of the VM: its only vCPU writes to all pages, and faults on each. */
static void run_vm(void)
{
	static const unsigned char code[] = {
		0x89, 0x03,				/* 1: mov %eax,(%ebx) */
		0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,	/* add $0x1000,%ebx */
		0x39, 0xcb,				/* cmp %ecx,%ebx */
		0x72, 0xf4,				/* jb 1b */
		0xe6, 0x10,				/* out %al,$0x10 */
	};
	struct kvm_regs regs = { .rflags = 2, .rbx = PAGE, .rcx = MEM_SIZE };
	struct kvm_userspace_memory_region region = { .memory_size = MEM_SIZE };
	struct kvm_sregs sregs;
	int kvm, vm, vcpu;
	char *mem;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");

	/* All of it is there, what is left to do is to map it for the guest. */
	mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");
	madvise(mem, MEM_SIZE, MADV_NOHUGEPAGE);
	memset(mem, 0xaa, MEM_SIZE);
	memcpy(mem, code, sizeof(code));
	region.userspace_addr = (unsigned long)mem;
	xioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);

	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");

	/* 32 bits, flat, no paging. */
	xioctl(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs = (struct kvm_segment) {
		.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1,
	};
	sregs.ds = sregs.cs;
	sregs.ds.selector = 16;
	sregs.ds.type = 3;
	sregs.es = sregs.ss = sregs.ds;
	sregs.cr0 |= 1;
	xioctl(vcpu, KVM_SET_SREGS, &sregs);
	xioctl(vcpu, KVM_SET_REGS, &regs);

	set_cpu(BUSY_CPU, true);
	set_fifo(PRIO_VCPU);
	shared->tid = getpid();
	xioctl(vcpu, KVM_RUN, NULL);
	shared->done = true;
	for (;;)
		pause();
}

static void *busy_thread(void *unused)
{
	set_cpu(BUSY_CPU, true);
	set_fifo(PRIO_BUSY);
	for (;;) {
		while (sem_wait(&busy_start))
			;
		busy_running = true;
		while (!busy_stop)
			;
		busy_running = false;
	}
	return unused;
}

/* From here to stop_busy(), no other thread of the test runs on that CPU. */
static void start_busy(void)
{
	busy_stop = false;
	sem_post(&busy_start);
	while (!busy_running)
		sched_yield();
}

static void stop_busy(void)
{
	busy_stop = true;
	while (busy_running)
		sched_yield();
}

static void *reap_thread(void *unused)
{
	double start = now();

	reap.ret = syscall(SYS_process_mrelease, reap.pidfd, 0) ? errno : 0;
	reap.took = now() - start;
	reap.returned = true;
	return unused;
}

static bool read_proc(const char *name, char *buf, size_t size)
{
	char path[64];
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", shared->tid, name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	len = read(fd, buf, size - 1);
	close(fd);
	buf[len > 0 ? len : 0] = 0;
	return len > 0;
}

/* The anonymous memory of the VM's process, in KiB. */
static long get_anon_rss(void)
{
	char buf[4096], *line = NULL;

	if (read_proc("status", buf, sizeof(buf)))
		line = strstr(buf, "RssAnon:");
	return line ? atol(line + strlen("RssAnon:")) : -1;
}

/* Take the CPU away from the vCPU when it has mmu_lock. */
static bool preempt_vcpu(void)
{
	char stack[4096];

	while (!shared->done) {
		start_busy();
		if (!read_proc("stack", stack, sizeof(stack)))
			skip("cannot read /proc/PID/stack: CONFIG_STACKTRACE, and root?");
		if (strstr(stack, LOCKED_FUNCTION))
			return true;
		stop_busy();
		usleep(rand() % 1000);
	}
	return false;
}

/* One VM.  Returns whether or not it was reaped while the FIFO task ran. */
static bool test_vm(int n, int seconds)
{
	long before, after;
	pthread_t reaper;
	double start;
	bool in_time;
	int i, pid;

	/* Usually the first one is caught, long before it has touched all memory. */
	for (i = 0; ; i++) {
		if (i == 5)
			skip("no vCPU was preempted in %s()", LOCKED_FUNCTION);

		memset(shared, 0, sizeof(*shared));
		pid = fork();
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			run_vm();
		}
		if (pid < 0)
			err(1, "fork");
		while (!shared->tid) {
			if (waitpid(pid, NULL, WNOHANG) == pid)
				errx(1, "the VM's process failed");
			usleep(1000);
		}
		if (preempt_vcpu())
			break;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	before = get_anon_rss();

	reap.returned = false;
	reap.pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (reap.pidfd < 0)
		err(1, "pidfd_open");
	start = now();
	kill(pid, SIGKILL);
	if (pthread_create(&reaper, NULL, reap_thread, NULL))
		errx(1, "pthread_create");
	while (!reap.returned && now() - start < seconds)
		usleep(1000);
	in_time = reap.returned;
	after = get_anon_rss();
	stop_busy();

	pthread_join(reaper, NULL);
	waitpid(pid, NULL, 0);
	close(reap.pidfd);

	if (in_time && !reap.ret && !after)
		printf("ok %d - returned after %.3f s, while the FIFO task ran; %ld MiB were freed\n",
		       n, reap.took, before >> 10);
	else if (in_time)
		printf("not ok %d - returned after %.3f s, but did not free %ld of %ld MiB%s%s\n",
		       n, reap.took, after >> 10, before >> 10,
		       reap.ret ? ": " : "", reap.ret ? strerror(reap.ret) : "");
	else
		printf("not ok %d - did not return in the %d s for which the FIFO task ran, nor free %ld of %ld MiB; returned %.3f s later%s%s\n",
		       n, seconds, after >> 10, before >> 10, reap.took - seconds,
		       reap.ret ? ": " : "", reap.ret ? strerror(reap.ret) : "");
	return in_time && !reap.ret && !after;
}

int main(int argc, char **argv)
{
	int i, nr_vms = argc > 1 ? atoi(argv[1]) : 3, seconds = argc > 2 ? atoi(argv[2]) : 3;
	struct utsname uts;
	int nr_reaped = 0;
	pthread_t busy;

	setbuf(stdout, NULL);
	if (nr_vms < 1 || nr_vms > MAX_VMS || seconds < 1)
		errx(2, "usage: preempted [VMS (1 to %d) [SECONDS]]", MAX_VMS);
	if (sysconf(_SC_NPROCESSORS_ONLN) <= BUSY_CPU)
		skip("a second CPU is needed");
	if (uname(&uts) || !strstr(uts.version, "PREEMPT_RT"))
		skip("no PREEMPT_RT: who holds mmu_lock isn't preempted");

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		err(1, "mmap");
	sem_init(&busy_start, 0, 0);
	set_cpu(BUSY_CPU, false);
	if (pthread_create(&busy, NULL, busy_thread, NULL))
		errx(1, "pthread_create");

	printf("1..%d\n", nr_vms);
	for (i = 1; i <= nr_vms; i++)
		nr_reaped += test_vm(i, seconds);
	printf("# result: %s while the FIFO task ran, %d of %d\n",
	       nr_reaped == nr_vms ? "returned" : "did not return",
	       nr_reaped == nr_vms ? nr_reaped : nr_vms - nr_reaped, nr_vms);
	return nr_reaped != nr_vms;
}
