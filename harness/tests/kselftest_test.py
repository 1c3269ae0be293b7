#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""kselftest, with a vm that only pretends: what becomes of tests that pass,
fail, are skipped, never end, or take the guest with them."""

import os
import shutil
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

VM = r"""#!/usr/bin/env python3
import os, sys, time
log = open(os.environ["LOG"], "a")
now = 10.0
def kernel(text):
    log.write(f"[{now:12.6f}] {text}\r\n")
    log.flush()
def say(text):
    print(text, flush=True)
if os.environ.get("NO_BOOT"):
    print("vm: no boot in 300 s", file=sys.stderr)
    sys.exit(101)
kernel("vm: booted")
overlay = os.environ["OVERLAY"]
for path in os.environ["RUN"].split():
    name = os.path.basename(path)
    limit = int(open(f"{overlay}/limit.d/{name}").read())
    does = name.split("_")[1 + (os.environ["TREE"] == "series")]
    kernel(f"vm: run {name}")
    say(f"vm: run {name}")
    rc = 0
    now += 2
    if does == "busy":
        with open(path + ".tries", "a+") as tries:
            tries.write("x")
            tries.seek(0)
            does = "pass" if len(tries.read()) == 3 else "fail"
    if does == "fail":
        say("==== Test Assertion Failure ====\n  x86/t.c:12: one == two\n  pid=1")
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
    elif does == "abort" and not os.path.exists(path + ".tried"):
        open(path + ".tried", "w").close()
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


class Kselftest(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)
        harness = os.path.join(self.root, "harness")
        shutil.copytree(HARNESS, harness)
        for name, text in (("vm", VM), ("kernel", "#!/bin/sh\n"), ("selftests", "#!/bin/sh\n")):
            self.program(os.path.join(harness, name), text)
        os.makedirs(os.path.join(self.root, "build", "src"))
        self.write("build/src/.base", "linux 7.3\n")
        for tree in ("base", "series"):
            for name in [*TESTS, *["t__pass", "t__fail", "t__busy"] * (tree == "series")]:
                self.program(os.path.join(self.root, "build/selftests", tree, "bin/x86", name), "")
        self.write("harness/kselftest.tests", "x86/t_hang_hang 1\nx86/t_pass_timeout 5 -a 'b c'\n"
                   "some x86/t_pass_*\nagain x86/t__busy x86/t_pass_fail\n")

    def write(self, path, text):
        with open(os.path.join(self.root, path), "w", encoding="utf-8") as file:
            file.write(text)

    def program(self, path, text):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def run_it(self, path="results/kselftest-rt.txt", **env):
        env = {k: v for k, v in os.environ.items() if k not in ("BUILD", "FLAVOUR", "ONLY", "NPT")} \
            | {"GRACE": "1"} | env
        done = subprocess.run([os.path.join(self.root, "harness/kselftest")], env=env, text=True,
                              stderr=subprocess.PIPE, timeout=100, check=False)
        path = os.path.join(self.root, path)
        if not os.path.exists(path):
            return done, ""
        with open(path, encoding="utf-8") as file:
            return done, file.read()

    def row(self, text, name):
        return next(x for x in text.splitlines() if x.startswith(f"x86/{name} ")).split()

    def test_all(self):
        done, text = self.run_it()
        self.assertEqual(done.returncode, 1, done.stderr)
        for name in TESTS:
            base, series = ("died" if x in ("die", "hang") else "pass" if x in ("warn", "lockdep",
                            "late", "abort") else x for x in name.split("_")[1:])
            self.assertEqual([x.strip(",") for x in self.row(text, name)[1:3]], [base, series])
        worse = text[text.index("Worse"):text.index("\ntest ")]
        self.assertEqual(sorted(x.split(":")[0].strip()[4:] for x in worse.splitlines()[1:] if x),
                         ["t__fail", "t_pass_die", "t_pass_fail", "t_pass_timeout", "t_pass_warn"])
        self.assertEqual(self.row(text, "t__pass")[1:3], ["-", "pass"])
        self.assertEqual(self.row(text, "t__busy")[1:5], ["-", "pass,", "try", "3"])
        self.assertEqual(self.row(text, "t_pass_fail")[2:5], ["fail,", "try", "3"])
        self.assertEqual(self.row(text, "t_warn_pass")[-3:], ["1", "WARNING", "-"])
        self.assertEqual(self.row(text, "t_late_pass")[-3:], ["1", "WARNING", "-"])
        self.assertRegex(text, r"t_fail_fail +fail +x86/t.c:12: one == two")
        self.assertRegex(text, r"t_skip_skip +skip +Requirement not met: has_cow\(\)")
        self.assertRegex(text, r"t_hang_hang +died +the guest hung")
        self.assertRegex(text, r"t_die_die +died +the guest went down")
        self.assertRegex(text, r"series: .*t_warn_warn \(1\)")

    def test_nothing_worse(self):
        done, text = self.run_it("build/kselftest/kselftest-rt.txt",
                                 ONLY="t_pass_pass x86/t_warn_pass t_fail_fail")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Nothing is worse", text)
        self.assertNotIn("t_pass_fail", text)

    def test_some(self):
        done, text = self.run_it("results/kselftest-std-nonpt.txt", FLAVOUR="std", NPT="0")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("kvm_amd.npt=0", text)
        self.assertNotIn("t_fail_fail", text)

    def test_refusals(self):
        for words, env in (("no selftest 'x86/nope'", {"ONLY": "x86/nope"}), ("NPT=2", {"NPT": "2"}),
                           ("does not boot", {"NO_BOOT": "1"}), ("FLAVOUR=x", {"FLAVOUR": "x"})):
            done, _ = self.run_it(**env)
            self.assertNotIn(done.returncode, (0, 1), done.stderr) if env.get("NO_BOOT") else None
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)

    def test_interrupted(self):
        env = {k: v for k, v in os.environ.items() if k not in ("BUILD", "FLAVOUR", "NPT")} | \
            {"ONLY": "t_fail_fail t_hang_hang"}
        run = subprocess.Popen([os.path.join(self.root, "harness/kselftest")], env=env, text=True,
                               stderr=subprocess.PIPE)
        while "vm: run t_hang" not in self.log():
            time.sleep(0.1)
        time.sleep(1)
        run.terminate()
        self.assertEqual(run.wait(20), 130, run.stderr.read())
        run.stderr.close()
        with open(os.path.join(self.root, "build/kselftest/kselftest-rt.txt.partial"),
                  encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(self.row(text, "t_fail_fail")[1:3], ["fail", "-"])
        self.assertNotIn("t_hang_hang  ", text)

    def log(self):
        try:
            with open(os.path.join(self.root, "build/kselftest/kselftest-rt/base-1.log"),
                      encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
