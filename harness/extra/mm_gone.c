// SPDX-License-Identifier: GPL-2.0
/*
 * Signal a Xen event channel by an eventfd while the process of the VM exits, with a
 * shared_info cache that isn't valid. The irqfd workqueue then borrows the mm, and faults
 * in the page. If exit_mmap() is under way, the kernel notices that a page is left:
 * "Bad rss-counter state". What fails on the base of the series is fixed by "KVM:
 * x86/xen: Take a reference on the mm before borrowing it".
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xioctl.h"

#define ROUNDS	5
#define SIZE	(1ul << 16)
#define BIG	(128ul << 20)	/* it takes long to free that */
#define LOW	((void *)0x10000000)	/* freed before that */
#define GPA	0x10000
#define PORT	15
#define GSI	32

static volatile int *ready;

static void *map(void *at, size_t size, int flags)
{
	void *mem = mmap(at, size, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);

	if (mem == MAP_FAILED)
		err(1, "mmap");
	return mem;
}

static void run_vm(int event)
{
	void *mem = map(LOW, SIZE, MAP_PRIVATE | MAP_FIXED_NOREPLACE);
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = GPA, .memory_size = SIZE, .userspace_addr = (unsigned long)mem,
	};
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL, .msr = 0x40000200,
	};
	struct kvm_xen_hvm_attr long_mode = {
		.type = KVM_XEN_ATTR_TYPE_LONG_MODE, .u.long_mode = 1,
	};
	struct kvm_xen_hvm_attr shared_info = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO, .u.shared_info.gfn = GPA >> 12,
	};
	struct {
		struct kvm_irq_routing routing;
		struct kvm_irq_routing_entry entry;
	} routes = {
		.routing.nr = 1,
		.entry = {
			.gsi = GSI, .type = KVM_IRQ_ROUTING_XEN_EVTCHN,
			.u.xen_evtchn = {
				.port = PORT, .priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
			},
		},
	};
	struct kvm_irqfd irqfd = { .fd = event, .gsi = GSI };
	int kvm = open("/dev/kvm", O_RDWR), vm;

	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = xioctl(kvm, KVM_CREATE_VM, 0);
	xioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
	xioctl(vm, KVM_CREATE_IRQCHIP, 0);
	xioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	xioctl(vm, KVM_CREATE_VCPU, 0);
	xioctl(vm, KVM_XEN_HVM_SET_ATTR, &long_mode);
	xioctl(vm, KVM_XEN_HVM_SET_ATTR, &shared_info);
	xioctl(vm, KVM_SET_GSI_ROUTING, &routes);
	xioctl(vm, KVM_IRQFD, &irqfd);

	map(NULL, BIG, MAP_PRIVATE | MAP_POPULATE);
	madvise(mem, SIZE, MADV_DONTNEED);
	*ready = 1;
	_exit(0);
}

int main(void)
{
	uint64_t one = 1;
	int i, event, status, events;
	pid_t pid;

	ready = map(NULL, sizeof(*ready), MAP_SHARED);
	for (i = 0; i < ROUNDS; i++) {
		event = eventfd(0, EFD_NONBLOCK);
		*ready = 0;
		/* With the same files, i.e. the VM stays. */
		pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
		if (event < 0 || pid < 0)
			err(1, "eventfd or clone");
		if (!pid)
			run_vm(event);

		while (!*ready)
			if (waitpid(pid, &status, WNOHANG))
				errx(1, "the VM's process has ended: status %x", status);
		usleep(20000);
		for (events = 0; !waitpid(pid, &status, WNOHANG); usleep(50))
			events += write(event, &one, sizeof(one)) == sizeof(one);
		usleep(20000);
		printf("round %d: %d events while the process exited\n", i, events);
		close_range(3, ~0u, 0);
	}
	return 0;
}
