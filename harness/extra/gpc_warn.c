// SPDX-License-Identifier: GPL-2.0
/*
 * Raise a Xen event channel for a vCPU whose vcpu_info was never set, and run the vCPU:
 * the cache of vcpu_info has neither a GPA nor an HVA when it is refreshed, and the base
 * of the series warns. Fixed by "KVM: pfncache: Don't WARN on refreshing a cache that was
 * never activated".
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xioctl.h"

#define PAGE	4096ul
#define GPA	0x10000ul
#define RESET	0xfffff000ul	/* the page with the reset vector */

static void nothing(int signal)
{
	(void)signal;
}

int main(void)
{
	unsigned char *mem = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {
		.guest_phys_addr = RESET, .memory_size = PAGE, .userspace_addr = (unsigned long)mem,
	};
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL | KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
		.msr = 0x40000200,
	};
	struct kvm_xen_hvm_attr shared_info = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO, .u.shared_info.gfn = GPA / PAGE,
	};
	struct kvm_irq_routing_xen_evtchn event = {
		.port = 15, .priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};
	struct sigaction action = { .sa_handler = nothing };
	int kvm = open("/dev/kvm", O_RDWR), vm, vcpu;

	if (kvm < 0 || mem == MAP_FAILED)
		err(1, "/dev/kvm or mmap");
	mem[0xff0] = 0xeb;	/* jmp to itself */
	mem[0xff1] = 0xfe;
	vm = xioctl(kvm, KVM_CREATE_VM, 0);
	xioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
	region.slot = 1;
	region.guest_phys_addr = GPA;
	region.userspace_addr += PAGE;
	xioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
	xioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	vcpu = xioctl(vm, KVM_CREATE_VCPU, 0);
	xioctl(vm, KVM_XEN_HVM_SET_ATTR, &shared_info);
	xioctl(vm, KVM_XEN_HVM_EVTCHN_SEND, &event);

	sigaction(SIGALRM, &action, NULL);
	alarm(1);
	if (ioctl(vcpu, KVM_RUN, 0) != -1 || errno != EINTR)
		err(1, "KVM_RUN");
	return 0;
}
