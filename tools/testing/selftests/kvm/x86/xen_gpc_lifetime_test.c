// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that KVM doesn't write guest memory through its gfn_to_pfn_caches after
 * the VM's mm is gone.
 *
 * A VM exists for as long as there is a reference to it, e.g. a file descriptor,
 * whereas KVM must not access guest memory once the process that created the VM
 * has exited, as the pages may then be used for something else.  KVM refuses
 * ioctl()s from other processes, but in-kernel sources of interrupts don't need an
 * ioctl(): any process can signal an eventfd that is routed to a Xen event channel,
 * and a Xen timer expires by itself.  Both set bits in the guest's shared_info and
 * vcpu_info.
 *
 * Back these pages by a memfd.  The test itself keeps the pages allocated, so that
 * KVM's writes, which would otherwise corrupt other memory, are harmless and can be
 * seen in the test's own mapping of the memfd.
 */
#include <sys/eventfd.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "kvm_test_harness.h"
#include "vm_process.h"
#include "xen.h"

/* The memory that KVM writes. */
struct xen_pages {
	union {
		struct xen_shared_info si;
		u8 shared_info_page[PAGE_SIZE];
	};
	union {
		struct xen_vcpu_info vi;
		u8 vcpu_info_page[PAGE_SIZE];
	};
	u8 pvtime[0x100];
	u8 runstate[PAGE_SIZE - 0x100];
};

#define NR_PAGES		(sizeof(struct xen_pages) / PAGE_SIZE)

#define NR_EVTCHNS		4
#define EVTCHN_TIMER		13

/* Use a different word of the bitmap for each port, up to the very last port. */
static const u32 evtchn_ports[NR_EVTCHNS] = { 15, 66, 197, 4095 };

/* A byte that KVM doesn't write. */
#define POISON			0x5a

#define CONTROL_TIMER_MS	10

/*
 * The VM's process has to exit before its timer expires.  If it doesn't, retry
 * with a longer timeout.
 */
#define TIMER_MS_MIN		500
#define TIMER_MS_MAX		8000

/* Time for KVM's asynchronous work, and for what KVM must not do. */
#define SETTLE_MS		100

#define TEST_TIMEOUT_SEC	120

/* Shared by the test and by the process that creates the VM. */
struct vm_control {
	bool ready;
	int vm_fd;
	int vcpu_fd;
	int memfd;

	/* If non-zero, have the timer expire after @timer_ms, and set @armed. */
	u32 timer_ms;
	bool armed;
};

/* The test's view of the VM, all of which is valid without the VM's process. */
struct dying_vm {
	struct vm_process process;
	struct vm_control *control;
	int eventfds[NR_EVTCHNS];
	int memfd;
	int vm_fd;
	int vcpu_fd;
	struct xen_pages *mem;
};

FIXTURE(xen_gpc) {
	struct dying_vm dv;
};

FIXTURE_VARIANT(xen_gpc) {
	bool hva;
};

FIXTURE_VARIANT_ADD(xen_gpc, gpa) { .hva = false, };
FIXTURE_VARIANT_ADD(xen_gpc, hva) { .hva = true, };

static u32 xen_caps;

static void guest_code(void)
{
	GUEST_SYNC(0);
}

static void arm_timer(struct kvm_vcpu *vcpu, u32 ms)
{
	struct kvm_clock_data clock;

	vm_ioctl(vcpu->vm, KVM_GET_CLOCK, &clock);
	xen_vcpu_set_timer(vcpu, EVTCHN_TIMER, clock.clock + ms * 1000000ULL);
}

static void setup_xen(struct kvm_vcpu *vcpu, int *eventfds, bool use_hva)
{
	struct xen_irqfd irqfds[NR_EVTCHNS];
	struct kvm_vm *vm = vcpu->vm;
	u64 hva;
	int i;

	hva = (u64)xen_vm_add_memory(vm, VM_MEM_SRC_SHMEM, NR_PAGES);

	xen_vm_init(vm);
	if (use_hva) {
		xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA, hva);
		xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA,
				  hva + offsetof(struct xen_pages, vi));
	} else {
		xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_SHARED_INFO, XEN_GPA / PAGE_SIZE);
		xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
				  XEN_GPA + offsetof(struct xen_pages, vi));
	}

	xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
			  XEN_GPA + offsetof(struct xen_pages, pvtime));
	if (xen_caps & KVM_XEN_HVM_CONFIG_RUNSTATE)
		xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
				  XEN_GPA + offsetof(struct xen_pages, runstate));

	for (i = 0; i < NR_EVTCHNS; i++)
		irqfds[i] = (struct xen_irqfd){ eventfds[i], vcpu->id, evtchn_ports[i] };
	xen_vm_assign_irqfds(vm, irqfds, NR_EVTCHNS);
}

/* Body of the child process, which creates the VM, and waits to be killed. */
static void __noreturn run_vm_process(struct vm_control *control, int *eventfds,
				      bool use_hva)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u32 ms;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	setup_xen(vcpu, eventfds, use_hva);

	/* Have KVM write the guest's clocks, which it needs to set the timer. */
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);

	control->vm_fd = vm->fd;
	control->vcpu_fd = vcpu->fd;
	control->memfd = memslot2region(vm, XEN_SLOT)->fd;
	__atomic_store_n(&control->ready, true, __ATOMIC_RELEASE);

	for (;;) {
		ms = __atomic_exchange_n(&control->timer_ms, 0, __ATOMIC_ACQUIRE);
		if (ms) {
			arm_timer(vcpu, ms);
			__atomic_store_n(&control->armed, true, __ATOMIC_RELEASE);
		}
		usleep(1000);
	}
}

static void sleep_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

static bool evtchn_was_delivered(struct xen_pages *mem, u32 port)
{
	return xen_test_port(mem->si.evtchn_pending, port) &&
	       READ_ONCE(mem->vi.evtchn_upcall_pending) &&
	       READ_ONCE(mem->vi.evtchn_pending_sel) & BIT_ULL(port / 64);
}

/*
 * Clear all events, and unmask them.  KVM has nothing to write for an event that
 * is already pending, and doesn't write vcpu_info if the event is masked.
 */
static void clear_events(struct xen_pages *mem)
{
	memset(mem->si.evtchn_pending, 0, sizeof(mem->si.evtchn_pending));
	memset(mem->si.evtchn_mask, 0, sizeof(mem->si.evtchn_mask));
	WRITE_ONCE(mem->vi.evtchn_upcall_pending, 0);
	WRITE_ONCE(mem->vi.evtchn_pending_sel, 0);
}

static void poison_memory(struct xen_pages *mem)
{
	memset(mem, POISON, sizeof(*mem));
	clear_events(mem);
}

/* Print and count the bytes that have changed since poison_memory(). */
static int count_stale_writes(struct xen_pages *pages)
{
	static struct xen_pages expected_pages;
	u8 *expected = (u8 *)&expected_pages, *mem = (u8 *)pages;
	int nr_writes = 0, i;

	poison_memory(&expected_pages);

	for (i = 0; i < sizeof(expected_pages); i++) {
		if (READ_ONCE(mem[i]) == expected[i])
			continue;

		ksft_print_msg("Stale write to page %lu (%s), offset 0x%lx: 0x%02x => 0x%02x\n",
			       (unsigned long)(i / PAGE_SIZE),
			       i < offsetof(struct xen_pages, vi) ? "shared_info" :
			       i < offsetof(struct xen_pages, pvtime) ? "vcpu_info" :
			       "time and runstate",
			       (unsigned long)(i % PAGE_SIZE), expected[i], mem[i]);
		nr_writes++;
	}

	return nr_writes;
}

FIXTURE_SETUP(xen_gpc)
{
	struct dying_vm *dv = &self->dv;
	int i;

	if (variant->hva && !(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA))
		SKIP(return, "KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA is not supported");

	dv->memfd = -1;
	dv->vm_fd = -1;
	dv->vcpu_fd = -1;

	for (i = 0; i < NR_EVTCHNS; i++)
		dv->eventfds[i] = kvm_new_eventfd();

	dv->control = kvm_mmap(sizeof(*dv->control), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1);
}

static void close_vm_fds(struct dying_vm *dv)
{
	if (dv->vm_fd >= 0)
		kvm_free_fd(dv->vm_fd);
	if (dv->vcpu_fd >= 0)
		kvm_free_fd(dv->vcpu_fd);
}

static void drop_vm(struct dying_vm *dv)
{
	vm_process_put(&dv->process);
	close_vm_fds(dv);

	if (dv->mem)
		kvm_munmap(dv->mem, sizeof(*dv->mem));
	dv->mem = NULL;

	if (dv->memfd >= 0)
		kvm_free_fd(dv->memfd);
}

FIXTURE_TEARDOWN(xen_gpc)
{
	drop_vm(&self->dv);
}

/* Fork the process that creates the VM, and get the VM's file descriptors and memory. */
static void create_vm(struct __test_metadata *_metadata, struct dying_vm *dv,
		      bool use_hva)
{
	struct vm_control *control = dv->control;

	memset(control, 0, sizeof(*control));

	if (vm_process_fork(&dv->process))
		run_vm_process(control, dv->eventfds, use_hva);
	ASSERT_TRUE(vm_process_wait_ready(&dv->process, &control->ready));

	dv->memfd = vm_process_get_fd(&dv->process, control->memfd);
	dv->vm_fd = vm_process_get_fd(&dv->process, control->vm_fd);
	dv->vcpu_fd = vm_process_get_fd(&dv->process, control->vcpu_fd);

	dv->mem = kvm_mmap(sizeof(*dv->mem), PROT_READ | PROT_WRITE, MAP_SHARED, dv->memfd);
	clear_events(dv->mem);
}

/* Kill the VM's process, and wait until its mm is gone. */
static void kill_vm_process(struct __test_metadata *_metadata, struct dying_vm *dv)
{
	ASSERT_TRUE(vm_process_has_mm(&dv->process));
	ASSERT_EQ(kill(dv->process.pid, SIGKILL), 0);
	ASSERT_NE(vm_process_wait(&dv->process), -1);
	EXPECT_TRUE(wait_for(!vm_process_has_mm(&dv->process)));

	poison_memory(dv->mem);
}

/*
 * Check the memory before and after the VM is destroyed.  The destruction of the VM
 * waits for all asynchronous work, e.g. of irqfds, and must not write the memory
 * either.
 */
static void check_memory(struct __test_metadata *_metadata, struct dying_vm *dv)
{
	sleep_ms(SETTLE_MS);
	EXPECT_EQ(count_stale_writes(dv->mem), 0);

	poison_memory(dv->mem);
	close_vm_fds(dv);
	EXPECT_EQ(count_stale_writes(dv->mem), 0);
}

/* Signal the eventfds of a VM whose process is gone. */
TEST_F_TIMEOUT(xen_gpc, eventfd, TEST_TIMEOUT_SEC)
{
	struct dying_vm *dv = &self->dv;
	int i;

	create_vm(_metadata, dv, variant->hva);

	/* Check that events are delivered while the process is alive. */
	for (i = 0; i < NR_EVTCHNS; i++) {
		ASSERT_EQ(eventfd_write(dv->eventfds[i], 1), 0);
		ASSERT_TRUE(wait_for(evtchn_was_delivered(dv->mem, evtchn_ports[i])));
	}

	kill_vm_process(_metadata, dv);

	for (i = 0; i < NR_EVTCHNS; i++)
		ASSERT_EQ(eventfd_write(dv->eventfds[i], 1), 0);

	check_memory(_metadata, dv);
}

/* Let a timer expire after the VM's process is gone. */
TEST_F_TIMEOUT(xen_gpc, timer, TEST_TIMEOUT_SEC)
{
	struct dying_vm *dv = &self->dv;
	u32 timer_ms;
	s64 start_ns;

	for (timer_ms = TIMER_MS_MIN; timer_ms <= TIMER_MS_MAX; timer_ms *= 2) {
		create_vm(_metadata, dv, variant->hva);

		/* Check that the timer works while the process is alive. */
		WRITE_ONCE(dv->control->timer_ms, CONTROL_TIMER_MS);
		ASSERT_TRUE(wait_for(evtchn_was_delivered(dv->mem, EVTCHN_TIMER)));
		ASSERT_TRUE(wait_for(READ_ONCE(dv->control->armed)));

		clear_events(dv->mem);
		WRITE_ONCE(dv->control->armed, false);

		start_ns = now_ns();
		WRITE_ONCE(dv->control->timer_ms, timer_ms);
		ASSERT_TRUE(wait_for(READ_ONCE(dv->control->armed)));

		kill_vm_process(_metadata, dv);

		/*
		 * The timer has to expire after the memory was poisoned.  Allow for
		 * a large error, as the timer uses the guest's clock.
		 */
		if (now_ns() - start_ns < timer_ms * 1000000LL / 2) {
			sleep_ms(timer_ms * 2);
			check_memory(_metadata, dv);
			return;
		}

		drop_vm(dv);
	}

	SKIP(return, "Can't kill a process in less than %u ms", TIMER_MS_MAX / 2);
}

int main(int argc, char *argv[])
{
	xen_caps = xen_require_caps();

	return test_harness_run(argc, argv);
}
