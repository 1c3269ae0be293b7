/* SPDX-License-Identifier: GPL-2.0-only */
/* Xen HVM guests: what tests need of Xen's 64-bit ABI, and of KVM's ioctl()s. */
#ifndef SELFTEST_KVM_XEN_H
#define SELFTEST_KVM_XEN_H

#include "kvm_util.h"

/* Where xen_vm_add_memory() puts the memory that KVM accesses. */
#define XEN_GPA				0xc0000000ULL
#define XEN_SLOT			10

#define XEN_HYPERCALL_MSR		0x40000000

#define __HYPERVISOR_set_timer_op	15
#define __HYPERVISOR_sched_op		29
#define __HYPERVISOR_event_channel_op	32

#define SCHEDOP_poll			3
#define EVTCHNOP_send			4
#define EVTCHNSTAT_ipi			5

#define XEN_RUNSTATE_UPDATE		BIT_ULL(63)
#define RUNSTATE_running		0

struct xen_vcpu_info {
	u8 evtchn_upcall_pending;
	u8 evtchn_upcall_mask;
	u64 evtchn_pending_sel;
};

struct xen_shared_info {
	u8 vcpu_info[0x800];
	u64 evtchn_pending[64];
	u64 evtchn_mask[64];
};

struct xen_runstate_info {
	u32 state;
	u64 state_entry_time;
	u64 time[4];
};

struct xen_sched_poll {
	u32 *ports;
	unsigned int nr_ports;
	u64 timeout;
};

/* An eventfd that raises an event of a vCPU. */
struct xen_irqfd {
	int eventfd;
	u32 vcpu;
	u32 port;
};

u32 xen_require_caps(void);
void *xen_vm_add_memory(struct kvm_vm *vm, enum vm_mem_backing_src_type src_type,
			u64 nr_pages);
void xen_vm_init(struct kvm_vm *vm);
void xen_vm_set_attr(struct kvm_vm *vm, u16 type, u64 value);
void xen_vm_set_ipi(struct kvm_vm *vm, u32 vcpu, u32 port);
void xen_vm_assign_irqfds(struct kvm_vm *vm, const struct xen_irqfd *irqfds, int nr);
void xen_vm_deassign_irqfds(struct kvm_vm *vm, const struct xen_irqfd *irqfds, int nr);
int __xen_vm_send_event(struct kvm_vm *vm, u32 vcpu, u32 port);
void xen_vm_send_event(struct kvm_vm *vm, u32 vcpu, u32 port);
void xen_vcpu_set_attr(struct kvm_vcpu *vcpu, u16 type, u64 value);
void xen_vcpu_set_timer(struct kvm_vcpu *vcpu, u32 port, u64 expires_ns);

static inline bool xen_test_port(u64 *bitmap, u32 port)
{
	return READ_ONCE(bitmap[port / 64]) & BIT_ULL(port % 64);
}

#endif /* SELFTEST_KVM_XEN_H */
