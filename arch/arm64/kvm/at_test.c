// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for the guard of AT instructions that KVM executes on behalf of a guest,
 * included by at.c.  The vCPU isn't real, the guard uses its mode and requests only.
 */

#include <kunit/test.h>

/* The fence waits as long as it sees the mode. */
static void test_at_guard(struct kunit *test)
{
	struct kvm_vcpu *vcpu = kunit_kzalloc(test, sizeof(*vcpu), GFP_KERNEL);
	int mode;

	KUNIT_ASSERT_NOT_NULL(test, vcpu);

	local_irq_disable();
	at_begin(vcpu);
	mode = vcpu->mode;
	at_end(vcpu);
	local_irq_enable();

	KUNIT_EXPECT_EQ(test, mode, READING_SHADOW_PAGE_TABLES);
	KUNIT_EXPECT_EQ(test, vcpu->mode, OUTSIDE_GUEST_MODE);
}

/* If the VM is dead, the fast path fails before it loads the guest's context. */
static void test_at_dead(struct kunit *test)
{
	struct kvm_vcpu *vcpu = kunit_kzalloc(test, sizeof(*vcpu), GFP_KERNEL);
	struct kvm *kvm = kunit_kzalloc(test, sizeof(*kvm), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, vcpu);
	KUNIT_ASSERT_NOT_NULL(test, kvm);

	rwlock_init(&kvm->mmu_lock);
	vcpu->kvm = kvm;
	kvm_make_request(KVM_REQ_VM_DEAD, vcpu);

	/* The end of the guard resets it. */
	vcpu->mode = IN_GUEST_MODE;
	KUNIT_EXPECT_EQ(test, __kvm_at_s1e01_fast(vcpu, OP_AT_S1E1R, (unsigned long)vcpu),
			SYS_PAR_EL1_F);
	KUNIT_EXPECT_EQ(test, vcpu->mode, OUTSIDE_GUEST_MODE);
}

static struct kunit_case at_test_cases[] = {
	KUNIT_CASE(test_at_guard),
	KUNIT_CASE(test_at_dead),
	{}
};

static struct kunit_suite at_test_suite = {
	.name = "kvm_arm64_at",
	.test_cases = at_test_cases,
};

kunit_test_suite(at_test_suite);
