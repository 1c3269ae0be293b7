// SPDX-License-Identifier: GPL-2.0-only
#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "xen.h"

#define FIRST_GSI		32

/* Skip the test if KVM lacks what all tests need.  Returns what KVM has. */
u32 xen_require_caps(void)
{
	u32 caps = kvm_check_cap(KVM_CAP_XEN_HVM);

	TEST_REQUIRE(caps & KVM_XEN_HVM_CONFIG_SHARED_INFO);
	TEST_REQUIRE(caps & KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL);
	TEST_REQUIRE(caps & KVM_XEN_HVM_CONFIG_EVTCHN_SEND);

	return caps;
}

void *xen_vm_add_memory(struct kvm_vm *vm, enum vm_mem_backing_src_type src_type,
			u64 nr_pages)
{
	vm_userspace_mem_region_add(vm, src_type, XEN_GPA, XEN_SLOT, nr_pages, 0);
	return addr_gpa2hva(vm, XEN_GPA);
}

/* Make the VM a 64-bit Xen guest whose hypercalls and events KVM handles. */
void xen_vm_init(struct kvm_vm *vm)
{
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL |
			 KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
		.msr = XEN_HYPERCALL_MSR,
	};

	vm_ioctl(vm, KVM_XEN_HVM_CONFIG, &config);
	xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_LONG_MODE, 1);
}

/*
 * Set an attribute that is a number.  All numbers are at the start of the union, and
 * their size doesn't matter, as x86 is little-endian.
 */
void xen_vm_set_attr(struct kvm_vm *vm, u16 type, u64 value)
{
	struct kvm_xen_hvm_attr attr = { .type = type, .u.pad[0] = value };

	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

/* As xen_vm_set_attr(). */
void xen_vcpu_set_attr(struct kvm_vcpu *vcpu, u16 type, u64 value)
{
	struct kvm_xen_vcpu_attr attr = { .type = type, .u.pad[0] = value };

	vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
}

/* Have EVTCHNOP_send for @port raise the event @port of @vcpu. */
void xen_vm_set_ipi(struct kvm_vm *vm, u32 vcpu, u32 port)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_EVTCHN,
		.u.evtchn.send_port = port,
		.u.evtchn.type = EVTCHNSTAT_ipi,
		.u.evtchn.deliver.port.port = port,
		.u.evtchn.deliver.port.vcpu = vcpu,
		.u.evtchn.deliver.port.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

/* Replaces all routes of interrupts. */
void xen_vm_assign_irqfds(struct kvm_vm *vm, const struct xen_irqfd *irqfds, int nr)
{
	struct kvm_irq_routing *routing = kvm_gsi_routing_create();
	struct kvm_irq_routing_entry *entry;
	int i;

	for (i = 0; i < nr; i++) {
		entry = &routing->entries[routing->nr++];
		entry->gsi = FIRST_GSI + i;
		entry->type = KVM_IRQ_ROUTING_XEN_EVTCHN;
		entry->u.xen_evtchn.port = irqfds[i].port;
		entry->u.xen_evtchn.vcpu = irqfds[i].vcpu;
		entry->u.xen_evtchn.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
	}

	/* Note, this frees @routing. */
	kvm_gsi_routing_write(vm, routing);

	for (i = 0; i < nr; i++)
		kvm_assign_irqfd(vm, FIRST_GSI + i, irqfds[i].eventfd);
}

/*
 * Returns when KVM has delivered all events that were raised by @irqfds, or has left
 * them to a vCPU.  @irqfds must be in the order of xen_vm_assign_irqfds().
 */
void xen_vm_deassign_irqfds(struct kvm_vm *vm, const struct xen_irqfd *irqfds, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		kvm_deassign_irqfd(vm, FIRST_GSI + i, irqfds[i].eventfd);
}

int __xen_vm_send_event(struct kvm_vm *vm, u32 vcpu, u32 port)
{
	struct kvm_irq_routing_xen_evtchn event = {
		.port = port,
		.vcpu = vcpu,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	return __vm_ioctl(vm, KVM_XEN_HVM_EVTCHN_SEND, &event);
}

void xen_vm_send_event(struct kvm_vm *vm, u32 vcpu, u32 port)
{
	int ret = __xen_vm_send_event(vm, vcpu, port);

	TEST_ASSERT_VM_VCPU_IOCTL(!ret, KVM_XEN_HVM_EVTCHN_SEND, ret, vm);
}

/* Set the port of the timer and, if not zero, when it expires. */
void xen_vcpu_set_timer(struct kvm_vcpu *vcpu, u32 port, u64 expires_ns)
{
	struct kvm_xen_vcpu_attr attr = {
		.type = KVM_XEN_VCPU_ATTR_TYPE_TIMER,
		.u.timer.port = port,
		.u.timer.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
		.u.timer.expires_ns = expires_ns,
	};

	vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
}
