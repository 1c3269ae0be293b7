// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stress KVM's gfn_to_pfn_caches: raise Xen event channels from everywhere, and
 * meanwhile do to the pages, which KVM writes by way of its caches, all that can
 * be done to them.
 *
 * Each vCPU has events raised by an irqfd, by an ioctl(), by another vCPU's
 * hypercall and by its timer, has a vcpu_info, a clock and a runstate area that
 * is split over two pages, and shares the shared_info with all others.  One port
 * of each vCPU is masked all the time, and looked at, another one now and then.
 *
 * Three things must hold no matter what:
 *
 *  - Nothing is lost, as long as the contents of the pages aren't.  Each event is
 *    either rejected, or is seen by the guest.  All but one source of events wait
 *    for an event to be seen before raising the next one, i.e. can tell exactly.
 *
 *  - KVM doesn't write a page after the page was replaced, i.e. after mmap(),
 *    fork(), mremap() or exit() is done.  Such pages are kept, and must not change.
 *
 *  - The runstate area tells one story: its times add up to the time of the last
 *    change.
 *
 * If the contents are lost, e.g. due to MADV_DONTNEED of anonymous memory, then
 * events may be lost too, but events that are raised afterwards must not be.
 *
 * Options, in addition to those of the harness: "-D seconds" for how long each of
 * the tests lasts, "-S seed" for the seed of all random numbers.
 */
#include <fcntl.h>
#include <pthread.h>

#include <sys/eventfd.h>

#include "test_util.h"
#include "kvm_util.h"
#include "processor.h"
#include "apic.h"
#include "ucall_common.h"
#include "kernel_splats.h"
#include "kvm_test_harness.h"
#include "numaif.h"
#include "vm_process.h"

#define NR_VCPUS		4

/* The memory that KVM accesses by way of caches. */
#define XEN_GPA			0xc0000000ULL
#define XEN_SLOT		10

/*
 * A second memslot for the same memory, for the guest, so that the guest doesn't
 * notice when the other one is deleted.
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

/* A huge page, for the sake of huge pages, all but the above are unused. */
#define HUGE_NR_PAGES		512

/* A few writes say as much as all bytes of a page. */
#define MAX_PRINTED_WRITES	8

/* Replaced pages are kept until all other copies of the page were used. */
#define NR_COPIES		4

#define XEN_HYPERCALL_MSR	0x40000000

#define __HYPERVISOR_set_timer_op	15
#define __HYPERVISOR_sched_op		29
#define __HYPERVISOR_event_channel_op	32

#define SCHEDOP_poll			3
#define EVTCHNOP_send			4
#define EVTCHNSTAT_ipi			5

#define EVTCHN_VECTOR		0x30
#define SPURIOUS_PIC_VECTOR	7
#define EVTCHN_FIRST_GSI	32

#define XEN_RUNSTATE_UPDATE	BIT_ULL(63)
#define RUNSTATE_running	0

/* How often the guest sleeps before its runstate must be right. */
#define NR_QUIET		8

/* The fields of Xen's 64-bit ABI that matter here. */
struct vcpu_info {
	u8 evtchn_upcall_pending;
	u8 evtchn_upcall_mask;
	u64 evtchn_pending_sel;
};

struct shared_info {
	u8 vcpu_info[0x800];
	u64 evtchn_pending[64];
	u64 evtchn_mask[64];
};

struct vcpu_runstate_info {
	u32 state;
	u64 state_entry_time;
	u64 time[4];
};

struct sched_poll {
	u32 *ports;
	unsigned int nr_ports;
	u64 timeout;
};

enum event_source {
	SRC_IRQFD,
	SRC_IOCTL,
	SRC_HYPERCALL,
	SRC_TIMER,
	/* By ioctl(), but without waiting for the guest to see it. */
	SRC_BURST,
	/* By ioctl(), of a port that is always masked. */
	SRC_MASKED,
	NR_SRCS,
};

static const char * const source_names[] = {
	"irqfd", "ioctl", "hypercall", "timer", "burst", "masked",
};

/*
 * Two ports per word of the bitmap, but the last has a word of its own, and no word
 * is shared by vCPUs.
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
 * An event channel.  @seen is written by the vCPU that receives the events, all
 * else by whoever raises them.  The last event was seen if @seen has increased
 * since it was raised.
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
	/* Nothing at all. */
	PHASE_KEEP,
	/*
	 * The shared_info comes and goes, i.e. events can be rejected, which the
	 * irqfd and the timer don't tell.
	 */
	PHASE_REJECT,
	/* The pages' contents. */
	PHASE_DISCARD,
};

/* Globals of the guest, which the host accesses by way of storm->guest. */
struct guest_state {
	struct channel channels[NR_VCPUS][NR_SRCS];
	enum phase_type type;
	bool use_lapic;

	/* Don't raise events, and don't write shared_info, for a while. */
	bool pause;

	/* Tell the guest to raise no more events, and the vCPUs' answers. */
	bool quiesce;
	bool quiesced[NR_VCPUS];
};

static struct guest_state guest_state;

/* How long each of the tests is going to last, not counting the setup. */
static s64 phase_ns = 2000000000LL;
static int xen_caps;

#define EXTRA_NS		10000000000LL
#define NR_SENDERS		64
#define NR_SENDS		50

#define WAIT_TIMEOUT_SEC	20
#define TEST_TIMEOUT_SEC	120

/*
 * If an event may be lost, then raise it again when it was not seen for that
 * long, or for that many iterations of the guest.
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
	struct shared_info *si = guest_mem(SHINFO_OFFSET);
	u64 pending;

	pending = __atomic_fetch_and(&si->evtchn_pending[evtchn_word(v, src)],
				     ~BIT_ULL(evtchn_bit(src)), __ATOMIC_SEQ_CST);
	if (pending & BIT_ULL(evtchn_bit(src)))
		WRITE_ONCE(guest_state.channels[v][src].seen,
			   guest_state.channels[v][src].seen + 1);
}

static void guest_handle_events(int v, bool all)
{
	struct vcpu_info *vi = guest_mem(VCPU_INFO_OFFSET(v));
	struct shared_info *si = guest_mem(SHINFO_OFFSET);
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
 * KVM asks twice if the vcpu_info has an interrupt, to see if there is one, and
 * to get its vector (kvm_cpu_get_extint()).  If the vcpu_info is lost in between,
 * then it's the turn of the PIC, which has a spurious interrupt.  Its vectors
 * start at zero, as nobody has told it otherwise.
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
	struct vcpu_runstate_info *rs = guest_mem(RUNSTATE_OFFSET(v));
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
	 * The time of the last change of the runstate is good enough for a clock,
	 * a timer that is due already is fine.
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
	struct sched_poll poll = {
		.ports = ports,
		.nr_ports = ARRAY_SIZE(ports),
		.timeout = 2000000,
	};

	xen_hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &poll);
}

/* Poll with one more port masked, and see what was raised meanwhile. */
static void guest_poll_masked(int v)
{
	struct shared_info *si = guest_mem(SHINFO_OFFSET);
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
 * the time of the last change, as the vCPU was offline before it ever ran.
 */
static void guest_check_runstate(int v)
{
	struct vcpu_runstate_info *rs = guest_mem(RUNSTATE_OFFSET(v));
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
		/* Whatever was lost, KVM has written the runstate again by now. */
		if (guest_state.type != PHASE_DISCARD || nr_quiet == NR_QUIET)
			guest_check_runstate(v);

		if (READ_ONCE(guest_state.quiesce)) {
			if (nr_quiet++ == NR_QUIET)
				WRITE_ONCE(guest_state.quiesced[v], true);
		} else if (!READ_ONCE(guest_state.pause)) {
			guest_raise_events(v);
		}

		cli();
		guest_take_event(v, SRC_MASKED);
		sti_nop();

		/*
		 * If vcpu_info is lost then so is the interrupt, and a lost timer
		 * won't wake up the vCPU.  Look for events, and don't halt.
		 */
		if (guest_state.type == PHASE_DISCARD) {
			cli();
			guest_handle_events(v, true);
			sti_nop();
		}

		if (i % 4 == 1 && !READ_ONCE(guest_state.pause)) {
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

struct storm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[NR_VCPUS];
	pthread_t vcpu_threads[NR_VCPUS];
	pthread_t raise_thread;
	bool stop_raising;

	int eventfds[NR_VCPUS];
	struct guest_state *guest;
	struct kvm_random_state rng;
	int kmsg_fd;

	/* The memory as the VM sees it, which is part of a mapping. */
	u8 *mem;
	u64 nr_pages;
	void *mapping;
	size_t mapping_size;

	int node;

	/* If a memfd, all copies of all pages, and the copies that are in use. */
	int memfd;
	u8 *copies;
	u8 current_copy[NR_PAGES];
};

static s64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return timespec_to_ns(ts);
}

static u8 *get_copy(struct storm *storm, int page, int copy)
{
	return storm->copies + (copy * NR_PAGES + page) * PAGE_SIZE;
}

/* A page that isn't used anymore.  KVM never writes all zeroes. */
static void retire_copy(struct storm *storm, int page, int copy)
{
	memset(get_copy(storm, page, copy), 0, PAGE_SIZE);
}

static int count_stale_writes(struct storm *storm, int page, int copy)
{
	u8 *mem = get_copy(storm, page, copy);
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

static int count_all_stale_writes(struct storm *storm, bool skip_current)
{
	int nr_writes = 0, page, copy;

	if (storm->memfd < 0)
		return 0;

	for (page = 0; page < NR_PAGES; page++) {
		for (copy = 0; copy < NR_COPIES; copy++) {
			if (skip_current && copy == storm->current_copy[page])
				continue;
			nr_writes += count_stale_writes(storm, page, copy);
		}
	}

	return nr_writes;
}

static void create_memfd(struct storm *storm)
{
	size_t size = NR_COPIES * NR_PAGES * PAGE_SIZE;

	storm->memfd = syscall(__NR_memfd_create, "xen_gpc_storm", 0);
	TEST_ASSERT(storm->memfd >= 0, __KVM_SYSCALL_ERROR("memfd_create()", storm->memfd));
	kvm_ftruncate(storm->memfd, size);
	storm->copies = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, storm->memfd);
}

static void map_memory(struct storm *storm, enum backing backing)
{
	size_t size;

	storm->nr_pages = backing == BACKING_THP ? HUGE_NR_PAGES : NR_PAGES;
	size = storm->nr_pages * PAGE_SIZE;

	if (backing == BACKING_MEMFD) {
		memset(storm->current_copy, 0, sizeof(storm->current_copy));
		memset(storm->copies, 0, NR_COPIES * size);
		storm->mapping_size = size;
		storm->mapping = kvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED,
					  storm->memfd);
		storm->mem = storm->mapping;
		return;
	}

	storm->mapping_size = 2 * size;
	storm->mapping = kvm_mmap(2 * size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1);
	storm->mem = storm->mapping;

	if (backing == BACKING_THP) {
		storm->mem = align_ptr_up(storm->mem, size);
		madvise(storm->mem, size, MADV_HUGEPAGE);
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
	struct kvm_irq_routing_xen_evtchn event = {
		.port = evtchn_port(v, src),
		.vcpu = v,
		.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	return __vm_ioctl(vm, KVM_XEN_HVM_EVTCHN_SEND, &event);
}

static void raise_event(struct storm *storm, int v, enum event_source src)
{
	struct channel *ch = &storm->guest->channels[v][src];

	channel_raise(ch);

	if (src == SRC_IRQFD) {
		TEST_ASSERT(!eventfd_write(storm->eventfds[v], 1), "Failed to write eventfd");
		return;
	}

	if (send_event(storm->vm, v, src)) {
		TEST_ASSERT(storm->guest->type == PHASE_REJECT,
			    "Unexpected error from KVM_XEN_HVM_EVTCHN_SEND: %s",
			    strerror(errno));
		channel_reject(ch);
	}
}

/* Raise events for as long as the guest takes them. */
static void *raise_thread(void *arg)
{
	struct storm *storm = arg;
	struct guest_state *guest = storm->guest;
	s64 last_raise[NR_VCPUS][NR_SRCS] = {};
	struct kvm_random_state rng;
	bool may_be_lost;
	int v, src;

	rng = new_kvm_random_state(kvm_random_seed + 1);

	while (!READ_ONCE(storm->stop_raising)) {
		for (v = 0; v < NR_VCPUS && !READ_ONCE(guest->pause); v++) {
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
				raise_event(storm, v, src);
			}
		}
		usleep(kvm_random_u32_in_range(&rng, 0, 1000));
	}

	return NULL;
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

static void set_shared_info(struct storm *storm, bool use_hva)
{
	struct kvm_xen_hvm_attr attr = {};

	if (use_hva) {
		attr.type = KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA;
		attr.u.shared_info.hva = (u64)storm->mem + SHINFO_OFFSET;
	} else {
		attr.type = KVM_XEN_ATTR_TYPE_SHARED_INFO;
		attr.u.shared_info.gfn = (XEN_GPA + SHINFO_OFFSET) / PAGE_SIZE;
	}

	vm_ioctl(storm->vm, KVM_XEN_HVM_SET_ATTR, &attr);
}

static void setup_vm_attrs(struct storm *storm, bool use_hva)
{
	struct kvm_xen_hvm_config config = {
		.flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL |
			 KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
		.msr = XEN_HYPERCALL_MSR,
	};
	struct kvm_xen_hvm_attr attr = {};

	vm_ioctl(storm->vm, KVM_XEN_HVM_CONFIG, &config);

	attr.type = KVM_XEN_ATTR_TYPE_LONG_MODE;
	attr.u.long_mode = 1;
	vm_ioctl(storm->vm, KVM_XEN_HVM_SET_ATTR, &attr);

	if (xen_caps & KVM_XEN_HVM_CONFIG_RUNSTATE_UPDATE_FLAG) {
		memset(&attr, 0, sizeof(attr));
		attr.type = KVM_XEN_ATTR_TYPE_RUNSTATE_UPDATE_FLAG;
		attr.u.runstate_update_flag = 1;
		vm_ioctl(storm->vm, KVM_XEN_HVM_SET_ATTR, &attr);
	}

	if (!storm->guest->use_lapic) {
		memset(&attr, 0, sizeof(attr));
		attr.type = KVM_XEN_ATTR_TYPE_UPCALL_VECTOR;
		attr.u.vector = EVTCHN_VECTOR;
		vm_ioctl(storm->vm, KVM_XEN_HVM_SET_ATTR, &attr);
	}

	set_shared_info(storm, use_hva);
}

static void setup_vcpu_attrs(struct storm *storm, int v, bool use_hva)
{
	struct kvm_vcpu *vcpu = storm->vcpus[v];
	struct kvm_xen_vcpu_attr attr = {
		.type = KVM_XEN_VCPU_ATTR_TYPE_TIMER,
		.u.timer.port = evtchn_port(v, SRC_TIMER),
		.u.timer.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL,
	};

	if (use_hva)
		set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA,
				  (u64)storm->mem + VCPU_INFO_OFFSET(v));
	else
		set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO,
				  XEN_GPA + VCPU_INFO_OFFSET(v));

	set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
			  XEN_GPA + PVTIME_OFFSET(v));

	if (xen_caps & KVM_XEN_HVM_CONFIG_RUNSTATE)
		set_xen_vcpu_attr(vcpu, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR,
				  XEN_GPA + RUNSTATE_OFFSET(v));

	vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);

	if (storm->guest->use_lapic) {
		memset(&attr, 0, sizeof(attr));
		attr.type = KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR;
		attr.u.vector = EVTCHN_VECTOR;
		vcpu_ioctl(vcpu, KVM_XEN_VCPU_SET_ATTR, &attr);
	}
}

static void setup_evtchns(struct storm *storm)
{
	struct kvm_irq_routing *routing = kvm_gsi_routing_create();
	struct kvm_irq_routing_entry *entry;
	struct kvm_xen_hvm_attr attr;
	int v;

	for (v = 0; v < NR_VCPUS; v++) {
		entry = &routing->entries[routing->nr++];
		entry->gsi = EVTCHN_FIRST_GSI + v;
		entry->type = KVM_IRQ_ROUTING_XEN_EVTCHN;
		entry->u.xen_evtchn.port = evtchn_port(v, SRC_IRQFD);
		entry->u.xen_evtchn.vcpu = v;
		entry->u.xen_evtchn.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
	}

	/* Note, this frees @routing. */
	kvm_gsi_routing_write(storm->vm, routing);

	for (v = 0; v < NR_VCPUS; v++) {
		kvm_assign_irqfd(storm->vm, EVTCHN_FIRST_GSI + v, storm->eventfds[v]);

		memset(&attr, 0, sizeof(attr));
		attr.type = KVM_XEN_ATTR_TYPE_EVTCHN;
		attr.u.evtchn.send_port = evtchn_port(v, SRC_HYPERCALL);
		attr.u.evtchn.type = EVTCHNSTAT_ipi;
		attr.u.evtchn.deliver.port.port = evtchn_port(v, SRC_HYPERCALL);
		attr.u.evtchn.deliver.port.vcpu = v;
		attr.u.evtchn.deliver.port.priority = KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
		vm_ioctl(storm->vm, KVM_XEN_HVM_SET_ATTR, &attr);
	}
}

static void dummy_handler(int sig) { }

/* Create the VM, and have everybody start. */
static void start_storm(struct storm *storm, enum backing backing,
			enum phase_type type, bool use_lapic)
{
	struct sigaction sa = { .sa_handler = dummy_handler };
	bool has_hva = xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA;
	struct shared_info *si;
	int v, src;

	storm->stop_raising = false;

	/* The seed takes effect when the VM is created. */
	storm->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_VCPUS, 0, guest_code,
					   storm->vcpus);
	storm->rng = new_kvm_random_state(kvm_random_seed);
	storm->guest = addr_gva2hva(storm->vm, (gva_t)&guest_state);
	storm->guest->type = type;
	storm->guest->use_lapic = use_lapic;

	for (v = 0; v < NR_VCPUS; v++) {
		for (src = 0; src < NR_SRCS; src++)
			storm->guest->channels[v][src].seen_when_raised = -1;
	}

	map_memory(storm, backing);
	vm_set_user_memory_region(storm->vm, XEN_SLOT, 0, XEN_GPA,
				  storm->nr_pages * PAGE_SIZE, storm->mem);
	vm_set_user_memory_region(storm->vm, GUEST_SLOT, 0, GUEST_GPA,
				  storm->nr_pages * PAGE_SIZE, storm->mem);
	virt_map(storm->vm, GUEST_GVA, GUEST_GPA, NR_PAGES);

	si = (void *)(storm->mem + SHINFO_OFFSET);
	for (v = 0; v < NR_VCPUS; v++)
		si->evtchn_mask[evtchn_word(v, SRC_MASKED)] = BIT_ULL(evtchn_bit(SRC_MASKED));

	setup_vm_attrs(storm, has_hva && kvm_random_bool(&storm->rng));
	for (v = 0; v < NR_VCPUS; v++)
		setup_vcpu_attrs(storm, v, has_hva && kvm_random_bool(&storm->rng));
	setup_evtchns(storm);

	vm_install_exception_handler(storm->vm, EVTCHN_VECTOR, evtchn_handler);
	if (type != PHASE_KEEP)
		vm_install_exception_handler(storm->vm, SPURIOUS_PIC_VECTOR,
					     spurious_handler);

	/* Signals are for vCPUs that are to be stopped. */
	sigaction(SIGUSR1, &sa, NULL);

	for (v = 0; v < NR_VCPUS; v++) {
		vcpu_args_set(storm->vcpus[v], 1, v);
		kvm_pthread_create(&storm->vcpu_threads[v], NULL, vcpu_thread,
				   storm->vcpus[v]);
	}
	kvm_pthread_create(&storm->raise_thread, NULL, raise_thread, storm);
}

static void stop_vcpus(struct storm *storm)
{
	int v;

	for (v = 0; v < NR_VCPUS; v++) {
		WRITE_ONCE(storm->vcpus[v]->run->immediate_exit, 1);
		pthread_kill(storm->vcpu_threads[v], SIGUSR1);
		kvm_pthread_join(storm->vcpu_threads[v], NULL);
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

static void dump_channels(struct storm *storm, struct guest_state *since)
{
	struct shared_info *si = (void *)(storm->mem + SHINFO_OFFSET);
	struct guest_state *guest = storm->guest;
	struct vcpu_info *vi;
	struct channel *ch;
	bool pending;
	int v, src;

	for (v = 0; v < NR_VCPUS; v++) {
		vi = (void *)(storm->mem + VCPU_INFO_OFFSET(v));
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

/* Where vCPUs are that were stopped because they didn't see events anymore. */
static void dump_vcpus(struct storm *storm)
{
	struct kvm_regs regs;
	int v;

	for (v = 0; v < NR_VCPUS; v++) {
		vcpu_regs_get(storm->vcpus[v], &regs);
		ksft_print_msg("vCPU %d: rip 0x%llx, rsp 0x%llx, rflags 0x%llx\n", v,
			       regs.rip, regs.rsp, regs.rflags);
	}
}

/* All is done to the memory, check that the VM is fine, and that it was. */
static void finish_storm(struct __test_metadata *_metadata, struct storm *storm)
{
	struct guest_state *guest = storm->guest;
	struct guest_state since = *guest;
	bool ok;
	int src;

	ok = wait_for(channels_made_progress(guest, &since, 2));
	EXPECT_TRUE(ok) {
		TH_LOG("Events aren't seen anymore");
		dump_channels(storm, &since);
	}

	WRITE_ONCE(storm->stop_raising, true);
	kvm_pthread_join(storm->raise_thread, NULL);

	if (ok) {
		WRITE_ONCE(guest->quiesce, true);
		ok = wait_for(vcpus_are_quiesced(guest)) &&
		     wait_for(all_channels_are_ok(guest));
		EXPECT_TRUE(ok) {
			TH_LOG("Events were lost");
			dump_channels(storm, &since);
		}
	}

	stop_vcpus(storm);
	if (!ok)
		dump_vcpus(storm);

	EXPECT_EQ(count_all_stale_writes(storm, true), 0);
	EXPECT_EQ(count_kernel_splats(storm->kmsg_fd), 0);

	ksft_print_msg("Events seen:");
	for (src = 0; src < NR_SRCS; src++)
		printf(" %s %ld", source_names[src], count_seen(guest, src));
	printf("\n");

	kvm_vm_free(storm->vm);
	kvm_munmap(storm->mapping, storm->mapping_size);
}

static u32 random_in_range(struct storm *storm, u32 min, u32 max)
{
	return kvm_random_u32_in_range(&storm->rng, min, max);
}

/*
 * What to do to the memory.  Returns if it could be done, or -1 if something is wrong.
 */
typedef int (*storm_op)(struct storm *storm);

static int op_dontneed(struct storm *storm)
{
	int page = random_in_range(storm, 0, NR_PAGES - 1);

	if (random_in_range(storm, 0, 3))
		kvm_madvise(storm->mem + page * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED);
	else
		kvm_madvise(storm->mem, NR_PAGES * PAGE_SIZE, MADV_DONTNEED);
	return 1;
}

static int op_replace(struct storm *storm)
{
	/* Favor the pages that are written the most. */
	int page = random_in_range(storm, 0, 1) ? SHINFO_OFFSET / PAGE_SIZE :
						   random_in_range(storm, 1, NR_PAGES - 1);
	int old_copy = storm->current_copy[page];
	int new_copy = (old_copy + 1) % NR_COPIES;
	int nr_writes;
	void *mem;

	nr_writes = count_stale_writes(storm, page, new_copy);

	mem = mmap(storm->mem + page * PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_FIXED, storm->memfd,
		   (new_copy * NR_PAGES + page) * PAGE_SIZE);

	/* From now on, neither KVM nor the guest may write the old page. */
	retire_copy(storm, page, old_copy);
	storm->current_copy[page] = new_copy;

	TEST_ASSERT(mem != MAP_FAILED, "Failed to replace a page");
	return nr_writes ? -1 : 1;
}

/*
 * Keep the pages from changing, for as long as the child lives, by having the
 * child own them.  KVM and the guest must move on to copies of the pages.
 */
static int op_fork(struct storm *storm)
{
	static u8 snapshot[NR_PAGES * PAGE_SIZE];
	u32 delay_us = random_in_range(storm, 0, 5000);
	pid_t pid;
	int status;

	pid = fork();
	TEST_ASSERT(pid >= 0, "Failed to fork");
	if (!pid) {
		memcpy(snapshot, storm->mem, sizeof(snapshot));
		usleep(delay_us);
		_exit(memcmp(snapshot, storm->mem, sizeof(snapshot)) ? KSFT_FAIL : KSFT_PASS);
	}

	while (waitpid(pid, &status, 0) != pid)
		;

	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_PASS)
		return 1;

	ksft_print_msg("Pages of a forked process have changed (status 0x%x)\n", status);
	return -1;
}

/* Move everything to a huge page, and map that with small pages. */
static int op_thp(struct storm *storm)
{
	u8 *last_page = storm->mem + (HUGE_NR_PAGES - 1) * PAGE_SIZE;
	int collapsed;

	/* Failure is ok, e.g. if the pages are in use. */
	collapsed = !madvise(storm->mem, HUGE_NR_PAGES * PAGE_SIZE, MADV_COLLAPSE);
	usleep(random_in_range(storm, 0, 1000));

	if (random_in_range(storm, 0, 1)) {
		kvm_madvise(last_page, PAGE_SIZE, MADV_DONTNEED);
	} else {
		TEST_ASSERT(!mprotect(last_page, PAGE_SIZE, PROT_READ), "Failed to mprotect");
		TEST_ASSERT(!mprotect(last_page, PAGE_SIZE, PROT_READ | PROT_WRITE),
			    "Failed to mprotect");
	}
	return collapsed;
}

static int op_memslot(struct storm *storm)
{
	vm_set_user_memory_region(storm->vm, XEN_SLOT, 0, XEN_GPA, 0, NULL);
	usleep(random_in_range(storm, 0, 2000));
	vm_set_user_memory_region(storm->vm, XEN_SLOT, 0, XEN_GPA,
				  storm->nr_pages * PAGE_SIZE, storm->mem);
	return 1;
}

static int op_shared_info(struct storm *storm)
{
	set_shared_info(storm, true);
	usleep(random_in_range(storm, 0, 1000));
	set_shared_info(storm, false);
	return 1;
}

/* Move a page away, which must not change from then on, and back again. */
static int op_mremap(struct storm *storm)
{
	u8 *mem = storm->mem + random_in_range(storm, 0, NR_PAGES - 1) * PAGE_SIZE;
	static u8 snapshot[PAGE_SIZE];
	u8 *moved;
	int r;

	moved = mremap(mem, PAGE_SIZE, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	TEST_ASSERT(moved != MAP_FAILED, "Failed to move a page: %s", strerror(errno));

	memcpy(snapshot, moved, PAGE_SIZE);
	usleep(random_in_range(storm, 0, 2000));
	r = memcmp(snapshot, moved, PAGE_SIZE) ? -1 : 1;
	if (r < 0)
		ksft_print_msg("A page has changed that was moved away\n");

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

static int op_swap(struct storm *storm)
{
	kvm_madvise(storm->mem, NR_PAGES * PAGE_SIZE, MADV_PAGEOUT);
	return read_number("/proc/self/status", "VmSwap:") > 0;
}

static int op_migrate(struct storm *storm)
{
	int nodes[NR_PAGES], status[NR_PAGES], page, nr_moved = 0;
	void *pages[NR_PAGES];

	storm->node = !storm->node;
	for (page = 0; page < NR_PAGES; page++) {
		pages[page] = storm->mem + page * PAGE_SIZE;
		nodes[page] = storm->node;
	}

	TEST_ASSERT(move_pages(0, NR_PAGES, pages, nodes, status, MPOL_MF_MOVE) >= 0,
		    "move_pages() failed: %s", strerror(errno));
	for (page = 0; page < NR_PAGES; page++)
		nr_moved += status[page] == storm->node;
	return nr_moved > 0;
}

/* Keep a copy of shared_info, without writing it if it's one already. */
static bool shared_info_is_merged(struct storm *storm)
{
	u8 *copy = storm->mem + NR_PAGES * PAGE_SIZE;

	if (memcmp(copy, storm->mem + SHINFO_OFFSET, PAGE_SIZE))
		memcpy(copy, storm->mem + SHINFO_OFFSET, PAGE_SIZE);
	return read_number("/proc/self/ksm_merging_pages", "") > 0;
}

/*
 * Wait, without events, until the kernel has seen that shared_info is the same as a
 * copy of it, and has merged them.  Then, the next event has to be written to a page
 * of its own again.
 */
static int op_ksm(struct storm *storm)
{
	bool merged;

	kvm_madvise(storm->mapping, storm->mapping_size, MADV_MERGEABLE);

	WRITE_ONCE(storm->guest->pause, true);
	merged = wait_for(shared_info_is_merged(storm));
	WRITE_ONCE(storm->guest->pause, false);

	usleep(random_in_range(storm, 0, 10000));
	return merged;
}

static void run_storm(struct __test_metadata *_metadata, struct storm *storm,
		      enum backing backing, enum phase_type type, storm_op op,
		      bool use_lapic)
{
	struct guest_state none = {};
	u64 nr_ops = 0, nr_done = 0;
	int r = 0;
	s64 end;

	start_storm(storm, backing, type, use_lapic);
	EXPECT_TRUE(wait_for(channels_made_progress(storm->guest, &none, 2))) {
		dump_channels(storm, &none);
	}

	/* Slow machines get more time to do something at all. */
	end = now_ns() + phase_ns / 2;
	for (; r >= 0 && now_ns() < end + (nr_done ? 0 : EXTRA_NS); nr_ops++) {
		r = op(storm);
		nr_done += r > 0;
		usleep(random_in_range(storm, 0, 2000));
	}
	EXPECT_GE(r, 0);
	EXPECT_GT(nr_done, 0);

	ksft_print_msg("%lu operations, %lu of which did something, interrupts by %s\n",
		       nr_ops, nr_done, use_lapic ? "local APIC" : "global vector");
	finish_storm(_metadata, storm);
}

static void storm_init(struct storm *storm)
{
	int v;

	memset(storm, 0, sizeof(*storm));
	storm->memfd = -1;
	storm->kmsg_fd = open_kmsg();
	for (v = 0; v < NR_VCPUS; v++)
		storm->eventfds[v] = kvm_new_eventfd();
}

static void storm_cleanup(struct storm *storm)
{
	int v;

	if (storm->memfd >= 0) {
		kvm_munmap(storm->copies, NR_COPIES * NR_PAGES * PAGE_SIZE);
		kvm_close(storm->memfd);
	}
	for (v = 0; v < NR_VCPUS; v++)
		kvm_close(storm->eventfds[v]);
	if (storm->kmsg_fd >= 0)
		kvm_close(storm->kmsg_fd);
}

/* Check that a write of a page that isn't in use anymore is noticed. */
TEST(stale_write_is_noticed)
{
	struct storm storm;

	storm_init(&storm);
	create_memfd(&storm);

	retire_copy(&storm, 0, 1);
	ASSERT_EQ(count_all_stale_writes(&storm, true), 0);

	ASSERT_EQ(pwrite(storm.memfd, "x", 1, NR_PAGES * PAGE_SIZE + 0x800), 1);
	EXPECT_EQ(count_all_stale_writes(&storm, true), 1);

	storm_cleanup(&storm);
}

FIXTURE(storm) {
	struct storm storm;
};

FIXTURE_VARIANT(storm) {
	enum backing backing;
	enum phase_type type;
	storm_op op;
};

FIXTURE_VARIANT_ADD(storm, dontneed_anon) {
	.backing = BACKING_ANON,
	.type = PHASE_DISCARD,
	.op = op_dontneed,
};

/* The pages themselves belong to the memfd, i.e. are kept. */
FIXTURE_VARIANT_ADD(storm, dontneed_memfd) {
	.backing = BACKING_MEMFD,
	.type = PHASE_KEEP,
	.op = op_dontneed,
};

FIXTURE_VARIANT_ADD(storm, replace) {
	.backing = BACKING_MEMFD,
	.type = PHASE_DISCARD,
	.op = op_replace,
};

FIXTURE_VARIANT_ADD(storm, fork) {
	.backing = BACKING_ANON,
	.type = PHASE_KEEP,
	.op = op_fork,
};

FIXTURE_VARIANT_ADD(storm, thp) {
	.backing = BACKING_THP,
	.type = PHASE_KEEP,
	.op = op_thp,
};

FIXTURE_VARIANT_ADD(storm, mremap) {
	.backing = BACKING_ANON,
	.type = PHASE_DISCARD,
	.op = op_mremap,
};

FIXTURE_VARIANT_ADD(storm, swap) {
	.backing = BACKING_ANON,
	.type = PHASE_KEEP,
	.op = op_swap,
};

FIXTURE_VARIANT_ADD(storm, migrate) {
	.backing = BACKING_ANON,
	.type = PHASE_KEEP,
	.op = op_migrate,
};

FIXTURE_VARIANT_ADD(storm, ksm) {
	.backing = BACKING_ANON,
	.type = PHASE_KEEP,
	.op = op_ksm,
};

FIXTURE_VARIANT_ADD(storm, memslot) {
	.backing = BACKING_MEMFD,
	.type = PHASE_REJECT,
	.op = op_memslot,
};

FIXTURE_VARIANT_ADD(storm, shared_info) {
	.backing = BACKING_MEMFD,
	.type = PHASE_KEEP,
	.op = op_shared_info,
};

#define KSM_DIR			"/sys/kernel/mm/ksm/"

/* Have KSM run, and be quick, or restore what was there before. */
static void set_ksm(bool on)
{
	static const struct {
		const char *path;
		const char *value;
	} settings[] = {
		{ KSM_DIR "smart_scan", "0" },
		{ KSM_DIR "sleep_millisecs", "0" },
		{ KSM_DIR "pages_to_scan", "1000" },
		{ KSM_DIR "run", "1" },
	};
	static char saved[ARRAY_SIZE(settings)][16];
	int fd, i;

	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		const char *value = on ? settings[i].value : saved[i];

		fd = open(settings[i].path, O_RDWR);
		TEST_ASSERT(fd >= 0 && (!on || read(fd, saved[i], sizeof(saved[i]) - 1) > 0) &&
			    pwrite(fd, value, strlen(value), 0) == strlen(value),
			    "Failed to set %s", settings[i].path);
		close(fd);
	}
}

FIXTURE_SETUP(storm)
{
	storm_init(&self->storm);
	if (variant->op == op_ksm && !access(KSM_DIR "run", W_OK))
		set_ksm(true);
}

FIXTURE_TEARDOWN(storm)
{
	if (variant->op == op_ksm && !access(KSM_DIR "run", W_OK))
		set_ksm(false);
	storm_cleanup(&self->storm);
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

TEST_F_TIMEOUT(storm, storm, TEST_TIMEOUT_SEC)
{
	if (variant->backing == BACKING_THP && !has_thp_collapse())
		SKIP(return, "Can't collapse memory into a huge page: %s", strerror(errno));

	if (variant->op == op_ksm && access(KSM_DIR "run", W_OK))
		SKIP(return, "KSM is not available: %s", strerror(errno));

	if (variant->op == op_swap && !read_number("/proc/meminfo", "SwapTotal:"))
		SKIP(return, "There is no swap");

	if (variant->op == op_migrate && !is_multi_numa_node_system())
		SKIP(return, "There is one NUMA node only, numa=fake=2 makes two of it");

	if (variant->op == op_shared_info &&
	    !(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA))
		SKIP(return, "KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA is not supported");

	if (variant->backing == BACKING_MEMFD)
		create_memfd(&self->storm);

	run_storm(_metadata, &self->storm, variant->backing, variant->type, variant->op, false);
	run_storm(_metadata, &self->storm, variant->backing, variant->type, variant->op, true);
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

static bool senders_are_done(struct storm *storm, struct sender *senders)
{
	int i;

	op_dontneed(storm);

	for (i = 0; i < NR_SENDERS; i++) {
		if (READ_ONCE(senders[i].nr_sent) < NR_SENDS)
			return false;
	}

	return true;
}

/*
 * Many tasks use, and have to refresh, the same cache.  If one that was late
 * didn't use what another one has refreshed, but refreshed it once more, then
 * they'd take it away from each other.
 */
TEST(senders)
{
	struct sender senders[NR_SENDERS] = {};
	struct storm storm;
	int i;

	storm_init(&storm);
	storm.vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, NR_VCPUS, 0, guest_code,
					  storm.vcpus);
	storm.rng = new_kvm_random_state(kvm_random_seed);
	storm.guest = addr_gva2hva(storm.vm, (gva_t)&guest_state);
	map_memory(&storm, BACKING_ANON);
	vm_set_user_memory_region(storm.vm, XEN_SLOT, 0, XEN_GPA,
				  storm.nr_pages * PAGE_SIZE, storm.mem);
	setup_vm_attrs(&storm, false);
	setup_vcpu_attrs(&storm, 0, false);

	for (i = 0; i < NR_SENDERS; i++) {
		senders[i].vm = storm.vm;
		kvm_pthread_create(&senders[i].thread, NULL, send_thread, &senders[i]);
	}

	TEST_ASSERT(wait_for(senders_are_done(&storm, senders)), "Senders are stuck");

	for (i = 0; i < NR_SENDERS; i++)
		kvm_pthread_join(senders[i].thread, NULL);

	EXPECT_EQ(count_kernel_splats(storm.kmsg_fd), 0);

	kvm_vm_free(storm.vm);
	kvm_munmap(storm.mapping, storm.mapping_size);
	storm_cleanup(&storm);
}

/* Shared by the test and by the process that owns the VM. */
struct exit_control {
	bool ready;
	int vm_fd;
};

FIXTURE(storm_exit) {
	struct storm storm;
	struct exit_control *control;
	pid_t pid;
};

FIXTURE_VARIANT(storm_exit) {
	enum backing backing;
	bool reap;
};

FIXTURE_VARIANT_ADD(storm_exit, exit) {
	.backing = BACKING_MEMFD,
};

FIXTURE_VARIANT_ADD(storm_exit, reap) {
	.backing = BACKING_MEMFD,
	.reap = true,
};

/* The reaper leaves shared memory alone, but not what's private. */
FIXTURE_VARIANT_ADD(storm_exit, reap_anon) {
	.backing = BACKING_ANON,
	.reap = true,
};

FIXTURE_SETUP(storm_exit)
{
	storm_init(&self->storm);
	self->control = kvm_mmap(sizeof(*self->control), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1);
}

FIXTURE_TEARDOWN(storm_exit)
{
	if (self->pid > 0) {
		kill(self->pid, SIGKILL);
		waitpid(self->pid, NULL, 0);
	}
	kvm_munmap(self->control, sizeof(*self->control));
	storm_cleanup(&self->storm);
}

/* Body of the child process, which is killed eventually. */
static void run_storm_until_killed(struct storm *storm, enum backing backing,
				   bool use_lapic, struct exit_control *control)
{
	struct guest_state none = {};

	start_storm(storm, backing, PHASE_DISCARD, use_lapic);
	TEST_ASSERT(wait_for(channels_made_progress(storm->guest, &none, 2)),
		    "Events aren't seen");

	control->vm_fd = storm->vm->fd;
	__atomic_store_n(&control->ready, true, __ATOMIC_RELEASE);

	for (;;) {
		op_dontneed(storm);
		usleep(random_in_range(storm, 0, 2000));
	}
}

static void signal_eventfds(struct storm *storm)
{
	int v;

	for (v = 0; v < NR_VCPUS; v++)
		TEST_ASSERT(!eventfd_write(storm->eventfds[v], 1), "Failed to write eventfd");
}

TEST_F_TIMEOUT(storm_exit, storm_exit, TEST_TIMEOUT_SEC)
{
	int vm_fd, pidfd, mem_fd, i, nr_runs = 0, nr_reaped = 0;
	struct exit_control *control = self->control;
	struct storm *storm = &self->storm;
	struct kvm_random_state rng;
	char path[64], c;
	s64 end;

	rng = new_kvm_random_state(kvm_random_seed + 2);

	if (variant->reap && !has_mrelease())
		SKIP(return, "process_mrelease() is not supported");

	if (variant->backing == BACKING_MEMFD)
		create_memfd(storm);

	end = now_ns() + phase_ns;
	do {
		memset(control, 0, sizeof(*control));

		self->pid = fork_vm_process();
		if (!self->pid) {
			run_storm_until_killed(storm, variant->backing,
					       nr_runs % 2, control);
			_exit(KSFT_FAIL);
		}
		ASSERT_GT(self->pid, 0);

		wait_for(READ_ONCE(control->ready) || process_has_exited(self->pid));
		ASSERT_TRUE(__atomic_load_n(&control->ready, __ATOMIC_ACQUIRE));

		/* Keep the VM alive, and get to know when the mm is gone. */
		pidfd = syscall(__NR_pidfd_open, self->pid, 0);
		ASSERT_GE(pidfd, 0);
		vm_fd = syscall(__NR_pidfd_getfd, pidfd, control->vm_fd, 0);
		ASSERT_GE(vm_fd, 0);
		snprintf(path, sizeof(path), "/proc/%d/mem", self->pid);
		mem_fd = open(path, O_RDONLY);
		ASSERT_GE(mem_fd, 0);

		usleep(kvm_random_u32_in_range(&rng, 0, 50000));
		ASSERT_EQ(kill(self->pid, SIGKILL), 0);
		if (variant->reap)
			nr_reaped += !mrelease(pidfd);

		for (i = 0; i < 10; i++) {
			signal_eventfds(storm);
			usleep(kvm_random_u32_in_range(&rng, 0, 1000));
		}

		ASSERT_EQ(waitpid(self->pid, NULL, 0), self->pid);
		self->pid = 0;
		EXPECT_TRUE(wait_for(!pread(mem_fd, &c, 1, (off_t)control)));

		/* No event may be delivered anymore, until the VM is gone as well. */
		if (storm->memfd >= 0)
			memset(storm->copies, 0, NR_COPIES * NR_PAGES * PAGE_SIZE);

		for (i = 0; i < 10; i++) {
			signal_eventfds(storm);
			usleep(kvm_random_u32_in_range(&rng, 0, 2000));
		}

		close(mem_fd);
		close(pidfd);
		close(vm_fd);

		EXPECT_EQ(count_all_stale_writes(storm, false), 0);
		EXPECT_EQ(count_kernel_splats(storm->kmsg_fd), 0);
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

	/* Everything but "-D seconds" and "-S seed" is for the harness. */
	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-D") && i + 1 < argc)
			phase_ns = atoi_positive("Number of seconds", argv[++i]) * 1000000000LL;
		else if (!strcmp(argv[i], "-S") && i + 1 < argc)
			kvm_random_seed = strtoul(argv[++i], NULL, 0);
		else
			argv[nr_args++] = argv[i];
	}
	argv[nr_args] = NULL;

	xen_caps = kvm_check_cap(KVM_CAP_XEN_HVM);

	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_SHARED_INFO);
	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL);
	TEST_REQUIRE(xen_caps & KVM_XEN_HVM_CONFIG_EVTCHN_SEND);

	return test_harness_run(nr_args, argv);
}
