#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""run.py, and mutate, with a stub of vm: what becomes of programs that pass, fail, are skipped, do
not end, or end the guest; expectations; what is built; what is refused."""

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

# A test's name says what it does: t_BASE_SERIES.
TESTS = """t_pass_pass t_pass_fail t_fail_pass t_fail_fail t_skip_skip t_pass_timeout
    t_die_die t_pass_die t_hang_hang t_warn_warn t_warn_pass t_pass_warn t_lockdep_pass
    t_late_pass t_abort_abort""".split()
NEW = ["t__pass", "t__fail", "t__busy", "t__retry", "t__cases"]

VM = r"""#!/usr/bin/env python3
import os, sys, time
if "LOG" not in os.environ:
    print("alone:", *os.environ["RUN"].split("/")[-1:], os.environ["FLAVOUR"], os.environ["TREE"])
    sys.exit(4)
log = open(os.environ["LOG"], "a")
now = 10.0
def kernel(text):
    log.write(f"[{now:12.6f}] {text}\r\n")
    log.flush()
def say(text):
    print(text, flush=True)
def tries(path):
    with open(path, "a+") as file:
        file.write("x")
        file.seek(0)
        return len(file.read())
if os.environ.get("NO_BOOT"):
    print("vm: no boot in 300 s", file=sys.stderr)
    sys.exit(101)
state = os.environ["STUB"]
with open(state + "/boots", "a") as boots:
    print(os.environ["RUN"], os.environ["CPUS"], os.environ["APPEND"], file=boots)
if "kunit.enable" in os.environ["APPEND"]:
    does = os.environ["TREE"].partition("+")[2].partition("-")[0] or os.environ.get("KUNIT", "ok")
    for text in ("KTAP version 1", "    # Subtest: suite", "    ok 1 one",
                 f"    {does.replace('_', ' ')} 2 two" if "ok" in does else ""):
        kernel(text)
    if does == "complaint":
        kernel("WARNING: x.c:1 at x+0x1/0x2, CPU#1: t/1")
        kernel("---[ end trace 0 ]---")
    if does == "hang":
        sys.exit(101)
    if does == "slow":
        time.sleep(1000)
kernel("vm: booted")
overlay = os.environ["OVERLAY"]
for path in os.environ["RUN"].split():
    name = os.path.basename(path)
    what = os.path.basename(os.path.realpath(path))
    limit = int(open(f"{overlay}/limit.d/{name}").read())
    does = (what.split("_") + ["", ""])[1 + (os.environ["TREE"] != "base")]
    kernel(f"vm: run {name}")
    say(f"vm: run {name}")
    rc = 0
    now += 2
    if does == "busy":
        does = "pass" if tries(state + "/busy") == 3 else "fail"
    if does == "retry":
        does = "pass"
        if tries(state + "/retry") == 1:
            say("vCPU 0: rip 0xffffffff81000000")
            rc = 1
    if does == "cases":
        say("ok 1 one.case\nok 2 two.case # SKIP no reason\n# result: did it")
    if does == "fail":
        say("==== Test Assertion Failure ====\n  x86/t.c:12: one == two\n  pid=1\nnot ok 1 a.case")
        rc = 254
    elif does == "skip":
        say("1..0 # SKIP - Requirement not met: has_cow()")
        rc = 4
    elif does == "timeout":
        now += limit
        rc = 137
    elif does == "die":
        print(f"vm: the guest went down while {name} ran: panic", file=sys.stderr)
        sys.exit(101)
    elif does == "abort" and tries(state + "/abort") == 1:
        print(f"vm: QEMU itself failed (status 134, while {name} ran): assertion", file=sys.stderr)
        sys.exit(101)
    elif does == "hang":
        time.sleep(1000)
    elif does == "warn":
        kernel("WARNING: arch/x86/kvm/mmu/mmu.c:920 at __kvm_rmap_lock+0x1/0x2, CPU#1: t/1")
        kernel("---[ end trace 0 ]---")
    kernel(f"vm: done {name} rc={rc}")
    if does == "late":
        kernel("WARNING: x.c:1 at x+0x1/0x2, CPU#1: t/1")
        kernel("---[ end trace 0 ]---")
    if does == "lockdep":
        break
kernel("vm: end")
"""

SCENARIOS = r"""
[scenario.warns]
title = "one that warns on the base"
test = "x86/t_warn_pass"
base = { status = 0, complaints = ['^WARNING\t.*rmap_lock'] }
[scenario.fails]
title = "one that fails on the base"
test = "x86/t_fail_pass"
base = { status = 254, output = 'one == two' }
[scenario.again]
title = "the same with arguments"
test = "x86/t_fail_pass"
args = "-x"
[scenario.wrong]
title = "one that does not do as expected"
test = "x86/t_pass_fail"
base = { status = 1, complaints = ['^BUG'], output = 'two', result = '^late' }
[scenario.skip]
title = "one that is skipped"
test = "x86/t_skip_skip"
[scenario.retry]
title = "one with a second try"
test = "x86/t__retry"
[scenario.cases]
title = "one with cases"
test = "x86/t__cases"
skips = { rt = ["two.case"], std = [] }
[scenario.any]
title = "one with any cases"
test = "x86/t__cases"
[scenario.rt]
title = "one for rt"
test = "x86/t_pass_pass"
not_on = { std = "it has no reason to" }
[scenario.kunit]
title = "KUnit"
kunit = "suite*"
[[retry]]
why = "registers of the host"
output = "rip 0xffffffff"
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
        shutil.copytree(HARNESS, os.path.join(self.root, "harness"),
                        ignore=shutil.ignore_patterns("mutants", "__pycache__"))
        self.program("harness/vm", VM)
        self.program("harness/base", "#!/bin/sh\n")
        self.program("harness/kernel", f"#!/bin/sh\necho $1 $2 >> {self.root}/kernels\n[ $2 != bad ]\n")
        self.program("harness/queue", "#!/bin/sh\ngit -C \"$BUILD/src\" rev-parse refs/heads/$2\n")
        self.write("harness/scenarios.toml", SCENARIOS)
        # A kernel tree with as much as is needed to build its selftests.
        src = "build/src/"
        self.write(src + ".base", "linux 7.3\n")
        self.write(src + "Makefile", "headers_install:\nkernelversion:\n\t@echo 7.3.4\n")
        self.write(src + "tools/testing/kunit/kunit.py",
                   "import sys\ntext = open(sys.argv[2]).read()\n"
                   "print('Testing complete. Ran 2 tests')\nsys.exit('not ok' in text)\n")
        kvm = src + "tools/testing/selftests/kvm/"
        self.write(kvm + "Makefile", "all: $(patsubst %.c,$(OUTPUT)/%,$(wildcard x86/*.c))\n"
                   "$(OUTPUT)/%: %.c\n\tmkdir -p $(@D)\n\techo '#!/bin/sh' > $@\n\tchmod +x $@\n")
        subprocess.run(["git", "init", "-q", self.root], check=True)
        self.git("-C", self.root, "commit", "-q", "--allow-empty", "-m", "t")
        self.git("init", "-q")
        for tree, names in (("base", TESTS), ("series", NEW)):
            for name in names:
                self.write(f"{kvm}x86/{name}.c", "")
            self.git("add", "-A")
            self.git("commit", "-qm", tree)
            self.git("branch", "-f", tree)

    def git(self, *args):
        subprocess.run(["git", "-C", os.path.join(self.root, "build/src"), "-c", "user.name=t", "-c",
                        "user.email=t@t", *args], check=True)

    def write(self, path, text):
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def program(self, path, text):
        self.write(path, text)
        os.chmod(os.path.join(self.root, path), 0o755)

    def read(self, path):
        try:
            with open(os.path.join(self.root, path), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def start(self, *args, program="run.py", **env):
        env = {k: v for k, v in os.environ.items() if k not in (
            "BUILD", "FLAVOUR", "TREE", "TESTS", "ONLY", "NPT", "STAGE_FD", "ARGS", "CPUS", "MEM", "TCG",
            "APPEND", "TIMEOUT", "ARCH", "MODE", "JOBS", "MATRIX", "RESUME")} | {"GRACE": "1", "STUB": self.root} | env
        return subprocess.Popen([os.path.join(self.root, "harness", program), *args], env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run_it(self, *args, status=0, **env):
        run = self.start(*args, **env)
        out, err = run.communicate(timeout=100)
        self.assertEqual(run.returncode, status, out + err)
        return out, err

    def mutate(self, *args, status=0, **env):
        run = self.start(*args, program="mutate", **env)
        out, err = run.communicate(timeout=100)
        self.assertEqual(run.returncode, status, out + err)
        return out, err

    def mutants(self, **caught_by):
        for name, by in caught_by.items():
            name = name.replace("__", "-")
            self.write(f"harness/mutants/{name}.patch", f"It breaks.\n\nCaught-by: {by}\n\ndiff --git a/x b/x\n")
            self.git("branch", "-f", f"series+{name}", "series")

    def row(self, text, name):
        return next(x for x in text.splitlines() if x.startswith(f"x86/{name} ")).split()

    def test_kselftest(self):
        out, _ = self.run_it("kselftest", status=1)
        text = self.read("results/kselftest-rt.txt")
        for name in TESTS:
            base, series = ("died" if x in ("die", "hang") else "pass" if x in ("warn", "lockdep",
                            "late", "abort") else x for x in name.split("_")[1:])
            self.assertEqual([x.strip(",") for x in self.row(text, name)[1:3]], [base, series], name)
        worse = text[text.index("Worse"):text.index("\ntest ")]
        self.assertEqual(sorted(x.split(":")[0].strip()[4:] for x in worse.splitlines()[1:] if x),
                         ["t__fail", "t_pass_die", "t_pass_fail", "t_pass_timeout", "t_pass_warn"])
        self.assertIn("5 worse", out)
        self.assertEqual(self.row(text, "t__pass")[1:3], ["-", "pass"])
        self.assertEqual(self.row(text, "t__busy")[1:5], ["-", "pass,", "try", "3"])
        self.assertEqual(self.row(text, "t__retry")[1:5], ["-", "pass,", "try", "2"])
        self.assertEqual(self.row(text, "t_pass_fail")[2:5], ["fail,", "try", "3"])
        self.assertEqual(self.row(text, "t_warn_pass")[-3:], ["1", "WARNING", "-"])
        self.assertEqual(self.row(text, "t_late_pass")[-3:], ["1", "WARNING", "-"])
        self.assertRegex(text, r"t_fail_fail +fail +x86/t.c:12: one == two")
        self.assertRegex(text, r"t_skip_skip +skip +Requirement not met: has_cow\(\)")
        self.assertRegex(text, r"t_hang_hang +died +the guest hung")
        self.assertRegex(text, r"t_die_die +died +the guest went down")
        self.assertRegex(text, r"series: .*t_warn_warn \(1\)")
        self.assertRegex(text, r"^# .*make kselftest FLAVOUR=rt")

    def test_kselftest_nothing_worse(self):
        self.run_it("kselftest", ONLY="t_pass_pass x86/t_warn_pass t_fail_f*")
        text = self.read("build/kselftest/kselftest-rt.txt")
        self.assertIn("Nothing is worse", text)
        self.assertIn("t_fail_fail", text)
        self.assertNotIn("t_pass_fail", text)

    def test_kselftest_some(self):
        self.run_it("kselftest", status=1, FLAVOUR="std", NPT="0")
        text = self.read("results/kselftest-std-nonpt.txt")
        self.assertIn("NPT=0", text)
        self.assertIn("kvm_amd.npt=0", self.read("boots"))
        self.assertNotIn("t_fail_fail", text)

    def test_kselftest_not_here(self):
        self.run_it("kselftest", FLAVOUR="std", ONLY="t_skip_skip")
        self.assertRegex(self.read("build/kselftest/kselftest-std.txt"), r"t_skip_skip +skip +not on std")
        self.assertEqual(self.read("boots"), "")

    def test_scenarios(self):
        out, _ = self.run_it("warns", "fails", "--tree=base")
        self.assertRegex(out, r"ok 1 - rt, base: one that warns on the base: 1 WARNING #")
        self.assertRegex(out, r"\nok 2 - rt, base: one that fails on the base: 1 of 1 tests fail #")
        self.assertEqual(len(self.read("boots").splitlines()), 2)
        self.assertEqual(self.read("kernels"), "rt base\n")

    def test_shared_boot(self):
        out, _ = self.run_it("warns", "fails", "again", FLAVOUR="std", CPUS="3", APPEND="x=1")
        self.assertEqual(len(re.findall(r"^ok \d+ - std, series: .*: clean # 2 s$", out, re.M)), 3, out)
        self.assertRegex(self.read("boots"), r"^\S+/warns \S+/fails \S+/again 3 x=1\n$")
        self.assertEqual(self.read("build/runs/shared-std-series.out").count("vm: run"), 3)

    def test_not_as_expected(self):
        for tree, words in (("base", ["expected status 1, got 0", "a complaint like '^BUG'", "as output: 'two'",
                                      "as result: '^late'"]), ("series", ["1 of 1 tests fail", "one == two"])):
            out, _ = self.run_it("wrong", "--tree=" + tree, status=1)
            self.assertRegex(out, f"^not ok 1 - rt, {tree}: one that does not do as expected: ")
            for x in words:
                self.assertIn(x, out)
        out, _ = self.run_it("skip", status=1)
        self.assertRegex(out, "^not ok 1 - .*: skipped #")

    def test_cases(self):
        out, _ = self.run_it("cases")
        self.assertRegex(out, r"^ok 1 - .*: clean # .*\n# ok two.case # SKIP no reason\n$")
        self.run_it("any", "--flavour=std")
        out, _ = self.run_it("cases", "--flavour=std", status=1)
        self.assertRegex(out, r"^not ok 1 - .*\n(# .*\n)*# must not be skipped: two.case # SKIP no reason")

    def test_second_try(self):
        out, _ = self.run_it("retry")
        self.assertRegex(out, r"^ok 1 - .*: clean # .*\n# registers of the host: another try\n$")

    def test_not_on_a_flavour(self):
        out, _ = self.run_it("rt", "cases", "--flavour=rt,std", status=1)
        self.assertRegex(out, r"ok - std, series: one for rt # SKIP it has no reason to")

    def test_kunit(self):
        out, _ = self.run_it("kunit", "-v")
        self.assertRegex(out, r"^Testing complete. Ran 2 tests\nok 1 - rt, series: KUnit: clean #")
        self.assertIn("kunit.filter_glob=suite*", self.read("boots"))
        out, _ = self.run_it("kunit", KUNIT="not ok", status=1)
        self.assertRegex(out, r"^not ok 1 - rt, series: KUnit: 1 of 2 tests fail(.*\n)*# not ok suite.two")
        out, _ = self.run_it("kunit", KUNIT="hang", status=1)
        self.assertRegex(out, r"^not ok 1 - rt, series: KUnit: timeout #")

    def test_table(self):
        out, _ = self.run_it("warns", "fails", "--tree=base,series")
        self.assertRegex(out, r"\n +\| base +\| series\n-+\none that warns on the +\| 1 WARNING +\| clean\n  base +\|")

    def test_demo(self):
        self.git("branch", "base+rtlocks", "base")
        self.write("results/bench.txt", "# 2026-01-01: make bench\n\nReaping a VM: KVM's start() + end(), sum\n"
                   "    64 MiB, 4 KiB pages, 1 vCPU  |  5  6  7 |  300  20  15 | 3, 0.0 %\n")
        out, err = self.run_it("demo")
        self.assertIn("run 6 of 6: one that fails on the base, series", err)
        self.assertRegex(out, r"\none that warns on the +\| 1 WARNING +\| clean +\| clean\n")
        self.assertRegex(out, r"\none that fails on the +\| 1 of 1 tests fail +\| clean +\| clean\n")
        self.assertRegex(out, r"\nstart\(\) and end\(\), VM +\| 300 instructions +\| the same +\| 20\n")
        self.assertIn("bench.txt, 2026-01-01,", out)
        self.assertRegex(out, r"\none that fails on the base, base: \S*\.log\n  not ok 1 a.case\n")

    def test_kcsan(self):
        self.git("branch", "series+kcsan", "series")
        out, _ = self.run_it("kcsan", status=1)
        text = self.read("results/kcsan.txt")
        self.assertRegex(text, r"(?s)^# .*make kcsan.*\nok - KUnit: Ran 2 tests\n"
                         r"ok - one that warns on the base: clean\nnot ok - one that is skipped: skipped\n$")
        self.assertRegex(self.read("build/kcsan/overlay/known-races"), r"^\w+\n")
        self.assertRegex(self.read("build/kcsan/known-complaints"), r"\n\*\tBUG: KCSAN: data-race in .*\tknown-races\n$")
        # A run that is stopped does not replace the result.
        self.program("harness/vm", VM.replace('what = os.path', 'time.sleep(5); what = os.path'))
        run = self.start("kcsan")
        time.sleep(4)
        run.terminate()
        _, err = run.communicate(timeout=20)
        self.assertEqual(run.returncode, 130, err)
        self.assertEqual(self.read("results/kcsan.txt"), text)

    def test_after_parts(self):
        self.write("patches/series", "[fixes]\n0001-a.patch\n0002-b.patch\n[fence]\n0003-c.patch\n")
        for tree in ("series@0002", "series@0003"):
            self.git("branch", tree.replace("@", "-at-"), "series")
        self.program("harness/queue", "#!/bin/sh\ngit -C \"$BUILD/src\" rev-parse "
                     "refs/heads/$(echo $2 | sed s/@/-at-/)\n")
        out, _ = self.run_it("after-parts", status=1)
        self.assertRegex(out, r"^ok 1 - after fixes: one that warns on the base: clean #")
        self.assertRegex(out, r"\nok 2 - after fence: one that fails .*\nnot ok 3 - after fence: one that does not")
        self.assertEqual(self.read("kernels"), "rt base\nrt series@0002\nrt series@0003\n")

    def test_selftests(self):
        """Those of the series, if the tree does not have it; what did not change is kept."""
        self.run_it("retry", "--tree=base")
        program = os.path.join(self.root, "build/selftests/series/bin/x86/t__retry")
        time_before = os.stat(program).st_mtime_ns
        self.write("build/src/tools/testing/selftests/kvm/x86/t__new.c", "")
        os.unlink(os.path.join(self.root, "build/src/tools/testing/selftests/kvm/x86/t__pass.c"))
        self.git("add", "-A")
        self.git("commit", "-qm", "new")
        self.git("branch", "-f", "series")
        out, _ = self.run_it("--selftest", "t__new", status=4)
        self.assertEqual(out, "alone: t__new rt series\n")
        self.assertEqual(os.stat(program).st_mtime_ns, time_before)
        source = "build/selftests/series/src/tools/testing/selftests/kvm/x86/"
        self.assertFalse(os.path.exists(os.path.join(self.root, source, "t__pass.c")))

    def test_refusals(self):
        for words, args, env in (
                ("no scenario 'warn'; near it: warns", ["warn"], {}),
                ("no scenario is given", [], {}), ("unknown option '--what'", ["--what"], {}),
                ("unknown argument 'x'", ["kselftest", "x"], {}), ("TEST= is empty", ["--selftest", ""], {}),
                ("no selftest 't__pas'; near it: x86/t__pass", ["--selftest", "t__pas"], {}),
                ("no selftest 'x86/nope'", ["kselftest"], {"ONLY": "x86/nope"}),
                ("NPT=2", ["kselftest"], {"NPT": "2"}), ("FLAVOUR=x", ["kselftest"], {"FLAVOUR": "x"}),
                ("kernel failed", ["warns", "--tree=bad"], {}), ("unknown ARCH 'z80'", ["warns"], {"ARCH": "z80"}),
                ("unknown ARCH 'loongarch64' to run this on", ["warns"], {"ARCH": "loongarch64"}),
                ("no selftest 'x86/t__pass' for arm64", ["--selftest", "x86/t__pass"], {"ARCH": "arm64"}),
                ("no NPT=, with ARCH=arm64", ["kselftest"], {"ARCH": "arm64", "NPT": "0"}),
                ("CPUS=x", ["warns"], {"CPUS": "x"}), ("does not boot", ["warns"], {"NO_BOOT": "1"}),
                ("does not boot", ["kselftest"], {"NO_BOOT": "1"})):
            _, err = self.run_it(*args, status=2, **env)
            self.assertIn(words, err)
            self.assertEqual(len([x for x in err.splitlines() if not x.startswith("[")]), 1, err)
        self.assertFalse(os.path.exists(os.path.join(self.root, "results")))

    def test_mutate(self):
        self.mutants(not_ok="kunit suite.two", ok__1="kunit suite.two", complaint="kunit suite.two (complaint)",
                     hang="kunit suite.two (hang)", fail="selftest t__pass", base="base warns")
        self.git("branch", "-f", "series+gone", "series")
        self.write("harness/mutants/gone.patch", "Caught-by: kunit suite.two\n\ndiff --git a/x b/x\n")
        self.git("branch", "-D", "series+gone")
        self.program("harness/litmus", "#!/bin/sh\n")
        out, _ = self.mutate(status=1)
        text = self.read("results/mutants.txt")
        for line in ("caught not_ok by kunit suite.two #", "NOT CAUGHT ok-1 by kunit suite.two #",
                     "caught complaint by kunit suite.two (WARNING) #", "caught hang by kunit suite.two (hangs) #",
                     "NOT CAUGHT fail by selftest t__pass #", "NOT CAUGHT base by base warns #", "error gone: "):
            self.assertIn("\n" + line, text)
        self.assertRegex(text, r"^# .* make mutants,(.*\n)+3 caught, 3 not caught, 1 errors, in 0 min")
        self.assertEqual(out.splitlines()[-1], text.splitlines()[-1])
        out, _ = self.mutate("not_ok", "hang", "complaint", JOBS="2")
        self.assertIn("3 caught, 0 not caught", out)
        self.assertEqual(text, self.read("results/mutants.txt"))

    def test_mutate_arch(self):
        self.mutants(one="kunit suite.two")
        _, err = self.mutate(status=2, ARCH="arm64")
        self.assertIn("no mutant is for ARCH=arm64", err)
        self.write("harness/mutants/two.patch", "Caught-by: kunit suite.one\nArch: arm64\n\ndiff --git a/x b/x\n")
        _, err = self.mutate("two", status=2)
        self.assertIn("mutant 'two' is for ARCH=arm64", err)

    def test_arch(self):
        """Of the scenarios, those for ARCH, on its kernel, in files with its name."""
        self.write("harness/scenarios.toml", SCENARIOS.replace("[list]", """
[scenario.source]
title = "a program"
source = "t.c"
base = { status = 254 }
[scenario.here]
title = "only here"
source = "t.c"
arch = ["x86_64"]
[list]""").replace('demo = ["warns"', 'demo = ["source", "here"'))
        self.write("t.c", "int main(void) { return 0; }")
        self.program("cc/t-gcc", "#!/bin/sh\necho $* > $STUB/compiled\n")
        lib = self.read("harness/lib.sh")
        self.write("harness/lib.sh", lib.replace("compiler=${cross}gcc", f"compiler={self.root}/cc/t-gcc"))
        out, _ = self.run_it("source", "here", "warns", ARCH="arm64", MODE="nvhe")
        self.assertRegex(out, "^ok - rt-arm64-nvhe, series: only here # SKIP not for arm64\nok - .*warns.* # SKIP not for arm64\nok 1 - ")
        self.assertIn("t.c", self.read("compiled"))
        self.assertTrue(os.path.exists(f"{self.root}/build/runs/source-rt-arm64-nvhe-series.log"))
        # With protected KVM, the series does as the base does.
        out, _ = self.run_it("source", ARCH="arm64", MODE="protected", status=1)
        self.assertIn("expected status 254, got 0", out)
        out, _ = self.run_it("demo", ARCH="arm64")
        self.assertEqual(self.read("kernels").split("\n")[-3:-1], ["rt base", "rt series"])
        self.assertRegex(out, r"\narm64 +\| Linux 7.3.4 RT as is +\| with the series\n-+\na program +\| clean +\| clean\n")

    def test_mutate_matrix(self):
        self.mutants(not_ok="kunit suite.two")
        self.write("harness/mutants/not-needed", "# SUITE.CASE REASON\n")
        self.mutate(MATRIX="1", status=1)
        self.assertRegex(self.read("results/mutants-matrix.txt"),
                         r"\n   0  suite.one: no reason given\n   1  suite.two\n$")
        self.write("harness/mutants/not-needed", "suite.one  It cannot fail.\n")
        self.mutate(MATRIX="1")
        self.assertIn("0  suite.one: It cannot fail.", self.read("results/mutants-matrix.txt"))

    def test_mutate_resume(self):
        self.mutants(not_ok="kunit suite.two", slow="kunit suite.two")
        run = self.start(program="mutate")
        for _ in range(300):
            if "caught not_ok" in self.read("results/mutants.txt.partial"):
                break
            time.sleep(0.1)
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=20)
        self.assertEqual(run.returncode, 130, err)
        self.mutants(slow="kunit suite.one")
        self.program("harness/vm", VM.replace("sleep(1000)", "sleep(0)"))
        out, err = self.mutate(RESUME="1", status=1)
        self.assertRegex(out, "^NOT CAUGHT slow by .*\n1 caught, 1 not caught")
        self.assertIn("1 mutants were tried before", err)
        self.assertIn("caught not_ok", self.read("results/mutants.txt"))
        _, err = self.mutate(RESUME="1", status=2)
        self.assertIn("no run of the same mutants", err)

    def test_mutate_controls(self):
        self.mutants(not_ok="kunit suite.two")
        out, err = self.mutate(status=2, KUNIT="not ok")
        self.assertIn("without a mutant, suite.two does not pass either", err)
        self.assertEqual(out, "")
        for by, words in (("kunit", "there is no 'Caught-by: TEST'"), ("base what", "no scenario 'what'"),
                          ("litmus what, no barrier", "no variant 'what, no barrier'")):
            self.mutants(bad=by)
            _, err = self.mutate("bad", status=2)
            self.assertIn(words, err)

    def test_help(self):
        out, _ = self.run_it("--help")
        self.assertIn("SCENARIO", out)
        out, _ = self.run_it("--list")
        self.assertRegex(out, r"warns +one that warns on the base")

    def test_interrupted(self):
        self.write("results/kselftest-rt.txt", "whole\n")
        run = self.start("kselftest")
        logs = os.path.join(self.root, "build/kselftest/kselftest-rt/*.log")
        for _ in range(300):
            if any("vm: run t_hang" in self.read(x) for x in glob.glob(logs)):
                break
            time.sleep(0.1)
        time.sleep(1)
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=20)
        self.assertEqual(run.returncode, 130, err)
        self.assertEqual(self.read("results/kselftest-rt.txt"), "whole\n")
        text = self.read("results/kselftest-rt.txt.partial")
        self.assertEqual(self.row(text, "t_fail_fail")[1:3], ["fail", "-"])
        self.assertNotIn("t_hang_hang  ", text)
        self.assertFalse([x for x in subprocess.run(["pgrep", "-f", self.root], text=True, check=False,
                          stdout=subprocess.PIPE).stdout.split()])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
