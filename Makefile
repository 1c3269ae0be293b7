# SPDX-License-Identifier: GPL-2.0
#
# The front of harness/. "make help" lists the targets.

H := harness

.PHONY: help demo check bench tree refresh series base kernel vm shell selftest litmus mutants
.PHONY: kselftest kvm-unit-tests bisect-check kcsan liveness nightly clean

help:
	@sed -n 's/^#: \{0,1\}//p' $(MAKEFILE_LIST)

#: The main job and the tests (they install what they need, if root):
#:
#:   make demo       build PREEMPT_RT kernels without the series, with a change of
#:                   the scheduler's instead, and with the series, run VMs in
#:                   them, and show side by side what comes of it
#:   make check      all tests; what CI runs
#:   make bench      measure both kernels without debug options, and write the
#:                   figures to results/
demo: tools
	@$(H)/demo
check: tools
	@$(H)/check
bench: tools
	@$(H)/tools bench
	@$(H)/bench/run

#:
#: The series:
#:
#:   make tree       build/linux: base kernel + one commit per patch, to work in
#:   make refresh    take the commits of build/linux back into patches/ and here
#:   make series [PART=] [V=3] [RFC=1] [IN_REPLY_TO=<message-id>]
#:                   out/: mails for git am and git send-email; PART=security
#:                   is patch 1, for security@kernel.org, the other parts are
#:                   fixes, pfncache, fence, tests; all but security by default
tree: base
	@$(H)/queue tree
refresh:
	@$(H)/queue refresh
series: base
	@$(H)/queue mails $(PART) $(if $(V),-v $(V)) $(if $(RFC),--rfc) \
		$(if $(IN_REPLY_TO),--in-reply-to='$(IN_REPLY_TO)')

#:
#: Pieces; kernels are built when they are out of date:
#:
#:   make base       fetch the base kernel (LINUX=/path: use that tree instead)
#:   make kernel     build the kernel
#:   make vm RUN=<static programs or scripts> [ARGS=]
#:                   boot it and run them as root; harness/vm's exit status,
#:                   which make prints: theirs, 100 if the kernel complained,
#:                   101 if there was no answer
#:   make shell      a prompt in the same machine
#:   make selftest TEST=x86/xen_shinfo_test [ARGS=]
#:                   run a KVM selftest, upstream's or ours, in it
#:   make litmus     run the litmus tests, and variants of them, with herd7
#:   make mutants [ONLY="name ..."] [JOBS=2] [MATRIX=1]
#:                   break the series, and the tests, in the small ways of
#:                   harness/mutants/, one at a time, and see that each is caught
#:   make clean      remove build/ and out/; FORCE=1 if build/linux is in there
base:
	@$(H)/tools base
	@$(H)/base
kernel: tools
	@$(H)/kernel $(or $(FLAVOUR),rt) $(or $(TREE),series)
vm: tools
	@$(H)/vm
shell: tools
	@$(H)/vm --shell
selftest: tools
	@$(H)/selftest
litmus: base
	@$(H)/litmus
mutants: tools
	@$(H)/mutate $(ONLY)
clean:
	@[ ! -d build/linux ] || [ -n "$(FORCE)" ] || \
		{ echo "build/linux may have work of yours: make refresh takes it back, FORCE=1 removes it" >&2; exit 1; }
	@rm -rf build out out.new .patches.new

#:
#: Long ones:
#:
#:   make kselftest [FLAVOUR=] [NPT=0] [ONLY="x86/xen_shinfo_test ..."]
#:                   all of KVM's selftests, base against series
#:   make kvm-unit-tests KUT=<a built tree> [ONLY=]
#:                   KVM-unit-tests that you have built, base against series
#:   make bisect-check
#:                   compile KVM after each patch, with other configurations,
#:                   and for other architectures, and its documents, without a
#:                   new warning; and test after each part of the series
#:   make kcsan      the tests that race on purpose, watched by KCSAN
#:   make liveness [FLAVOUR=] [RUNS=5] [ONLY="slot/4K/* ..."]
#:                   refreshes of a cache, and memslot updates, under streams of
#:                   invalidations of other pages, base against series
#:   make nightly    bench, mutants and all of these but kvm-unit-tests
kselftest: tools
	@$(H)/kselftest
kvm-unit-tests: tools
	@$(H)/kvm-unit-tests
bisect-check: tools
	@$(H)/bisect-check
kcsan: tools
	@$(H)/kcsan
liveness: tools
	@$(H)/liveness
nightly: tools
	@$(H)/nightly

#:
#: Options of the pieces, as VAR=value:
#:
#:   FLAVOUR  rt (default): PREEMPT_RT, lockdep, DEBUG_ATOMIC_SLEEP
#:            std: PREEMPT_DYNAMIC, KASAN, poisoned pages, lockdep
#:            perf, perf-rt: the same two models without debug options
#:   TREE     series (default) or base; mmu_notifier_fence_test needs
#:            series+trigger, which also has harness/extra/trigger.patch;
#:            base+rtlocks is the one with the scheduler's change
#:   CPUS     2    MEM 1G    APPEND kernel parameters    TIMEOUT 300 (seconds)
#:   LINUX    a kernel tree of yours, left unchanged
#:   BUILD    build/, where all that can be made again is kept
.PHONY: tools
tools:
	@$(H)/tools
