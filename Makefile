# SPDX-License-Identifier: GPL-2.0
#
# The front of harness/. "make help" lists the targets.

H := harness

.PHONY: help demo check bench tree refresh series base kernel vm shell selftest kunit litmus clean
.PHONY: mutants kselftest kvm-unit-tests bisect-check kcsan liveness isolation soak nightly

other := $(filter-out help demo check tree refresh series base kernel vm shell selftest clean \
	deps,$(MAKECMDGOALS))
ifneq ($(and $(filter-out 7.3,$(BASE)),$(other)),)
$(error make $(other) is for the whole series, and not for BASE=$(BASE))
endif

help:
	@sed -n 's/^#: \{0,1\}//p' $(MAKEFILE_LIST)

#: The main job, and the tests (as root, they install what is missing; make deps only
#: does that):
#:   make demo       VMs on PREEMPT_RT kernels without the series, with a change of the
#:                   scheduler's instead, and with the series: what comes of it
#:   make check      all tests; what CI runs
#:   make bench      measure both kernels without debug options: results/bench.txt
demo: deps
	@$(H)/run.py demo
check: deps
	@[ -n "$(filter-out 7.3,$(BASE))" ] || ARCH=arm64 $(H)/deps
	@$(H)/check
bench: deps
	@$(H)/deps bench
	@$(H)/bench/run

#:
#: The series:
#:   make tree       build/linux: base kernel + one commit per patch, to work in
#:   make refresh    take the commits of build/linux back into patches/ and here
#:   make series [PART=] [V=3] [RFC=1] [IN_REPLY_TO=<message-id>]
#:                   out/: mails for git am and git send-email; PART=security
#:                   is patch 1, for security@kernel.org; fixes, pfncache, fence,
#:                   tests, or all four by default; riscv, arm64, loongarch
tree: base
	@$(H)/queue tree
refresh:
	@$(H)/queue refresh
series: base
	@$(H)/queue mails $(PART) $(if $(V),-v $(V)) $(if $(RFC),--rfc) \
		$(if $(IN_REPLY_TO),--in-reply-to='$(IN_REPLY_TO)')

#:
#: Pieces; kernels are built when they are out of date:
#:   make base       fetch the base kernel (LINUX=/path: use that tree instead)
#:   make kernel     build the kernel
#:   make vm RUN=<static programs or scripts> [ARGS=]    boot it, and run them as root;
#:                   exit status 100: the kernel complained, 101: no answer
#:   make shell      a prompt in the same machine
#:   make selftest TEST=x86/xen_shinfo_test [ARGS=]      a KVM selftest in it
#:   make kunit [SUITE=kvm_xen]                          its KUnit suites
#:   make litmus     the litmus tests, and variants of them, with herd7
#:   make clean      remove build/ and out/; FORCE=1 if build/linux is in there
base:
	@$(H)/deps base
	@$(H)/base
kernel: deps
	@$(H)/kernel $(or $(FLAVOUR),rt) $(or $(TREE),series)
vm:
	@$(H)/vm --check
	@$(H)/deps
	@$(H)/vm
shell: deps
	@$(H)/vm --shell
selftest: deps
	@run=$$($(H)/run.py --path "$(TEST)") && RUN=$$run exec $(H)/vm
kunit: deps
	@$(H)/run.py -v kunit
litmus: base
	@$(H)/litmus
clean:
	@[ -z "$(BUILD)" ] || { echo "BUILD=$(BUILD): remove it by hand" >&2; exit 1; }
	@[ -z "$(wildcard build/linux build/stable-*/linux)" ] || [ -n "$(FORCE)" ] || \
		{ echo "build/linux may have work of yours: make refresh takes it back, FORCE=1 removes it" >&2; exit 1; }
	@rm -rf build out out.new .patches.new

#:
#: Long ones (their scripts describe them, with --help):
#:   make mutants [ONLY="name ..."] [RESUME=1]
#:   make kselftest [FLAVOUR=] [NPT=0] [ONLY="x86/xen_shinfo_test ..."]
#:   make kvm-unit-tests KUT=<a tree, after make standalone> [ONLY=]
#:   make liveness [FLAVOUR=] [RUNS=5] [ONLY="slot/4K/* ..."]
#:   make bisect-check, kcsan, isolation, nightly, soak [HOURS=] [FLAVOUR=]
mutants: deps
	@$(H)/mutate $(strip $(ONLY))
kselftest: deps
	@$(H)/run.py kselftest
kvm-unit-tests: deps
	@$(H)/run.py kvm-unit-tests
bisect-check: deps
	@$(H)/check bisect-check
kcsan: deps
	@$(H)/check kcsan
liveness: deps
	@$(H)/bench/liveness.py
isolation: deps
	@$(H)/bench/isolation
soak: deps
	@$(H)/bench/soak.py
nightly: deps
	@$(H)/deps bench
	@$(H)/check nightly

#: Options:
#:   FLAVOUR  rt (default), std (PREEMPT_DYNAMIC, KASAN), perf, perf-rt (no debugging)
#:   TREE     series (default), base, either with +NAME: harness/*/NAME.patch on top
#:   CPUS  MEM  APPEND  TIMEOUT  TCG  of the machine    BUILD  in place of build/
#:   LINUX    a kernel tree of yours, left unchanged
#:   BASE     7.3 (default); 7.2, 6.12: that kernel, and its fixes in patches/stable/
#:   ARCH     x86_64 (default), arm64, riscv64; loongarch64: KVM is only compiled
#:   MODE     of arm64's KVM: vhe (default), nofwb, nvhe, protected
.PHONY: deps
deps:
	@$(H)/deps
