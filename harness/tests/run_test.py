#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""run.py and mutate, with stubs of vm and of what builds kernels: what becomes of programs
that pass, fail, are skipped, do not end, or end the guest; expectations; what is built;
what is refused."""

import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HARNESS = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))

# A selftest's name says what it does: t_BASE_SERIES. Behind it, what it comes to, and if
# that is worse on the series; those of the second line are new in the series.
TESTS = """t_pass_pass t_pass_fail:worse t_fail_pass t_fail_fail t_skip_skip t_pass_timeout:worse
    t_die_die t_pass_die:worse t_hang_hang t_warn_warn t_warn_pass t_pass_warn:worse t_lockdep_pass
    t_late_pass t_abort_abort""".split()
NEW = "t__pass t__fail:worse t__busy t__retry t__cases".split()
OUTCOME = {"die": "died", "hang": "died", "warn": "pass, 1 WARNING", "late": "pass, 1 WARNING",
           "lockdep": "pass", "abort": "pass", "busy": "pass", "retry": "pass", "cases": "pass"}

VM = r"""#!/usr/bin/env python3
import os, sys, time
WARNING = "WARNING: mmu.c:920 at __kvm_rmap_lock+0x1/0x2, CPU#1: t/1\n---[ end trace 0 ]---"
# What programs print, and their status.
DOES = {
    "fail": ("==== Test Assertion Failure ====\n  x86/t.c:12: one == two\n pid\nnot ok 1 a.case", 254),
    "skip": ("1..0 # SKIP - Requirement not met: has_cow()", 4),
    "cases": ("ok 1 one.case\nok 2 two.case # SKIP no reason\n# result: did it", 0),
    "retry": ("vCPU 0: rip 0xffffffff81000000", 1), "timeout": ("", 137)}
log, env, now = os.environ.get("LOG"), os.environ, 10.0
state, tree, append = env["STUB"], env["TREE"], env.get("APPEND", "")
def kernel(text):
    for line in text.splitlines():
        with open(log, "a") as file:
            file.write(f"[{now:12.6f}] {line}\r\n")
def first(does):
    with open(f"{state}/{does}", "a+") as file:
        file.write("x")
        return file.tell()
def end(text):
    sys.exit(print("vm:", text, file=sys.stderr) or 101)
if not log:
    sys.exit(print("alone:", os.path.basename(env["RUN"]), env["FLAVOUR"], tree) or 4)
open(log, "w").close()
if env.get("NO_BOOT"):
    end("no boot in 300 s")
with open(f"{state}/boots", "a") as boots:
    print(env["RUN"], env["CPUS"], append, file=boots)
if "kunit.enable" in append:
    does = tree.partition("+")[2].partition("-")[0] or env.get("KUNIT", "ok")
    kernel("KTAP version 1\n    # Subtest: suite\n    ok 1 one")
    if "ok" in does:
        kernel(f"    {does.replace('_', ' ')} 2 two")
    if does == "complaint":
        kernel(WARNING)
    if does == "hang":
        end("timeout")
    time.sleep(1000 * (does == "slow"))
kernel("vm: booted")
for path in env["RUN"].split():
    name, what = os.path.basename(path), os.path.basename(os.path.realpath(path))
    limit = int(open(f"{env['OVERLAY']}/limit.d/{name}").read())
    does = (what.split("_") + ["", ""])[1 + (tree != "base")]
    kernel(f"vm: run {name}")
    print(f"vm: run {name}", flush=True)
    now += limit if does == "timeout" else 2
    if does == "busy":
        does = "pass" if first(does) == 3 else "fail"
    if does == "retry" and first(does) > 1:
        does = "pass"
    if does == "abort" and first(does) == 1:
        print("vm: QEMU itself failed (status 134), a second try: assertion", file=sys.stderr)
    if does == "warn":
        kernel(WARNING)
    if does == "die":
        end(f"the guest went down while {name} ran: panic")
    time.sleep(1000 * (does == "hang"))
    print(DOES.get(does, [""])[0], flush=True)
    kernel(f"vm: done {name} rc={DOES.get(does, ['', 0])[1]}")
    if does == "late":
        kernel(WARNING)
    if does == "lockdep":
        break
kernel("vm: end")
"""

SCENARIOS = r"""
retry = [{ why = "registers of the host", output = "rip 0xffffffff" }]
[scenario]
fails = { title = "F", test = "x86/t_fail_pass", base = { status = 254, output = 'one == two' } }
again = { title = "A", test = "x86/t_fail_pass", args = "-x" }
skip = { title = "S", test = "x86/t_skip_skip" }
retry = { title = "R", test = "x86/t__retry" }
cases = { title = "C", test = "x86/t__cases", skips = { rt = ["two.case"], std = [] } }
any = { title = "any", test = "x86/t__cases" }
rt = { title = "RT", test = "x86/t_pass_pass", not_on = { std = "it has no reason to" } }
kunit = { title = "KUnit", kunit = "suite*" }
source = { title = "P", source = "t.c", base = { status = 254 } }
here = { title = "H", source = "t.c", arch = ["x86_64"] }
[scenario.warns]
title = "one that warns on the base"
test = "x86/t_warn_pass"
base = { status = 0, complaints = ['^WARNING\t.*rmap_lock'] }
[scenario.wrong]
title = "W"
test = "x86/t_pass_fail"
base = { status = 1, complaints = ['^BUG'], output = 'two', result = '^late' }
[list]
demo = ["warns", "fails"]
kcsan = ["kunit", "warns", "skip"]
[after.fixes]
scenarios = ["warns"]
as_base = true
[after.fence]
scenarios = ["fails", "wrong"]
args = { wrong = "-V reap" }
[kselftest]
append = "multi"
some = "x86/t_pass_*"
[kselftest.tests]
"x86/t_hang_hang" = { limit = 1 }
"x86/t_pass_timeout" = { limit = 5, args = "-a 'b c'" }
"x86/t__busy" = { tries = 3 }
"x86/t_pass_fail" = { tries = 3 }
"x86/t_skip_skip" = { not_on = { std = "not on std" } }
"""


class Run(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        shutil.copytree(HARNESS, f"{self.root}/harness",
                        ignore=shutil.ignore_patterns("mutants", "__pycache__"))
        demo = re.search(r"\[demo\.trees\].*?(?=\n\[list\])", self.read("harness/scenarios.toml"), re.S)
        self.write("harness/scenarios.toml", SCENARIOS + demo[0])
        self.program("harness/vm", VM)
        self.program("harness/base", "#!/bin/sh\n")
        self.program("harness/kernel", f"#!/bin/sh\necho $1 $2 >> {self.root}/kernels\n[ $2 != bad ]\n")
        self.program("harness/queue", 'git -C "$BUILD/src" rev-parse refs/heads/$(echo $2 | tr @ -)\n')
        # A kernel tree with as much as is needed to build its selftests.
        src, kvm = "build/src/", "build/src/tools/testing/selftests/kvm/"
        self.write(src + ".base", "linux 7.3\n")
        self.write(src + "Makefile", "headers_install:\nkernelversion:\n\t@echo 7.3.4\n")
        self.write(src + "tools/testing/kunit/kunit.py", "import sys\n"
                   "print('Testing complete. Ran 2 tests')\nsys.exit('not ok' in open(sys.argv[2]).read())\n")
        self.write(kvm + "Makefile", "all: $(patsubst %.c,$(OUTPUT)/%,$(wildcard x86/*.c))\n"
                   "$(OUTPUT)/%: %.c\n\tmkdir -p $(@D)\n\techo >> $(STUB)/made\n\techo '#!/bin/sh' > $@\n"
                   "\tchmod +x $@\n")
        subprocess.run(["git", "init", "-q", self.root], check=True)
        self.git("-C", self.root, "commit", "-q", "--allow-empty", "-m", "t")
        self.git("init", "-q")
        for tree, tests in (("base", TESTS), ("series", NEW)):
            for test in tests:
                self.write(f"{kvm}x86/{test.split(':')[0]}.c", "")
            self.commit(tree)

    def git(self, *args):
        subprocess.run(["git", "-C", f"{self.root}/build/src", "-c", "user.name=t", "-c",
                        "user.email=t@t", *args], check=True)

    def commit(self, *branches):
        self.git("add", "-A")
        self.git("commit", "-qm", "t")
        for branch in branches:
            self.git("branch", "-f", branch)

    def write(self, path, text):
        os.makedirs(os.path.dirname(f"{self.root}/{path}") , exist_ok=True)
        with open(f"{self.root}/{path}", "w", encoding="utf-8") as file:
            file.write(text)

    def program(self, path, text):
        self.write(path, text if text.startswith("#!") else f"#!/bin/sh\n{text}")
        os.chmod(f"{self.root}/{path}", 0o755)

    def read(self, path):
        try:
            with open(f"{self.root}/{path}", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def start(self, args, env):
        program, *args = args.split() if isinstance(args, str) else args
        ours = "PATH HOME LANG MAKEFLAGS MAKELEVEL".split()
        env = {x: os.environ[x] for x in ours if x in os.environ} | {
            "GRACE": "1", "STUB": self.root} | env
        return subprocess.Popen([f"{self.root}/harness/{program}", *args], env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def check(self, args, *wanted, status=0, **env):
        """Its exit status, and regular expressions for what it prints."""
        with self.subTest(args=args, **env):
            run = self.start(args, env)
            out, err = run.communicate(timeout=100)
            self.assertEqual(run.returncode, status, out + err)
            for x in wanted:
                self.assertRegex(out + err, x)

    def has(self, path, *wanted):
        for x in wanted:
            self.assertRegex(self.read(path), x)

    def stop(self, args, when, number, **env):
        """Send it a signal when what it says is there: nothing must be left."""
        run = self.start(args, env)
        for _ in range(300):
            if when():
                break
            time.sleep(0.1)
        else:
            self.fail(f"{args}: did not come to this point")
        run.send_signal(number)
        _, err = run.communicate(timeout=20)
        self.assertEqual(run.returncode, 130, err)
        left = subprocess.run(["pgrep", "-f", self.root], stdout=subprocess.PIPE, check=False)
        self.assertEqual(left.stdout, b"")

    def test_kselftest(self):
        self.check("run.py kselftest", r"\n5 worse on the series", status=1)
        text = self.read("results/kselftest-rt.txt")
        for test in TESTS + NEW:
            name, _, worse = test.partition(":")
            base, series = ("-" if not x else OUTCOME.get(x, x) for x in name.split("_")[1:])
            self.assertRegex(text, rf"\nx86/{name} +{base} +{series} ")
            self.assertEqual(bool(re.search(f"\nnot ok .*{name}:", text)), bool(worse), name)
        for x in ("^# .*make kselftest FLAVOUR=rt", r"# not ok a.case|# not ok 1 a.case",
                  r"x86/t_fail_fail .* x86/t.c:12: one == two\n", r"t_skip_skip .* Requirement not met: has_cow\(\)\n",
                  r"t_hang_hang .* the guest hung\n", r"t_die_die .* the guest went down",
                  r"series: x86/t_warn_warn: 1 WARNING # 2 s\n# 1x WARNING: WARNING: mmu.c:920",
                  r"x86/t_pass_fail: 1 of 1 tests fail # 2 s\n(# x86/t.c:12.*another try\n){2}# pass on base",
                  r"x86/t_abort_abort: .*\n# QEMU itself failed .* a second try",
                  r"x86/t__retry: .*\n# registers of the host: another try"):
            self.assertRegex(text, x)

    def test_kselftest_some(self):
        self.check("run.py kselftest", "nothing is worse", ONLY="t_pass_pass x86/t_warn_pass t_fail_f*")
        text = self.read("build/kselftest/kselftest-rt.txt")
        self.assertEqual(re.findall(r"^x86/(\w+)", text, re.M), ["t_fail_fail", "t_pass_pass", "t_warn_pass"])
        self.check("run.py kselftest", status=1, FLAVOUR="std", NPT="0")
        self.has("results/kselftest-std-nonpt.txt", "NPT=0", "(?s)^((?!t_fail_fail).)*$")
        self.has("boots", " multi kvm_amd.npt=0")
        os.unlink(f"{self.root}/boots")
        self.check("run.py kselftest", FLAVOUR="std", ONLY="t_skip_skip")
        self.has("build/kselftest/kselftest-std.txt", r"t_skip_skip +skip .* not on std\n", "# SKIP not on std")
        self.assertEqual(self.read("boots"), "")

    def test_expectations(self):
        self.check("run.py warns fails --tree=base", r"^ok 1 - rt, base: one that warns on the base: 1 WARNING #",
                   r"\nok 2 - rt, base: F: 1 of 1 tests fail #")
        self.assertEqual((self.read("boots").count("\n"), self.read("kernels")), (2, "rt base\n"))
        self.check("run.py wrong --tree=base", "^not ok 1 - rt, base: W: ", "expected status 1, got '0'",
                   r"complaints '\^BUG'", "output 'two'", r"result '\^late'", status=1)
        self.check("run.py wrong", "^not ok 1 - rt, series: W: 1 of 1 tests fail #", "one == two", status=1)
        self.check("run.py skip", "^not ok 1 - .*: skipped #", status=1)
        self.check("run.py retry", "^ok 1 - .*\n# registers of the host: another try\n")
        self.check("run.py cases", "^ok 1 - .*: did it # .*\n# ok two.case # SKIP no reason\n")
        self.check("run.py any --flavour=std", "^ok 1")
        self.check("run.py rt cases --flavour=std", "ok 1 - std, series: RT: # SKIP it has no reason to",
                   r"\nnot ok 2 - .*\n(# .*\n)*# must not be skipped: two.case # SKIP no reason", status=1)
        self.write("harness/known-complaints", "base\trmap_lock\tit is known\n")
        self.check("run.py warns --tree=base", "^not ok 1 - .*\n# 1x known WARNING: WARNING: mmu.c", status=1)

    def test_shared_boot(self):
        self.check("run.py warns fails again", "^ok 1 - std, series: .*: clean # 2 s\nok 2 - .*clean.*\nok 3 - .*clean",
                   FLAVOUR="std", CPUS="3", APPEND="x=1")
        self.has("boots", r"^\S+/warns \S+/fails \S+/again 3 x=1\n$")
        self.assertEqual(self.read("build/runs/warns+2-std-series.out").count("vm: run"), 3)

    def test_kunit(self):
        self.check("run.py -v kunit", "^Testing complete. Ran 2 tests\nok 1 - rt, series: KUnit: Ran 2 tests #")
        self.has("boots", r"kunit.filter_glob=suite\*")
        self.check("run.py kunit", r"^not ok 1 - rt, series: KUnit: .*(\n#.*)*\n# not ok suite.two",
                   KUNIT="not ok", status=1)
        self.check("run.py kunit", "^not ok 1 - rt, series: KUnit: timeout #", KUNIT="hang", status=1)

    def test_tables(self):
        self.check("run.py warns fails --tree=base,series",
                   r"\n +\| base +\| series\n-+\none that warns on the +\| 1 WARNING +\| clean\n  base +\|")
        self.git("branch", "base+rtlocks", "base")
        self.write("results/bench.txt", "# 2026-01-01: make bench\n\nReaping a VM: KVM's start() + end(), sum\n"
                   "    64 MiB, 4 KiB pages, 1 vCPU  |  5  6  7 |  300  20  15 | 3, 0.0 %\n")
        self.check("run.py demo", r"\none that warns on the +\| 1 WARNING +\| clean +\| clean\n",
                   r"\nF +\| 1 of 1 tests fail +\| clean +\| clean\n", r"\n +\| Linux 7.3.4 RT as is +\| Linux 7.3.4 RT",
                   r"\nstart\(\) and end\(\), VM of +\| 300 instructions +\| the same +\| 20\n",
                   "bench.txt, 2026-01-01,", r"\nok 2 - rt, base: F: 1 of 1 tests fail .*\n# x86/t.c:12: one == two\n")

    def test_lists(self):
        self.git("branch", "series+kcsan", "series")
        self.check("run.py kcsan", status=1)
        self.has("results/kcsan.txt", r"(?s)^# .*make kcsan.*\nok 1 - KUnit: Ran 2 tests .*\nok 2 - .*: clean #",
                 r"\nnot ok 3 - S: skipped #")
        self.has("build/kcsan/overlay/known-races", r"^\w+\n")
        self.has("build/kcsan/known-complaints", r"\n\*\tBUG: KCSAN: data-race in .*\tknown-races\n$")
        self.write("patches/series", "[fixes]\n0001-a.patch\n0002-b.patch\n[fence]\n0003-c.patch\n")
        for tree in ("series-0002", "series-0003"):
            self.git("branch", tree, "series")
        os.unlink(f"{self.root}/kernels")
        self.check("run.py after-parts", "^ok 1 - after fixes: one that warns on the base: clean #",
                   r"\nok 2 - after fence: F.*\nnot ok 3 - after fence: W", status=1)
        self.assertEqual(self.read("kernels"), "rt base\nrt series@0002\nrt series@0003\n")

    def test_selftests(self):
        """Those of the series, if the tree does not have it; what did not change is kept."""
        self.check("run.py retry --tree=base")
        self.assertEqual(self.read("made"), "\n")
        self.write("build/src/tools/testing/selftests/kvm/x86/t__new.c", "")
        os.unlink(f"{self.root}/build/src/tools/testing/selftests/kvm/x86/t__pass.c")
        self.commit("series")
        self.check("run.py --selftest t__new", "^alone: t__new rt series\n", status=4)
        self.check("run.py retry --tree=base")
        self.assertEqual(self.read("made"), "\n\n")
        source = "build/selftests/series/src/tools/testing/selftests/kvm/x86/"
        self.assertFalse(os.path.exists(f"{self.root}/{source}t__pass.c"))

    def test_refusals(self):
        for words, args, env in (
                ("no scenario 'warn'; near it: warns", "warn", {}), ("no scenario is given", "", {}),
                ("unrecognized arguments: --what", "--what", {}), ("unknown argument 'x'", "kselftest x", {}),
                ("TEST= is empty", "--selftest=", {}), ("near it: x86/t__pass", "--selftest t__pas", {}),
                ("no selftest 'x86/nope'", "kselftest", {"ONLY": "x86/nope"}),
                ("NPT=2", "kselftest", {"NPT": "2"}), ("FLAVOUR=x", "kselftest", {"FLAVOUR": "x"}),
                ("kernel failed", "warns --tree=bad", {}), ("unknown ARCH 'z80'", "warns", {"ARCH": "z80"}),
                ("unknown ARCH 'loongarch64' to run this on", "warns", {"ARCH": "loongarch64"}),
                ("no selftest 'x86/t__pass' for arm64", "--selftest x86/t__pass", {"ARCH": "arm64"}),
                ("no NPT=, with ARCH=arm64", "kselftest", {"ARCH": "arm64", "NPT": "0"}),
                ("CPUS=x", "warns", {"CPUS": "x"}), ("does not boot", "warns", {"NO_BOOT": "1"}),
                ("does not boot", "kselftest", {"NO_BOOT": "1"})):
            # One line, but for the stages.
            self.check("run.py " + args, rf"^(\[.*\n)*run.py: .*{words}.*\n$", status=2, **env)
        self.assertFalse(glob.glob(f"{self.root}/results/*.txt"))
        self.check("run.py --help", "SCENARIO")
        self.check("run.py --list", "warns +one that warns on the base")

    def test_arch(self):
        """Of the scenarios, those for ARCH, on its kernel, in files with its name."""
        self.write("t.c", "int main(void) { return 0; }")
        self.program("cc/aarch64-linux-gnu-gcc", "echo $* >> $STUB/compiled\n")
        path = f"{self.root}/cc:{os.environ['PATH']}"
        self.check("run.py source here warns", "^ok 1 - rt-arm64-nvhe, series: H: # SKIP not for arm64\n"
                   "ok 2 - .*warns.* # SKIP not for arm64\nok 3 - ", ARCH="arm64", MODE="nvhe", PATH=path)
        self.has("compiled", "t.c")
        self.has("build/runs/source-rt-arm64-nvhe-series.log", "vm: end")
        # With protected KVM, the series does as the base does.
        self.check("run.py source", "expected status 254, got '0'", ARCH="arm64", MODE="protected",
                   PATH=path, status=1)
        toml = self.read("harness/scenarios.toml").replace('demo = ["warns", "fails"]', 'demo = ["source", "here"]')
        self.write("harness/scenarios.toml", toml)
        self.check("run.py demo", r"\narm64 +\| Linux 7.3.4 RT as is +\| with the series\n-+\nP +\| clean +\| clean\n",
                   ARCH="arm64", PATH=path)
        self.has("kernels", "rt base\nrt series\n$")

    def test_interrupted(self):
        """There is what has ended, and the last whole result is kept."""
        self.write("results/kselftest-rt.txt", "whole\n")
        logs = f"{self.root}/build/kselftest/kselftest-rt/*.log"
        self.stop("run.py kselftest", lambda: any(
            "vm: run t_hang" in self.read(os.path.relpath(x, self.root)) for x in glob.glob(logs)), signal.SIGTERM)
        self.assertEqual(self.read("results/kselftest-rt.txt"), "whole\n")
        self.has("results/kselftest-rt.txt.partial", "\nok .* base: x86/t_fail_fail: 1 of 1",
                 "(?s)^((?!t_hang_hang).)*$")

    def mutants(self, **caught_by):
        for name, by in caught_by.items():
            name = name.replace("__", "-")
            by += "" if "\n" in by else "\n\ndiff --git a/x b/x\n"
            self.write(f"harness/mutants/{name}.patch", f"It breaks.\n\nCaught-by: {by}")
            self.git("branch", "-f", f"series+{name}", "series")

    def test_mutate(self):
        two = "kunit suite.two"
        self.mutants(not_ok=two, ok__1=two, complaint=two + " (complaint)", hang=two + " (hang)",
                     fail="selftest t__pass", base="base warns", gone=two)
        self.git("branch", "-D", "series+gone")
        self.check("mutate", r"\n3 caught, 3 not caught, 1 errors, in 0 min", status=1)
        text = self.read("results/mutants.txt")
        self.has("results/mutants.txt", "^# .* make mutants,", r"\n3 caught, 3 not caught, 1 errors, in 0 min", *(
            f"\n{x}" for x in (
                "caught not_ok by kunit suite.two #", "NOT CAUGHT ok-1 by kunit suite.two #",
                r"caught complaint by kunit suite.two \(WARNING\) #", r"caught hang by kunit suite.two \(hangs\) #",
                "NOT CAUGHT fail by selftest t__pass #", "NOT CAUGHT base by base warns #", "error gone: ")))
        self.check("mutate not_ok hang complaint", "3 caught, 0 not caught", JOBS="2")
        self.assertEqual(text, self.read("results/mutants.txt"))

    def test_mutate_refusals(self):
        self.mutants(not_ok="kunit suite.two")
        self.check("mutate", "^(\\[.*\n)*mutate: without a mutant, suite.two does not pass either", status=2,
                   KUNIT="not ok")
        self.check("mutate", "no mutant is for ARCH=arm64", status=2, ARCH="arm64")
        self.mutants(two="kunit suite.one\nArch: arm64\n\ndiff --git a/x b/x\n")
        self.check("mutate two", "mutant 'two' is for ARCH=arm64", status=2)
        for by, words in (("kunit", "there is no 'Caught-by: TEST'"), ("base what", "no scenario 'what'"),
                          ("litmus what, no barrier", "no variant 'what, no barrier'")):
            self.mutants(bad=by)
            self.check("mutate bad", words, status=2)

    def test_mutate_matrix(self):
        self.mutants(not_ok="kunit suite.two")
        for reason, why, status in (("# SUITE.CASE REASON", "no reason given", 1), ("suite.one  It can't.", "It can't.", 0)):
            self.write("harness/mutants/not-needed", reason + "\n")
            self.check("mutate", MATRIX="1", status=status)
            self.has("results/mutants-matrix.txt", rf"\n   0  suite.one: {why}\n   1  suite.two\n$")

    def test_mutate_resume(self):
        self.mutants(not_ok="kunit suite.two", slow="kunit suite.two")
        self.stop("mutate", lambda: "caught not_ok" in self.read("results/mutants.txt.partial"), signal.SIGINT)
        self.mutants(slow="kunit suite.one")
        self.program("harness/vm", VM.replace("sleep(1000 *", "sleep(0 *"))
        self.check("mutate", "^NOT CAUGHT slow by .*\n1 caught, 1 not caught", "1 mutants were tried before",
                   RESUME="1", status=1)
        self.has("results/mutants.txt", "caught not_ok")
        self.check("mutate", "no run of the same mutants", RESUME="1", status=2)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
