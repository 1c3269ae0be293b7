// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that KVM doesn't write guest memory through its gfn_to_pfn_caches after
 * the VM's mm is gone.
 *
 * A VM lives for as long as someone holds a reference to it, e.g. a file
 * descriptor, whereas KVM must not access guest memory once the process that
 * created the VM has exited, as the pages may then belong to someone else.  KVM
 * refuses ioctl()s from other processes, but in-kernel sources of interrupts
 * don't need an ioctl(): an eventfd that is routed to a Xen event channel can be
 * signalled by anyone who holds it, and a Xen timer expires on its own.  Both
 * set bits in the guest's shared_info and vcpu_info.
 *
 * Use a memfd to back the pages in question.  The test itself keeps the pages
 * allocated, and so KVM's writes, which would otherwise corrupt random memory,
 * are harmless and show up in the test's own mapping of the memfd.
 */
#include <sys/eventfd.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "kvm_test_harness.h"
#include "vm_process.h"

#define XEN_REGION_GPA		0xc0000000ULL
#define XEN_REGION_SLOT		10
#define XEN_REGION_PAGES	3

/* Put each structure into a page of its own. */
#define SHINFO_OFFSET		(0 * PAGE_SIZE)
#define VCPU_INFO_OFFSET	(1 * PAGE_SIZE)
#define PVTIME_OFFSET		(2 * PAGE_SIZE)
#define RUNSTATE_OFFSET		(2 * PAGE_SIZE + 0x100)

#define XEN_HYPERCALL_MSR	0x40000000

#define NR_EVTCHNS		4
#define EVTCHN_FIRST_GSI	32
#define EVTCHN_TIMER		13

/* Use a different word of the bitmap for each port, up to the very last port. */
static const u32 evtchn_ports[NR_EVTCHNS] = { 15, 66, 197, 4095 };

/* The offsets of the few fields of Xen's 64-bit ABI that matter here. */
#define VCPU_INFO_UPCALL_PENDING	0
#define VCPU_INFO_PENDING_SEL		8
#define SHINFO_EVTCHN_PENDING		0x800
#define SHINFO_EVTCHN_MASK		0xa00
#define SHINFO_EVTCHN_SIZE		0x200

/* A byte that isn't written by KVM, unless KVM misbehaves. */
#define POISON			0x5a

#define CONTROL_TIMER_MS	10

/*
 * The VM's process has to exit before its timer expires.  If it does not, then
 * retry with a longer timeout.
 */
#define TIMER_MS_MIN		500
#define TIMER_MS_MAX		8000

/* Time to let KVM do what it doesn't do synchronously, or must not do. */
#define SETTLE_MS		100

#define WAIT_TIMEOUT_SEC	20
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
	struct vm_control *control;
	int eventfds[NR_EVTCHNS];
	pid_t pid;
	int pidfd;
	int memfd;
	int vm_fd;
	int vcpu_fd;
	u8 *mem;
};

FIXTURE(xen_gpc) {
	struct dying_vm dv;
};

FIXTURE_VARIANT(xen_gpc) {
	bool hva;
};

FIXTURE_VARIANT_ADD(xen_gpc, gpa) { .hva = false, };
FIXTURE_VARIANT_ADD(xen_gpc, hva) { .hva = true, };

static int xen_caps;

static void guest_code(void)
{
	GUEST_SYNC(0);
}

static void arm_timer(struct kvm_vcpu *vcpu, u32 ms)
{
	struct kvm_xen_vcpu_attr timer = {
		.type = KVM_XEN_VCPU_ATTR_TYPE_TIMER,
		.u.timer.port = EVTCHN_TIMER,
		.u.timer.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};
	struct kvm_clock_data clock;

	vm_ioctl(vcpu->vm, KVM_GET_CLOCK, &clock);
	timer.u.timer.expires_ns = clock.clock + ms * 1000000ULL;
	vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &timer);
}

static void set_xen_vcpu_attr(struct kvm_vcpu *vcpu, u16 type, u64 addr)
{
	struct kvm_xen_vcpu_attr attr = {
		.type = type,
		/* The union's "gpa" and "hva" are one and the same. */
		.u.gpa = addr,
	};

	vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
}

static void setup_xen(struct kvm_vcpu *vcpu, bool use_hva)
{
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL |
			 KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
		.msr = XEN_HYPERCALL_MSR,
	};
	struct kvm_xen_hvm_attr long_mode = {
		.type = KVM_XEN_ATTR_TYPE_LONG_MODE,
		.u.long_mode = 1,
	};
	struct kvm_xen_hvm_attr shinfo = {};
	u64 hva;

	vm_userspace_mem_region_add(vcpu->vm, VM_MEM_SRC_SHMEM, XEN_REGION_GPA,
				    XEN_REGION_SLOT, XEN_REGION_PAGES, 0);
	hva = (u64)addr_gpa2hva(vcpu->vm, XEN_REGION_GPA);

	vm_ioctl(vcpu->vm, KVM_XEN_HVM_CONFIG, &config);
	vm_ioctl(vcpu->vm, KVM_XEN_HVM_SET_ATTR, &long_mode);

	if (use_hva) {
		shinfo.type = KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA;
		shinfo.u.shared_info.hva = hva + SHINFO_OFFSET;
	} else {
		shinfo.type = KVM_XEN_ATTR_TYPE_SHARED_INFO;
		shinfo.u.shared_info.gfn = (XEN_REGION_GPA + SHINFO_OFFSET) / PAGE_SIZE;
	}
	vm_ioctl(vcpu->vm, KVM_XEN_HVM_SET_ATTR, &shinfo);

	if (use_hva)
		set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA,
				  hva + VCPU_INFO_OFFSET);
	else
		set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
				  XEN_REGION_GPA + VCPU_INFO_OFFSET);

	set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
			  XEN_REGION_GPA + PVTIME_OFFSET);

	if (xen_caps & KVM_XEN_HVM_CONFIG_RUNSTATE)
		set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
				  XEN_REGION_GPA + RUNSTATE_OFFSET);
}

static void setup_evtchns(struct kvm_vcpu *vcpu, int *eventfds)
{
	struct kvm_irq_routing *routing = kvm_gsi_routing_create();
	struct kvm_irq_routing_entry *entry;
	int i;

	for (i = 0; i < NR_EVTCHNS; i++) {
		entry = &routing->entries[routing->nr++];
		entry->gsi = EVTCHN_FIRST_GSI + i;
		entry->type = KVM_IRQ_ROUTING_XEN_EVTCHN;
		entry->u.xen_evtchn.port = evtchn_ports[i];
		entry->u.xen_evtchn.vcpu = vcpu->id;
		entry->u.xen_evtchn.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
	}

	/* Note, this frees @routing. */
	kvm_gsi_routing_write(vcpu->vm, routing);

	for (i = 0; i < NR_EVTCHNS; i++)
		kvm_assign_irqfd(vcpu->vm, EVTCHN_FIRST_GSI + i, eventfds[i]);
}

/* Body of the child process, which creates the VM and otherwise merely exists. */
static void run_vm_process(struct vm_control *control, int *eventfds, bool use_hva)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	u32 ms;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	setup_xen(vcpu, use_hva);
	setup_evtchns(vcpu, eventfds);

	/*
	 * The guest has nothing to do.  Run the vCPU only to have KVM fill in
	 * the guest's clocks, as KVM uses those to set the timer.
	 */
	vcpu_run(vcpu);
	TEST_ASSERT_EQ(get_ucall(vcpu, NULL), UCALL_SYNC);

	control->vm_fd = vm->fd;
	control->vcpu_fd = vcpu->fd;
	control->memfd = memslot2region(vm, XEN_REGION_SLOT)->fd;
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

static bool evtchn_is_pending(u8 *mem, u32 port)
{
	u8 *bitmap = mem + SHINFO_OFFSET + SHINFO_EVTCHN_PENDING;

	return READ_ONCE(bitmap[port / 8]) & BIT(port % 8);
}

static bool vcpu_info_is_pending(u8 *mem, u32 port)
{
	u8 *vcpu_info = mem + VCPU_INFO_OFFSET;
	u64 sel = READ_ONCE(*(u64 *)(vcpu_info + VCPU_INFO_PENDING_SEL));

	return READ_ONCE(vcpu_info[VCPU_INFO_UPCALL_PENDING]) &&
	       (sel & BIT_ULL(port / 64));
}

static bool evtchn_was_delivered(u8 *mem, u32 port)
{
	return evtchn_is_pending(mem, port) && vcpu_info_is_pending(mem, port);
}

/*
 * Clear all events, and unmask them.  KVM has nothing to write for an event that
 * is already pending, and doesn't write vcpu_info if the event is masked.
 */
static void clear_events(u8 *mem)
{
	u8 *vcpu_info = mem + VCPU_INFO_OFFSET;
	u8 *shinfo = mem + SHINFO_OFFSET;

	memset(shinfo + SHINFO_EVTCHN_PENDING, 0, SHINFO_EVTCHN_SIZE);
	memset(shinfo + SHINFO_EVTCHN_MASK, 0, SHINFO_EVTCHN_SIZE);
	memset(vcpu_info + VCPU_INFO_UPCALL_PENDING, 0, 1);
	memset(vcpu_info + VCPU_INFO_PENDING_SEL, 0, sizeof(u64));
}

static void poison_memory(u8 *mem)
{
	memset(mem, POISON, XEN_REGION_PAGES * PAGE_SIZE);
	clear_events(mem);
}

/* Print and count the bytes that have changed since poison_memory(). */
static int count_stale_writes(u8 *mem)
{
	static u8 expected[XEN_REGION_PAGES * PAGE_SIZE];
	int nr_writes = 0, i;

	poison_memory(expected);

	for (i = 0; i < sizeof(expected); i++) {
		if (READ_ONCE(mem[i]) == expected[i])
			continue;

		ksft_print_msg("Stale write to page %lu (%s), offset 0x%lx: 0x%02x => 0x%02x\n",
			       (unsigned long)(i / PAGE_SIZE),
			       i < VCPU_INFO_OFFSET ? "shared_info" :
			       i < PVTIME_OFFSET ? "vcpu_info" : "time and runstate",
			       (unsigned long)(i % PAGE_SIZE), expected[i], mem[i]);
		nr_writes++;
	}

	return nr_writes;
}

static int get_child_fd(int pidfd, int fd)
{
	return syscall(__NR_pidfd_getfd, pidfd, fd, 0);
}

FIXTURE_SETUP(xen_gpc)
{
	struct dying_vm *dv = &self->dv;
	int i;

	dv->pidfd = -1;
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
	if (dv->pid > 0) {
		kill(dv->pid, SIGKILL);
		waitpid(dv->pid, NULL, 0);
		dv->pid = 0;
	}

	close_vm_fds(dv);

	if (dv->mem)
		kvm_munmap(dv->mem, XEN_REGION_PAGES * PAGE_SIZE);
	dv->mem = NULL;

	if (dv->memfd >= 0)
		kvm_free_fd(dv->memfd);
	if (dv->pidfd >= 0)
		kvm_free_fd(dv->pidfd);
}

FIXTURE_TEARDOWN(xen_gpc)
{
	drop_vm(&self->dv);
}

/* Fork the process that creates the VM, and get hold of the VM and its memory. */
static void create_vm(struct __test_metadata *_metadata, struct dying_vm *dv,
		      bool use_hva)
{
	struct vm_control *control = dv->control;

	memset(control, 0, sizeof(*control));

	dv->pid = fork_vm_process();
	if (!dv->pid) {
		run_vm_process(control, dv->eventfds, use_hva);
		_exit(KSFT_FAIL);
	}
	ASSERT_GT(dv->pid, 0);

	wait_for(READ_ONCE(control->ready) || process_has_exited(dv->pid));
	ASSERT_TRUE(__atomic_load_n(&control->ready, __ATOMIC_ACQUIRE));

	dv->pidfd = syscall(__NR_pidfd_open, dv->pid, 0);
	ASSERT_GE(dv->pidfd, 0);

	dv->memfd = get_child_fd(dv->pidfd, control->memfd);
	ASSERT_GE(dv->memfd, 0);
	dv->vm_fd = get_child_fd(dv->pidfd, control->vm_fd);
	ASSERT_GE(dv->vm_fd, 0);
	dv->vcpu_fd = get_child_fd(dv->pidfd, control->vcpu_fd);
	ASSERT_GE(dv->vcpu_fd, 0);

	dv->mem = kvm_mmap(XEN_REGION_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_SHARED, dv->memfd);
	clear_events(dv->mem);
}

/*
 * Kill the VM's process, and wait until its mm is gone, i.e. until KVM has been
 * told by its mmu_notifier's ->release().  Waiting for the process isn't enough
 * in theory: the kernel, or a monitoring tool, may briefly hold a reference to
 * the mm.  Reading /proc/<pid>/mem hits end-of-file once the mm has no users.
 */
static void kill_vm_process(struct __test_metadata *_metadata, struct dying_vm *dv)
{
	char path[64], c;
	int mem_fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", dv->pid);
	mem_fd = open(path, O_RDONLY);
	ASSERT_GE(mem_fd, 0);
	ASSERT_NE(pread(mem_fd, &c, 1, (off_t)dv->control), 0);

	ASSERT_EQ(kill(dv->pid, SIGKILL), 0);
	ASSERT_EQ(waitpid(dv->pid, NULL, 0), dv->pid);
	dv->pid = 0;

	EXPECT_TRUE(wait_for(!pread(mem_fd, &c, 1, (off_t)dv->control)));
	close(mem_fd);

	poison_memory(dv->mem);
}

/*
 * Check the memory before and after the VM is destroyed.  Destroying the VM puts
 * an end to anything asynchronous, e.g. to irqfd's workers, and must not touch
 * the memory either.
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

	if (variant->hva && !(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA))
		SKIP(return, "KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA is not supported");

	create_vm(_metadata, dv, variant->hva);

	/* Prove that events are delivered while the process is alive. */
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
	struct timespec start;
	u32 timer_ms;

	if (variant->hva && !(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA))
		SKIP(return, "KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA is not supported");

	for (timer_ms = TIMER_MS_MIN; timer_ms <= TIMER_MS_MAX; timer_ms *= 2) {
		create_vm(_metadata, dv, variant->hva);

		/* Prove that the timer works while the process is alive. */
		WRITE_ONCE(dv->control->timer_ms, CONTROL_TIMER_MS);
		ASSERT_TRUE(wait_for(evtchn_was_delivered(dv->mem, EVTCHN_TIMER)));
		ASSERT_TRUE(wait_for(READ_ONCE(dv->control->armed)));

		clear_events(dv->mem);
		WRITE_ONCE(dv->control->armed, false);

		clock_gettime(CLOCK_MONOTONIC, &start);
		WRITE_ONCE(dv->control->timer_ms, timer_ms);
		ASSERT_TRUE(wait_for(READ_ONCE(dv->control->armed)));

		kill_vm_process(_metadata, dv);

		/*
		 * Only a timer that expires after the memory was poisoned is of
		 * interest.  Be conservative, the timer uses the guest's clock.
		 */
		if (timespec_to_ns(timespec_elapsed(start)) < timer_ms * 1000000LL / 2) {
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
	xen_caps = kvm_check_cap(KVM_CAP_XEN_HVM);

	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO);
	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL);
	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_EVTCHN_SEND);

	return test_harness_run(argc, argv);
}
