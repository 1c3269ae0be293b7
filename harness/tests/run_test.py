#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""run.py and mutate, with stubs of vm and of what builds kernels: what becomes of programs
that pass, fail, are skipped, do not end, or end the guest; expectations; what is built;
what is refused."""

import glob
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest

HARNESS = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))

# A selftest's name says what it does: t_BASE_SERIES. Behind it, what it comes to, and if
# that is worse on the series; those of the second line are new in the series.
TESTS = """t_pass_pass t_pass_fail:worse t_fail_pass t_fail_fail t_skip_skip t_pass_timeout:worse
    t_die_die t_pass_die:worse t_hang_hang t_warn_warn t_warn_pass t_pass_warn:worse t_lockdep_pass
    t_late_pass t_abort_abort t_fail_kill:worse""".split()
NEW = "t__pass t__fail:worse t__sly:worse t__busy t__retry t__logged t__cases".split()
OUTCOME = {"die": "died", "hang": "died", "kill": "died", "warn": "pass, 1 WARNING", "late": "pass, 1 WARNING",
           "lockdep": "pass", "abort": "pass", "busy": "pass", "retry": "pass", "logged": "pass", "cases": "pass",
           "sly": "fail"}

VM = r"""#!/usr/bin/env python3
import os, sys, time
WARNING = "WARNING: mmu.c:920 at __kvm_rmap_lock+0x1/0x2, CPU#1: t/1\n---[ end trace 0 ]---"
# What programs print, and their status.
DOES = {
    "fail": ("==== Test Assertion Failure ====\n  x86/t.c:12: one == two\n pid\nnot ok 1 a.case", 254),
    "skip": ("1..0 # SKIP - Requirement not met: has_cow()", 4),
    "sly": ("SKIP it isn't", 1),
    "cases": ("ok 1 one.case\nok 2 two.case # SKIP no reason\n# result: did it", 0),
    "retry": ("vCPU 0: rip 0xffffffff81000000", 1), "logged": ("no reason", 1), "timeout": ("", 137), "kill": ("bye", 139)}
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
    if does in ("retry", "logged") and first(does) > 1:
        does = "pass"
    if does == "logged":
        kernel("vCPU 0: rip 0xffffffff81000000")
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

with open(os.path.join(HARNESS, "tests/run.toml"), "rb") as file:
    DATA = tomllib.load(file)



class Run(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        shutil.copytree(HARNESS, f"{self.root}/harness",
                        ignore=shutil.ignore_patterns("mutants", "__pycache__"))
        demo = re.search(r"\[demo\.trees\].*?(?=\n\[list\])",
                         self.read("harness/scenarios.toml"), re.S)
        self.write("harness/scenarios.toml", DATA["scenarios"] + demo[0])
        self.write("harness/vm", VM)
        self.shell("".join(f"touch_test {x.split(':')[0]}\n" for x in TESTS) + "commit base\n" +
                   "".join(f"touch_test {x.split(':')[0]}\n" for x in NEW) + "commit series\n",
                   DATA["setup"])

    def write(self, path, text):
        os.makedirs(os.path.dirname(f"{self.root}/{path}"), exist_ok=True)
        with open(f"{self.root}/{path}", "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, path):
        try:
            with open(f"{self.root}/{path}", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def shell(self, commands, before=""):
        subprocess.run(["bash", "-ec", DATA["functions"] + before + commands], cwd=self.root,
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self, run):
        """In its tree, with no environment but what is said in front of it."""
        words = shlex.split(run)
        env = dict(x.split("=", 1) for x in itertools.takewhile(lambda x: "=" in x, words))
        program, *args = words[len(env):]
        ours = {x: os.environ[x] for x in ("HOME", "MAKEFLAGS", "MAKELEVEL") if x in os.environ}
        env = ours | {"GRACE": "1", "STUB": self.root} | env | {
            "PATH": f"{self.root}/cc:{os.environ['PATH']}"}
        return subprocess.Popen([f"{self.root}/harness/{program}", *args], cwd=self.root,
                                env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def has(self, text, patterns):
        for x in patterns:
            with self.subTest(pattern=x):
                self.assertRegex(text, x)

    def check(self, run, before="", status=0, says=(), files=(), after=""):
        """As run.toml says."""
        with self.subTest(run=run):
            self.shell(before)
            process = self.start(run)
            out, err = process.communicate(timeout=100)
            self.assertEqual(process.returncode, status, out + err)
            self.has(out + err, says)
            for path, patterns in dict(files).items():
                self.has(self.read(path), patterns)
            self.shell(after)

    def test_checks(self):
        for checks in DATA["test"].values():
            self.setUp()
            for check in checks:
                self.check(**check)

    def test_refusals(self):
        for run, words in DATA["refusals"].items():
            # One line, but for the stages.
            self.check(run, status=2, says=[rf"^(\[.*\n)*run.py: .*{words}.*\n$"])
        self.assertFalse(glob.glob(f"{self.root}/results/*.txt"))

    def test_kselftest(self):
        self.check("run.py kselftest", status=1, says=[r"\n7 worse on the series"])
        text = self.read("results/kselftest-rt.txt")
        for test in TESTS + NEW:
            name, _, worse = test.partition(":")
            base, series = ("-" if not x else OUTCOME.get(x, x) for x in name.split("_")[1:])
            self.assertRegex(text, rf"\nx86/{name} +{base} +{series} ")
            self.assertEqual(bool(re.search(f"\nnot ok .*{name}:", text)), bool(worse), name)
        self.has(text, DATA["kselftest"])

    def stop(self, args, path, text, number):
        """Send it a signal when the file has the text: nothing must be left."""
        run = self.start(args)
        for _ in range(300):
            if any(text in self.read(os.path.relpath(x, self.root))
                   for x in glob.glob(f"{self.root}/{path}")):
                break
            time.sleep(0.1)
        else:
            self.fail(f"no '{text}' in {path}")
        run.send_signal(number)
        _, err = run.communicate(timeout=20)
        self.assertEqual(run.returncode, 130, err)
        left = subprocess.run(["pgrep", "-f", self.root], stdout=subprocess.PIPE, check=False)
        self.assertEqual(left.stdout, b"")

    def test_interrupted(self):
        """There is what has ended, and the last whole result is kept."""
        self.write("results/kselftest-rt.txt", "whole\n")
        self.stop("run.py kselftest", "build/kselftest/kselftest-rt/*.log", "vm: run t_hang",
                  signal.SIGTERM)
        self.assertEqual(self.read("results/kselftest-rt.txt"), "whole\n")
        self.has(self.read("results/kselftest-rt.txt.partial"), [
            "\nok .* base: x86/t_fail_fail: 1 of 1", "(?s)^((?!t_hang_hang).)*$"])

    def test_check_interrupted(self):
        sleeps = f"sh -c 'sleep 1000; : {self.root}'"
        self.write("harness/checks.toml",
                   f'kcsan = [["good", "true"], ["slow", "echo one; {sleeps} & {sleeps}"]]')
        self.stop("check kcsan", "build/kcsan/2.log", "one", signal.SIGINT)
        self.has(self.read("results/kcsan.txt.partial"), [r"\nok 1 - good # 0 s\n$"])

    def test_mutate_resume(self):
        self.shell("mutant not_ok kunit suite.two; mutant slow kunit suite.two")
        self.stop("mutate", "results/mutants.txt.partial", "caught not_ok", signal.SIGINT)
        for check in DATA["resume"]:
            self.check(**check)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
