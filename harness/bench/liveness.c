// SPDX-License-Identifier: GPL-2.0
/*
 * Refreshes of a gfn_to_pfn_cache, and updates of memslots, under streams of
 * invalidations that concern neither.  Needs a kernel with liveness.patch.
 *
 *	liveness MILLISECONDS [ROW ...]
 *
 * A row is WHERE/SIZE/THREADS, e.g. slot/64M/8.  THREADS threads do nothing but
 * madvise() and mprotect() on memory of their own, on both sides of the cache's
 * page, inside of a memslot (slot) or not (outside), SIZE at a time:
 *
 *	near	4 KiB, in the same 2 MiB as the page
 *	4K	4 KiB, each range in 2 MiB of its own
 *	64M	64 MiB
 *	1G	1 GiB of shared hugetlbfs.  The huge pages are of 2 MiB: mm makes 1 GiB
 *		of each, because page tables could be shared.
 *
 * With 0 threads it is what the others are to be compared with.
 *
 * One thread invalidates the cache's page (Xen's shared_info), and then sends an
 * event, for which the page must be looked up again.  When that begins, no
 * invalidation of the page is in flight, i.e. an ideal refresh never waits, and looks
 * up the page once.  One thread adds and deletes another memslot.
 *
 * Prints lines of "liveness:", the row, and
 *
 *	- the longest range that KVM is told of by a madvise() and by an mprotect() of
 *	  a thread, in KiB, or the shorter one if they differ,
 *	- refreshes, the microseconds in which these were completed, their page
 *	  lookups, how often they slept outside of the lookups, invalidations that were
 *	  completed during those that slept or had to look up the page again, sum and
 *	  maximum,
 *	- memslot updates, microseconds, the most invalidations completed during one,
 *	- all invalidations, microseconds.
 *
 * At the end, who waits is let go by the end of the streams, and counts as completed.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../extra/xioctl.h"

#define KiB	(1ul << 10)
#define MiB	(1ul << 20)
#define GiB	(1ul << 30)
#define PAGE	(4 * KiB)

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB	(21u << 26)
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define MAX_THREADS 64
/* Where the memslot that comes and goes is, above all others. */
#define EXTRA_GPA	(64 * GiB)

#define LOOKUPS	"/sys/module/kvm/parameters/liveness"
#define LONGEST	"/sys/module/mmu_notifier/parameters/liveness_longest"

static const struct size {
	const char *name;
	unsigned long len;		/* of a range */
	unsigned long madvise_len;	/* what madvise() is called for */
	int advice;
	unsigned long stride;		/* from range to range */
	unsigned long align;		/* of the page's place */
	unsigned long before, after;	/* from there to the ranges on both sides */
	unsigned long page;		/* and to the page */
	bool huge;			/* shared hugetlbfs */
} sizes[] = {
	{ "near", PAGE, PAGE, MADV_DONTNEED, 2 * PAGE, 2 * MiB, -MiB, MiB + 2 * PAGE, MiB, false },
	{ "4K", PAGE, PAGE, MADV_DONTNEED, 2 * MiB, 2 * MiB, 0, 2 * MiB, 0, false },
	{ "64M", 64 * MiB, 64 * MiB, MADV_FREE, 66 * MiB, 2 * MiB, 2 * MiB, 2 * MiB, 0,
		false },
	{ "1G", GiB, 2 * MiB, MADV_DONTNEED, GiB, GiB, 0, GiB, 0, true },
};

/* One for each thread, which alone writes to it. */
static struct stream {
	uint8_t *range[2];
	unsigned long count;
} __attribute__((aligned(128))) streams[MAX_THREADS];

static const struct size *size;
static int nr_threads, vm, kvm_lookups;
static uint8_t *page;
static pthread_barrier_t barrier;
static bool stop;

static unsigned long nr_refreshes, nr_lookups, nr_sleeps, refresh_us;
static unsigned long waited, longest_refresh;
static unsigned long nr_updates, longest_update, update_us;

static unsigned long now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ul + t.tv_nsec / 1000;
}

static void *map(uint8_t *at, unsigned long len, int prot, int flags, int fd)
{
	uint8_t *p = mmap(at, len, prot, flags | MAP_NORESERVE | (at ? MAP_FIXED : 0), fd, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static void protect(uint8_t *range, int prot)
{
	if (mprotect(range, size->len, prot))
		err(1, "mprotect");
}

static void advise(uint8_t *range)
{
	if (madvise(range, size->madvise_len, size->advice))
		err(1, "madvise");
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		err(1, "%s", path);
	close(fd);
}

static bool stopped(void)
{
	return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

static void begin(int priority)
{
	struct sched_param param = { .sched_priority = priority };

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		err(1, "SCHED_FIFO");
	pthread_barrier_wait(&barrier);
}

/*
 * Few CPUs stand for many if threads lose them at any point, in the middle of an
 * invalidation, too.  With PREEMPT_LAZY most lose them upon return to user space.
 * But if a realtime thread has run for a moment, it's another one's turn.
 */
static void *preempt(void *cpu)
{
	const struct timespec ms = { .tv_nsec = 1000000 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((uintptr_t)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "sched_setaffinity");
	begin(1);
	while (!stopped())
		nanosleep(&ms, NULL);
	return NULL;
}

static unsigned long completed(void)
{
	unsigned long sum = 0;
	int i;

	for (i = 0; i < nr_threads; i++)
		sum += __atomic_load_n(&streams[i].count, __ATOMIC_RELAXED);
	return sum;
}

static void done(struct stream *s)
{
	__atomic_store_n(&s->count, s->count + 1, __ATOMIC_RELAXED);
}

/*
 * madvise() takes locks for read, i.e. many can be in flight at once, and mprotect()
 * takes mmap_lock for write, for which all have to wait, the refresh, too.  Both tell
 * notifiers even if there is no page left, as page tables are there.
 */
static void *invalidate(void *arg)
{
	struct stream *s = arg;
	int i;

	pthread_barrier_wait(&barrier);
	for (i = 0; !stopped(); i++) {
		uint8_t *range = s->range[i & 1];

		if (i % 64 >= 62) {
			protect(range, PROT_READ);
			done(s);
			protect(range, PROT_READ | PROT_WRITE);
		} else {
			advise(range);
		}
		done(s);
	}
	return NULL;
}

/* Page lookups of the kernel, and how often they slept. */
static void get_lookups(unsigned long *lookups, unsigned long *sleeps)
{
	char buf[64] = "";

	if (pread(kvm_lookups, buf, sizeof(buf) - 1, 0) <= 0 ||
	    sscanf(buf, "%lu %lu", lookups, sleeps) != 2)
		err(1, LOOKUPS);
}

/* How often this thread slept. */
static unsigned long get_sleeps(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nvcsw;
}

static void *refresh(void *unused)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = 15,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};
	unsigned long lookups, in_lookups, sleeps, invalidations, start, v[2];

	(void)unused;
	pthread_barrier_wait(&barrier);
	start = now_us();
	while (!stopped()) {
		if (madvise(page, PAGE, MADV_DONTNEED))
			err(1, "madvise");

		get_lookups(&v[0], &v[1]);
		sleeps = get_sleeps();
		invalidations = completed();
		xioctl(vm, KVM_XEN_HVM_EVTCHN_SEND, &event);
		invalidations = completed() - invalidations;
		sleeps = get_sleeps() - sleeps;
		get_lookups(&lookups, &in_lookups);
		lookups -= v[0];
		sleeps -= in_lookups - v[1];
		if (!lookups)
			errx(1, "no refresh, although the page was invalidated");
		nr_refreshes++;
		nr_lookups += lookups;
		nr_sleeps += sleeps;
		if (sleeps || lookups > 1) {
			waited += invalidations;
			if (invalidations > longest_refresh)
				longest_refresh = invalidations;
		}
	}
	refresh_us = now_us() - start;
	return NULL;
}

static void set_memslot(int slot, uint64_t gpa, void *mem, unsigned long len)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = len,
		.userspace_addr = (uintptr_t)mem,
	};

	xioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void *update(void *mem)
{
	unsigned long invalidations, start;
	bool add = true;

	pthread_barrier_wait(&barrier);
	start = now_us();
	for (; !stopped(); add = !add) {
		invalidations = completed();
		set_memslot(1, EXTRA_GPA, mem, add ? 2 * MiB : 0);
		invalidations = completed() - invalidations;
		nr_updates++;
		if (invalidations > longest_update)
			longest_update = invalidations;
	}
	update_us = now_us() - start;
	return NULL;
}

/* The longest range that KVM was told of since this was last called, in KiB. */
static unsigned long longest_range(void)
{
	int fd = open(LONGEST, O_RDWR);
	char buf[32] = "";

	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0 || pwrite(fd, "0", 1, 0) != 1)
		err(1, LONGEST);
	close(fd);
	return strtoul(buf, NULL, 10) / KiB;
}

static void add_range(uint8_t **range, uint8_t *at)
{
	int fd = -1;

	if (size->huge) {
		fd = memfd_create("range", MFD_HUGETLB | MFD_HUGE_2MB);
		if (fd < 0 || ftruncate(fd, size->len))
			err(1, "memfd_create");
	}
	*range = map(at, size->len, PROT_READ | PROT_WRITE,
		     fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd);
	if (fd >= 0)
		close(fd);
	if (size->advice == MADV_FREE) {
		/* The zero page, which stays, i.e. there is much to walk. */
		if (madvise(at, size->len, MADV_POPULATE_READ))
			err(1, "MADV_POPULATE_READ");
	} else {
		*(volatile uint8_t *)at = 1;
	}
}

static void run_row(const char *row, const char *where, int ms)
{
	unsigned long side = nr_threads * size->stride, total, range = 0, advised, start, us, cpus;
	struct kvm_xen_hvm_config config = { .flags = KVM_XEN_HVM_CONFIG_EVTCHN_SEND };
	struct kvm_xen_hvm_attr attr = { .type = KVM_XEN_ATTR_TYPE_SHARED_INFO };
	int i, kvm = open("/dev/kvm", O_RDWR);
	bool slot = !strcmp(where, "slot");
	pthread_t threads[MAX_THREADS + 2], preempter;
	uint8_t *mem, *place;

	/* Nothing else is in there, so that the ranges stay VMAs of their own. */
	total = 2 * side + 4 * size->align;
	mem = map(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	place = mem + side + size->align;
	place = (uint8_t *)((uintptr_t)place & -size->align) + size->align;
	page = map(place + size->page, PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (i = 0; i < nr_threads; i++) {
		add_range(&streams[i].range[0],
			  place - size->before - (i + 1) * size->stride);
		add_range(&streams[i].range[1], place + size->after + i * size->stride);
	}

	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = xioctl(kvm, KVM_CREATE_VM, 0);
	if (slot)
		set_memslot(0, 0, mem, total);
	else
		set_memslot(0, 0, page, PAGE);
	xioctl(vm, KVM_CREATE_VCPU, 0);
	xioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	attr.u.shared_info.gfn = slot ? (page - mem) / PAGE : 0;
	xioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr);

	if (nr_threads) {
		longest_range();
		advise(streams[0].range[0]);
		advised = longest_range();
		protect(streams[0].range[0], PROT_READ);
		range = longest_range();
		if (range > advised)
			range = advised;
		protect(streams[0].range[0], PROT_READ | PROT_WRITE);
	}

	kvm_lookups = open(LOOKUPS, O_RDONLY);
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_barrier_init(&barrier, NULL, nr_threads + 3 + cpus);
	while (cpus--)
		pthread_create(&preempter, NULL, preempt, (void *)cpus);
	for (i = 0; i < nr_threads; i++)
		pthread_create(&threads[i], NULL, invalidate, &streams[i]);
	pthread_create(&threads[i++], NULL, refresh, NULL);
	pthread_create(&threads[i++], NULL, update,
		       map(NULL, 2 * MiB, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1));
	/* Of a higher priority than they, to end it in time. */
	begin(2);
	start = now_us();
	usleep(ms * 1000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	us = now_us() - start;
	pthread_join(threads[i++], NULL);
	pthread_join(threads[i++], NULL);

	printf("liveness:\t%s\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\t%lu\n",
	       row, range, nr_refreshes, refresh_us, nr_lookups, nr_sleeps, waited,
	       longest_refresh, nr_updates, update_us, longest_update, completed(), us);
	fflush(stdout);
}

/* Each in a process of its own, with a mm of its own. */
static void fork_row(const char *row, int ms)
{
	char where[16], name[16];
	unsigned int i;
	pid_t pid;
	int status;

	if (sscanf(row, "%15[^/]/%15[^/]/%d", where, name, &nr_threads) != 3)
		errx(2, "%s: no row", row);
	for (i = 0, size = NULL; i < sizeof(sizes) / sizeof(*sizes); i++) {
		if (!strcmp(name, sizes[i].name))
			size = &sizes[i];
	}
	if ((strcmp(where, "slot") && strcmp(where, "outside")) || !size ||
	    nr_threads < 0 || nr_threads > MAX_THREADS)
		errx(2, "%s: no row", row);

	pid = fork();
	if (!pid) {
		alarm(300);
		run_row(row, where, ms);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		err(1, "fork");
	if (status)
		errx(1, "%s: %s %d", row, WIFSIGNALED(status) ? "signal" : "status",
		     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	int i;

	if (argc < 3)
		errx(2, "usage: liveness MILLISECONDS ROW ...");
	/* Two for each thread. */
	write_file("/proc/sys/vm/nr_hugepages", "16");

	for (i = 2; i < argc; i++)
		fork_row(argv[i], atoi(argv[1]));
	return 0;
}
