// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test event channels that are raised by an irqfd while Xen's shared_info isn't
 * accessible, i.e. while its page would have to be faulted in.
 *
 * KVM must not fault in the page on behalf of the task that signals the eventfd.
 * The fault may be subject to a userfaultfd that isn't served.  Then, neither the
 * VM's process nor its memory could go away, and other VMs would have to wait.  It's
 * a vCPU that has to deliver the event: before it enters the guest, even if it is the
 * target and has to be woken up, or when its state is saved.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

#include <linux/userfaultfd.h>
#include <sys/eventfd.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "kvm_test_harness.h"

#define WAIT_TIMEOUT_SEC	15
#define TEST_TIMEOUT_SEC	60
#include "vm_process.h"
#include "xen.h"

#define NR_PAGES		2
#define SHINFO_GPA		XEN_GPA
#define VCPU_INFO_GPA		(XEN_GPA + PAGE_SIZE)

#define UPCALL_VECTOR		0xf3
#define EVTCHN_PORT		197

/* Time for what KVM must not do. */
#define SETTLE_MS		300

enum {
	SYNC_READY,
	SYNC_EVENT,
	SYNC_HALT_LEFT,
};

static bool guest_saw_irq;

static struct xen_shared_info *guest_si = (void *)SHINFO_GPA;
static struct xen_vcpu_info *guest_vi = (void *)VCPU_INFO_GPA;

static void evtchn_handler(struct ex_regs *regs)
{
	WRITE_ONCE(guest_vi->evtchn_upcall_pending, 0);
	WRITE_ONCE(guest_saw_irq, true);
}

static void guest_check_event(void)
{
	GUEST_ASSERT(READ_ONCE(guest_saw_irq));
	GUEST_ASSERT(xen_test_port(guest_si->evtchn_pending, EVTCHN_PORT));
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

/* The same for a vCPU that isn't the target. */
static void guest_other(void)
{
	GUEST_SYNC(SYNC_READY);
	GUEST_ASSERT(xen_test_port(guest_si->evtchn_pending, EVTCHN_PORT));
	GUEST_SYNC(SYNC_EVENT);
}

/* The event may come at any time. */
static void guest_wait(void)
{
	sti_nop();
	GUEST_SYNC(SYNC_READY);
	while (!READ_ONCE(guest_saw_irq))
		cpu_relax();
	guest_check_event();
	GUEST_SYNC(SYNC_EVENT);
}

/* Only the event may wake up the guest. */
static void guest_halt(void)
{
	GUEST_SYNC(SYNC_READY);
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
	struct xen_irqfd irqfd;
};

static void set_shared_info(struct kvm_vm *vm, u64 gfn)
{
	xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_SHARED_INFO, gfn);
}

/* @image is guest memory that was saved, if any. */
static void create_vm(struct xen_vm *x, void *guest_code,
		      enum vm_mem_backing_src_type src_type, void *image)
{
	x->vm = vm_create_with_one_vcpu(&x->vcpu, guest_code);
	vm_install_exception_handler(x->vm, UPCALL_VECTOR, evtchn_handler);

	x->si = xen_vm_add_memory(x->vm, src_type, NR_PAGES);
	x->vi = addr_gpa2hva(x->vm, VCPU_INFO_GPA);
	virt_map(x->vm, XEN_GPA, XEN_GPA, NR_PAGES);
	if (image)
		memcpy(x->si, image, NR_PAGES * PAGE_SIZE);
	else
		memset(x->si, 0, NR_PAGES * PAGE_SIZE);

	xen_vm_init(x->vm);
	xen_vm_set_attr(x->vm, KVM_XEN_ATTR_TYPE_UPCALL_VECTOR, UPCALL_VECTOR);
	set_shared_info(x->vm, SHINFO_GPA / PAGE_SIZE);
	xen_vcpu_set_attr(x->vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, VCPU_INFO_GPA);

	x->irqfd.port = EVTCHN_PORT;
	xen_vm_assign_irqfds(x->vm, &x->irqfd, 1);
}

static void settle(void)
{
	usleep(SETTLE_MS * 1000);
}

/* Drop the mapping of shared_info, or of both pages, but not the contents. */
static void drop_pages(struct xen_vm *x, int nr_pages)
{
	kvm_madvise(x->si, nr_pages * PAGE_SIZE, MADV_DONTNEED);
}

/*
 * Raise the event while shared_info isn't accessible, and wait until KVM has noticed that.
 * KVM queues work to deliver the event, and deassigning the irqfd waits for the work.
 */
static void raise_event(struct xen_vm *x)
{
	TEST_ASSERT_EQ(eventfd_write(x->irqfd.eventfd, 1), 0);
	xen_vm_deassign_irqfds(x->vm, &x->irqfd, 1);
}

static void expect_sync(struct kvm_vcpu *vcpu, u64 stage)
{
	struct ucall uc;

	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	TEST_ASSERT_EQ(uc.cmd, UCALL_SYNC);
	TEST_ASSERT_EQ(uc.args[1], stage);
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
	self->x.irqfd.eventfd = kvm_new_eventfd();
}

FIXTURE_TEARDOWN(xen_irqfd)
{
	if (self->x.vm)
		kvm_vm_free(self->x.vm);
	kvm_free_fd(self->x.irqfd.eventfd);
}

/* The vCPU enters the guest. */
TEST_F_TIMEOUT(xen_irqfd, enter, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	drop_pages(x, NR_PAGES);
	raise_event(x);
	run_to(x->vcpu, SYNC_EVENT);
}

/*
 * Another vCPU enters the guest first.  It may be the one that binds the port to
 * another vCPU, or closes it, and must not do that before the event is delivered.
 */
TEST_F_TIMEOUT(xen_irqfd, other_vcpu, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;
	struct kvm_vcpu *other;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	other = vm_vcpu_add(x->vm, 1, guest_other);
	run_to(x->vcpu, SYNC_READY);
	run_to(other, SYNC_READY);
	drop_pages(x, NR_PAGES);
	raise_event(x);

	run_to(other, SYNC_EVENT);
	run_to(x->vcpu, SYNC_EVENT);
}

/* The other vCPU is created after the event was raised. */
TEST_F_TIMEOUT(xen_irqfd, new_vcpu, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;
	struct kvm_vcpu *other;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	drop_pages(x, NR_PAGES);
	raise_event(x);

	other = vm_vcpu_add(x->vm, 1, guest_other);
	run_to(other, SYNC_READY);
	run_to(other, SYNC_EVENT);
	run_to(x->vcpu, SYNC_EVENT);
}

/* KVM_RUN doesn't enter the guest, and must not wait for the page. */
TEST_F_TIMEOUT(xen_irqfd, immediate_exit, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	drop_pages(x, NR_PAGES);
	raise_event(x);

	vcpu_run_complete_io(x->vcpu);
	EXPECT_FALSE(xen_test_port(x->si->evtchn_pending, EVTCHN_PORT));

	run_to(x->vcpu, SYNC_EVENT);
}

/* Restore the VM from its memory, after all other state was saved. */
static void restore(struct xen_vm *x)
{
	struct xen_vm restored = { .irqfd = x->irqfd };
	u8 image[NR_PAGES * PAGE_SIZE];

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
	drop_pages(x, NR_PAGES);
	raise_event(x);

	vcpu_ioctl(x->vcpu, KVM_XEN_VCPU_GET_ATTR, &attr);
	EXPECT_EQ(attr.u.gpa, VCPU_INFO_GPA);
	restore(x);
}

/*
 * The same for userspace that doesn't use the attributes.  Here, the update of the
 * memslot for dirty logging makes shared_info inaccessible.
 */
TEST_F_TIMEOUT(xen_irqfd, save_mp_state, TEST_TIMEOUT_SEC)
{
	struct kvm_mp_state mp_state;
	struct xen_vm *x = &self->x;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	vm_mem_region_set_flags(x->vm, XEN_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	raise_event(x);

	vcpu_mp_state_get(x->vcpu, &mp_state);
	EXPECT_TRUE(xen_test_port(x->si->evtchn_pending, EVTCHN_PORT));
	restore(x);
}

/* An event isn't delivered to the next shared_info. */
static void reset(struct __test_metadata *_metadata, struct xen_vm *x, bool raise_before)
{
	struct kvm_mp_state mp_state;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	drop_pages(x, NR_PAGES);

	if (raise_before)
		raise_event(x);
	set_shared_info(x->vm, KVM_XEN_INVALID_GFN);
	if (!raise_before)
		raise_event(x);
	set_shared_info(x->vm, SHINFO_GPA / PAGE_SIZE);

	vcpu_mp_state_get(x->vcpu, &mp_state);
	EXPECT_FALSE(xen_test_port(x->si->evtchn_pending, EVTCHN_PORT));
}

TEST_F_TIMEOUT(xen_irqfd, deactivate, TEST_TIMEOUT_SEC)
{
	reset(_metadata, &self->x, true);
}

TEST_F_TIMEOUT(xen_irqfd, deactivated, TEST_TIMEOUT_SEC)
{
	reset(_metadata, &self->x, false);
}

/*
 * There is no page for shared_info.  The event is kept until userspace has provided one,
 * and sets shared_info again, or saves the vCPU.
 */
static void lose_memslot(struct __test_metadata *_metadata, struct xen_vm *x)
{
	struct kvm_mp_state mp_state;

	create_vm(x, guest_run, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	vm_mem_region_move(x->vm, XEN_SLOT, XEN_GPA + NR_PAGES * PAGE_SIZE);
	raise_event(x);

	vcpu_mp_state_get(x->vcpu, &mp_state);
	EXPECT_FALSE(xen_test_port(x->si->evtchn_pending, EVTCHN_PORT));
	vm_mem_region_move(x->vm, XEN_SLOT, XEN_GPA);
}

TEST_F_TIMEOUT(xen_irqfd, no_page_set, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;

	lose_memslot(_metadata, x);
	set_shared_info(x->vm, SHINFO_GPA / PAGE_SIZE);
	run_to(x->vcpu, SYNC_EVENT);
}

TEST_F_TIMEOUT(xen_irqfd, no_page_save, TEST_TIMEOUT_SEC)
{
	struct kvm_mp_state mp_state;

	lose_memslot(_metadata, &self->x);
	vcpu_mp_state_get(self->x.vcpu, &mp_state);
	EXPECT_TRUE(xen_test_port(self->x.si->evtchn_pending, EVTCHN_PORT));
}

static void *vcpu_thread(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

static void wait_for_halt(struct xen_vm *x)
{
	TEST_ASSERT(wait_for(vcpu_get_stat(x->vcpu, blocking)), "The vCPU doesn't block");
}

static void halt_vcpu(struct xen_vm *x, pthread_t *thread)
{
	create_vm(x, guest_halt, VM_MEM_SRC_SHMEM, NULL);
	run_to(x->vcpu, SYNC_READY);
	kvm_pthread_create(thread, NULL, vcpu_thread, x->vcpu);
	wait_for_halt(x);
}

static void join(pthread_t thread)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += WAIT_TIMEOUT_SEC;
	TEST_ASSERT(!pthread_timedjoin_np(thread, NULL, &ts),
		    "The event didn't wake up the vCPU");
}

/* The vCPU is blocked.  Keep the vcpu_info, without it the vCPU wouldn't block. */
TEST_F_TIMEOUT(xen_irqfd, halted, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;
	pthread_t thread;

	halt_vcpu(x, &thread);
	drop_pages(x, 1);
	raise_event(x);
	join(thread);
	expect_sync(x->vcpu, SYNC_EVENT);
	run_to(x->vcpu, SYNC_EVENT);
}

/* The vCPU is blocked, and has to deliver the event, but not to leave HLT. */
TEST_F_TIMEOUT(xen_irqfd, halted_masked, TEST_TIMEOUT_SEC)
{
	struct xen_vm *x = &self->x;
	pthread_t thread;

	halt_vcpu(x, &thread);
	x->si->evtchn_mask[EVTCHN_PORT / 64] = BIT_ULL(EVTCHN_PORT % 64);
	drop_pages(x, 1);
	raise_event(x);
	EXPECT_TRUE(wait_for(xen_test_port(x->si->evtchn_pending, EVTCHN_PORT)));
	settle();
	EXPECT_EQ(x->vi->evtchn_pending_sel, 0);

	/* If it was the masked event that ended HLT, the guest says SYNC_HALT_LEFT. */
	xen_vm_send_event(x->vm, x->vcpu->id, EVTCHN_PORT + 1);
	join(thread);
	expect_sync(x->vcpu, SYNC_EVENT);
}

/* shared_info is missing, and isn't going to be provided. */
static bool lose_shared_info(struct xen_vm *x, int uffd)
{
	struct uffdio_register reg = {
		.range = { .start = (unsigned long)x->si, .len = PAGE_SIZE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	struct uffdio_api api = { .api = UFFD_API };

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) ||
	    ioctl(uffd, UFFDIO_REGISTER, &reg))
		return false;

	drop_pages(x, 1);
	return true;
}

static void handle_signal(int sig)
{
}

static void *interrupted_thread(void *vcpu)
{
	return (void *)(long)(__vcpu_run(vcpu) ? errno : 0);
}

/*
 * A signal ends the wait of KVM_RUN for the page.  The next KVM_RUN delivers the event,
 * even if the vCPU is halted.
 */
static void interrupt(struct __test_metadata *_metadata, struct xen_vm *x, void *guest_code)
{
	struct sigaction action = { .sa_handler = handle_signal };
	bool waits, interrupted;
	struct pollfd pollfd;
	pthread_t thread;
	void *error;

	create_vm(x, guest_code, VM_MEM_SRC_ANONYMOUS, NULL);
	run_to(x->vcpu, SYNC_READY);
	pollfd = (struct pollfd) {
		.fd = syscall(__NR_userfaultfd, O_NONBLOCK),
		.events = POLLIN,
	};
	if (!lose_shared_info(x, pollfd.fd))
		SKIP(return, "userfaultfd is not available");

	sigaction(SIGUSR1, &action, NULL);
	kvm_pthread_create(&thread, NULL, interrupted_thread, x->vcpu);
	if (guest_code == guest_halt)
		wait_for_halt(x);
	TEST_ASSERT_EQ(eventfd_write(x->irqfd.eventfd, 1), 0);
	waits = poll(&pollfd, 1, WAIT_TIMEOUT_SEC * 1000) == 1;

	/* More than once, as the first one may come between two tries to get the page. */
	interrupted = wait_for((pthread_kill(thread, SIGUSR1),
				!pthread_tryjoin_np(thread, &error)));

	/* From now on, a page of zeroes is mapped. */
	kvm_close(pollfd.fd);
	if (!interrupted)
		pthread_join(thread, &error);
	ASSERT_TRUE(waits);
	ASSERT_TRUE(interrupted);
	ASSERT_EQ((long)error, EINTR);

	kvm_pthread_create(&thread, NULL, vcpu_thread, x->vcpu);
	join(thread);
	expect_sync(x->vcpu, SYNC_EVENT);
}

TEST_F_TIMEOUT(xen_irqfd, signal, TEST_TIMEOUT_SEC)
{
	interrupt(_metadata, &self->x, guest_wait);
}

TEST_F_TIMEOUT(xen_irqfd, signal_halted, TEST_TIMEOUT_SEC)
{
	interrupt(_metadata, &self->x, guest_halt);
}

/* Run a VM without shared_info. */
static void __noreturn run_stuck_vm(bool *ready, int eventfd, bool uffd_first)
{
	struct xen_vm x = { .irqfd.eventfd = eventfd };
	int uffd = -1;

	if (uffd_first)
		uffd = syscall(__NR_userfaultfd, 0);
	create_vm(&x, guest_run, VM_MEM_SRC_ANONYMOUS, NULL);
	if (!uffd_first)
		uffd = syscall(__NR_userfaultfd, 0);

	if (!lose_shared_info(&x, uffd))
		_exit(KSFT_SKIP);

	/*
	 * Don't deassign the irqfd.  That would hang if KVM tried to fault in shared_info.
	 * Give KVM the time to do so, before the process is killed.
	 */
	TEST_ASSERT_EQ(eventfd_write(eventfd, 1), 0);
	settle();
	WRITE_ONCE(*ready, true);
	for (;;)
		pause();
}

static void __noreturn run_other_vm(void)
{
	struct xen_vm x = { .irqfd.eventfd = kvm_new_eventfd() };

	create_vm(&x, guest_run, VM_MEM_SRC_ANONYMOUS, NULL);
	kvm_vm_free(x.vm);
	_exit(0);
}

FIXTURE(userfault) {
	struct vm_process process, other;
	int eventfd;
	bool *ready;
};

/* A killed process closes the newer one of the VM and the userfaultfd first. */
FIXTURE_VARIANT(userfault) {
	bool uffd_first;
};

FIXTURE_VARIANT_ADD(userfault, older) { .uffd_first = true, };
FIXTURE_VARIANT_ADD(userfault, younger) { .uffd_first = false, };

FIXTURE_SETUP(userfault)
{
	self->eventfd = kvm_new_eventfd();
	self->ready = kvm_mmap(sizeof(*self->ready), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1);
}

FIXTURE_TEARDOWN(userfault)
{
	vm_process_put(&self->process);
	vm_process_put(&self->other);
	kvm_munmap(self->ready, sizeof(*self->ready));
	kvm_free_fd(self->eventfd);
}

TEST_F_TIMEOUT(userfault, kill, TEST_TIMEOUT_SEC)
{
	struct vm_process *p = &self->process;
	int status;

	if (vm_process_fork(p))
		run_stuck_vm(self->ready, self->eventfd, variant->uffd_first);

	if (!vm_process_wait_ready(p, self->ready)) {
		status = vm_process_wait(p);
		ASSERT_TRUE(WIFEXITED(status));
		ASSERT_EQ(WEXITSTATUS(status), KSFT_SKIP);
		SKIP(return, "userfaultfd is not available");
	}

	ASSERT_TRUE(vm_process_has_mm(p));
	ASSERT_EQ(kill(p->pid, SIGKILL), 0);
	EXPECT_NE(vm_process_wait(p), -1);
	EXPECT_TRUE(wait_for(!vm_process_has_mm(p)));

	if (vm_process_fork(&self->other))
		run_other_vm();
	EXPECT_EQ(vm_process_wait(&self->other), 0);
}

int main(int argc, char *argv[])
{
	xen_require_caps();

	return test_harness_run(argc, argv);
}
