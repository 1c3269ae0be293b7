// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stress KVM's gfn_to_pfn_caches: raise Xen event channels from all sources, and
 * meanwhile invalidate, replace and move the pages that KVM writes through its
 * caches.
 *
 * The events of each vCPU are raised by an irqfd, by an ioctl(), by another vCPU's
 * hypercall and by its timer.  Each vCPU has a vcpu_info, a clock and a runstate
 * area that is split over two pages; all vCPUs share the shared_info.  One port of
 * each vCPU is always masked, and polled, another one is masked now and then.
 *
 * The test checks that
 *
 *  - no event is lost, unless the contents of the pages are.  Each event is either
 *    rejected, or seen by the guest.  All but one source of events wait for an event
 *    to be seen before raising the next one, so that each event is counted.
 *
 *  - KVM doesn't write a page after the page was replaced, i.e. after mmap(), fork(),
 *    mremap() or exit() is done.  Such pages are kept, and must not change.
 *
 *  - the runstate area is consistent: its times add up to the time of the last
 *    change.
 *
 * If the contents are lost, e.g. due to MADV_DONTNEED of anonymous memory, then
 * events may be lost too, but events that are raised afterwards must not be.
 *
 * Options, in addition to those of the harness: "-D seconds" sets how long each of
 * the tests takes, at most a day, "-S seed" sets the seed of all random numbers.
 */
#include <pthread.h>

#include <sys/eventfd.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "apic.h"
#include "ucall_common.h"
#include "kernel_complaints.h"
#include "kvm_test_harness.h"
#include "numaif.h"
#include "vm_process.h"
#include "xen.h"

#define NR_VCPUS		4

/*
 * A second memslot for the same memory, for the guest, so that the guest isn't
 * affected when the memslot at XEN_GPA is deleted.
 */
#define GUEST_GPA		0xd0000000ULL
#define GUEST_GVA		0xd0000000ULL
#define GUEST_SLOT		11

/*
 * Use different pages for everything.  The runstate area starts at the end of
 * the page that has the clock, and ends in a page of its own.
 */
#define SHINFO_OFFSET		0
#define VCPU_INFO_OFFSET(v)	((1 + 3 * (v)) * PAGE_SIZE)
#define PVTIME_OFFSET(v)	((2 + 3 * (v)) * PAGE_SIZE)
#define RUNSTATE_OFFSET(v)	((3 + 3 * (v)) * PAGE_SIZE - 20)
#define NR_PAGES		(1 + 3 * NR_VCPUS)

/* The size of a huge page.  Only the pages above are used. */
#define HUGE_NR_PAGES		512

/* Don't print all bytes of a page. */
#define MAX_PRINTED_WRITES	8

/* A replaced page is kept until the other copies of the page have been used. */
#define NR_COPIES		4

#define EVTCHN_VECTOR		0x30
#define SPURIOUS_PIC_VECTOR	7

/* How often the guest sleeps before its runstate must be right. */
#define NR_QUIET		8

enum event_source {
	SRC_IRQFD,
	SRC_IOCTL,
	SRC_HYPERCALL,
	SRC_TIMER,
	/* By ioctl(), without waiting for the guest to see it. */
	SRC_BURST,
	/* By ioctl(), of a port that is always masked. */
	SRC_MASKED,
	NR_SRCS,
};

static const char * const source_names[] = {
	"irqfd", "ioctl", "hypercall", "timer", "burst", "masked",
};

/*
 * There are two ports in each word of the bitmap, but the last port has a word of its
 * own.  vCPUs don't share words.
 */
#define NR_WORDS		(NR_SRCS / 2 + 1)

static int evtchn_word(int v, enum event_source src)
{
	return 1 + 4 * (v * NR_WORDS + (src == SRC_MASKED ? NR_WORDS - 1 : src / 2));
}

static int evtchn_bit(enum event_source src)
{
	return 7 + 31 * (src % 2);
}

static u32 evtchn_port(int v, enum event_source src)
{
	return 64 * evtchn_word(v, src) + evtchn_bit(src);
}

/*
 * An event channel.  @seen is written by the vCPU that receives the events, all other
 * members by the task that raises them.  The last event was seen if @seen has
 * increased since the event was raised.
 */
struct channel {
	s64 raised;
	s64 rejected;
	s64 seen_when_raised;
	s64 seen;
	u32 nr_retries;
};

/* What is lost, or rejected, in a phase. */
enum phase_type {
	/* Nothing. */
	PHASE_KEEP,
	/*
	 * Events, while there is no memslot.  The irqfd and the timer don't report
	 * that.
	 */
	PHASE_REJECT,
	/* The pages' contents. */
	PHASE_DISCARD,
};

/* Globals of the guest, which the host accesses by way of stress->guest. */
struct guest_state {
	struct channel channels[NR_VCPUS][NR_SRCS];
	enum phase_type type;
	bool use_lapic;

	/* Tell the guest to raise no more events, and the vCPUs' answers. */
	bool quiesce;
	bool quiesced[NR_VCPUS];
};

static struct guest_state guest_state;

/* How long each of the tests takes, without the setup. */
static s64 phase_ns = 2000000000LL;
static u32 xen_caps;

#define EXTRA_NS		10000000000LL
#define NR_SENDERS		64
#define NR_SENDS		50

#define MAX_PHASE_SEC		(24 * 3600)

/*
 * More than the sum of EXTRA_NS and all waits of a test, so that the test can print what
 * it has waited for.
 */
#define WAITS_TIMEOUT_SEC	(13 * WAIT_TIMEOUT_SEC)

/* The harness needs a constant.  set_timeout() sets the timeout that depends on "-D". */
#define TEST_TIMEOUT_SEC	(MAX_PHASE_SEC + 2 * WAITS_TIMEOUT_SEC)

/*
 * If an event may be lost, raise it again when it wasn't seen for this long, or for
 * this many iterations of the guest.
 */
#define RETRY_NS		20000000LL
#define GUEST_NR_RETRIES	16

static bool channel_is_idle(struct channel *ch)
{
	return READ_ONCE(ch->seen) > READ_ONCE(ch->seen_when_raised);
}

static void channel_raise(struct channel *ch)
{
	WRITE_ONCE(ch->seen_when_raised, READ_ONCE(ch->seen));
	WRITE_ONCE(ch->raised, ch->raised + 1);
}

static void channel_reject(struct channel *ch)
{
	WRITE_ONCE(ch->rejected, ch->rejected + 1);
	WRITE_ONCE(ch->seen_when_raised, -1);
}

static void *guest_mem(u64 offset)
{
	return (void *)(GUEST_GVA + offset);
}

/* Called with interrupts off. */
static void guest_take_event(int v, int src)
{
	struct xen_shared_info *si = guest_mem(SHINFO_OFFSET);
	u64 pending;

	pending = __atomic_fetch_and(&si->evtchn_pending[evtchn_word(v, src)],
				     ~BIT_ULL(evtchn_bit(src)), __ATOMIC_SEQ_CST);
	if (pending & BIT_ULL(evtchn_bit(src)))
		WRITE_ONCE(guest_state.channels[v][src].seen,
			   guest_state.channels[v][src].seen + 1);
}

static void guest_handle_events(int v, bool all)
{
	struct xen_vcpu_info *vi = guest_mem(VCPU_INFO_OFFSET(v));
	struct xen_shared_info *si = guest_mem(SHINFO_OFFSET);
	u64 sel;
	int src;

	WRITE_ONCE(vi->evtchn_upcall_pending, 0);
	sel = __atomic_exchange_n(&vi->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);

	/* The mask is lost, too, if the contents are. */
	if (guest_state.type != PHASE_DISCARD)
		GUEST_ASSERT(!(sel & BIT_ULL(evtchn_word(v, SRC_MASKED))));

	for (src = 0; src < NR_SRCS; src++) {
		if (!all && (!(sel & BIT_ULL(evtchn_word(v, src))) ||
			     (READ_ONCE(si->evtchn_mask[evtchn_word(v, src)]) &
			      BIT_ULL(evtchn_bit(src)))))
			continue;

		guest_take_event(v, src);
	}
}

static void evtchn_handler(struct ex_regs *regs)
{
	guest_handle_events(rdmsr(MSR_GS_BASE), false);

	if (guest_state.use_lapic)
		x2apic_write_reg(APIC_EOI, 0);
}

/*
 * KVM checks twice if the vcpu_info has an interrupt: if there is one, and to get its
 * vector (kvm_cpu_get_extint()).  If the contents of the vcpu_info are lost in
 * between, KVM takes the interrupt from the PIC, which has a spurious one.  The PIC's
 * vectors start at zero, as it wasn't initialized.
 */
static void spurious_handler(struct ex_regs *regs)
{
}

static bool guest_may_raise(struct channel *ch, bool may_be_lost)
{
	if (channel_is_idle(ch) || (may_be_lost && ++ch->nr_retries > GUEST_NR_RETRIES)) {
		ch->nr_retries = 0;
		return true;
	}

	return false;
}

static void guest_raise_events(int v)
{
	struct xen_runstate_info *rs = guest_mem(RUNSTATE_OFFSET(v));
	enum phase_type type = guest_state.type;
	int target = (v + 1) % NR_VCPUS;
	struct channel *ch;
	u32 port;

	ch = &guest_state.channels[target][SRC_HYPERCALL];
	if (guest_may_raise(ch, type == PHASE_DISCARD)) {
		port = evtchn_port(target, SRC_HYPERCALL);
		channel_raise(ch);
		if (__xen_hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, &port))
			channel_reject(ch);
	}

	/*
	 * Use the time of the last change of the runstate as a clock.  A timer that
	 * has expired already is fine.
	 */
	ch = &guest_state.channels[v][SRC_TIMER];
	if (guest_may_raise(ch, type != PHASE_KEEP)) {
		channel_raise(ch);
		xen_hypercall(__HYPERVISOR_set_timer_op,
			      READ_ONCE(rs->state_entry_time) + 1000000, NULL);
	}
}

static void guest_poll(int v)
{
	u32 ports[] = { evtchn_port(v, SRC_TIMER), evtchn_port(v, SRC_MASKED) };
	struct xen_sched_poll poll = {
		.ports = ports,
		.nr_ports = ARRAY_SIZE(ports),
		.timeout = 2000000,
	};

	xen_hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &poll);
}

/* Poll with one more port masked, and take the event that was raised meanwhile. */
static void guest_poll_masked(int v)
{
	struct xen_shared_info *si = guest_mem(SHINFO_OFFSET);
	u64 *mask = &si->evtchn_mask[evtchn_word(v, SRC_IOCTL)];
	u64 bit = BIT_ULL(evtchn_bit(SRC_IOCTL));

	__atomic_fetch_or(mask, bit, __ATOMIC_SEQ_CST);
	guest_poll(v);
	__atomic_fetch_and(mask, ~bit, __ATOMIC_SEQ_CST);

	cli();
	guest_take_event(v, SRC_IOCTL);
	sti_nop();
}

/*
 * KVM writes all of the area before it enters the guest again.  All times add up to
 * the time of the last change, including the time before the vCPU ran for the first
 * time, when it was offline.
 */
static void guest_check_runstate(int v)
{
	struct xen_runstate_info *rs = guest_mem(RUNSTATE_OFFSET(v));
	u64 entry_time, sum;
	int i;

	do {
		entry_time = READ_ONCE(rs->state_entry_time);
		GUEST_ASSERT(!(entry_time & XEN_RUNSTATE_UPDATE));

		for (sum = 0, i = 0; i < ARRAY_SIZE(rs->time); i++)
			sum += READ_ONCE(rs->time[i]);
	} while (entry_time != READ_ONCE(rs->state_entry_time));

	GUEST_ASSERT_EQ(sum, entry_time);
	if (guest_state.type == PHASE_KEEP)
		GUEST_ASSERT_EQ(READ_ONCE(rs->state), RUNSTATE_running);
}

static void guest_code(int v)
{
	struct channel *timer = &guest_state.channels[v][SRC_TIMER];
	int nr_quiet = 0;
	u64 i;

	wrmsr(MSR_GS_BASE, v);
	if (guest_state.use_lapic)
		x2apic_enable();
	sti_nop();

	for (i = 0; ; i++) {
		/* If the runstate was lost, KVM has written it again by now. */
		if (guest_state.type != PHASE_DISCARD || nr_quiet == NR_QUIET)
			guest_check_runstate(v);

		if (READ_ONCE(guest_state.quiesce)) {
			if (nr_quiet++ == NR_QUIET)
				WRITE_ONCE(guest_state.quiesced[v], true);
		} else {
			guest_raise_events(v);
		}

		cli();
		guest_take_event(v, SRC_MASKED);
		sti_nop();

		/*
		 * If the vcpu_info is lost, so is the interrupt, and a lost timer
		 * doesn't wake up the vCPU.  Look for events, and don't halt.
		 */
		if (guest_state.type == PHASE_DISCARD) {
			cli();
			guest_handle_events(v, true);
			sti_nop();
		}

		if (i % 4 == 1) {
			guest_poll_masked(v);
			continue;
		}

		if (i % 2 || guest_state.type != PHASE_KEEP) {
			guest_poll(v);
			continue;
		}

		cli();
		if (channel_is_idle(timer))
			sti_nop();
		else
			safe_halt();
	}
}

enum backing {
	BACKING_ANON,
	BACKING_MEMFD,
	BACKING_THP,
};

struct stress {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	pthread_t vcpu_threads[NR_VCPUS];
	pthread_t raise_thread;
	bool stop_raising;

	int eventfds[NR_VCPUS];
	struct guest_state *guest;
	struct kvm_random_state rng;
	int kmsg_fd;

	/* The memory of the VM, which is part of a mapping. */
	u8 *mem;
	u64 nr_pages;
	void *mapping;
	size_t mapping_size;

	int node;

	/* With a memfd: all copies of all pages, and the copies that are in use. */
	int memfd;
	u8 *copies;
	u8 current_copy[NR_PAGES];
};

static u8 *get_copy(struct stress *stress, int page, int copy)
{
	return stress->copies + (copy * NR_PAGES + page) * PAGE_SIZE;
}

/* A page that isn't used anymore.  KVM never writes all zeroes. */
static void retire_copy(struct stress *stress, int page, int copy)
{
	memset(get_copy(stress, page, copy), 0, PAGE_SIZE);
}

static int count_stale_writes(struct stress *stress, int page, int copy)
{
	u8 *mem = get_copy(stress, page, copy);
	int nr_writes = 0, i;

	for (i = 0; i < PAGE_SIZE; i++) {
		if (!READ_ONCE(mem[i]) || nr_writes++ >= MAX_PRINTED_WRITES)
			continue;

		ksft_print_msg("Stale write to page %d (%s), offset 0x%x: 0x%02x\n", page,
			       !page ? "shared_info" : page % 3 == 1 ? "vcpu_info" :
			       page % 3 == 2 ? "time and runstate" : "runstate",
			       i, mem[i]);
	}

	return nr_writes;
}

static int count_all_stale_writes(struct stress *stress, bool skip_current)
{
	int nr_writes = 0, page, copy;

	if (stress->memfd < 0)
		return 0;

	for (page = 0; page < NR_PAGES; page++) {
		for (copy = 0; copy < NR_COPIES; copy++) {
			if (skip_current && copy == stress->current_copy[page])
				continue;
			nr_writes += count_stale_writes(stress, page, copy);
		}
	}

	return nr_writes;
}

static void create_memfd(struct stress *stress)
{
	size_t size = NR_COPIES * NR_PAGES * PAGE_SIZE;

	stress->memfd = kvm_memfd_alloc(size, false);
	stress->copies = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, stress->memfd);
}

static void map_memory(struct stress *stress, enum backing backing)
{
	size_t size;

	stress->nr_pages = backing == BACKING_THP ? HUGE_NR_PAGES : NR_PAGES;
	size = stress->nr_pages * PAGE_SIZE;

	if (backing == BACKING_MEMFD) {
		memset(stress->current_copy, 0, sizeof(stress->current_copy));
		memset(stress->copies, 0, NR_COPIES * size);
		stress->mapping_size = size;
		stress->mapping = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED,
					   stress->memfd);
		stress->mem = stress->mapping;
		return;
	}

	/* Twice the size, so that it can be aligned. */
	stress->mapping_size = 2 * size;
	stress->mapping = kvm_mmap(2 * size, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1);
	stress->mem = stress->mapping;

	if (backing == BACKING_THP) {
		stress->mem = align_ptr_up(stress->mem, size);
		madvise(stress->mem, size, MADV_HUGEPAGE);
	}
}

static void *vcpu_thread(void *arg)
{
	struct kvm_vcpu *vcpu = arg;
	struct kvm_run *run = vcpu->run;
	struct ucall uc;
	int r;

	while (!READ_ONCE(run->immediate_exit)) {
		r = __vcpu_run(vcpu);
		if (r && errno == EINTR)
			continue;
		TEST_ASSERT(!r, KVM_IOCTL_ERROR(KVM_RUN, r));

		/* KVM leaves hypercalls that fail to userspace. */
		if (run->exit_reason == KVM_EXIT_XEN) {
			TEST_ASSERT_EQ(run->xen.type, KVM_EXIT_XEN_HCALL);
			TEST_ASSERT_EQ(run->xen.u.hcall.input, __HYPERVISOR_event_channel_op);
			run->xen.u.hcall.result = -EFAULT;
			continue;
		}

		if (get_ucall(vcpu, &uc) == UCALL_ABORT)
			REPORT_GUEST_ASSERT(uc);
		TEST_FAIL("Unexpected ucall %lu, exit reason %s", uc.cmd,
			  exit_reason_str(run->exit_reason));
	}

	return NULL;
}

static int send_event(struct kvm_vm *vm, int v, enum event_source src)
{
	return __xen_vm_send_event(vm, v, evtchn_port(v, src));
}

static void raise_event(struct stress *stress, int v, enum event_source src)
{
	struct channel *ch = &stress->guest->channels[v][src];

	channel_raise(ch);

	if (src == SRC_IRQFD) {
		TEST_ASSERT(!eventfd_write(stress->eventfds[v], 1), "Failed to write eventfd");
		return;
	}

	if (send_event(stress->vm, v, src)) {
		TEST_ASSERT(stress->guest->type == PHASE_REJECT,
			    "Unexpected error from KVM_XEN_HVM_EVTCHN_SEND: %s",
			    strerror(errno));
		channel_reject(ch);
	}
}

/* Raise events for as long as the guest takes them. */
static void *raise_thread(void *arg)
{
	struct stress *stress = arg;
	struct guest_state *guest = stress->guest;
	s64 last_raise[NR_VCPUS][NR_SRCS] = {};
	struct kvm_random_state rng;
	bool may_be_lost;
	int v, src;

	rng = new_kvm_random_state(kvm_random_seed + 1);

	while (!READ_ONCE(stress->stop_raising)) {
		for (v = 0; v < NR_VCPUS; v++) {
			for (src = 0; src < NR_SRCS; src++) {
				if (src == SRC_HYPERCALL || src == SRC_TIMER)
					continue;

				may_be_lost = guest->type == PHASE_DISCARD ||
					      (guest->type == PHASE_REJECT &&
					       src == SRC_IRQFD);

				if (src != SRC_BURST &&
				    !channel_is_idle(&guest->channels[v][src]) &&
				    (!may_be_lost ||
				     now_ns() - last_raise[v][src] < RETRY_NS))
					continue;

				last_raise[v][src] = now_ns();
				raise_event(stress, v, src);
			}
		}
		usleep(kvm_random_u32_in_range(&rng, 0, 1000));
	}

	return NULL;
}

static void set_shared_info(struct stress *stress, bool use_hva)
{
	if (use_hva)
		xen_vm_set_attr(stress->vm, KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA,
				(u64)stress->mem + SHINFO_OFFSET);
	else
		xen_vm_set_attr(stress->vm, KVM_XEN_ATTR_TYPE_SHARED_INFO,
				(XEN_GPA + SHINFO_OFFSET) / PAGE_SIZE);
}

static void setup_vm_attrs(struct stress *stress, bool use_hva)
{
	struct kvm_vm *vm = stress->vm;

	xen_vm_init(vm);
	if (xen_caps & KVM_XEN_HVM_CONFIG_RUNSTATE_UPDATE_FLAG)
		xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_RUNSTATE_UPDATE_FLAG, 1);
	if (!stress->guest->use_lapic)
		xen_vm_set_attr(vm, KVM_XEN_ATTR_TYPE_UPCALL_VECTOR, EVTCHN_VECTOR);
	set_shared_info(stress, use_hva);
}

static void setup_vcpu_attrs(struct stress *stress, int v, bool use_hva)
{
	struct kvm_vcpu *vcpu = stress->vcpus[v];

	if (use_hva)
		xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA,
				  (u64)stress->mem + VCPU_INFO_OFFSET(v));
	else
		xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
				  XEN_GPA + VCPU_INFO_OFFSET(v));

	xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
			  XEN_GPA + PVTIME_OFFSET(v));
	if (xen_caps & KVM_XEN_HVM_CONFIG_RUNSTATE)
		xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
				  XEN_GPA + RUNSTATE_OFFSET(v));

	xen_vcpu_set_timer(vcpu, evtchn_port(v, SRC_TIMER), 0);
	if (stress->guest->use_lapic)
		xen_vcpu_set_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR, EVTCHN_VECTOR);
}

static void setup_evtchns(struct stress *stress)
{
	struct xen_irqfd irqfds[NR_VCPUS];
	int v;

	for (v = 0; v < NR_VCPUS; v++) {
		irqfds[v] = (struct xen_irqfd){ stress->eventfds[v], v,
						evtchn_port(v, SRC_IRQFD) };
		xen_vm_set_ipi(stress->vm, v, evtchn_port(v, SRC_HYPERCALL));
	}
	xen_vm_assign_irqfds(stress->vm, irqfds, NR_VCPUS);
}

static void dummy_handler(int sig) { }

/* Create the VM, and start all threads. */
static void start_stress(struct stress *stress, enum backing backing,
			 enum phase_type type, bool use_lapic)
{
	struct sigaction sa = { .sa_handler = dummy_handler };
	bool has_hva = xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA;
	struct xen_shared_info *si;
	int v, src;

	stress->stop_raising = false;

	/* The seed takes effect when the VM is created. */
	stress->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_VCPUS, 0, guest_code,
					    stress->vcpus);
	stress->rng = new_kvm_random_state(kvm_random_seed);
	stress->guest = addr_gva2hva(stress->vm, (gva_t)&guest_state);
	stress->guest->type = type;
	stress->guest->use_lapic = use_lapic;

	for (v = 0; v < NR_VCPUS; v++) {
		for (src = 0; src < NR_SRCS; src++)
			stress->guest->channels[v][src].seen_when_raised = -1;
	}

	map_memory(stress, backing);
	vm_set_user_memory_region(stress->vm, XEN_SLOT, 0, XEN_GPA,
				  stress->nr_pages * PAGE_SIZE, stress->mem);
	vm_set_user_memory_region(stress->vm, GUEST_SLOT, 0, GUEST_GPA,
				  stress->nr_pages * PAGE_SIZE, stress->mem);
	virt_map(stress->vm, GUEST_GVA, GUEST_GPA, NR_PAGES);

	si = (void *)(stress->mem + SHINFO_OFFSET);
	for (v = 0; v < NR_VCPUS; v++)
		si->evtchn_mask[evtchn_word(v, SRC_MASKED)] = BIT_ULL(evtchn_bit(SRC_MASKED));

	setup_vm_attrs(stress, has_hva && kvm_random_bool(&stress->rng));
	for (v = 0; v < NR_VCPUS; v++)
		setup_vcpu_attrs(stress, v, has_hva && kvm_random_bool(&stress->rng));
	setup_evtchns(stress);

	vm_install_exception_handler(stress->vm, EVTCHN_VECTOR, evtchn_handler);
	if (type != PHASE_KEEP)
		vm_install_exception_handler(stress->vm, SPURIOUS_PIC_VECTOR,
					     spurious_handler);

	/* The signal interrupts KVM_RUN of vCPUs that have to stop. */
	sigaction(SIGUSR1, &sa, NULL);

	for (v = 0; v < NR_VCPUS; v++) {
		vcpu_args_set(stress->vcpus[v], 1, v);
		kvm_pthread_create(&stress->vcpu_threads[v], NULL, vcpu_thread,
				   stress->vcpus[v]);
	}
	kvm_pthread_create(&stress->raise_thread, NULL, raise_thread, stress);
}

static void stop_vcpus(struct stress *stress)
{
	int v;

	for (v = 0; v < NR_VCPUS; v++) {
		WRITE_ONCE(stress->vcpus[v]->run->immediate_exit, 1);
		pthread_kill(stress->vcpu_threads[v], SIGUSR1);
		kvm_pthread_join(stress->vcpu_threads[v], NULL);
	}
}

static s64 count_seen(struct guest_state *guest, int src)
{
	s64 nr = 0;
	int v;

	for (v = 0; v < NR_VCPUS; v++)
		nr += READ_ONCE(guest->channels[v][src].seen);
	return nr;
}

/* Has every channel had at least @nr more events than in @since? */
static bool channels_made_progress(struct guest_state *guest,
				   struct guest_state *since, int nr)
{
	int v, src;

	for (v = 0; v < NR_VCPUS; v++) {
		for (src = 0; src < NR_SRCS; src++) {
			if (READ_ONCE(guest->channels[v][src].seen) <
			    since->channels[v][src].seen + nr)
				return false;
		}
	}

	return true;
}

static bool vcpus_are_quiesced(struct guest_state *guest)
{
	int v;

	for (v = 0; v < NR_VCPUS; v++) {
		if (!READ_ONCE(guest->quiesced[v]))
			return false;
	}

	return true;
}

static bool event_can_be_lost(enum phase_type type, enum event_source src)
{
	return type == PHASE_DISCARD ||
	       (type == PHASE_REJECT && (src == SRC_IRQFD || src == SRC_TIMER));
}

static bool channel_is_ok(struct guest_state *guest, int v, int src)
{
	struct channel *ch = &guest->channels[v][src];
	s64 expected;

	if (event_can_be_lost(guest->type, src))
		return true;

	expected = READ_ONCE(ch->raised) - READ_ONCE(ch->rejected);

	/* Events are coalesced if the guest hasn't seen the previous one. */
	if (src == SRC_BURST)
		return channel_is_idle(ch) && READ_ONCE(ch->seen) <= READ_ONCE(ch->raised);

	return channel_is_idle(ch) && READ_ONCE(ch->seen) == expected;
}

static bool all_channels_are_ok(struct guest_state *guest)
{
	int v, src;

	for (v = 0; v < NR_VCPUS; v++) {
		for (src = 0; src < NR_SRCS; src++) {
			if (!channel_is_ok(guest, v, src))
				return false;
		}
	}

	return true;
}

static void dump_channels(struct stress *stress, struct guest_state *since)
{
	struct xen_shared_info *si = (void *)(stress->mem + SHINFO_OFFSET);
	struct guest_state *guest = stress->guest;
	struct xen_vcpu_info *vi;
	struct channel *ch;
	bool pending;
	int v, src;

	for (v = 0; v < NR_VCPUS; v++) {
		vi = (void *)(stress->mem + VCPU_INFO_OFFSET(v));
		ksft_print_msg("vCPU %d: upcall_pending %u, pending_sel 0x%lx, quiesced %d\n",
			       v, vi->evtchn_upcall_pending, vi->evtchn_pending_sel,
			       guest->quiesced[v]);

		for (src = 0; src < NR_SRCS; src++) {
			ch = &guest->channels[v][src];
			pending = si->evtchn_pending[evtchn_word(v, src)] &
				  BIT_ULL(evtchn_bit(src));

			ksft_print_msg("  %s: raised %ld, rejected %ld, seen %ld (+%ld)%s%s\n",
				       source_names[src], ch->raised, ch->rejected,
				       ch->seen, ch->seen - since->channels[v][src].seen,
				       pending ? ", pending" : "",
				       channel_is_ok(guest, v, src) ? "" : " <--");
		}
	}
}

/* Print where the vCPUs were that didn't see events anymore. */
static void dump_vcpus(struct stress *stress)
{
	struct kvm_regs regs;
	int v;

	for (v = 0; v < NR_VCPUS; v++) {
		vcpu_regs_get(stress->vcpus[v], &regs);
		ksft_print_msg("vCPU %d: rip 0x%llx, rsp 0x%llx, rflags 0x%llx\n", v,
			       regs.rip, regs.rsp, regs.rflags);
	}
}

/* Check that no event was lost, and that events are still delivered. */
static void finish_stress(struct __test_metadata *_metadata, struct stress *stress)
{
	struct guest_state *guest = stress->guest;
	struct guest_state since = *guest;
	bool ok;
	int src;

	ok = wait_for(channels_made_progress(guest, &since, 2));
	EXPECT_TRUE(ok) {
		TH_LOG("Events aren't seen anymore");
		dump_channels(stress, &since);
	}

	WRITE_ONCE(stress->stop_raising, true);
	kvm_pthread_join(stress->raise_thread, NULL);

	if (ok) {
		WRITE_ONCE(guest->quiesce, true);
		ok = wait_for(vcpus_are_quiesced(guest)) &&
		     wait_for(all_channels_are_ok(guest));
		EXPECT_TRUE(ok) {
			TH_LOG("Events were lost");
			dump_channels(stress, &since);
		}
	}

	stop_vcpus(stress);
	if (!ok)
		dump_vcpus(stress);

	EXPECT_EQ(count_all_stale_writes(stress, true), 0);
	EXPECT_EQ(count_kernel_complaints(stress->kmsg_fd), 0);

	ksft_print_msg("Events seen:");
	for (src = 0; src < NR_SRCS; src++)
		printf(" %s %ld", source_names[src], count_seen(guest, src));
	printf("\n");

	kvm_vm_free(stress->vm);
	kvm_munmap(stress->mapping, stress->mapping_size);
}

static u32 random_in_range(struct stress *stress, u32 min, u32 max)
{
	return kvm_random_u32_in_range(&stress->rng, min, max);
}

/* Something to do to the memory.  Returns 1 if it was done, 0 if not, -1 on errors. */
typedef int (*stress_op)(struct stress *stress);

static int op_dontneed(struct stress *stress)
{
	int page = random_in_range(stress, 0, NR_PAGES - 1);

	if (random_in_range(stress, 0, 3))
		kvm_madvise(stress->mem + page * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED);
	else
		kvm_madvise(stress->mem, NR_PAGES * PAGE_SIZE, MADV_DONTNEED);
	return 1;
}

static int op_replace(struct stress *stress)
{
	/* Favor the pages that are written the most. */
	int page = random_in_range(stress, 0, 1) ? SHINFO_OFFSET / PAGE_SIZE :
						   random_in_range(stress, 1, NR_PAGES - 1);
	int old_copy = stress->current_copy[page];
	int new_copy = (old_copy + 1) % NR_COPIES;
	int nr_writes;
	void *mem;

	nr_writes = count_stale_writes(stress, page, new_copy);

	mem = mmap(stress->mem + page * PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED, stress->memfd,
		   (new_copy * NR_PAGES + page) * PAGE_SIZE);

	/* From now on, neither KVM nor the guest may write the old page. */
	retire_copy(stress, page, old_copy);
	stress->current_copy[page] = new_copy;

	TEST_ASSERT(mem != MAP_FAILED, "Failed to replace a page");
	return nr_writes ? -1 : 1;
}

/*
 * The child has the original pages, which must not change.  KVM and the guest have to
 * use copies of the pages.
 */
static int op_fork(struct stress *stress)
{
	static u8 snapshot[NR_PAGES * PAGE_SIZE];
	u32 delay_us = random_in_range(stress, 0, 5000);
	pid_t pid;
	int status;

	pid = fork();
	TEST_ASSERT(pid >= 0, "Failed to fork");
	if (!pid) {
		memcpy(snapshot, stress->mem, sizeof(snapshot));
		usleep(delay_us);
		_exit(memcmp(snapshot, stress->mem, sizeof(snapshot)) ? KSFT_FAIL : KSFT_PASS);
	}

	while (waitpid(pid, &status, 0) != pid)
		;

	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_PASS)
		return 1;

	ksft_print_msg("Pages of a forked process have changed (status 0x%x)\n", status);
	return -1;
}

/* Collapse the memory into a huge page, and split its mapping. */
static int op_thp(struct stress *stress)
{
	u8 *last_page = stress->mem + (HUGE_NR_PAGES - 1) * PAGE_SIZE;
	int collapsed;

	/* Failure is ok, e.g. if the pages are in use. */
	collapsed = !madvise(stress->mem, HUGE_NR_PAGES * PAGE_SIZE, MADV_COLLAPSE);
	usleep(random_in_range(stress, 0, 1000));

	if (random_in_range(stress, 0, 1)) {
		kvm_madvise(last_page, PAGE_SIZE, MADV_DONTNEED);
	} else {
		TEST_ASSERT(!mprotect(last_page, PAGE_SIZE, PROT_READ), "Failed to mprotect");
		TEST_ASSERT(!mprotect(last_page, PAGE_SIZE, PROT_READ | PROT_WRITE),
			    "Failed to mprotect");
	}
	return collapsed;
}

static int op_memslot(struct stress *stress)
{
	vm_set_user_memory_region(stress->vm, XEN_SLOT, 0, XEN_GPA, 0, NULL);
	usleep(random_in_range(stress, 0, 2000));
	vm_set_user_memory_region(stress->vm, XEN_SLOT, 0, XEN_GPA,
				  stress->nr_pages * PAGE_SIZE, stress->mem);
	return 1;
}

static int op_shared_info(struct stress *stress)
{
	set_shared_info(stress, true);
	usleep(random_in_range(stress, 0, 1000));
	set_shared_info(stress, false);
	return 1;
}

/* Move a page away, check that it doesn't change, and move it back. */
static int op_mremap(struct stress *stress)
{
	u8 *mem = stress->mem + random_in_range(stress, 0, NR_PAGES - 1) * PAGE_SIZE;
	static u8 snapshot[PAGE_SIZE];
	u8 *moved;
	int r;

	moved = mremap(mem, PAGE_SIZE, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	TEST_ASSERT(moved != MAP_FAILED, "Failed to move a page: %s", strerror(errno));

	memcpy(snapshot, moved, PAGE_SIZE);
	usleep(random_in_range(stress, 0, 2000));
	r = memcmp(snapshot, moved, PAGE_SIZE) ? -1 : 1;
	if (r < 0)
		ksft_print_msg("A page that was moved away has changed\n");

	TEST_ASSERT(mremap(moved, PAGE_SIZE, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED,
			   mem) == mem, "Failed to move a page back: %s", strerror(errno));
	return r;
}

/* A number in a file, after @key if there is one, or zero. */
static long read_number(const char *path, const char *key)
{
	char line[256];
	long number = 0;
	size_t len = strlen(key);
	FILE *f;

	f = fopen(path, "r");
	if (!f)
		return 0;

	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, key, len)) {
			number = atol(line + len);
			break;
		}
	}
	fclose(f);

	return number;
}

static int op_swap(struct stress *stress)
{
	kvm_madvise(stress->mem, NR_PAGES * PAGE_SIZE, MADV_PAGEOUT);
	return read_number("/proc/self/status", "VmSwap:") > 0;
}

static int op_migrate(struct stress *stress)
{
	int nodes[NR_PAGES], old[NR_PAGES], status[NR_PAGES], page, nr_moved = 0;
	void *pages[NR_PAGES];

	stress->node = !stress->node;
	for (page = 0; page < NR_PAGES; page++) {
		pages[page] = stress->mem + page * PAGE_SIZE;
		nodes[page] = stress->node;
	}

	TEST_ASSERT(!move_pages(0, NR_PAGES, pages, NULL, old, 0) &&
		    move_pages(0, NR_PAGES, pages, nodes, status, MPOL_MF_MOVE) >= 0,
		    "move_pages() failed: %s", strerror(errno));

	/* The status of a page that was there before is that node, too. */
	for (page = 0; page < NR_PAGES; page++)
		nr_moved += status[page] == stress->node && old[page] == !stress->node;
	return nr_moved > 0;
}

static void run_stress(struct __test_metadata *_metadata, struct stress *stress,
		       enum backing backing, enum phase_type type, stress_op op,
		       bool use_lapic)
{
	struct guest_state none = {};
	u64 nr_ops = 0, nr_done = 0;
	int r = 0;
	s64 end;

	start_stress(stress, backing, type, use_lapic);
	EXPECT_TRUE(wait_for(channels_made_progress(stress->guest, &none, 2))) {
		dump_channels(stress, &none);
	}

	/* Give slow machines more time to do something at all. */
	end = now_ns() + phase_ns / 2;
	for (; r >= 0 && now_ns() < end + (nr_done ? 0 : EXTRA_NS); nr_ops++) {
		r = op(stress);
		nr_done += r > 0;
		usleep(random_in_range(stress, 0, 2000));
	}
	EXPECT_GE(r, 0);
	EXPECT_GT(nr_done, 0);

	ksft_print_msg("%lu operations, %lu of which did something, interrupts by %s\n",
		       nr_ops, nr_done, use_lapic ? "local APIC" : "global vector");
	finish_stress(_metadata, stress);
}

/* Kill the test if it hangs. */
static void set_timeout(void)
{
	alarm(phase_ns / NSEC_PER_SEC + WAITS_TIMEOUT_SEC);
}

static void stress_init(struct stress *stress)
{
	int v;

	memset(stress, 0, sizeof(*stress));
	stress->memfd = -1;
	stress->kmsg_fd = open_kmsg();
	for (v = 0; v < NR_VCPUS; v++)
		stress->eventfds[v] = kvm_new_eventfd();
}

static void stress_cleanup(struct stress *stress)
{
	int v;

	if (stress->memfd >= 0) {
		kvm_munmap(stress->copies, NR_COPIES * NR_PAGES * PAGE_SIZE);
		kvm_close(stress->memfd);
	}
	for (v = 0; v < NR_VCPUS; v++)
		kvm_close(stress->eventfds[v]);
	if (stress->kmsg_fd >= 0)
		kvm_close(stress->kmsg_fd);
}

/* Check that a write to a page that isn't in use anymore is found. */
TEST(stale_write_is_noticed)
{
	struct stress stress;

	stress_init(&stress);
	create_memfd(&stress);

	retire_copy(&stress, 0, 1);
	ASSERT_EQ(count_all_stale_writes(&stress, true), 0);

	ASSERT_EQ(pwrite(stress.memfd, "x", 1, NR_PAGES * PAGE_SIZE + 0x800), 1);
	EXPECT_EQ(count_all_stale_writes(&stress, true), 1);

	stress_cleanup(&stress);
}

FIXTURE(stress) {
	struct stress stress;
};

FIXTURE_VARIANT(stress) {
	enum backing backing;
	enum phase_type type;
	stress_op op;
};

FIXTURE_VARIANT_ADD(stress, dontneed_anon) {
	.backing = BACKING_ANON,
	.type = PHASE_DISCARD,
	.op = op_dontneed,
};

/* The memfd keeps the pages. */
FIXTURE_VARIANT_ADD(stress, dontneed_memfd) {
	.backing = BACKING_MEMFD,
	.type = PHASE_KEEP,
	.op = op_dontneed,
};

FIXTURE_VARIANT_ADD(stress, replace) {
	.backing = BACKING_MEMFD,
	.type = PHASE_DISCARD,
	.op = op_replace,
};

FIXTURE_VARIANT_ADD(stress, fork) {
	.backing = BACKING_ANON,
	.type = PHASE_KEEP,
	.op = op_fork,
};

FIXTURE_VARIANT_ADD(stress, thp) {
	.backing = BACKING_THP,
	.type = PHASE_KEEP,
	.op = op_thp,
};

FIXTURE_VARIANT_ADD(stress, mremap) {
	.backing = BACKING_ANON,
	.type = PHASE_DISCARD,
	.op = op_mremap,
};

FIXTURE_VARIANT_ADD(stress, swap) {
	.backing = BACKING_ANON,
	.type = PHASE_KEEP,
	.op = op_swap,
};

FIXTURE_VARIANT_ADD(stress, migrate) {
	.backing = BACKING_ANON,
	.type = PHASE_KEEP,
	.op = op_migrate,
};

FIXTURE_VARIANT_ADD(stress, memslot) {
	.backing = BACKING_MEMFD,
	.type = PHASE_REJECT,
	.op = op_memslot,
};

FIXTURE_VARIANT_ADD(stress, shared_info) {
	.backing = BACKING_MEMFD,
	.type = PHASE_KEEP,
	.op = op_shared_info,
};

FIXTURE_SETUP(stress)
{
	set_timeout();
	stress_init(&self->stress);
}

FIXTURE_TEARDOWN(stress)
{
	stress_cleanup(&self->stress);
}

static bool has_thp_collapse(void)
{
	size_t size = HUGE_NR_PAGES * PAGE_SIZE;
	u8 *mem;
	bool r;

	mem = kvm_mmap(2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(mem, 1, 2 * size);
	r = !madvise(align_ptr_up(mem, size), size, MADV_COLLAPSE);
	kvm_munmap(mem, 2 * size);

	return r;
}

/* There may be no free swap, or none for this cgroup. */
static bool can_swap(void)
{
	void *mem;
	bool r;

	mem = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(mem, 1, PAGE_SIZE);
	r = wait_for(!madvise(mem, PAGE_SIZE, MADV_PAGEOUT) &&
		     read_number("/proc/self/status", "VmSwap:") > 0);
	kvm_munmap(mem, PAGE_SIZE);

	return r;
}

/* The nodes that op_migrate() uses may have no memory, or not be allowed. */
static bool can_migrate(void)
{
	int node, status;
	long r = 0;
	void *mem;

	mem = kvm_mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(mem, 1, PAGE_SIZE);
	for (node = 0; node < 2 && !r; node++)
		r = move_pages(0, 1, &mem, &node, &status, MPOL_MF_MOVE);
	kvm_munmap(mem, PAGE_SIZE);

	/* Without an error, it's the number of pages that couldn't be moved. */
	if (r > 0)
		errno = EBUSY;
	return !r;
}

TEST_F_TIMEOUT(stress, stress, TEST_TIMEOUT_SEC)
{
	if (variant->backing == BACKING_THP && !has_thp_collapse())
		SKIP(return, "Can't collapse memory into a huge page: %s", strerror(errno));

	if (variant->op == op_swap &&
	    (!read_number("/proc/meminfo", "SwapTotal:") || !can_swap()))
		SKIP(return, "Can't swap out a page");

	if (variant->op == op_migrate) {
		if (!is_multi_numa_node_system())
			SKIP(return, "There is one NUMA node only, numa=fake=2 makes two of it");
		if (!can_migrate())
			SKIP(return, "Can't move a page to nodes 0 and 1: %s", strerror(errno));
	}

	if (variant->op == op_shared_info &&
	    !(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA))
		SKIP(return, "KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA is not supported");

	if (variant->backing == BACKING_MEMFD)
		create_memfd(&self->stress);

	run_stress(_metadata, &self->stress, variant->backing, variant->type, variant->op, false);
	run_stress(_metadata, &self->stress, variant->backing, variant->type, variant->op, true);
}

struct sender {
	pthread_t thread;
	struct kvm_vm *vm;
	int nr_sent;
};

static void *send_thread(void *arg)
{
	struct sender *sender = arg;
	int i;

	for (i = 0; i < NR_SENDS; i++) {
		TEST_ASSERT(!send_event(sender->vm, 0, SRC_IOCTL),
			    "Unexpected error from KVM_XEN_HVM_EVTCHN_SEND: %s",
			    strerror(errno));
		WRITE_ONCE(sender->nr_sent, i + 1);
	}

	return NULL;
}

static bool senders_are_done(struct stress *stress, struct sender *senders)
{
	int i;

	op_dontneed(stress);

	for (i = 0; i < NR_SENDERS; i++) {
		if (READ_ONCE(senders[i].nr_sent) < NR_SENDS)
			return false;
	}

	return true;
}

/*
 * Many tasks use, and have to refresh, the same cache.  A task that has waited for
 * another one's refresh must use the result.  If it refreshed the cache again, they
 * would invalidate the cache for each other.
 */
TEST(senders)
{
	struct sender senders[NR_SENDERS] = {};
	struct stress stress;
	int i;

	stress_init(&stress);
	stress.vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_VCPUS, 0, guest_code,
					   stress.vcpus);
	stress.rng = new_kvm_random_state(kvm_random_seed);
	stress.guest = addr_gva2hva(stress.vm, (gva_t)&guest_state);
	map_memory(&stress, BACKING_ANON);
	vm_set_user_memory_region(stress.vm, XEN_SLOT, 0, XEN_GPA,
				  stress.nr_pages * PAGE_SIZE, stress.mem);
	setup_vm_attrs(&stress, false);
	setup_vcpu_attrs(&stress, 0, false);

	for (i = 0; i < NR_SENDERS; i++) {
		senders[i].vm = stress.vm;
		kvm_pthread_create(&senders[i].thread, NULL, send_thread, &senders[i]);
	}

	TEST_ASSERT(wait_for(senders_are_done(&stress, senders)), "Senders are stuck");

	for (i = 0; i < NR_SENDERS; i++)
		kvm_pthread_join(senders[i].thread, NULL);

	EXPECT_EQ(count_kernel_complaints(stress.kmsg_fd), 0);

	kvm_vm_free(stress.vm);
	kvm_munmap(stress.mapping, stress.mapping_size);
	stress_cleanup(&stress);
}

/* Shared by the test and by the process that owns the VM. */
struct exit_control {
	bool ready;
	int vm_fd;
};

FIXTURE(stress_exit) {
	struct stress stress;
	struct vm_process process;
	struct exit_control *control;
};

FIXTURE_VARIANT(stress_exit) {
	enum backing backing;
	bool reap;
};

FIXTURE_VARIANT_ADD(stress_exit, exit) {
	.backing = BACKING_MEMFD,
};

FIXTURE_VARIANT_ADD(stress_exit, reap) {
	.backing = BACKING_MEMFD,
	.reap = true,
};

/* Only private memory is reaped, shared memory isn't. */
FIXTURE_VARIANT_ADD(stress_exit, reap_anon) {
	.backing = BACKING_ANON,
	.reap = true,
};

FIXTURE_SETUP(stress_exit)
{
	set_timeout();
	stress_init(&self->stress);
	self->control = kvm_mmap(sizeof(*self->control), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1);
}

FIXTURE_TEARDOWN(stress_exit)
{
	vm_process_put(&self->process);
	kvm_munmap(self->control, sizeof(*self->control));
	stress_cleanup(&self->stress);
}

/* Body of the child process. */
static void __noreturn run_stress_until_killed(struct stress *stress, enum backing backing,
					       bool use_lapic,
					       struct exit_control *control)
{
	struct guest_state none = {};

	start_stress(stress, backing, PHASE_DISCARD, use_lapic);
	TEST_ASSERT(wait_for(channels_made_progress(stress->guest, &none, 2)),
		    "Events aren't seen");

	control->vm_fd = stress->vm->fd;
	__atomic_store_n(&control->ready, true, __ATOMIC_RELEASE);

	for (;;) {
		op_dontneed(stress);
		usleep(random_in_range(stress, 0, 2000));
	}
}

static void signal_eventfds(struct stress *stress)
{
	int v;

	for (v = 0; v < NR_VCPUS; v++)
		TEST_ASSERT(!eventfd_write(stress->eventfds[v], 1), "Failed to write eventfd");
}

TEST_F_TIMEOUT(stress_exit, stress_exit, TEST_TIMEOUT_SEC)
{
	struct exit_control *control = self->control;
	struct vm_process *p = &self->process;
	struct stress *stress = &self->stress;
	int vm_fd, i, nr_runs = 0, nr_reaped = 0;
	struct kvm_random_state rng;
	s64 end;

	rng = new_kvm_random_state(kvm_random_seed + 2);

	if (variant->reap && !has_mrelease())
		SKIP(return, "process_mrelease() is not supported");

	if (variant->backing == BACKING_MEMFD)
		create_memfd(stress);

	end = now_ns() + phase_ns;
	do {
		memset(control, 0, sizeof(*control));

		if (vm_process_fork(p))
			run_stress_until_killed(stress, variant->backing,
						nr_runs % 2, control);
		ASSERT_TRUE(vm_process_wait_ready(p, &control->ready));
		ASSERT_TRUE(vm_process_has_mm(p));

		/* Keep the VM when the process exits. */
		vm_fd = vm_process_get_fd(p, control->vm_fd);

		usleep(kvm_random_u32_in_range(&rng, 0, 50000));
		ASSERT_EQ(kill(p->pid, SIGKILL), 0);
		if (variant->reap)
			nr_reaped += !mrelease(p->pidfd);

		for (i = 0; i < 10; i++) {
			signal_eventfds(stress);
			usleep(kvm_random_u32_in_range(&rng, 0, 1000));
		}

		ASSERT_NE(vm_process_wait(p), -1);
		EXPECT_TRUE(wait_for(!vm_process_has_mm(p)));

		/* No event may be delivered anymore, until the VM is destroyed. */
		if (stress->memfd >= 0)
			memset(stress->copies, 0, NR_COPIES * NR_PAGES * PAGE_SIZE);

		for (i = 0; i < 10; i++) {
			signal_eventfds(stress);
			usleep(kvm_random_u32_in_range(&rng, 0, 2000));
		}

		vm_process_put(p);
		kvm_close(vm_fd);

		EXPECT_EQ(count_all_stale_writes(stress, false), 0);
		EXPECT_EQ(count_kernel_complaints(stress->kmsg_fd), 0);
		nr_runs++;
	} while (!_metadata->exit_code &&
		 now_ns() < end + (variant->reap && !nr_reaped ? EXTRA_NS : 0));

	if (variant->reap) {
		ksft_print_msg("%d processes, %d of which were reaped\n", nr_runs, nr_reaped);
		EXPECT_GT(nr_reaped, 0);
	} else {
		ksft_print_msg("%d processes\n", nr_runs);
	}
}

int main(int argc, char *argv[])
{
	int i, nr_args = 1;
	u32 seconds;

	/* Everything but "-D seconds" and "-S seed" is for the harness. */
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-D") && i + 1 < argc) {
			seconds = atoi_positive("Number of seconds", argv[++i]);
			TEST_ASSERT(seconds <= MAX_PHASE_SEC,
				    "Number of seconds must be at most %u", MAX_PHASE_SEC);
			phase_ns = seconds * NSEC_PER_SEC;
		} else if (!strcmp(argv[i], "-S") && i + 1 < argc) {
			kvm_random_seed = strtoul(argv[++i], NULL, 0);
		} else {
			argv[nr_args++] = argv[i];
		}
	}
	argv[nr_args] = NULL;

	xen_caps = xen_require_caps();

	return test_harness_run(nr_args, argv);
}
