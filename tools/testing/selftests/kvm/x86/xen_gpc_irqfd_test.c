// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test event channels that are raised by an irqfd while Xen's shared_info isn't
 * accessible, i.e. while its page would have to be faulted in.
 *
 * KVM must not do so on behalf of whoever signals the eventfd.  The page may be
 * subject to a userfaultfd that nobody serves, and then neither the VM's process
 * nor its memory would go, and other VMs would have to wait.  It's for the
 * target vCPU to deliver the event: before it enters the guest, even if it has
 * to be woken up, before KVM_RUN returns, or when its state is saved.
 */
#include <pthread.h>

#include <linux/userfaultfd.h>
#include <sys/eventfd.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "kvm_test_harness.h"
#include "vm_process.h"

#define XEN_REGION_GPA		0xc0000000ULL
#define XEN_REGION_SLOT		10
#define XEN_REGION_PAGES	2

#define SHINFO_GPA		XEN_REGION_GPA
#define VCPU_INFO_GPA		(XEN_REGION_GPA + PAGE_SIZE)

#define XEN_HYPERCALL_MSR	0x40000000
#define UPCALL_VECTOR		0xf3

#define EVTCHN_GSI		32
#define EVTCHN_PORT		197

/* The few fields of Xen's 64-bit ABI that matter here. */
struct xen_shared_info {
	u8 vcpu_info[0x800];
	u64 evtchn_pending[64];
	u64 evtchn_mask[64];
};

struct xen_vcpu_info {
	u8 evtchn_upcall_pending;
	u8 evtchn_upcall_mask;
	u16 pad[3];
	u64 evtchn_pending_sel;
};

/* Time to let KVM, or the guest, do what it's supposed to do, or not to do. */
#define SETTLE_MS		300
#define WAIT_TIMEOUT_SEC	15
#define TEST_TIMEOUT_SEC	60

enum {
	SYNC_READY,
	SYNC_EVENT,
	SYNC_HALT_LEFT,
};

static bool guest_saw_irq;
static u64 guest_halts;

static struct xen_shared_info *guest_si = (void *)SHINFO_GPA;
static struct xen_vcpu_info *guest_vi = (void *)VCPU_INFO_GPA;

static bool port_is_set(u64 *bitmap)
{
	return READ_ONCE(bitmap[EVTCHN_PORT / 64]) & BIT_ULL(EVTCHN_PORT % 64);
}

static void evtchn_handler(struct ex_regs *regs)
{
	WRITE_ONCE(guest_vi->evtchn_upcall_pending, 0);
	WRITE_ONCE(guest_saw_irq, true);
}

static void guest_check_event(void)
{
	GUEST_ASSERT(READ_ONCE(guest_saw_irq));
	GUEST_ASSERT(port_is_set(guest_si->evtchn_pending));
	GUEST_ASSERT(READ_ONCE(guest_vi->evtchn_pending_sel) & BIT_ULL(EVTCHN_PORT / 64));
}

/* The event has to be there when the guest is entered for the second time. */
static void guest_run(void)
{
	sti_nop();
	GUEST_SYNC(SYNC_READY);
	guest_check_event();
	GUEST_SYNC(SYNC_EVENT);
}

/* The event has to wake up the guest, and nothing else. */
static void guest_halt(void)
{
	GUEST_SYNC(SYNC_READY);
	WRITE_ONCE(guest_halts, guest_halts + 1);
	safe_halt();
	GUEST_SYNC(READ_ONCE(guest_saw_irq) ? SYNC_EVENT : SYNC_HALT_LEFT);
	guest_check_event();
	GUEST_SYNC(SYNC_EVENT);
}

struct xen_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct xen_shared_info *si;
	struct xen_vcpu_info *vi;
	int eventfd;
};

static void set_vcpu_attr(struct kvm_vcpu *vcpu, u16 type, u64 value)
{
	struct kvm_xen_vcpu_attr attr = { .type = type, .u.gpa = value };

	vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
}

static void set_shared_info(struct kvm_vm *vm, u64 gfn)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO,
		.u.shared_info.gfn = gfn,
	};

	vm_ioctl(vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

/* @image is guest memory that was saved, if any. */
static void create_vm(struct xen_vm *x, void *guest_code,
		      enum vm_mem_backing_src_type src_type, void *image)
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
	struct kvm_xen_hvm_attr vector = {
		.type = KVM_XEN_ATTR_TYPE_UPCALL_VECTOR,
		.u.vector = UPCALL_VECTOR,
	};
	struct kvm_irq_routing *routing = kvm_gsi_routing_create();
	struct kvm_irq_routing_entry *entry = &routing->entries[routing->nr++];

	x->vm = vm_create_with_one_vcpu(&x->vcpu, guest_code);
	vm_install_exception_handler(x->vm, UPCALL_VECTOR, evtchn_handler);

	vm_userspace_mem_region_add(x->vm, src_type, XEN_REGION_GPA,
				    XEN_REGION_SLOT, XEN_REGION_PAGES, 0);
	virt_map(x->vm, XEN_REGION_GPA, XEN_REGION_GPA, XEN_REGION_PAGES);
	x->si = addr_gpa2hva(x->vm, SHINFO_GPA);
	x->vi = addr_gpa2hva(x->vm, VCPU_INFO_GPA);
	if (image)
		memcpy(x->si, image, XEN_REGION_PAGES * PAGE_SIZE);
	else
		memset(x->si, 0, XEN_REGION_PAGES * PAGE_SIZE);

	vm_ioctl(x->vm, KVM_XEN_HVM_CONFIG, &config);
	vm_ioctl(x->vm, KVM_XEN_HVM_SET_ATTR, &long_mode);
	vm_ioctl(x->vm, KVM_XEN_HVM_SET_ATTR, &vector);
	set_shared_info(x->vm, SHINFO_GPA / PAGE_SIZE);
	set_vcpu_attr(x->vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, VCPU_INFO_GPA);

	entry->gsi = EVTCHN_GSI;
	entry->type = KVM_IRQ_ROUTING_XEN_EVTCHN;
	entry->u.xen_evtchn.port = EVTCHN_PORT;
	entry->u.xen_evtchn.vcpu = x->vcpu->id;
	entry->u.xen_evtchn.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
	/* Note, this frees @routing. */
	kvm_gsi_routing_write(x->vm, routing);
	kvm_assign_irqfd(x->vm, EVTCHN_GSI, x->eventfd);
}

static void settle(void)
{
	usleep(SETTLE_MS * 1000);
}

/* Drop the mapping of some pages, of shared_info first, but not their contents. */
static void raise_event(struct xen_vm *x, int nr_pages)
{
	TEST_ASSERT(!madvise(x->si, nr_pages * PAGE_SIZE, MADV_DONTNEED),
		    "madvise() failed");
	TEST_ASSERT_EQ(eventfd_write(x->eventfd, 1), 0);
	/* KVM has to give up on shared_info, which can only be waited for. */
	settle();
}

static void expect_sync(struct kvm_vcpu *vcpu, u64 stage)
{
	struct ucall uc;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT_EQ(uc.args[1], stage);
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unexpected exit: %s",
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static void run_to(struct kvm_vcpu *vcpu, u64 stage)
{
	vcpu_run(vcpu);
	expect_sync(vcpu, stage);
}

FIXTURE(xen_irqfd) {
	struct xen_vm x;
};

FIXTURE_SETUP(xen_irqfd)
{
	self->x.eventfd = kvm_new_eventfd();
}

FIXTURE_TEARDOWN(xen_irqfd)
{
	if (self->x.vm)
		kvm_vm_free(self->x.vm);
	kvm_free_fd(self->x.eventfd);
}

/* The vCPU enters the guest. */
TEST_F_TIMEOUT(xen_irqfd, enter, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	raise_event(x, XEN_REGION_PAGES);
	run_to(x->vcpu, SYNC_EVENT);
}

/* KVM_RUN returns without having entered the guest. */
TEST_F_TIMEOUT(xen_irqfd, immediate_exit, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	raise_event(x, XEN_REGION_PAGES);

	vcpu_run_complete_io(x->vcpu);
	EXPECT_TRUE(port_is_set(x->si->evtchn_pending));
	EXPECT_TRUE(x->vi->evtchn_pending_sel & BIT_ULL(EVTCHN_PORT / 64));
	EXPECT_TRUE(x->vi->evtchn_upcall_pending);

	run_to(x->vcpu, SYNC_EVENT);
}

/* Restore the VM from its memory, after all else was saved. */
static void restore(struct xen_vm *x)
{
	struct xen_vm restored = { .eventfd = x->eventfd };
	u8 image[XEN_REGION_PAGES * PAGE_SIZE];

	memcpy(image, x->si, sizeof(image));
	kvm_vm_free(x->vm);
	x->vm = NULL;

	create_vm(&restored, guest_run, VM_MEM_SRC_SHMEM, image);
	*x = restored;
	run_to(x->vcpu, SYNC_READY);
	run_to(x->vcpu, SYNC_EVENT);
}

/* The vCPU is saved, and restored in another VM. */
TEST_F_TIMEOUT(xen_irqfd, save_restore, TEST_TIMEOUT_SEC)
{
	struct kvm_xen_vcpu_attr attr = { .type = KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO };
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	raise_event(x, XEN_REGION_PAGES);

	vcpu_ioctl(x->vcpu, KVM_XEN_VCPU_GET_ATTR, &attr);
	EXPECT_EQ(attr.u.gpa, VCPU_INFO_GPA);
	restore(x);
}

/*
 * The same by userspace that doesn't know of the attributes.  What makes
 * shared_info inaccessible is the update of the memslot for dirty logging.
 */
TEST_F_TIMEOUT(xen_irqfd, save_mp_state, TEST_TIMEOUT_SEC)
{
	struct kvm_mp_state mp_state;
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	vm_mem_region_set_flags(x->vm, XEN_REGION_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	TEST_ASSERT_EQ(eventfd_write(x->eventfd, 1), 0);
	settle();

	vcpu_mp_state_get(x->vcpu, &mp_state);
	EXPECT_TRUE(port_is_set(x->si->evtchn_pending));
	restore(x);
}

/* What isn't delivered yet does not outlive shared_info. */
TEST_F_TIMEOUT(xen_irqfd, deactivate, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	raise_event(x, XEN_REGION_PAGES);

	set_shared_info(x->vm, KVM_XEN_INVALID_GFN);
	set_shared_info(x->vm, SHINFO_GPA / PAGE_SIZE);
	vcpu_run_complete_io(x->vcpu);
	EXPECT_FALSE(port_is_set(x->si->evtchn_pending));
}

static void *vcpu_thread(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

static void halt_vcpu(struct xen_vm *x, pthread_t *thread)
{
	u64 *halts;

	create_vm(x, guest_halt, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);

	sync_global_to_guest(x->vm, guest_halts);
	halts = addr_gva2hva(x->vm, (u64)&guest_halts);
	pthread_create(thread, NULL, vcpu_thread, x->vcpu);
	TEST_ASSERT(wait_for(READ_ONCE(*halts)), "The guest doesn't run");
	settle();
}

static void join(pthread_t thread)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += WAIT_TIMEOUT_SEC;
	TEST_ASSERT(!pthread_timedjoin_np(thread, NULL, &ts),
		    "The event didn't wake up the vCPU");
}

/* The vCPU is blocked.  If its vcpu_info were missing, too, it wouldn't be. */
TEST_F_TIMEOUT(xen_irqfd, halted, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;
	pthread_t thread;

	halt_vcpu(x, &thread);
	raise_event(x, 1);
	join(thread);
	expect_sync(x->vcpu, SYNC_EVENT);
	run_to(x->vcpu, SYNC_EVENT);
}

/* The vCPU is blocked, and has to deliver the event, but not to leave HLT. */
TEST_F_TIMEOUT(xen_irqfd, halted_masked, TEST_TIMEOUT_SEC)
{
	struct kvm_irq_routing_xen_evtchn evtchn = {
		.port = EVTCHN_PORT + 1,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};
	struct xen_vm *x = &self->x;
	pthread_t thread;

	halt_vcpu(x, &thread);
	evtchn.vcpu = x->vcpu->id;
	x->si->evtchn_mask[EVTCHN_PORT / 64] = BIT_ULL(EVTCHN_PORT % 64);
	raise_event(x, 1);
	EXPECT_TRUE(wait_for(port_is_set(x->si->evtchn_pending)));
	settle();
	EXPECT_EQ(x->vi->evtchn_pending_sel, 0);

	/* If the guest did leave HLT, then not because of this one. */
	vm_ioctl(x->vm, KVM_XEN_HVM_EVTCHN_SEND, &evtchn);
	join(thread);
	expect_sync(x->vcpu, SYNC_EVENT);
}

/* A process with a VM, whose shared_info is missing, and nobody provides it. */
struct stuck_process {
	bool ready;
	char probe;
};

static void run_stuck_process(struct stuck_process *p, int eventfd, bool uffd_first)
{
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_api api = { .api = UFFD_API };
	struct xen_vm x = { .eventfd = eventfd };
	int uffd = -1;

	if (uffd_first)
		uffd = syscall(__NR_userfaultfd, 0);
	create_vm(&x, guest_run, VM_MEM_SRC_ANONYMOUS, NULL);
	if (!uffd_first)
		uffd = syscall(__NR_userfaultfd, 0);

	reg.range.start = (unsigned long)x.si;
	reg.range.len = PAGE_SIZE;
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) ||
	    ioctl(uffd, UFFDIO_REGISTER, &reg))
		_exit(KSFT_SKIP);

	raise_event(&x, 1);
	WRITE_ONCE(p->ready, true);
	for (;;)
		pause();
}

static void run_bystander(void)
{
	struct xen_vm x = { .eventfd = kvm_new_eventfd() };

	create_vm(&x, guest_run, VM_MEM_SRC_ANONYMOUS, NULL);
	kvm_vm_free(x.vm);
	_exit(0);
}

FIXTURE(userfault) {
	int eventfd;
	struct stuck_process *process;
};

/* Of the VM and the userfaultfd, a killed process closes the younger first. */
FIXTURE_VARIANT(userfault) {
	bool uffd_first;
};

FIXTURE_VARIANT_ADD(userfault, older) { .uffd_first = true, };
FIXTURE_VARIANT_ADD(userfault, younger) { .uffd_first = false, };

FIXTURE_SETUP(userfault)
{
	self->eventfd = kvm_new_eventfd();
	self->process = kvm_mmap(sizeof(*self->process), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1);
}

FIXTURE_TEARDOWN(userfault)
{
	kvm_munmap(self->process, sizeof(*self->process));
	kvm_free_fd(self->eventfd);
}

TEST_F_TIMEOUT(userfault, kill, TEST_TIMEOUT_SEC)
{
	struct stuck_process *p = self->process;
	char path[64], c;
	int mem_fd, status;
	pid_t pid, other;

	pid = fork_vm_process();
	ASSERT_GE(pid, 0);
	if (!pid)
		run_stuck_process(p, self->eventfd, variant->uffd_first);

	wait_for(READ_ONCE(p->ready) || process_has_exited(pid));
	if (!READ_ONCE(p->ready)) {
		ASSERT_EQ(waitpid(pid, &status, 0), pid);
		ASSERT_EQ(WEXITSTATUS(status), KSFT_SKIP);
		SKIP(return, "userfaultfd is not available");
	}

	/* This is at its end as soon as the process' memory is gone. */
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	mem_fd = open(path, O_RDONLY);
	ASSERT_GE(mem_fd, 0);
	ASSERT_NE(pread(mem_fd, &c, 1, (off_t)&p->probe), 0);

	kill(pid, SIGKILL);
	EXPECT_TRUE(wait_for(process_has_exited(pid)));
	EXPECT_TRUE(wait_for(!pread(mem_fd, &c, 1, (off_t)&p->probe)));
	close(mem_fd);

	other = fork_vm_process();
	ASSERT_GE(other, 0);
	if (!other)
		run_bystander();
	EXPECT_TRUE(wait_for(process_has_exited(other)));
}

int main(int argc, char *argv[])
{
	int xen_caps = kvm_check_cap(KVM_CAP_XEN_HVM);

	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO);
	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL);
	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_EVTCHN_SEND);

	return test_harness_run(argc, argv);
}
