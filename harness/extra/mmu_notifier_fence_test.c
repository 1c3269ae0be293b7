// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that a VM's memory isn't used anymore once the mmu_notifier was told, by
 * a non-blockable invalidation, that the VM's mm is being reaped.
 *
 * Usually, the tasks of such a VM have been killed, i.e. can't check what KVM does.
 * Trigger the invalidation of a live mm, by a hook that isn't part of the kernel, and
 * check
 *
 *  - that no vCPU writes the memory after start() has returned,
 *  - that KVM_RUN fails with -EIO, no matter where the vCPU was,
 *  - that this is also true for a vCPU that comes online at the same time,
 *  - that start() and end() are balanced, and blockable pairs are unaffected.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <linux/userfaultfd.h>

#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "ucall_common.h"
#include "kernel_complaints.h"
#include "kvm_test_harness.h"
#include "wait_for.h"

#ifdef __x86_64__
#include "apic.h"
#include "svm_util.h"
#endif
#ifdef __riscv
#include "sbi.h"
#endif
#ifdef __aarch64__
#include <asm/sysreg.h>
#endif

#ifndef PAGE_SIZE
#define PAGE_SIZE		4096ul
#endif

#define TRIGGER			"/sys/kernel/debug/mmu_notifier_trigger"
#define CREATE_VCPU_DELAY	"/sys/module/kvm/parameters/create_vcpu_delay_ms"

#define MAX_VCPUS		4

/* Memory that only the guest writes.  Each vCPU has its share of a page. */
#define TEST_MEM_GPA		0xc0000000ul
#define TEST_MEM_GVA		TEST_MEM_GPA
#define TEST_MEM_SLOT		10
#define TEST_MEM_PAGES		16
#define TEST_MEM_SIZE		(TEST_MEM_PAGES * PAGE_SIZE)
#define SHARE_SIZE		(PAGE_SIZE / MAX_VCPUS)
#define SHARE_WORDS		128

/* It depends on timing if a late store is observed, try a few times. */
#define NR_ROUNDS		4

/* Time for stores that must not happen. */
#define SETTLE_US		20000

/* Almost at once, but the host might be (very) slow.  Without a kick, it's never. */
#define EIO_TIMEOUT_NS		(5 * NSEC_PER_SEC)
#define TEST_TIMEOUT_SEC	120

/* The trigger.  All of these return 0 or -errno. */

static int open_trigger(void)
{
	return open(TRIGGER, O_WRONLY);
}

static int trigger(int fd, const char *command)
{
	return write(fd, command, strlen(command)) < 0 ? -errno : 0;
}

static void start_command(char *buf, size_t size, void *mem, size_t len)
{
	snprintf(buf, size, "start %d %lx %lx", getpid(), (unsigned long)mem, len);
}

static int start_invalidation(int fd, void *mem, size_t len)
{
	char buf[80];

	start_command(buf, sizeof(buf), mem, len);
	return trigger(fd, buf);
}

static int end_invalidation(int fd)
{
	return trigger(fd, "end");
}

static int zap_vma(int fd, void *mem)
{
	char buf[80];

	snprintf(buf, sizeof(buf), "zap %d %lx", getpid(), (unsigned long)mem);
	return trigger(fd, buf);
}

/* A thread that runs a vCPU until KVM_RUN returns. */
struct runner {
	pthread_t thread;
	int fd;

	/* What KVM_RUN returned, and when. */
	int ret;
	s64 done_ns;
	bool done;
};

static void *run_vcpu(void *arg)
{
	struct runner *runner = arg;

	/* There's no fd (yet) if another task is creating the vCPU. */
	do {
		runner->ret = ioctl(runner->fd, KVM_RUN, NULL) ? -errno : 0;
	} while (runner->ret == -EBADF);

	runner->done_ns = now_ns();
	__atomic_store_n(&runner->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void start_runner(struct runner *runner, int fd)
{
	memset(runner, 0, sizeof(*runner));
	runner->fd = fd;
	kvm_pthread_create(&runner->thread, NULL, run_vcpu, runner);
}

static bool is_done(struct runner *runner)
{
	return __atomic_load_n(&runner->done, __ATOMIC_ACQUIRE);
}

/*
 * KVM_RUN must return -EIO, and so must the next one.  If it doesn't return, the
 * thread can't be joined; it ends when the test's process exits.
 */
static void expect_eio(struct __test_metadata *_metadata, struct runner *runner)
{
	ASSERT_TRUE(wait_for_ns(is_done(runner), EIO_TIMEOUT_NS)) {
		TH_LOG("KVM_RUN doesn't return");
	}
	kvm_pthread_join(runner->thread, NULL);
	EXPECT_EQ(runner->ret, -EIO);

	EXPECT_EQ(ioctl(runner->fd, KVM_RUN, NULL), -1);
	EXPECT_EQ(errno, EIO);
}

static u8 *add_test_mem(struct kvm_vm *vm)
{
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, TEST_MEM_GPA,
				    TEST_MEM_SLOT, TEST_MEM_PAGES, 0);
	virt_map(vm, TEST_MEM_GVA, TEST_MEM_GPA, TEST_MEM_PAGES);
	return addr_gpa2hva(vm, TEST_MEM_GPA);
}

/* Does the vCPU's share of the memory change, i.e. does the vCPU run? */
static bool is_hammering(u8 *mem, int idx)
{
	u64 *word = (u64 *)(mem + idx * SHARE_SIZE), old = READ_ONCE(*word);

	return wait_for(READ_ONCE(*word) != old);
}

/* What the guest does between its stores, so that the host uses the VM's memory. */
enum guest_work {
	WORK_NONE,
	WORK_HLV,
	WORK_SET_WAY,
	WORK_AT,
	WORK_NESTED_SHADOW,
	WORK_NESTED_TDP,
};

#if defined(__riscv)
#define SBI_EXT_0_1_SEND_IPI	4

static u64 no_harts;

/*
 * KVM reads the mask of harts by HLV.  It doesn't resolve faults of HLV, so have the
 * mask mapped by reading it first.
 */
static void guest_work(enum guest_work work)
{
	if (work == WORK_HLV && !READ_ONCE(no_harts))
		sbi_ecall(SBI_EXT_0_1_SEND_IPI, 0, (unsigned long)&no_harts, 0, 0, 0, 0, 0);
}
#elif defined(__aarch64__)
/*
 * Without FWB, KVM cleans the caches for all memory that is mapped, once, until the
 * guest writes a register of the MMU.
 *
 * KVM executes AT for a guest hypervisor, in the context of the guest, i.e. the CPU
 * walks stage 2.
 */
static void guest_work(enum guest_work work)
{
	if (work == WORK_SET_WAY)
		asm volatile("dc cisw, xzr; msr contextidr_el1, xzr" : : : "memory");

	if (work == WORK_AT) {
		write_sysreg_s(TEST_MEM_GVA, OP_AT_S1E1R);
		isb();
		GUEST_ASSERT(!(read_sysreg(par_el1) & SYS_PAR_EL1_F));
		write_sysreg_s(TEST_MEM_GVA, OP_AT_S1E2R);
	}
}

#define copy_el2_to_el1(reg)	write_sysreg_s(read_sysreg_s(SYS_##reg##_EL1), SYS_##reg##_EL12)

/* As in arm64/at.c: use the page tables at EL1, too, and no stage 2 of the guest's. */
static void guest_init_at(void)
{
	copy_el2_to_el1(SCTLR);
	copy_el2_to_el1(MAIR);
	copy_el2_to_el1(TCR);
	copy_el2_to_el1(TTBR0);
	copy_el2_to_el1(TTBR1);
	write_sysreg(0, vtcr_el2);
	write_sysreg(0, vttbr_el2);
	sysreg_clear_set(hcr_el2, HCR_EL2_TGE | HCR_EL2_VM, 0);
	isb();
}
#else
static void guest_work(enum guest_work work) { }
#endif

/*
 * Write all of the vCPU's share of the memory again and again, a different value
 * each time, so that each store can be seen.  Unroll the loop so that an emulator of
 * this guest's CPU rarely stops in the middle of it.
 */
static void __noreturn hammer(int idx, enum guest_work work)
{
	u64 pass, page, *share;
	int i;

	for (pass = 1; ; pass++) {
		for (page = 0; page < TEST_MEM_PAGES; page++) {
			share = (u64 *)(TEST_MEM_GVA + page * PAGE_SIZE + idx * SHARE_SIZE);
#pragma GCC unroll 128
			for (i = 0; i < SHARE_WORDS; i++)
				WRITE_ONCE(share[i], pass);
			guest_work(work);
		}
	}
}

#ifdef __x86_64__
static int nr_l2;

/* L2 never exits to L1, i.e. L1's registers need not survive. */
static void l2_guest_code(void)
{
	hammer(__atomic_fetch_add(&nr_l2, 1, __ATOMIC_SEQ_CST), WORK_NONE);
}

static void guest_run_l2(struct svm_test_data *svm)
{
	generic_svm_setup(svm, l2_guest_code);
	run_guest(svm->vmcb, svm->vmcb_gpa);
	GUEST_FAIL("L2 exited to L1, exit code 0x%lx", (u64)svm->vmcb->control.exit_code);
}
#endif

static void guest_code(int idx, enum guest_work work, gva_t svm)
{
#ifdef __x86_64__
	if (svm)
		guest_run_l2((struct svm_test_data *)svm);
#endif
#ifdef __aarch64__
	if (work == WORK_AT)
		guest_init_at();
#endif

	hammer(idx, work);
}

FIXTURE(fence) {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct runner runners[MAX_VCPUS];
	u8 *mem;
	int kmsg_fd;
};

FIXTURE_VARIANT(fence) {
	int nr_vcpus;
	int nr_reapers;
	enum guest_work work;
};

FIXTURE_VARIANT_ADD(fence, vcpus_1) {
	.nr_vcpus = 1,
	.nr_reapers = 1,
};

FIXTURE_VARIANT_ADD(fence, vcpus_2) {
	.nr_vcpus = 2,
	.nr_reapers = 1,
};

FIXTURE_VARIANT_ADD(fence, vcpus_4) {
	.nr_vcpus = 4,
	.nr_reapers = 1,
};

FIXTURE_VARIANT_ADD(fence, vcpus_2_reapers_2) {
	.nr_vcpus = 2,
	.nr_reapers = 2,
};

#if defined(__x86_64__)
FIXTURE_VARIANT_ADD(fence, nested_vcpus_2) {
	.nr_vcpus = 2,
	.nr_reapers = 1,
	.work = WORK_NESTED_SHADOW,
};

FIXTURE_VARIANT_ADD(fence, nested_tdp_vcpus_2) {
	.nr_vcpus = 2,
	.nr_reapers = 1,
	.work = WORK_NESTED_TDP,
};
#elif defined(__riscv)
FIXTURE_VARIANT_ADD(fence, hlv_vcpus_2) {
	.nr_vcpus = 2,
	.nr_reapers = 1,
	.work = WORK_HLV,
};
#elif defined(__aarch64__)
FIXTURE_VARIANT_ADD(fence, set_way_vcpus_2) {
	.nr_vcpus = 2,
	.nr_reapers = 1,
	.work = WORK_SET_WAY,
};

FIXTURE_VARIANT_ADD(fence, at_vcpus_2) {
	.nr_vcpus = 2,
	.nr_reapers = 1,
	.work = WORK_AT,
};
#endif

FIXTURE_SETUP(fence)
{
	self->kmsg_fd = open_kmsg();
}

FIXTURE_TEARDOWN(fence)
{
	if (self->kmsg_fd >= 0)
		close(self->kmsg_fd);
}

#ifdef __aarch64__
/* With vCPUs that begin in EL2. */
static struct kvm_vm *create_el2_vm(int nr_vcpus, struct kvm_vcpu **vcpus)
{
	struct kvm_vm *vm = vm_create(nr_vcpus);
	struct kvm_vcpu_init init;
	int i;

	kvm_get_default_vcpu_target(vm, &init);
	init.features[0] |= BIT(KVM_ARM_VCPU_HAS_EL2);
	for (i = 0; i < nr_vcpus; i++)
		vcpus[i] = aarch64_vcpu_add(vm, i, &init, guest_code);
	kvm_arch_vm_finalize_vcpus(vm);
	return vm;
}
#endif

static void start_hammering(struct __test_metadata *_metadata,
			    FIXTURE_DATA(fence) *self,
			    const FIXTURE_VARIANT(fence) *variant)
{
	gva_t svm_gva = 0;
	int i;

#ifdef __aarch64__
	if (variant->work == WORK_AT)
		self->vm = create_el2_vm(variant->nr_vcpus, self->vcpus);
	else
#endif
		self->vm = vm_create_with_vcpus(variant->nr_vcpus, guest_code, self->vcpus);
#ifdef __x86_64__
	if (variant->work == WORK_NESTED_TDP)
		vm_enable_npt(self->vm);
#endif
	self->mem = add_test_mem(self->vm);

	for (i = 0; i < variant->nr_vcpus; i++) {
#ifdef __x86_64__
		if (variant->work != WORK_NONE)
			vcpu_alloc_svm(self->vm, &svm_gva);
#endif
		vcpu_args_set(self->vcpus[i], 3, i, variant->work, svm_gva);
	}

#ifdef __x86_64__
	if (variant->work == WORK_NESTED_TDP) {
		tdp_identity_map_default_memslots(self->vm);
		tdp_map(self->vm, TEST_MEM_GPA, TEST_MEM_GPA, TEST_MEM_SIZE);
	}
#endif

	for (i = 0; i < variant->nr_vcpus; i++)
		start_runner(&self->runners[i], self->vcpus[i]->fd);

	for (i = 0; i < variant->nr_vcpus; i++) {
		ASSERT_TRUE(is_hammering(self->mem, i)) {
			TH_LOG("vCPU %d doesn't write its memory", i);
		}
	}
}

struct reaper {
	pthread_t thread;
	pthread_barrier_t *barrier;
	char command[80];
	u8 snapshot[TEST_MEM_SIZE];
	u8 *mem;
	s64 start_ns;
	int fd;
	int ret;
};

/* Do as little as possible between start() and the snapshot. */
static void *reap(void *arg)
{
	struct reaper *reaper = arg;

	pthread_barrier_wait(reaper->barrier);

	reaper->start_ns = now_ns();
	reaper->ret = trigger(reaper->fd, reaper->command);
	memcpy(reaper->snapshot, reaper->mem, TEST_MEM_SIZE);
	return NULL;
}

static bool is_unchanged(struct reaper *reaper)
{
	return !memcmp(reaper->snapshot, reaper->mem, TEST_MEM_SIZE);
}

static void test_fence(struct __test_metadata *_metadata, FIXTURE_DATA(fence) *self,
		       const FIXTURE_VARIANT(fence) *variant, s64 *max_eio_ns)
{
	static struct reaper reapers[2];
	pthread_barrier_t barrier;
	int i;

	start_hammering(_metadata, self, variant);

	/* Blockable pairs have no lasting effect. */
	for (i = 0; i < TEST_MEM_PAGES; i++)
		kvm_madvise(self->mem + i * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED);
	kvm_madvise(self->mem, TEST_MEM_SIZE, MADV_DONTNEED);

	for (i = 0; i < variant->nr_vcpus; i++) {
		ASSERT_TRUE(is_hammering(self->mem, i) && !is_done(&self->runners[i])) {
			TH_LOG("vCPU %d didn't survive blockable invalidations", i);
		}
	}

	memset(reapers, 0, sizeof(reapers));
	pthread_barrier_init(&barrier, NULL, variant->nr_reapers);
	for (i = 0; i < variant->nr_reapers; i++) {
		/* Don't fault on the snapshot in between start() and taking it. */
		memset(reapers[i].snapshot, 0xaa, TEST_MEM_SIZE);
		reapers[i].barrier = &barrier;
		reapers[i].mem = self->mem;
		reapers[i].fd = open_trigger();
		ASSERT_GE(reapers[i].fd, 0);
		/* The range doesn't matter, the second one isn't guest memory. */
		start_command(reapers[i].command, sizeof(reapers[i].command),
			      i ? (u8 *)reapers : self->mem, TEST_MEM_SIZE);
	}

	for (i = 1; i < variant->nr_reapers; i++)
		kvm_pthread_create(&reapers[i].thread, NULL, reap, &reapers[i]);
	reap(&reapers[0]);
	for (i = 1; i < variant->nr_reapers; i++)
		kvm_pthread_join(reapers[i].thread, NULL);

	usleep(SETTLE_US);
	for (i = 0; i < variant->nr_reapers; i++) {
		EXPECT_EQ(reapers[i].ret, 0);
		EXPECT_TRUE(is_unchanged(&reapers[i])) {
			TH_LOG("The guest wrote its memory after start()");
		}
	}

	for (i = 0; i < variant->nr_vcpus; i++) {
		expect_eio(_metadata, &self->runners[i]);
		*max_eio_ns = max_t(s64, *max_eio_ns,
				    self->runners[i].done_ns - reapers[0].start_ns);
	}

	for (i = 0; i < variant->nr_reapers; i++)
		EXPECT_EQ(end_invalidation(reapers[i].fd), 0);

	usleep(SETTLE_US);
	for (i = 0; i < variant->nr_reapers; i++) {
		EXPECT_TRUE(is_unchanged(&reapers[i])) {
			TH_LOG("The guest wrote its memory after end()");
		}
	}

	/* Another pair, and blockable ones within and after it, still work. */
	EXPECT_EQ(start_invalidation(reapers[0].fd, self->mem, PAGE_SIZE), 0);
	kvm_madvise(self->mem, PAGE_SIZE, MADV_DONTNEED);
	EXPECT_EQ(end_invalidation(reapers[0].fd), 0);
	kvm_madvise(self->mem, TEST_MEM_SIZE, MADV_DONTNEED);
	EXPECT_EQ(*(u64 *)self->mem, 0);

	for (i = 0; i < variant->nr_reapers; i++)
		close(reapers[i].fd);
	pthread_barrier_destroy(&barrier);

	kvm_vm_free(self->vm);
	EXPECT_EQ(count_kernel_complaints(self->kmsg_fd), 0);
}

/* vCPUs in the guest are kicked out, and stay out. */
TEST_F_TIMEOUT(fence, running, TEST_TIMEOUT_SEC)
{
	s64 max_eio_ns = 0;
	int i;

#ifdef __x86_64__
	if (variant->work != WORK_NONE && !kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "Nested SVM is not supported");
	if (variant->work == WORK_NESTED_TDP && !kvm_cpu_has_npt())
		SKIP(return, "Nested NPT is not supported");
#endif
#ifdef __aarch64__
	if (variant->work == WORK_AT && !kvm_check_cap(KVM_CAP_ARM_EL2))
		SKIP(return, "Nested virtualization is not enabled, see kvm-arm.mode=");
#endif

	for (i = 0; i < NR_ROUNDS && !_metadata->exit_code; i++)
		test_fence(_metadata, self, variant, &max_eio_ns);

	TH_LOG("KVM_RUN returned after %ld us at most", max_eio_ns / 1000);
}

#ifdef __x86_64__
/* Start an invalidation of the mm, and don't end it. */
static int fence_vm(struct __test_metadata *_metadata)
{
	int fd = open_trigger();

	ASSERT_GE(fd, 0);
	/* The address doesn't matter. */
	EXPECT_EQ(start_invalidation(fd, (void *)PAGE_SIZE, PAGE_SIZE), 0);
	return fd;
}

static void finish_fence(struct __test_metadata *_metadata, int fd, int kmsg_fd)
{
	EXPECT_EQ(end_invalidation(fd), 0);
	close(fd);
	EXPECT_EQ(count_kernel_complaints(kmsg_fd), 0);
	if (kmsg_fd >= 0)
		close(kmsg_fd);
}

#define IRQ_VECTOR	0x20
#define IRQ_GSI		24

static void guest_irq_handler(struct ex_regs *regs)
{
	x2apic_write_reg(APIC_EOI, 0);
}

static void guest_code_halt(void)
{
	u64 *nr_halts = (u64 *)TEST_MEM_GVA;

	cli();
	x2apic_enable();

	for (;;) {
		WRITE_ONCE(*nr_halts, *nr_halts + 1);
		safe_halt();
		cli();
	}
}

static void route_msi(struct kvm_vm *vm)
{
	struct {
		struct kvm_irq_routing header;
		struct kvm_irq_routing_entry entry;
	} routing = {
		.header.nr = 1,
		.entry = {
			.gsi = IRQ_GSI,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi.address_lo = 0xFEE00000,
			.u.msi.data = IRQ_VECTOR,
		},
	};

	vm_ioctl(vm, KVM_SET_GSI_ROUTING, &routing.header);
}

static void ignore_signal(int signum)
{
}

FIXTURE(halted) {
};

FIXTURE_VARIANT(halted) {
	bool by_signal;
};

FIXTURE_VARIANT_ADD(halted, woken_by_irq) {
	.by_signal = false,
};

FIXTURE_VARIANT_ADD(halted, woken_by_signal) {
	.by_signal = true,
};

FIXTURE_SETUP(halted)
{
}

FIXTURE_TEARDOWN(halted)
{
}

/*
 * A vCPU that is blocked in HLT isn't in the guest.  It isn't woken up, but it doesn't
 * enter the guest when it's woken up by something else.
 */
TEST_F_TIMEOUT(halted, halted, TEST_TIMEOUT_SEC)
{
	struct sigaction sa = { .sa_handler = ignore_signal };
	struct kvm_vcpu *vcpu;
	struct runner runner;
	struct kvm_vm *vm;
	int eventfd, fd, kmsg_fd = open_kmsg();
	u64 *nr_halts, i;

	ASSERT_EQ(sigaction(SIGUSR1, &sa, NULL), 0);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code_halt);
	nr_halts = (u64 *)add_test_mem(vm);
	vm_install_exception_handler(vm, IRQ_VECTOR, guest_irq_handler);
	route_msi(vm);
	eventfd = kvm_new_eventfd();
	kvm_assign_irqfd(vm, IRQ_GSI, eventfd);

	start_runner(&runner, vcpu->fd);
	for (i = 1; ; i++) {
		ASSERT_TRUE(wait_for(READ_ONCE(*nr_halts) == i)) {
			TH_LOG("The vCPU doesn't halt, or isn't woken");
		}
		/* Give the vCPU time to stop polling, and to block. */
		usleep(SETTLE_US);
		if (i == NR_ROUNDS)
			break;
		ASSERT_EQ(eventfd_write(eventfd, 1), 0);
	}

	fd = fence_vm(_metadata);
	usleep(5 * SETTLE_US);
	EXPECT_FALSE(is_done(&runner)) {
		TH_LOG("A halted vCPU was woken");
	}
	EXPECT_EQ(READ_ONCE(*nr_halts), i);

	if (variant->by_signal) {
		ASSERT_EQ(pthread_kill(runner.thread, SIGUSR1), 0);
		ASSERT_TRUE(wait_for(is_done(&runner)));
		kvm_pthread_join(runner.thread, NULL);
		EXPECT_EQ(runner.ret, -EINTR);

		start_runner(&runner, vcpu->fd);
	} else {
		ASSERT_EQ(eventfd_write(eventfd, 1), 0);
	}
	expect_eio(_metadata, &runner);
	EXPECT_EQ(READ_ONCE(*nr_halts), i);

	kvm_close(eventfd);
	kvm_vm_free(vm);
	finish_fence(_metadata, fd, kmsg_fd);
}
#endif /* __x86_64__ */

/* The default timeout is too short for a (very) slow host. */
FIXTURE(vm) {
};

FIXTURE_SETUP(vm)
{
}

FIXTURE_TEARDOWN(vm)
{
}

#ifdef __x86_64__
/*
 * A VM without irqchip and without help from the library, whose vCPUs, starting
 * from reset, all execute
 *
 *	1:	lock incl 0x1000
 *		jmp 1b
 */
static const u8 reset_code[] = { 0xf0, 0x66, 0xff, 0x06, 0x00, 0x10, 0xeb, 0xf8 };

#define RESET_GPA	0xfffffff0ul
#define COUNTER_GPA	0x1000ul
#define MAX_NEW_VCPUS	32

struct reset_vm {
	struct kvm_vm *vm;
	u32 *counter;

	/* Don't create more vCPUs than that, and run them if @run is set. */
	int max_vcpus;
	bool run;

	pthread_t thread;
	struct runner runners[MAX_NEW_VCPUS];
	int nr_vcpus;
	int create_ret;
	bool done;
};

static void create_reset_vm(struct reset_vm *rvm)
{
	u8 *mem = kvm_mmap(2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1);

	memset(rvm, 0, sizeof(*rvm));
	rvm->vm = vm_create_barebones();
	rvm->counter = (u32 *)mem;
	memcpy(mem + PAGE_SIZE + RESET_GPA % PAGE_SIZE, reset_code, sizeof(reset_code));

	vm_set_user_memory_region(rvm->vm, 0, 0, COUNTER_GPA, PAGE_SIZE, mem);
	vm_set_user_memory_region(rvm->vm, 1, 0, RESET_GPA & ~(PAGE_SIZE - 1), PAGE_SIZE,
				  mem + PAGE_SIZE);
}

static void *create_vcpus(void *arg)
{
	struct reset_vm *rvm = arg;
	int fd;

	while (rvm->nr_vcpus < rvm->max_vcpus) {
		fd = ioctl(rvm->vm->fd, KVM_CREATE_VCPU, rvm->nr_vcpus);
		rvm->create_ret = fd < 0 ? -errno : fd;
		if (fd < 0)
			break;

		if (rvm->run)
			start_runner(&rvm->runners[rvm->nr_vcpus], fd);
		rvm->nr_vcpus++;
	}

	__atomic_store_n(&rvm->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Create vCPUs, and run them for the first time, at the same time. */
TEST_F_TIMEOUT(vm, created, TEST_TIMEOUT_SEC)
{
	struct kvm_random_state rng = new_kvm_random_state(kvm_random_seed);
	int fd, i, j, kmsg_fd, nr_vcpus = 0, nr_cut_short = 0;
	static struct reset_vm rvm;
	u32 counter;

	kmsg_fd = open_kmsg();

	for (i = 0; i < 2 * NR_ROUNDS; i++) {
		create_reset_vm(&rvm);
		rvm.max_vcpus = MAX_NEW_VCPUS;
		rvm.run = true;
		kvm_pthread_create(&rvm.thread, NULL, create_vcpus, &rvm);

		ASSERT_TRUE(wait_for(READ_ONCE(*rvm.counter)));
		usleep(kvm_random_u32_in_range(&rng, 0, 10000));

		fd = fence_vm(_metadata);
		counter = READ_ONCE(*rvm.counter);

		kvm_pthread_join(rvm.thread, NULL);
		nr_vcpus += rvm.nr_vcpus;
		if (rvm.nr_vcpus < MAX_NEW_VCPUS) {
			EXPECT_EQ(rvm.create_ret, -EIO);
			nr_cut_short++;
		}

		for (j = 0; j < rvm.nr_vcpus; j++) {
			expect_eio(_metadata, &rvm.runners[j]);
			kvm_close(rvm.runners[j].fd);
		}
		EXPECT_EQ(READ_ONCE(*rvm.counter), counter);

		kvm_vm_free(rvm.vm);
		kvm_munmap(rvm.counter, 2 * PAGE_SIZE);
		EXPECT_EQ(end_invalidation(fd), 0);
		close(fd);
	}

	TH_LOG("%d vCPUs, %d of %d invalidations before the last one was created",
	       nr_vcpus, nr_cut_short, i);
	EXPECT_EQ(count_kernel_complaints(kmsg_fd), 0);
	close(kmsg_fd);
}

static bool set_create_vcpu_delay(int ms)
{
	FILE *f = fopen(CREATE_VCPU_DELAY, "w");

	return f && fprintf(f, "%d", ms) > 0 && !fclose(f);
}

FIXTURE(created_slowly) {
};

FIXTURE_SETUP(created_slowly)
{
}

FIXTURE_TEARDOWN(created_slowly)
{
	set_create_vcpu_delay(0);
}

/*
 * The invalidation doesn't find a vCPU that isn't online yet, but a task that guesses
 * the number of its fd can already be waiting to run it.
 */
TEST_F_TIMEOUT(created_slowly, coming_online, TEST_TIMEOUT_SEC)
{
	static struct reset_vm rvm;
	struct runner runner;
	int vcpu_fd, fd, kmsg_fd;

	kmsg_fd = open_kmsg();
	create_reset_vm(&rvm);
	rvm.max_vcpus = 1;

	if (!set_create_vcpu_delay(1000))
		SKIP(return, "Can't make the creation of a vCPU take longer");

	/* Open other files first, the vCPU gets the lowest free number. */
	fd = open_trigger();
	ASSERT_GE(fd, 0);
	vcpu_fd = dup(0);
	ASSERT_GE(vcpu_fd, 0);
	close(vcpu_fd);

	start_runner(&runner, vcpu_fd);
	kvm_pthread_create(&rvm.thread, NULL, create_vcpus, &rvm);

	ASSERT_TRUE(wait_for(fcntl(vcpu_fd, F_GETFD) >= 0));
	usleep(5 * SETTLE_US);
	ASSERT_FALSE(is_done(&runner));
	EXPECT_EQ(start_invalidation(fd, (void *)PAGE_SIZE, PAGE_SIZE), 0);
	ASSERT_FALSE(__atomic_load_n(&rvm.done, __ATOMIC_ACQUIRE)) {
		TH_LOG("The vCPU came online too early");
	}

	kvm_pthread_join(rvm.thread, NULL);
	EXPECT_EQ(rvm.create_ret, vcpu_fd);

	expect_eio(_metadata, &runner);
	EXPECT_EQ(READ_ONCE(*rvm.counter), 0);

	kvm_close(vcpu_fd);
	kvm_vm_free(rvm.vm);
	finish_fence(_metadata, fd, kmsg_fd);
}
#endif /* __x86_64__ */

#define OLD_VALUE	0x1122334455667788ul
#define NEW_VALUE	0x99aabbccddeeff00ul

static void guest_code_uffd(void)
{
	u64 *mem = (u64 *)TEST_MEM_GVA;

	GUEST_SYNC(READ_ONCE(*mem));
	WRITE_ONCE(*mem, NEW_VALUE);
	GUEST_SYNC(READ_ONCE(*mem));
}

static int open_uffd(void *mem, size_t size)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register reg = {
		.range = { (unsigned long)mem, size },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	struct uffdio_writeprotect wp = {
		.range = { (unsigned long)mem, size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int uffd;

	uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0)
		return -errno;

	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg) ||
	    ioctl(uffd, UFFDIO_WRITEPROTECT, &wp)) {
		close(uffd);
		return -EOPNOTSUPP;
	}
	return uffd;
}

/*
 * A page fault that looks up the page after the memory was reaped.  The previous page
 * is still mapped, read-only, in KVM's page tables, as it wasn't zapped, and the
 * look-up finds another page.  KVM's TDP MMU treats the replacement of one by the
 * other as memory corruption.
 *
 * Write-protect a page by a userfaultfd, let the guest read and write it, and reap it
 * while the write waits for the userfaultfd in the middle of the look-up.  Keep a
 * reference to the old page, to check its contents, and so that it isn't reused.
 */
TEST_F_TIMEOUT(vm, page_fault, TEST_TIMEOUT_SEC)
{
	struct uffdio_range range;
	struct uffd_msg msg = {};
	struct kvm_vcpu *vcpu;
	struct runner runner;
	int fd, uffd, kmsg_fd;
	struct pollfd pollfd;
	struct kvm_vm *vm;
	struct ucall uc;
	struct iovec iov;
	int pipe_fds[2];
	u64 old, *mem;

	kmsg_fd = open_kmsg();
	fd = open_trigger();
	ASSERT_GE(fd, 0);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code_uffd);
	mem = (u64 *)add_test_mem(vm);
	*mem = OLD_VALUE;

	uffd = open_uffd(mem, TEST_MEM_SIZE);
	if (uffd < 0)
		SKIP(return, "Can't write-protect memory using userfaultfd: %s",
		     strerror(-uffd));

	iov = (struct iovec) { mem, sizeof(*mem) };
	ASSERT_EQ(pipe(pipe_fds), 0);
	ASSERT_EQ(vmsplice(pipe_fds[1], &iov, 1, 0), sizeof(*mem));

	/* Let KVM map it read-only. */
	vcpu_run(vcpu);
	ASSERT_EQ(get_ucall(vcpu, &uc), UCALL_SYNC);
	ASSERT_EQ(uc.args[1], OLD_VALUE);

	start_runner(&runner, vcpu->fd);
	pollfd = (struct pollfd) { .fd = uffd, .events = POLLIN };
	ASSERT_EQ(poll(&pollfd, 1, WAIT_TIMEOUT_SEC * 1000), 1);
	ASSERT_EQ(read(uffd, &msg, sizeof(msg)), sizeof(msg));
	ASSERT_EQ(msg.event, UFFD_EVENT_PAGEFAULT);
	ASSERT_TRUE(msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);

	EXPECT_EQ(zap_vma(fd, mem), 0);
	EXPECT_FALSE(is_done(&runner));

	/*
	 * Don't use UFFDIO_UNREGISTER or UFFDIO_WRITEPROTECT.  Both invalidate the
	 * page before, with a blockable range, i.e. KVM would zap the mapping.
	 */
	range = (struct uffdio_range) { (unsigned long)mem, TEST_MEM_SIZE };
	ASSERT_EQ(ioctl(uffd, UFFDIO_WAKE, &range), 0);

	expect_eio(_metadata, &runner);

	/* The new page is empty, and the old one is as it was. */
	EXPECT_EQ(READ_ONCE(*mem), 0);
	ASSERT_EQ(read(pipe_fds[0], &old, sizeof(old)), sizeof(old));
	EXPECT_EQ(old, OLD_VALUE);

	close(pipe_fds[0]);
	close(pipe_fds[1]);
	close(uffd);
	kvm_vm_free(vm);
	EXPECT_EQ(count_kernel_complaints(kmsg_fd), 0);
	close(kmsg_fd);
	close(fd);
}

int main(int argc, char *argv[])
{
	__TEST_REQUIRE(!access(TRIGGER, W_OK),
		       "Non-blockable invalidations can't be triggered, there's no "
		       TRIGGER);

	return test_harness_run(argc, argv);
}
