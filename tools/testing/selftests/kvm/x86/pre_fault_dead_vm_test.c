// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test KVM_PRE_FAULT_MEMORY on a vCPU whose VM dies at the same time.
 *
 * Any task can mark a VM dead, e.g. a vCPU that gets an SMI but has no memory to
 * save its state to, or the task that reaps the memory of the VM's process.  An
 * ioctl() that another vCPU has already started must fail, and KVM must not treat that
 * as a bug, which would be visible in the kernel log only.
 */
#include <pthread.h>

#include <linux/sizes.h>

#include "test_util.h"
#include "kvm_util.h"
#include "kernel_complaints.h"
#include "wait_for.h"

#define MEM_GPA			SZ_1M
#define MEM_SIZE		SZ_8M
#define MEM_SLOT		10

#define NR_ROUNDS		10

struct pre_fault {
	struct kvm_vcpu *vcpu;
	bool started;
	bool interrupted;
};

static void *pre_fault_until_dead(void *arg)
{
	struct pre_fault *pf = arg;
	struct kvm_pre_fault_memory range;
	int r;

	do {
		pf->interrupted = false;
		range = (struct kvm_pre_fault_memory) {
			.gpa = MEM_GPA,
			.size = MEM_SIZE,
		};

		/* The ioctl() succeeds if there was any progress. */
		for (;;) {
			r = __vcpu_ioctl(pf->vcpu, KVM_PRE_FAULT_MEMORY, &range);
			if (r || !range.size)
				break;
			pf->interrupted = true;
		}
		WRITE_ONCE(pf->started, true);
	} while (!r || errno == EINTR || errno == EAGAIN);

	TEST_ASSERT(errno == EIO, "Expected EIO, got '%s'", strerror(errno));
	return NULL;
}

/* Returns whether the VM died while memory was being pre-faulted. */
static bool kill_vm_during_pre_fault(void)
{
	struct kvm_vm *vm = vm_create_barebones();
	struct kvm_vcpu *vcpu = __vm_vcpu_add(vm, 0);
	struct pre_fault pf = { .vcpu = __vm_vcpu_add(vm, 1) };
	pthread_t thread;
	int r;

	/* There's no memory where SMRAM is after a reset. */
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, MEM_GPA, MEM_SLOT,
				    MEM_SIZE / vm->page_size, 0);

	kvm_pthread_create(&thread, NULL, pre_fault_until_dead, &pf);
	while (!READ_ONCE(pf.started))
		usleep(1000);

	vcpu_ioctl(vcpu, KVM_SMI, NULL);
	r = __vcpu_run(vcpu);
	TEST_ASSERT(r == -1 && errno == EIO, "Expected EIO from KVM_RUN, got %d (%s)",
		    r, strerror(errno));

	kvm_pthread_join(thread, NULL);
	kvm_vm_free(vm);

	return pf.interrupted;
}

/* KVM warns once.  Have it warn again, if it has already done so. */
static void rearm_warn_once(void)
{
	int fd = open("/sys/kernel/debug/clear_warn_once", O_WRONLY);

	if (fd < 0 || write(fd, "1", 1) != 1)
		ksft_print_msg("Can't clear_warn_once (%s), only the first WARN is found\n",
			       strerror(errno));
	if (fd >= 0)
		close(fd);
}

int main(void)
{
	int kmsg_fd, i, nr_interrupted = 0;
	s64 end;

	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PRE_FAULT_MEMORY));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_X86_SMM));

	kmsg_fd = open_kmsg();
	__TEST_REQUIRE(kmsg_fd >= 0, "The kernel log is needed to find a WARN");
	rearm_warn_once();

	/* It's up to the scheduler whether a VM dies while memory is being pre-faulted. */
	end = now_ns() + WAIT_TIMEOUT_SEC * NSEC_PER_SEC;
	for (i = 0; i < NR_ROUNDS || (!nr_interrupted && now_ns() < end); i++)
		nr_interrupted += kill_vm_during_pre_fault();

	TEST_ASSERT(!count_kernel_complaints(kmsg_fd), "KVM treated a dead VM as a bug");

	ksft_print_msg("%d of %d VMs died while memory was pre-faulted\n", nr_interrupted, i);
	__TEST_REQUIRE(nr_interrupted, "Nothing was tested");
	return 0;
}
