// SPDX-License-Identifier: GPL-2.0
/*
 * What other CPUs see of reaping a VM, and of invalidations of its memory: the
 * interrupts that they get, and the tasks that are woken up.
 *
 * isolation count	for a machine of 4 CPUs.  The vCPUs are on CPUs 1 to 3, what
 *			reaps or invalidates is on CPU 0.
 * isolation sections	for one CPU, with -icount: the longest section with preemption
 *			or interrupts off, by the preemptirqsoff tracer, in thousands of
 *			instructions.  No vCPU runs meanwhile.
 *
 * Prints lines of "isolation:", what is done, to how many vCPUs, what is counted, and
 * the number: per reap, per 1000 invalidations, or the longest.
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
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../extra/xioctl.h"

#ifndef SYS_process_mrelease
#define SYS_process_mrelease 448
#endif

#define PAGE	4096ul
#define SIZE	(16ul << 20)
#define MAX_VCPUS 8
#define REAPS	20
#define INVALS	1000
#define TRACING	"/sys/kernel/tracing/"

/* The page that the guest writes to all the time. */
#define BUSY	(8ul << 20)

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "CPU %d", cpu);
}

/*
 * What is counted: the kinds of interrupts of /proc/interrupts that one CPU sends to
 * another, and the wake-ups of /proc/schedstat.
 */
static const char *const kinds[] = { "RES", "CAL", "TLB", "wake-ups" };
#define KINDS 4

static void count(long *sum)
{
	char line[4096], *p, *end;
	FILE *file;
	int i;

	memset(sum, 0, KINDS * sizeof(*sum));
	file = fopen("/proc/interrupts", "r");
	if (!file)
		err(1, "/proc/interrupts");
	while (fgets(line, sizeof(line), file)) {
		for (p = line; *p == ' '; p++)
			;
		for (i = 0; i < KINDS - 1; i++) {
			if (strncmp(p, kinds[i], 3) || p[3] != ':')
				continue;
			for (p += 4;; p = end) {
				long n = strtol(p, &end, 10);

				if (end == p)
					break;
				sum[i] += n;
			}
			break;
		}
	}
	fclose(file);

	file = fopen("/proc/schedstat", "r");
	if (!file)
		err(1, "/proc/schedstat");
	while (fgets(line, sizeof(line), file)) {
		long n;

		/* cpuN yld_count legacy sched_count sched_goidle ttwu_count */
		if (sscanf(line, "cpu%*d %*d %*d %*d %*d %ld", &n) == 1)
			sum[KINDS - 1] += n;
	}
	fclose(file);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		err(1, "%s", path);
	close(fd);
}

static long longest(void)
{
	char buf[32] = "";
	int fd = open(TRACING "tracing_max_latency", O_RDONLY);

	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		err(1, "tracing_max_latency");
	close(fd);
	return atol(buf);
}

static bool sections;
static long before[KINDS];

static void begin(void)
{
	if (sections) {
		write_file(TRACING "tracing_max_latency", "0");
		write_file(TRACING "tracing_on", "1");
	} else {
		count(before);
	}
}

/* Adds to, or takes the maximum of, @sum. */
static void end(long *sum)
{
	long after[KINDS];
	int i;

	if (sections) {
		write_file(TRACING "tracing_on", "0");
		after[0] = longest();
		if (after[0] > sum[0])
			sum[0] = after[0];
		return;
	}
	count(after);
	for (i = 0; i < KINDS; i++)
		sum[i] += after[i] - before[i];
}

static void report(const char *what, int vcpus, const long *sum, int per)
{
	int i;

	if (sections) {
		printf("isolation:\t%s\t%d\tlongest\t%ld\n", what, vcpus, sum[0]);
		return;
	}
	for (i = 0; i < KINDS; i++)
		printf("isolation:\t%s\t%d\t%s\t%.1f\n", what, vcpus, kinds[i], (double)sum[i] / per);
}

struct vm {
	int fd, vcpus, vcpu[MAX_VCPUS];
	uint8_t *mem;
};

/*
 * Each vCPU writes to pages of its own, and then to BUSY: all the time, or once if
 * sections are measured, because preemption is off as long as the guest runs.
 */
static void create_vm(struct vm *vm, int vcpus)
{
	uint8_t code[] = {
		0x89, 0x03,				/* 1: mov %eax,(%ebx) */
		0x81, 0xc3, 0x00, 0x10, 0x00, 0x00,	/* add $0x1000,%ebx */
		0x39, 0xcb,				/* cmp %ecx,%ebx */
		0x72, 0xf4,				/* jb 1b */
		0x89, 0x02,				/* 2: mov %eax,(%edx) */
		0xeb, 0xfc,				/* jmp 2b, or out %al,$0x10; */
		0xeb, 0xfa,				/* jmp 2b */
	};
	struct kvm_userspace_memory_region region = { .memory_size = SIZE };
	struct kvm_regs regs = { .rflags = 2, .rdx = BUSY };
	int i, kvm = open("/dev/kvm", O_RDWR);
	struct kvm_sregs sregs;

	if (kvm < 0)
		err(1, "/dev/kvm");
	vm->fd = xioctl(kvm, KVM_CREATE_VM, 0);
	vm->vcpus = vcpus;
	vm->mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->mem == MAP_FAILED)
		err(1, "mmap");
	madvise(vm->mem, SIZE, MADV_NOHUGEPAGE);
	if (sections)
		memcpy(code + 14, "\xe6\x10", 2);
	memcpy(vm->mem, code, sizeof(code));
	region.userspace_addr = (uintptr_t)vm->mem;
	xioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);

	for (i = 0; i < vcpus; i++) {
		vm->vcpu[i] = xioctl(vm->fd, KVM_CREATE_VCPU, i);
		xioctl(vm->vcpu[i], KVM_GET_SREGS, &sregs);
		/* 32 bits, flat, no paging. */
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
		regs.rax = i + 1;
		regs.rbx = PAGE + (SIZE / 2 / vcpus & -PAGE) * i;
		regs.rcx = regs.rbx + (SIZE / 2 / vcpus & -PAGE) - PAGE;
		xioctl(vm->vcpu[i], KVM_SET_REGS, &regs);
	}
	close(kvm);
}

static struct vm the_vm;

static void *run_vcpu(void *arg)
{
	int i = (long)arg;

	pin(1 + i % 3);
	for (;;)
		ioctl(the_vm.vcpu[i], KVM_RUN, 0);
	return NULL;
}

/* In a process of its own, until it is killed. */
static pid_t start_vm(int vcpus, int *pipe_to)
{
	int ready[2], go[2], i;
	pthread_t thread;
	pid_t pid;
	char c;

	if (pipe(ready) || pipe(go))
		err(1, "pipe");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		uint8_t *outside;

		close(go[1]);
		create_vm(&the_vm, vcpus);
		for (i = 0; i < vcpus; i++) {
			if (sections)
				xioctl(the_vm.vcpu[i], KVM_RUN, 0);
			else if (pthread_create(&thread, NULL, run_vcpu, (void *)(long)i))
				errx(1, "no thread");
		}
		/* Until they have reached BUSY. */
		while (*(volatile uint8_t *)(the_vm.mem + BUSY) == 0)
			usleep(1000);
		usleep(200000);
		outside = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (write(ready[1], "", 1) != 1)
			err(1, "write");
		/* Which page to invalidate, until the end. */
		while (read(go[0], &c, 1) == 1) {
			uint8_t *page = c == 'o' ? outside :
					c == 's' ? the_vm.mem + SIZE - PAGE : the_vm.mem + BUSY;
			long sum[KINDS] = {};

			if (!sections)
				begin();
			for (i = 0; i < (sections ? INVALS / 10 : INVALS); i++) {
				if (c != 'm')
					*(volatile uint8_t *)page = 1;
				else if (sections)
					xioctl(the_vm.vcpu[0], KVM_RUN, 0);
				else
					while (!*(volatile uint8_t *)page)
						;
				if (sections)
					begin();
				madvise(page, PAGE, MADV_DONTNEED);
				if (sections)
					end(sum);
			}
			if (!sections)
				end(sum);
			report(c == 'o' ? "invalidate outside" : c == 's' ? "invalidate slot" :
			       "invalidate mapped", vcpus, sum, 1);
			fflush(stdout);
			if (write(ready[1], "", 1) != 1)
				err(1, "write");
		}
		exit(0);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &c, 1) != 1)
		errx(1, "no VM");
	pipe_to[0] = ready[0];
	pipe_to[1] = go[1];
	return pid;
}

/* Kill it, keep it from exiting with its memory, and reap that. */
static void reap(pid_t pid, long *sum)
{
	int pidfd, status;

	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0 || ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL))
		err(1, "cannot trace");
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, __WALL) != pid ||
	    status >> 8 != (SIGTRAP | (PTRACE_EVENT_EXIT << 8)))
		errx(1, "unexpected status %x", status);
	/* The threads of the vCPUs exit, and are of no interest. */
	usleep(100000);

	begin();
	if (syscall(SYS_process_mrelease, pidfd, 0))
		err(1, "process_mrelease");
	end(sum);

	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	waitpid(pid, &status, __WALL);
	close(pidfd);
}

int main(int argc, char **argv)
{
	int i, vcpus, fds[2], status;
	const char *c;
	pid_t pid;
	char ok;

	if (argc != 2 || (strcmp(argv[1], "count") && strcmp(argv[1], "sections")))
		errx(2, "usage: isolation count|sections");
	sections = !strcmp(argv[1], "sections");
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (sections) {
		write_file(TRACING "tracing_on", "0");
		write_file(TRACING "current_tracer", "preemptirqsoff");
	} else {
		pin(0);
		write_file("/proc/sys/kernel/sched_schedstats", "1");
	}

	for (vcpus = 1; vcpus <= 8; vcpus += vcpus == 1 ? 3 : 4) {
		long sum[KINDS] = {};

		pid = start_vm(vcpus, fds);
		for (c = "osm"; *c; c++) {
			if (write(fds[1], c, 1) != 1 || read(fds[0], &ok, 1) != 1)
				errx(1, "the VM is gone");
		}
		close(fds[0]);
		close(fds[1]);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);

		for (i = 0; i < REAPS; i++) {
			int to[2];

			pid = start_vm(vcpus, to);
			reap(pid, sum);
			close(to[0]);
			close(to[1]);
		}
		report("reap", vcpus, sum, REAPS);
	}
	return 0;
}
