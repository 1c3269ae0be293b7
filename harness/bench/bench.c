// SPDX-License-Identifier: GPL-2.0
/*
 * Measure what KVM does upon invalidations of guest memory, and with its
 * gfn_to_pfn_caches.  Needs a kernel with clocks.patch, a machine with a single
 * AMD CPU and, for the figures to be the numbers of instructions that were
 * executed, QEMU's -icount shift=0, with which the TSC counts instructions.
 *
 * Prints lines of NAME, median, what 5 % of the runs are below and above of (if
 * there are 20 or more, else the lowest and the highest), and number of runs.  A
 * few runs are hit by the tick.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "../extra/xioctl.h"

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

#define PAGE	4096ul
#define MiB	(1ul << 20)
#define MAX_VCPUS 256

#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01

/* Where things are in the guest's memory. */
#define FILL_CODE	0x000
#define SEND_CODE	0x100
#define SEND_ARG	0x800
#define SHINFO		0x2000
#define VCPU_INFO	0x3000	/* and the second vCPU's on the next page */
#define FREE_PAGE	0x5000
#define PVCLOCKS	0x8000

#define SHINFO_PENDING	(SHINFO + 0x800)
#define PORT		15
#define GSI		32

struct vm {
	int fd, nr_vcpus, vcpu[MAX_VCPUS];
	struct kvm_run *run[MAX_VCPUS];
	size_t run_size;
	uint8_t *mem;
	size_t size;
};

/* The clocks in the kernel. */
static unsigned long get_clock(const char *name)
{
	char path[80], buf[32] = "";
	int fd;

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		err(1, "%s", path);
	close(fd);
	return strtoul(buf, NULL, 10);
}

static void set_clock(const char *name, const char *val)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, val, strlen(val)) < 0)
		err(1, "%s", path);
	close(fd);
}

#define MN_CALLS "mmu_notifier/parameters/bench_calls"
#define MN_SUM	"mmu_notifier/parameters/bench_sum"
#define MN_MAX	"mmu_notifier/parameters/bench_max"
#define LOCK_MAX "kvm/parameters/bench_lock_max"
#define GPC	"kvm/parameters/bench_gpc"
#define CACHES	"kvm/parameters/bench_caches"
#define FILTER	"kvm/parameters/bench_filter"

static int cmp(const void *a, const void *b)
{
	unsigned long x = *(unsigned long *)a, y = *(unsigned long *)b;

	return x < y ? -1 : x > y;
}

static void report(const char *name, unsigned long *v, int n)
{
	qsort(v, n, sizeof(*v), cmp);
	printf("%s\t%lu\t%lu\t%lu\t%d\n", name, v[n / 2], v[n / 20], v[n - 1 - n / 20], n);
	fflush(stdout);
}

static void create_vm(struct vm *vm, int vcpus, size_t size, bool thp, bool irqchip)
{
	struct kvm_userspace_memory_region region = { .memory_size = size };
	int i, kvm = open("/dev/kvm", O_RDWR);
	struct kvm_sregs sregs;
	uint8_t *mem, *end;

	memset(vm, 0, sizeof(*vm));
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm->fd = xioctl(kvm, KVM_CREATE_VM, 0);
	vm->size = size;

	mem = mmap(NULL, size + 2 * MiB, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		err(1, "mmap");
	/* Leave nothing around it, wherever it is the number of VMAs is the same. */
	end = mem + size + 2 * MiB;
	vm->mem = (uint8_t *)(((uintptr_t)mem + 2 * MiB - 1) & -(2 * MiB));
	munmap(mem, vm->mem - mem);
	munmap(vm->mem + size, end - (vm->mem + size));
	if (madvise(vm->mem, size, thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) && thp)
		err(1, "MADV_HUGEPAGE");

	region.userspace_addr = (uintptr_t)vm->mem;
	xioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
	if (irqchip)
		xioctl(vm->fd, KVM_CREATE_IRQCHIP, 0);

	vm->nr_vcpus = vcpus;
	vm->run_size = xioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	for (i = 0; i < vcpus; i++) {
		vm->vcpu[i] = xioctl(vm->fd, KVM_CREATE_VCPU, i);
		vm->run[i] = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE,
				  MAP_SHARED, vm->vcpu[i], 0);
		if (vm->run[i] == MAP_FAILED)
			err(1, "mmap of a vCPU");

		/* 32 bits, flat, no paging. */
		xioctl(vm->vcpu[i], KVM_GET_SREGS, &sregs);
		sregs.cs = (struct kvm_segment) {
			.limit = ~0u, .selector = 8, .type = 11, .present = 1,
			.db = 1, .s = 1, .g = 1,
		};
		sregs.ds = sregs.cs;
		sregs.ds.selector = 16;
		sregs.ds.type = 3;
		sregs.es = sregs.ss = sregs.ds;
		sregs.cr0 |= 1;
		xioctl(vm->vcpu[i], KVM_SET_SREGS, &sregs);
	}
	close(kvm);
}

/* All of it: the mapping of a vCPU keeps the VM, and its mmu_notifier, too. */
static void destroy_vm(struct vm *vm)
{
	int i;

	for (i = 0; i < vm->nr_vcpus; i++) {
		munmap(vm->run[i], vm->run_size);
		close(vm->vcpu[i]);
	}
	close(vm->fd);
	munmap(vm->mem, vm->size);
}

static void run_vcpu(struct vm *vm, int i, struct kvm_regs *regs)
{
	regs->rflags = 2;
	xioctl(vm->vcpu[i], KVM_SET_REGS, regs);
	xioctl(vm->vcpu[i], KVM_RUN, 0);
	if (vm->run[i]->exit_reason != KVM_EXIT_IO)
		errx(1, "vCPU %d: exit reason %d", i, vm->run[i]->exit_reason);
}

/* Have the guest write to pages. */
static void fill(struct vm *vm, int i, unsigned long start, unsigned long end)
{
	static const uint8_t code[] = {
		0x89, 0x03,				/* 1: mov %eax,(%ebx) */
		0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,	/* add $0x1000,%ebx */
		0x39, 0xcb,				/* cmp %ecx,%ebx */
		0x72, 0xf4,				/* jb 1b */
		0xe6, 0x10,				/* out %al,$0x10 */
	};
	struct kvm_regs regs = { .rip = FILL_CODE, .rax = 1, .rbx = start, .rcx = end };

	memcpy(vm->mem + FILL_CODE, code, sizeof(code));
	run_vcpu(vm, i, &regs);
}

/* How late a thread of the highest priority is woken up, at worst. */
#define LATENCY_PERIOD 20000
static volatile bool latency_stop;
static volatile unsigned long latency_max;

static void *latency_thread(void *unused)
{
	struct timespec now, next;
	long late;

	(void)unused;
	clock_gettime(CLOCK_MONOTONIC, &next);
	while (!latency_stop) {
		next.tv_nsec += LATENCY_PERIOD;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
		late = (now.tv_sec - next.tv_sec) * 1000000000 + now.tv_nsec - next.tv_nsec;
		if (late > (long)latency_max)
			latency_max = late;
		if (late > LATENCY_PERIOD)
			next = now;
	}
	return NULL;
}

static pthread_t start_latency(void)
{
	struct sched_param param = { .sched_priority = 98 };
	pthread_attr_t attr;
	pthread_t thread;

	latency_stop = false;
	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &param);
	if (pthread_create(&thread, &attr, latency_thread, NULL))
		errx(1, "cannot create a SCHED_FIFO thread");
	usleep(1000);
	latency_max = 0;
	return thread;
}

struct reap {
	unsigned long kvm, syscall, lock_max, latency;
};

/*
 * Kill the process of a VM whose memory the guest has written to, keep it from
 * exiting with its memory, and reap that.
 */
static void reap_once(size_t size, bool thp, int vcpus, bool latency, struct reap *r)
{
	int i, ready[2], pidfd, status;
	pthread_t thread;
	struct vm vm;
	uint64_t t;
	pid_t pid;
	char c;

	if (pipe(ready))
		err(1, "pipe");
	pid = fork();
	if (!pid) {
		create_vm(&vm, vcpus, size, thp, false);
		for (i = 0; i < vcpus; i++)
			fill(&vm, i, size / vcpus * i + (i ? 0 : PAGE), size / vcpus * (i + 1));
		if (write(ready[1], "", 1) != 1)
			err(1, "write");
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1)
		errx(1, "no VM to be reaped");
	close(ready[0]);

	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0 || ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL))
		err(1, "cannot trace");
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, __WALL) != pid ||
	    status >> 8 != (SIGTRAP | (PTRACE_EVENT_EXIT << 8)))
		errx(1, "unexpected status %x", status);

	set_clock(MN_SUM, "0");
	set_clock(LOCK_MAX, "0");
	if (latency)
		thread = start_latency();
	t = __rdtsc();
	if (syscall(SYS_process_mrelease, pidfd, 0))
		err(1, "process_mrelease");
	r->syscall = __rdtsc() - t;
	if (latency) {
		latency_stop = true;
		pthread_join(thread, NULL);
	}
	r->latency = latency_max;
	r->kvm = get_clock(MN_SUM);
	r->lock_max = get_clock(LOCK_MAX);

	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	waitpid(pid, &status, __WALL);
	close(pidfd);
}

#define REAPS 3

static void reap(size_t mb, bool thp, int vcpus)
{
	unsigned long kvm[REAPS], syscall[REAPS], lock_max[REAPS], latency[REAPS];
	char name[80];
	struct reap r;
	int i;

	for (i = 0; i < REAPS; i++) {
		reap_once(mb * MiB, thp, vcpus, false, &r);
		kvm[i] = r.kvm;
		syscall[i] = r.syscall;
		lock_max[i] = r.lock_max;
	}

#define report_as(what, v) do {								\
	snprintf(name, sizeof(name), "reap.%s.%s.%zu.%d", what, thp ? "thp" : "4k", mb, vcpus); \
	report(name, v, REAPS);								\
} while (0)
	report_as("kvm", kvm);
	report_as("syscall", syscall);
	report_as("lock", lock_max);

	if (mb > 256)
		return;
	for (i = 0; i < REAPS; i++) {
		reap_once(mb * MiB, thp, vcpus, true, &r);
		latency[i] = r.latency;
	}
	report_as("latency", latency);
}

static void bench_reap(size_t max_mb)
{
	bool has_thp = !access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK);
	size_t mb;
	int i, thp;

	for (thp = 0; thp <= has_thp; thp++) {
		for (mb = 16; mb <= max_mb; mb *= 4)
			reap(mb, thp, 1);
	}
	for (i = 2; i <= 8 && max_mb >= 64; i *= 2)
		reap(64, false, i);
}

/* A cache for each vCPU's pvclock, all in use by KVM. */
static void add_pvclocks(struct vm *vm, int vcpus)
{
	struct {
		struct kvm_msrs msrs;
		struct kvm_msr_entry entry;
	} msrs = { .msrs.nmsrs = 1, .entry.index = MSR_KVM_SYSTEM_TIME_NEW };
	int i;

	for (i = 0; i < vcpus; i++) {
		msrs.entry.data = (PVCLOCKS + 64 * i) | 1;
		if (xioctl(vm->vcpu[i], KVM_SET_MSRS, &msrs) != 1)
			errx(1, "cannot set up a pvclock");
	}
}

#define INVALS 201

/* Who uses the page before each invalidation? */
enum user { HOST, GUEST, CACHE };

/* MADV_DONTNEED of a single page: the syscall, and KVM's start() and end(). */
static void inval(const char *what, int vcpus, struct vm *vm, uint8_t *page, enum user user)
{
	unsigned long kvm[INVALS], syscall[INVALS];
	char name[80];
	uint64_t t;
	int i;

	for (i = 0; i < INVALS; i++) {
		if (user == GUEST)
			fill(vm, 0, page - vm->mem, page - vm->mem + PAGE);
		else
			*(volatile uint8_t *)page = 1;
		if (user == CACHE)
			set_clock(GPC, "2");
		set_clock(MN_SUM, "0");
		t = __rdtsc();
		madvise(page, PAGE, MADV_DONTNEED);
		syscall[i] = __rdtsc() - t;
		kvm[i] = get_clock(MN_SUM);
	}
	snprintf(name, sizeof(name), "inval.kvm.%s.%d", what, vcpus);
	report(name, kvm, INVALS);
	snprintf(name, sizeof(name), "inval.syscall.%s.%d", what, vcpus);
	report(name, syscall, INVALS);
}

static void bench_inval(int vcpus)
{
	uint8_t *outside = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vm vm;

	create_vm(&vm, vcpus, 2 * MiB, false, false);
	add_pvclocks(&vm, vcpus);
	inval("outside", vcpus, &vm, outside, HOST);
	inval("slot", vcpus, &vm, vm.mem + FREE_PAGE, HOST);
	inval("mapped", vcpus, &vm, vm.mem + FREE_PAGE, GUEST);
	if (vcpus == 1) {
		/* The page of the vCPU's cache itself: valid, or invalidated before. */
		inval("cache", vcpus, &vm, vm.mem + PVCLOCKS, CACHE);
		inval("closed", vcpus, &vm, vm.mem + PVCLOCKS, HOST);
	}
	destroy_vm(&vm);
	munmap(outside, PAGE);
}

/*
 * Invalidations of memory that has nothing to do with the VM, by the number of
 * caches.  The caches are all in one block of memory, or each in a region of its
 * own.  The ranges are a page, somewhere in a large area, or 32 MiB.
 */
#define REGION		(2 * MiB)
#define AREA_REGIONS	32768ul
#define LONG_REGIONS	16
#define LONG_INVALS	21

static unsigned long inval_once(uint8_t *mem, uint8_t *page, size_t size)
{
	*(volatile uint8_t *)page = 1;
	set_clock(MN_SUM, "0");
	madvise(mem, size, MADV_DONTNEED);
	return get_clock(MN_SUM);
}

static uint8_t *map_regions(size_t regions)
{
	size_t size = regions * REGION;
	uint8_t *mem = mmap(NULL, size + REGION, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *aligned;

	if (mem == MAP_FAILED)
		err(1, "mmap of %zu regions", regions);
	aligned = (uint8_t *)(((uintptr_t)mem + REGION - 1) & -REGION);
	munmap(aligned + size, mem + REGION - aligned);
	munmap(mem, aligned - mem);
	madvise(aligned, size, MADV_NOHUGEPAGE);
	return aligned;
}

static void bench_caches(int caches, bool spread)
{
	static unsigned long without;
	unsigned long v[INVALS], mean = 0, looked = 0, set, random = 1;
	const char *layout = spread ? "spread" : "block";
	uint8_t *mem, *area, *page;
	struct vm vm;
	char s[80];
	int i;

	create_vm(&vm, 1, 2 * MiB, false, false);
	mem = map_regions(spread ? caches : 1);
	area = map_regions(AREA_REGIONS);
	if (!without)
		without = inval_once(area, area, PAGE);

	snprintf(s, sizeof(s), "%d %lu %lx", caches, spread ? REGION : 64, (unsigned long)mem);
	set_clock(CACHES, s);
	set = get_clock(FILTER);

	for (i = 0; i < INVALS; i++) {
		random = random * 6364136223846793005ul + 1442695040888963407ul;
		page = area + (random >> 33) % (AREA_REGIONS * REGION / PAGE) * PAGE;
		v[i] = inval_once(page, page, PAGE);
		mean += v[i];
		/* Even to skip a cache takes more than 4 instructions. */
		looked += v[i] > without + 4 * caches;
	}
	mean /= INVALS;
	snprintf(s, sizeof(s), "caches.%s.short.%d", layout, caches);
	report(s, v, INVALS);
	snprintf(s, sizeof(s), "caches.%s.mean.%d", layout, caches);
	report(s, &mean, 1);
	if (caches > 1) {
		snprintf(s, sizeof(s), "caches.%s.looked.%d", layout, caches);
		report(s, &looked, 1);
	}
	snprintf(s, sizeof(s), "filter.%s.%d", layout, caches);
	report(s, &set, 1);

	for (i = 0; i < LONG_INVALS; i++)
		v[i] = inval_once(area + i * REGION, area + i * REGION, LONG_REGIONS * REGION);
	snprintf(s, sizeof(s), "caches.%s.long.%d", layout, caches);
	report(s, v, LONG_INVALS);

	destroy_vm(&vm);
	munmap(mem, (spread ? caches : 1) * REGION);
	munmap(area, AREA_REGIONS * REGION);
}

static void bench_all_caches(void)
{
	static const int numbers[] = { 1, 16, 256, 5121 };
	unsigned int i;

	for (i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		bench_caches(numbers[i], false);
	for (i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		bench_caches(numbers[i], true);
}

static void add_xen(struct vm *vm)
{
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL, .msr = 0x40000000,
	};
	struct kvm_xen_hvm_attr shinfo = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO, .u.shared_info.gfn = SHINFO / PAGE,
	};
	struct kvm_xen_hvm_attr evtchn = {
		.type = KVM_XEN_ATTR_TYPE_EVTCHN,
		.u.evtchn = {
			.send_port = PORT, .type = 5 /* EVTCHNSTAT_ipi */,
			.deliver.port = {
				.port = PORT,
				.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
			},
		},
	};
	struct kvm_xen_vcpu_attr vcpu_info = { .type = KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO };
	int i;

	xioctl(vm->fd, KVM_XEN_HVM_CONFIG, &config);
	xioctl(vm->fd, KVM_XEN_HVM_SET_ATTR, &shinfo);
	xioctl(vm->fd, KVM_XEN_HVM_SET_ATTR, &evtchn);
	for (i = 0; i < vm->nr_vcpus; i++) {
		vcpu_info.u.gpa = VCPU_INFO + i * PAGE;
		xioctl(vm->vcpu[i], KVM_XEN_VCPU_SET_ATTR, &vcpu_info);
	}
}

/* An eventfd for each vCPU, whose port is PORT + its number. */
static void add_eventfds(struct vm *vm, int fds[2])
{
	struct {
		struct kvm_irq_routing routing;
		struct kvm_irq_routing_entry entry[2];
	} routes = { .routing.nr = vm->nr_vcpus };
	struct kvm_irqfd irqfd;
	int i;

	for (i = 0; i < vm->nr_vcpus; i++) {
		routes.entry[i] = (struct kvm_irq_routing_entry) {
			.gsi = GSI + i, .type = KVM_IRQ_ROUTING_XEN_EVTCHN,
			.u.xen_evtchn = {
				.port = PORT + i, .vcpu = i,
				.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
			},
		};
	}
	xioctl(vm->fd, KVM_SET_GSI_ROUTING, &routes);
	for (i = 0; i < vm->nr_vcpus; i++) {
		fds[i] = eventfd(0, 0);
		irqfd = (struct kvm_irqfd) { .fd = fds[i], .gsi = GSI + i };
		xioctl(vm->fd, KVM_IRQFD, &irqfd);
	}
}

static void signal_eventfd(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		err(1, "eventfd");
}

static bool take_event(struct vm *vm, int i)
{
	uint32_t *pending = (void *)(vm->mem + SHINFO_PENDING);
	volatile uint32_t *sel = (void *)(vm->mem + VCPU_INFO + i * PAGE + 4);
	volatile uint8_t *upcall = vm->mem + VCPU_INFO + i * PAGE;
	uint32_t bit = 1u << (PORT + i);
	bool taken = *sel && *upcall;

	*sel = 0;
	*upcall = 0;
	return (__atomic_fetch_and(pending, ~bit, __ATOMIC_SEQ_CST) & bit) && taken;
}

#define SENDS 1001

static void send(struct vm *vm)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = PORT, .priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	xioctl(vm->fd, KVM_XEN_HVM_EVTCHN_SEND, &event);
}

/* The guest's hypercalls, SENDS of them at a time. */
static unsigned long send_by_guest(struct vm *vm)
{
	static const uint8_t code[] = {
		0xb8, 32, 0, 0, 0,		/* 1: mov $__HYPERVISOR_event_channel_op,%eax */
		0xbb, 4, 0, 0, 0,		/* mov $EVTCHNOP_send,%ebx */
		0xb9, 0x00, 0x08, 0, 0,		/* mov $SEND_ARG,%ecx */
		0x0f, 0x01, 0xd9,		/* vmmcall */
		0xc7, 0x05, 0x00, 0x28, 0, 0, 0, 0, 0, 0, /* movl $0,SHINFO_PENDING */
		0xc7, 0x05, 0x04, 0x30, 0, 0, 0, 0, 0, 0, /* movl $0,VCPU_INFO + 4 */
		0xc6, 0x05, 0x00, 0x30, 0, 0, 0, /* movb $0,VCPU_INFO */
		0x4f,				/* dec %edi */
		0x75, -48,			/* jne 1b */
		0xe6, 0x10,			/* out %al,$0x10 */
	};
	struct kvm_regs regs = { .rip = SEND_CODE, .rdi = SENDS };
	uint64_t t;

	_Static_assert(sizeof(code) == 50, "where the loop ends");
	memcpy(vm->mem + SEND_CODE, code, sizeof(code));
	*(uint32_t *)(vm->mem + SEND_ARG) = PORT;
	t = __rdtsc();
	run_vcpu(vm, 0, &regs);
	return (__rdtsc() - t) / SENDS;
}

static void bench_evtchn(void)
{
	unsigned long v[SENDS];
	struct vm vm;
	int i, fd[2];
	uint64_t t;

	create_vm(&vm, 1, 2 * MiB, false, true);
	add_xen(&vm);
	add_eventfds(&vm, fd);

	for (i = 0; i < SENDS; i++) {
		t = __rdtsc();
		signal_eventfd(fd[0]);
		v[i] = __rdtsc() - t;
		if (!take_event(&vm, 0))
			errx(1, "no event by eventfd");
	}
	report("evtchn.eventfd", v, SENDS);

	for (i = 0; i < SENDS; i++) {
		t = __rdtsc();
		send(&vm);
		v[i] = __rdtsc() - t;
		if (!take_event(&vm, 0))
			errx(1, "no event by ioctl");
	}
	report("evtchn.ioctl", v, SENDS);

	send_by_guest(&vm);
	for (i = 0; i < 21; i++)
		v[i] = send_by_guest(&vm);
	report("evtchn.hypercall", v, 21);

	/* The vCPU's vcpu_info, activated last. */
	for (i = 0; i < 21; i++) {
		set_clock(GPC, "1");
		v[i] = get_clock(GPC) / 1000;
	}
	report("gpc.getput", v, 21);
	for (i = 0; i < 21; i++) {
		set_clock(GPC, "2");
		v[i] = get_clock(GPC) / 1000;
	}
	report("gpc.refresh-valid", v, 21);
	for (i = 0; i < 21; i++) {
		set_clock(GPC, "3");
		v[i] = get_clock(GPC) / 1000;
	}
	report("gpc.refresh-invalid", v, 21);

	close(fd[0]);
	destroy_vm(&vm);
}

/*
 * A refresh that has to wait for the invalidation of other memory, by a thread
 * of the same priority.
 */
#define DROP_SIZE (64 * MiB)
#define WAITS 11

static void *drop_thread(void *mem)
{
	madvise(mem, DROP_SIZE, MADV_DONTNEED);
	return NULL;
}

static unsigned long ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void bench_wait(void)
{
	/* Soon: pages are freed, for the most part, after the invalidation. */
	const struct timespec delay = { .tv_nsec = 100000 };
	unsigned long cpu[WAITS], wall[WAITS];
	int i, in_flight = 0;
	pthread_t thread;
	uint8_t *mem;
	struct vm vm;

	prctl(PR_SET_TIMERSLACK, 1);
	create_vm(&vm, 1, 2 * MiB, false, true);
	add_xen(&vm);
	mem = mmap(NULL, DROP_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(mem, DROP_SIZE, MADV_NOHUGEPAGE);

	for (i = 0; i < 10 * WAITS && in_flight < WAITS; i++) {
		memset(mem, 1, DROP_SIZE);
		madvise(vm.mem + SHINFO, PAGE, MADV_DONTNEED);
		*(volatile uint8_t *)(vm.mem + SHINFO) = 0;
		set_clock(MN_CALLS, "0");
		pthread_create(&thread, NULL, drop_thread, mem);
		nanosleep(&delay, NULL);
		/* After a start(), before its end()? */
		if (get_clock(MN_CALLS) % 2) {
			cpu[in_flight] = ns(CLOCK_THREAD_CPUTIME_ID);
			wall[in_flight] = ns(CLOCK_MONOTONIC);
			send(&vm);
			cpu[in_flight] = ns(CLOCK_THREAD_CPUTIME_ID) - cpu[in_flight];
			wall[in_flight] = ns(CLOCK_MONOTONIC) - wall[in_flight];
			in_flight++;
			if (!take_event(&vm, 0))
				errx(1, "no event after the wait");
		}
		pthread_join(thread, NULL);
	}
	if (!in_flight)
		errx(1, "no invalidation was in flight");
	report("wait.cpu", cpu, in_flight);
	report("wait.wall", wall, in_flight);
	munmap(mem, DROP_SIZE);
	destroy_vm(&vm);
}

/* Two threads that send events to two vCPUs, by way of the same shared_info. */
struct sender {
	pthread_t thread;
	struct vm *vm;
	int i, fd;
	unsigned long sent;
};

static volatile bool sender_stop;

static void *sender_thread(void *arg)
{
	struct sender *sender = arg;

	while (!sender_stop) {
		signal_eventfd(sender->fd);
		if (!take_event(sender->vm, sender->i))
			errx(1, "no event for vCPU %d", sender->i);
		sender->sent++;
	}
	return NULL;
}

static void bench_contended(void)
{
	unsigned long v[11];
	int i, j, n, fds[2];
	char name[32];
	struct vm vm;

	create_vm(&vm, 2, 2 * MiB, false, true);
	add_xen(&vm);
	add_eventfds(&vm, fds);
	for (n = 1; n <= 2; n++) {
		for (i = 0; i < 11; i++) {
			struct sender sender[2] = {};

			sender_stop = false;
			for (j = 0; j < n; j++) {
				sender[j] = (struct sender) { .vm = &vm, .i = j, .fd = fds[j] };
				pthread_create(&sender[j].thread, NULL, sender_thread, &sender[j]);
			}
			sleep(1);
			sender_stop = true;
			for (v[i] = j = 0; j < n; j++) {
				pthread_join(sender[j].thread, NULL);
				v[i] += sender[j].sent;
			}
		}
		snprintf(name, sizeof(name), "contended.%d", n);
		report(name, v, 11);
	}
	destroy_vm(&vm);
}

/*
 * bench/atomics steps through the kernel's @function each time that it is called
 * before path_end(), and through @other if it isn't 0.
 */
static __attribute__((noinline, noclone)) void path_begin(const char *name, unsigned long function,
							  unsigned long other)
{
	asm volatile("" : : "r"(name), "r"(function), "r"(other) : "memory");
}

static __attribute__((noinline, noclone)) void path_end(void)
{
	asm volatile("" : : : "memory");
}

/* Once to warm up, and once on the path. */
#define path(name, function, other, what) do {	\
	what;					\
	path_begin(name, function, other);	\
	what;					\
	path_end();				\
} while (0)

static void drop(uint8_t *page)
{
	*(volatile uint8_t *)page = 1;
	madvise(page, PAGE, MADV_DONTNEED);
}

static void bench_paths(void)
{
	uint8_t *outside = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FILE *file = fopen("/sys/module/kvm/parameters/bench_functions", "r");
	unsigned long get_put, refresh, event, start, end;
	struct vm vm;
	int fd[2], i;

	if (!file || fscanf(file, "%lx %lx %lx %lx %lx", &get_put, &refresh, &event, &start, &end) != 5)
		errx(1, "no addresses of functions");
	fclose(file);
	create_vm(&vm, 1, 2 * MiB, false, true);
	add_xen(&vm);
	add_eventfds(&vm, fd);

	/* The lookup of a page may take different ways; the shortest one counts. */
	for (i = 0; i < 5; i++) {
		path("gpc.getput", get_put, 0, set_clock(GPC, "1 1"));
		path("gpc.refresh-valid", refresh, 0, set_clock(GPC, "2 1"));
		path("gpc.refresh-invalid", refresh, 0, set_clock(GPC, "3 1"));
		path("evtchn.eventfd", event, 0, signal_eventfd(fd[0]); take_event(&vm, 0));
		path("inval.kvm.outside.2", start, end, drop(outside));
		path("inval.kvm.slot.2", start, end, drop(vm.mem + FREE_PAGE));
		path("inval.kvm.cache.2", start, end, set_clock(GPC, "2 1"); drop(vm.mem + VCPU_INFO));
	}
	destroy_vm(&vm);
}

/*
 * bench [MB]: measure, with VMs of at most MB to be reaped; 0: see make check.
 * bench caches: only what has to do with caches and depends on no VM's size.
 * bench contended: events by two threads, without -icount and on two CPUs.
 * bench paths: see bench/atomics.
 */
int main(int argc, char *argv[])
{
	size_t max_mb = argc > 1 ? strtoul(argv[1], NULL, 10) : 1024;
	unsigned long size;
	int vcpus;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && !strcmp(argv[1], "contended")) {
		bench_contended();
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "paths")) {
		bench_paths();
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "caches")) {
		bench_evtchn();
		bench_all_caches();
		bench_inval(1);
		return 0;
	}
	if (!max_mb) {
		bench_inval(256);
		reap(64, false, 1);
		return 0;
	}

	size = get_clock("kvm/parameters/bench_sizeof_kvm");
	report("sizeof.kvm", &size, 1);
	size = get_clock("kvm/parameters/bench_sizeof_gpc");
	report("sizeof.gpc", &size, 1);

	for (vcpus = 1; vcpus <= 256; vcpus *= vcpus == 1 ? 16 : 4)
		bench_inval(vcpus);
	bench_all_caches();
	bench_evtchn();
	bench_wait();
	bench_reap(max_mb);
	return 0;
}
