#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Test harness/queue and harness/base on a small made-up kernel."""

import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

# Nothing but the standard library, which also starts faster.
TOOL = [sys.executable, "-S", str(pathlib.Path(__file__).resolve().parent.parent / "queue")]
WHO = "A. Sender <sender@example.org>"

KERNEL = {
    "Makefile": "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\nmrproper:\n",
    "Kbuild": "",
    ".gitignore": ".*\n*.o\n*~\n",
    "MAINTAINERS": "List\n====\n\nMaintainers List\n----------------\n\n"
                   "ACPI\nM:\tSome One <one@example.org>\nF:\tdrivers/acpi/\n\n"
                   "ZSWAP\nM:\tSome Two <two@example.org>\nF:\tmm/\n\n"
                   "MISPLACED\nS:\tMaintained\n\n"
                   "THE REST\nM:\tSome Three <three@example.org>\nF:\t*\n",
    "virt/kvm/main.c": "".join(f"int line{i};\n" for i in range(1, 41)),
    "virt/kvm/other.c": "int other;\nint more;\n",
    "virt/kvm/.gitignore": "*.o\n",
    "arch/x86/kvm/mmu.c": "int mmu;\nint last;\n",
    "kernel/sched/core.c": "int core;\n",
    "scripts/get_maintainer.pl": "#!/bin/sh\necho 'Some One <one@example.org> (maintainer:KVM)'\n"
                                 "case $* in *--no-l*) ;; *) echo 'kvm@example.org (open list:KVM)'"
                                 ";; esac\n",
    "drivers/big.c": "int big;\n",
    "tools/testing/selftests/kvm/old_test.c": "int old;\n",
    "include/kvm/old.h": "int old;\n",
}

PATCH1 = """Subject: [PATCH] KVM: main: Change the second line

It was wr\u00f6ng.

Fixes: 123456789abc ("KVM: Bug")
Signed-off-by: Other Person <other@example.org>
---
 virt/kvm/main.c | 2 +-

diff --git a/virt/kvm/main.c b/virt/kvm/main.c
--- a/virt/kvm/main.c
+++ b/virt/kvm/main.c
@@ -1,4 +1,4 @@
 int line1;
-int line2;
+int second;
 int line3;
 int line4;
@@ -37,4 +37,4 @@
 int line37;
 int line38;
-int line39;
+int last_but_one;
 int line40;
"""
PATCH2 = """Subject: [PATCH] KVM: new: Add a file

---

diff --git a/virt/kvm/other.c b/virt/kvm/other.c
--- a/virt/kvm/other.c
+++ b/virt/kvm/other.c
@@ -1,2 +1,3 @@
 int other;
+int hook;
 int more;
"""
PATCH3 = """Subject: [PATCH] KVM: new: Let it grow

More of it.
---
diff --git a/virt/kvm/new.c b/virt/kvm/new.c
--- a/virt/kvm/new.c
+++ b/virt/kvm/new.c
@@ -1,2 +1,3 @@
 int new;
+int grown;
 int end;
"""
PATCH4 = "Subject: [PATCH] KVM: selftests: Add a test\n\nTest it.\n---\n"
NEW_C = "int new;\nint grown;\nint end;\n"
TEST_SH = "#!/bin/sh\ntrue\n"
SECTION = ("KVM ON PREEMPT_RT\nL:\tkvm@vger.kernel.org\nS:\tMaintained\n"
           "F:\tvirt/kvm/new.c\n")
SERIES = """# The series.

[fixes]
0001-one.patch
0002-two.patch  virt/kvm/new.c
0003-three.patch
[tests]
0004-four.patch
\ttools/testing/selftests/kvm/new_test.sh MAINTAINERS
"""


class QueueTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # One root after init and tree, which every test gets a copy of.
        cls.tmp = pathlib.Path(tempfile.mkdtemp(prefix="queue-test."))
        cls.addClassCleanup(shutil.rmtree, cls.tmp)
        cls.top = cls.tmp / "top"
        cls.env = {k: v for k, v in os.environ.items()
                   if not k.startswith("GIT_") and k != "EMAIL"}
        cls.env |= {"GIT_CONFIG_GLOBAL": str(cls.tmp / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_EDITOR": "true"}
        (cls.tmp / "gitconfig").write_text(
            "[user]\nname = A. Sender\nemail = sender@example.org\n"
            # What must not get into anything.
            "[diff]\nnoprefix = true\ncontext = 1\n[format]\nsignOff = true\n"
            "[apply]\nwhitespace = error\n")
        cls.root = cls.top
        cls.write("../kernel", KERNEL)
        (cls.tmp / "kernel/scripts/get_maintainer.pl").chmod(0o755)
        cls.write("", {
            ".gitignore": "/build/\n/out/\n", "README": "A repository.\n",
            "harness/tool.c": "int tool;\n", "patches/series": SERIES,
            "patches/0001-one.patch": PATCH1, "patches/0002-two.patch": PATCH2,
            "patches/0003-three.patch": PATCH3, "patches/0004-four.patch": PATCH4,
            "virt/kvm/new.c": NEW_C, "MAINTAINERS": SECTION,
            "tools/testing/selftests/kvm/new_test.sh": TEST_SH})
        (cls.top / "tools/testing/selftests/kvm/new_test.sh").chmod(0o755)
        cls.git("init", "-q", "-b", "main")
        cls.git("add", ".")
        cls.git("commit", "-q", "-m", "Root")
        cls.base(cls.tmp / "kernel")
        # No package is fetched for merging.
        cls.git("update-ref", "refs/queue/pinned", "base", where="build/src")
        cls.ok("tree")

    def setUp(self):
        type(self).root = self.tmp / "root"
        # The worktree has its absolute path, so always the same one.
        shutil.copytree(self.top, self.root, symlinks=True)
        self.addCleanup(shutil.rmtree, self.root)
        for file in ("build/linux/.git", "build/src/.git/worktrees/linux.new/gitdir"):
            text = (self.root / file).read_text()
            (self.root / file).write_text(text.replace(str(self.top), str(self.root)))

    @classmethod
    def write(cls, where, files):
        for path, text in files.items():
            path = cls.root / where / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    @classmethod
    def sh(cls, *args, where="", env=None, stdin=None):
        run = subprocess.run(args, cwd=cls.root / where, env=cls.env | (env or {}), check=False,
                             input=stdin, capture_output=True, text=True)
        return run.returncode, run.stdout, run.stderr

    @classmethod
    def tool(cls, *args, env=None):
        return cls.sh(*TOOL, *args, env={"QUEUE_ROOT": str(cls.root),
                                             "BUILD": str(cls.root / "build")} | (env or {}))

    @classmethod
    def base(cls, linux, build="build", args=(), fails=0):
        """harness/base puts the kernel into build/src; what it says."""
        code, out, err = cls.sh(os.path.join(os.path.dirname(TOOL[2]), "base"), *args, env={
            "BUILD": str(cls.root / build), "LINUX": str(linux), "STAGE_FD": "2"})
        assert code == fails, (code, out, err)
        return out + err

    @classmethod
    def ok(cls, *args, env=None):
        code, out, err = cls.tool(*args, env=env)
        assert (code, err) == (0, ""), (args, code, out, err)
        return out

    @classmethod
    def git(cls, *args, where="", **kw):
        code, out, err = cls.sh("git", *args, where=where, **kw)
        assert code == 0, (args, code, out, err)
        return out.strip()

    def linux(self, *args, **kw):
        return self.git(*args, where="build/linux", **kw)

    def src(self, *args, **kw):
        return self.git(*args, where="build/src", **kw)

    def tree(self, rev="refs/queue/assembled"):
        return self.src("rev-parse", rev + "^{tree}")

    def read(self, path):
        return (self.root / path).read_text()

    def files(self):
        """All of the root but build/, and what git knows in there."""
        found = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if not name.startswith(("build", ".git/")) and path.is_file():
                found[name] = (path.stat().st_mode, path.read_bytes())
        for where in "build/src", "build/linux":
            if (self.root / where / ".git").exists():
                head, *status = self.git("status", "--porcelain=v2", "--branch",
                                         where=where).split("\n")
                found[where + " HEAD"], found[where] = head, status
        return found

    def refused(self, *args, says, env=None):
        """It says so in one line, and changes nothing."""
        before = self.files()
        code, _, err = self.tool(*args, env=env)
        self.assertEqual(code, 1, err)
        self.assertRegex(err, r"\Aqueue: [^\n]+\n\Z")
        for text in says:
            self.assertIn(text, err)
        self.assertEqual(before, self.files())

    def canonical(self):
        """Bring patches/ into the form that refresh writes."""
        self.ok("refresh")
        return self.files()

    def edit(self, path, old, new, where="build/linux/"):
        text = self.read(where + path)
        self.assertIn(old, text)
        self.write(where, {path: text.replace(old, new)})

    def rebase(self, script):
        """git rebase -i, with the list of commits changed by this sed script."""
        self.linux("rebase", "-q", "-i", "base", env={"GIT_SEQUENCE_EDITOR": f"sed -i '{script}'"})

    def patches(self):
        return sorted(x.name for x in (self.root / "patches").iterdir())

    def round_trip(self):
        """refresh gives the trees of the branch, and is stable."""
        trees = self.linux("log", "--format=%T", "base..series")
        out = self.ok("refresh")
        self.ok("assemble")
        self.assertEqual(trees, self.src("log", "--format=%T", "base..refs/queue/assembled"))
        before = self.files()
        self.ok("refresh")
        self.ok("tree")
        self.ok("refresh")
        after = self.files()
        before.pop("build/linux HEAD")
        after.pop("build/linux HEAD")
        self.assertEqual(before, after)
        return out

    # What it does

    def test_assemble(self):
        self.assertEqual(self.src("log", "--format=%s", "refs/queue/assembled"),
                         "KVM: selftests: Add a test\nKVM: new: Let it grow\nKVM: new: Add a file\n"
                         "KVM: main: Change the second line\nLinux 7.3.4")
        show = lambda n, path: self.src("show", f"refs/queue/assembled~{n}:{path}")
        self.assertEqual(show(2, "virt/kvm/new.c"), "int new;\nint end;")
        self.assertEqual(show(1, "virt/kvm/new.c") + "\n", NEW_C)
        self.assertIn("int last_but_one;", show(3, "virt/kvm/main.c"))
        self.assertNotIn("RT", show(1, "MAINTAINERS"))
        self.assertIn('\n\nKVM ON PREEMPT_RT\nM:\t"A. Sender" <sender@example.org>\nL:\tkvm@vger.'
                      "kernel.org\nS:\tMaintained\nF:\tvirt/kvm/new.c\n\nZSWAP\n",
                      show(0, "MAINTAINERS"))
        self.assertEqual(self.src("ls-tree", "refs/queue/assembled", "tools/testing/selftests/"
                                  "kvm/new_test.sh").split()[0], "100755")
        self.assertEqual(self.src("log", "-1", "--format=%an <%ae>", "refs/queue/assembled"), WHO)

    def test_deterministic(self):
        tip = self.src("rev-parse", "refs/queue/assembled")
        self.src("update-ref", "-d", "refs/queue/assembled")
        self.assertEqual(self.ok("assemble"), "")
        self.assertEqual(tip, self.src("rev-parse", "refs/queue/assembled"))

    def test_rev(self):
        tip = self.src("rev-parse", "refs/queue/assembled")
        self.assertEqual(self.ok("rev", "series").strip(), tip)
        self.assertEqual(self.ok("rev", "base").strip(), self.src("rev-parse", "base"))
        self.assertEqual(self.ok("rev", "series@0001").strip(),
                         self.src("rev-list", "--reverse", f"base..{tip}").split()[0])
        self.refused("rev", "series@0009", says=["no patch 0009"])
        self.refused("rev", "next", says=["unknown TREE 'next'", "series@NNNN, and maybe +NAME"])
        self.refused("rev", "base@0001", says=["unknown TREE 'base@0001'"])
        # A patch on top, which is not part of the series.
        self.refused("rev", "series+more", says=["no harness/*/more.patch"])
        diff = "--- a/virt/kvm/new.c\n+++ b/virt/kvm/new.c\n@@ -1,3 +1,4 @@\n%s+int more;\n"
        lines = "".join(" " + line for line in NEW_C.splitlines(True))
        self.write("harness/extra", {"more.patch": diff % lines})
        rev = self.ok("rev", "series+more").strip()
        self.assertEqual(self.src("rev-parse", rev + "~"), tip)
        self.assertIn("int more;", self.src("show", rev + ":virt/kvm/new.c"))
        most = diff % (lines + "+int most;\n")
        self.write("harness/extra", {"most.patch": most.replace("1,3 +1,4", "1,4 +1,5")
                                     .replace("+int more", " int more")})
        rev = self.ok("rev", "series+more+most").strip()
        self.assertEqual(self.src("rev-parse", rev + "~2"), tip)
        self.assertIn("int most;", self.src("show", rev + ":virt/kvm/new.c"))
        self.refused("rev", "series+most", says=["most.patch does not apply"])
        # It may be on top of other trees, too, if it applies.
        first = self.src("rev-list", "--reverse", f"base..{tip}").split()[0]
        self.refused("rev", "base+more", says=["more.patch does not apply"])
        self.write("harness/extra", {"for-base.patch":
                                     "--- /dev/null\n+++ b/virt/kvm/x.c\n@@ -0,0 +1 @@\n+int x;\n"})
        for tree, onto in (("base", self.src("rev-parse", "base")), ("series@0001", first)):
            rev = self.ok("rev", tree + "+for-base").strip()
            self.assertEqual(self.src("rev-parse", rev + "~"), onto)
        # A file that stands beside the patch.
        self.write("harness/extra", {"brings.patch": "Brings: virt/kvm/brought.c\n\n"
                                     "diff --git a/virt/kvm/new.c b/virt/kvm/new.c\n" + diff % lines})
        self.refused("rev", "series+brings", says=["virt/kvm/brought.c is not beside it"])
        self.write("harness/extra", {"brought.c": "int brought;\n"})
        rev = self.ok("rev", "series+brings").strip()
        self.assertEqual(self.src("diff", "--name-only", tip, rev).split(),
                         ["virt/kvm/brought.c", "virt/kvm/new.c"])
        self.assertIn("int brought;", self.src("show", rev + ":virt/kvm/brought.c"))
        self.write("harness/extra", {"more.patch": diff % lines.replace("end", "other")})
        self.refused("rev", "series+more", says=["more.patch does not apply"])
        self.assertEqual(self.src("rev-parse", "refs/queue/assembled"), tip)

    def test_checkout(self):
        src = self.root / "build/src"
        times = lambda: {x: (src / x).stat().st_mtime_ns for x in KERNEL}
        before = times()
        self.ok("checkout", "series")
        self.assertEqual({x for x in KERNEL if times()[x] != before[x]},
                         {"virt/kvm/main.c", "virt/kvm/other.c", "MAINTAINERS"})
        self.assertEqual((src / "virt/kvm/new.c").read_text(), NEW_C)
        self.ok("check")
        self.ok("checkout", "base")
        self.assertFalse((src / "virt/kvm/new.c").exists())
        for path, text in KERNEL.items():
            self.assertEqual((src / path).read_text(), text)

    def test_tree(self):
        self.assertEqual(self.read("build/linux/virt/kvm/new.c"), NEW_C)
        self.assertEqual(self.read("build/linux/drivers/big.c"), KERNEL["drivers/big.c"])
        self.assertEqual(self.linux("rev-parse", "--abbrev-ref", "HEAD"), "series")
        self.assertEqual(self.linux("status", "--porcelain"), "")
        before = self.files()
        self.ok("tree")
        self.assertEqual(before, self.files())
        # An edit of the root gets there.
        self.write("", {"virt/kvm/new.c": NEW_C.replace("end", "END")})
        self.edit("0003-three.patch", "int end", "int END", "patches/")
        self.ok("tree")
        self.assertIn("END", self.read("build/linux/virt/kvm/new.c"))
        # So does one in build/src at the other end of the series.
        self.ok("checkout", "series")
        shutil.rmtree(self.root / "build/linux")
        self.ok("tree")
        self.assertEqual(self.linux("status", "--porcelain"), "")

    def test_round_trip(self):
        before = self.files()
        self.assertIn("4 commits taken back", self.ok("refresh"))
        after = self.files()
        same = [x for x in before if not x.startswith("patches")]
        self.assertEqual({x: before[x] for x in same}, {x: after[x] for x in same})
        self.assertEqual(self.patches(), [
            "0001-KVM-main-Change-the-second-line.patch", "0002-KVM-new-Add-a-file.patch",
            "0003-KVM-new-Let-it-grow.patch", "0004-KVM-selftests-Add-a-test.patch", "series"])
        self.assertEqual(self.read("patches/series"), """# The series.

[fixes]
0001-KVM-main-Change-the-second-line.patch
0002-KVM-new-Add-a-file.patch  virt/kvm/new.c
0003-KVM-new-Let-it-grow.patch
[tests]
0004-KVM-selftests-Add-a-test.patch
\tMAINTAINERS
\ttools/testing/selftests/kvm/new_test.sh
""")
        self.assertEqual(self.read("patches/0004-KVM-selftests-Add-a-test.patch"), PATCH4)
        one = self.read("patches/0001-KVM-main-Change-the-second-line.patch")
        self.assertIn(PATCH1.partition("---")[0] + "---\n\ndiff --git a/virt/kvm/main.c "
                      "b/virt/kvm/main.c\nindex ", one)
        self.round_trip()

    def test_reorder(self):
        self.canonical()
        self.rebase("1{h;d};2{G}")
        self.round_trip()
        self.assertEqual(self.patches()[:2], ["0001-KVM-new-Add-a-file.patch",
                                              "0002-KVM-main-Change-the-second-line.patch"])
        self.assertIn("0001-KVM-new-Add-a-file.patch", self.read("patches/series"))

    def test_amend_drop_and_sign(self):
        self.canonical()
        self.rebase("/new: Add/d;/Let it grow/d")
        self.assertFalse((self.root / "build/linux/virt/kvm/new.c").exists())
        self.edit("tools/testing/selftests/kvm/new_test.sh", "true", "false")
        self.linux("commit", "-q", "-a", "--amend", "-m", "KVM: selftests: Reworded\n\nWhy.\n\n"
                   f"Reviewed-by: Other <o@example.org>\nSigned-off-by: {WHO}")
        out = self.round_trip()
        self.assertIn("0002-KVM-selftests-Reworded.patch: new", out)
        self.assertEqual(self.patches(), ["0001-KVM-main-Change-the-second-line.patch",
                                          "0002-KVM-selftests-Reworded.patch", "series"])
        self.assertIn("false", self.read("tools/testing/selftests/kvm/new_test.sh"))
        self.assertFalse((self.root / "virt").exists())
        self.assertEqual(self.read("patches/0002-KVM-selftests-Reworded.patch"),
                         "Subject: [PATCH] KVM: selftests: Reworded\n\nWhy.\n\n"
                         "Reviewed-by: Other <o@example.org>\n---\n")

    def test_reword_keeps_part(self):
        self.linux("commit", "-q", "--amend", "-m", "KVM: selftests: Reworded")
        self.assertIn("in part [tests]", self.round_trip())

    def test_new_commits(self):
        self.canonical()
        self.linux("reset", "-q", "--hard", "HEAD~")
        self.write("build/linux", {"include/kvm/thing.h": "int thing;\n"})
        self.linux("add", "include/kvm/thing.h")
        self.edit("virt/kvm/new.c", "int end", "int thing")
        self.edit("arch/x86/kvm/mmu.c", "int last", "int x")
        self.linux("commit", "-q", "-a", "-m", "KVM: thing\n\nAdd it.")
        self.linux("cherry-pick", "refs/queue/tree")
        self.assertIn("KVM-thing.patch: new, in part [fixes]", self.round_trip())
        self.assertEqual(self.read("include/kvm/thing.h"), "int thing;\n")
        self.assertIn("int thing", self.read("virt/kvm/new.c"))
        self.assertIn("[fixes]\n0001-KVM-main-Change-the-second-line.patch\n"
                      "0002-KVM-new-Add-a-file.patch  virt/kvm/new.c\n"
                      "0003-KVM-new-Let-it-grow.patch\n"
                      "0004-KVM-thing.patch  include/kvm/thing.h\n[tests]\n0005-",
                      self.read("patches/series"))
        self.assertIn("+int thing", self.read("patches/0004-KVM-thing.patch"))

    def test_maintainers(self):
        self.edit("MAINTAINERS", "S:\tMaintained\nF:\tvirt", "S:\tSupported\nF:\tvirt")
        self.edit("MAINTAINERS", "F:\tdrivers/acpi/", "F:\tdrivers/acpi/\nF:\tmore/")
        self.linux("commit", "-q", "-a", "--amend", "--no-edit")
        # Upstream's sections may change after that, too.
        self.edit("MAINTAINERS", "F:\tmm/", "F:\tmm/zswap.c")
        self.linux("commit", "-q", "-a", "-m", "MAINTAINERS: zswap")
        self.round_trip()
        self.assertEqual(self.read("MAINTAINERS"), SECTION.replace("Maintained", "Supported"))
        patch = self.read("patches/0004-KVM-selftests-Add-a-test.patch")
        self.assertIn("+F:\tmore/", patch)
        self.assertNotIn("Sender", patch)

    def test_nobody_then_somebody(self):
        nobody = {"GIT_CONFIG_GLOBAL": os.devnull}
        self.ok("tree", env=nobody)
        self.assertIn("M:\tnobody <nobody@localhost>", self.linux("show", "HEAD:MAINTAINERS"))
        self.ok("refresh", env=nobody)
        before = self.files()
        self.ok("refresh")
        self.assertEqual(before, self.files())

    def test_mails(self):
        self.ok("mails")
        self.assertEqual(sorted(os.listdir(self.root / "out")), [
            "0001-KVM-main-Change-the-second-line.patch", "0002-KVM-new-Add-a-file.patch",
            "0003-KVM-new-Let-it-grow.patch", "0004-KVM-selftests-Add-a-test.patch"])
        mail = self.read("out/0002-KVM-new-Add-a-file.patch")
        self.assertIn('From: "A. Sender" <sender@example.org>\n', mail)
        self.assertIn("Subject: [PATCH 2/4] KVM: new: Add a file\n", mail)
        self.assertEqual(mail.count(f"Signed-off-by: {WHO}\n"), 1)
        self.assertIn("\nnew file mode 100644\n", mail)
        # On a pristine kernel they give the same tree.
        self.src("checkout", "-q", "--detach", "base")
        self.src("config", "user.name", "Somebody")
        self.src("config", "user.email", "some@example.org")
        mails = sorted(str(x) for x in (self.root / "out").iterdir())
        self.src("am", "-q", *mails)
        self.assertEqual(self.tree("HEAD"), self.tree())
        self.assertEqual(self.src("log", "-1", "--format=%an <%ae>"), WHO)

    def test_mails_part(self):
        self.ok("mails")
        self.ok("mails", "tests")
        self.assertEqual(os.listdir(self.root / "out"), ["0001-KVM-selftests-Add-a-test.patch"])
        self.assertIn("Subject: [PATCH] KVM: selftests", self.read(
            "out/0001-KVM-selftests-Add-a-test.patch"))
        self.write("patches/cover", {"fixes": "KVM: Why\n\nBecause.\n"})
        self.ok("mails", "fixes")
        self.assertEqual(len(os.listdir(self.root / "out")), 4)
        letter = self.read("out/0000-cover-letter.patch")
        self.assertIn("\nSubject: [PATCH 0/3] KVM: Why\n", letter)
        self.assertIn("\n\nBecause.\n\nBase: ", letter)
        self.assertIn('("Linux 7.3.4")\n\nA. Sender (3):\n  KVM: main: Change', letter)
        self.assertIn('From: "A. Sender" <sender@example.org>\n', letter)
        self.refused("mails", "other", says=["'other'", "fixes, tests"])

    def embargo(self):
        """Patch 1 in a part of its own."""
        self.write("patches", {"series": SERIES.replace("[fixes]\n0001-one.patch",
                                                        "[security]\n0001-one.patch\n[fixes]")})
        self.write("patches/cover", {"security": "KVM: A bug\n\nReport.\n",
                                     "all": "KVM: More\n\nText.\n"})

    def test_security(self):
        self.embargo()
        out = self.ok("mails", "security", env={"OUT": "sec"})
        self.assertIn("security-bugs.rst", out)
        self.assertEqual(sorted(os.listdir(self.root / "sec")), [
            "0000-cover-letter.patch", "0001-KVM-main-Change-the-second-line.patch"])
        letter, mail = (self.read("sec/" + x) for x in sorted(os.listdir(self.root / "sec")))
        base = self.src("rev-parse", "base")
        self.assertIn("\nSubject: [PATCH 0/1] KVM: A bug\n", letter)
        self.assertIn(f"\nbase-commit: {base}\n", letter)
        self.assertNotIn("prerequisite-patch-id", letter)
        for text in letter, mail:
            self.assertIn("\nTo: Some One <one@example.org>\nCc: security@kernel.org\n", text)
        self.assertIn("may be sent before patch 1", self.ok("mails"))
        mails = sorted(os.listdir(self.root / "out"))
        self.assertEqual(mails[:2], ["0000-cover-letter.patch", "0001-KVM-new-Add-a-file.patch"])
        self.assertEqual(len(mails), 4)
        patch_id = self.src("patch-id", "--stable", stdin=mail).split()[0]
        letter = self.read("out/0000-cover-letter.patch")
        self.assertIn(f"\nbase-commit: {base}\nprerequisite-patch-id: {patch_id}\n", letter)
        self.assertIn("\nSubject: [PATCH 0/3] KVM: More\n", letter)
        self.assertIn("\nTo: Some One <one@example.org>\nCc: kvm@example.org\n", letter)
        # git am of the first, then of the others, is the series.
        self.ok("am", "sec", "out")
        self.refused("am", "out", says=["another tree", "virt/kvm/main.c"])
        self.refused("am", "sec", says=["another tree", "virt/kvm/new.c"])
        self.refused("am", "patches", says=["git am"])
        self.refused("am", "none", says=["No such file", "none"])
        self.refused("am", "patches/cover", says=["no mails in patches/cover"])
        self.assertIn("may be sent before", self.ok("mails", "tests"))
        self.assertIn(f"\nprerequisite-patch-id: {patch_id}\nprerequisite-patch-id: ", self.read(
            "out/0001-KVM-selftests-Add-a-test.patch"))
        series = self.read("patches/series").replace("[security]", "[x]").replace("[tests]",
                                                                                   "[security]")
        self.write("patches", {"series": series})
        self.refused("check", says=["[security] must be the first part"])
        self.write("patches", {"series": series.replace("[security]", "[x]")})
        self.refused("check", says=["part [x] is there twice"])
        self.write("patches", {"series": series.replace("[security]", "# text")})
        self.refused("check", says=["comments", "at the top"])

    def test_security_commits(self):
        """No other commit becomes part of it, or comes before it."""
        self.embargo()
        self.ok("tree")
        self.rebase("1{h;d};2{G}")
        self.refused("refresh", says=["[security] must be the first part"])
        self.linux("reset", "-q", "--hard", "refs/queue/tree~3")
        self.edit("arch/x86/kvm/mmu.c", "int last", "int x")
        self.linux("commit", "-q", "-a", "-m", "KVM: More")
        self.linux("cherry-pick", "refs/queue/tree~3..refs/queue/tree")
        self.assertIn("0002-KVM-More.patch: new, in part [fixes]", self.ok("refresh"))
        self.assertIn("[security]\n0001-KVM-main", self.read("patches/series"))

    def test_mails_version(self):
        self.ok("mails", "-v", "3", "--rfc", "--in-reply-to", "<first@example.org>", "fixes")
        mail = self.read("out/v3-0001-KVM-main-Change-the-second-line.patch")
        self.assertIn("\nSubject: [RFC PATCH v3 1/3] KVM", mail)
        self.assertIn("\nIn-Reply-To: <first@example.org>\n", mail)
        # The directory is its own.
        self.ok("mails", "tests")
        self.assertEqual(len(os.listdir(self.root / "out")), 1)
        self.assertNotEqual(self.tool("mails", "-v", "three")[0], 0)

    def test_other_base(self):
        """The kernel is another one: merge, with what is known of the pinned one."""
        self.canonical()
        self.src("bundle", "create", "-q", str(self.tmp / "pinned"), "base")
        kernel = self.tmp / "other"
        shutil.copytree(self.tmp / "kernel", kernel)
        self.addCleanup(shutil.rmtree, kernel)
        main = kernel / "virt/kvm/main.c"
        main.write_text(main.read_text().replace("line4;", "four;"))
        for text, says in (
                ("int line36;", None),
                ("int line39;", ["0001-KVM-main", "virt/kvm/main.c", "hunk 1 of 2"])):
            main.write_text(main.read_text().replace(text, "int another;"))
            shutil.rmtree(self.root / "build")
            self.base(kernel)
            self.src("fetch", "-q", str(self.tmp / "pinned"), "base:refs/queue/pinned")
            code, out, err = self.tool("rev", "series")
            self.assertIn("hunk 1 of 2 (line 1) does not apply: trying to merge", err)
            if says:
                self.assertEqual(code, 1)
                for text in says:
                    self.assertIn(text, err.splitlines()[-1])
            else:
                self.assertEqual(code, 0, err)
                text = self.src("show", out.strip() + ":virt/kvm/main.c")
                self.assertIn("int second;\nint line3;\nint four;\n", text)

    def test_base(self):
        self.assertIn(f"base: Linux 7.3.4, {self.src('rev-parse', '--short=12', 'base')}, not the "
                      "pinned linux-source-", self.base("", args=["--pinned"], fails=1))
        self.assertEqual(self.base(self.tmp / "kernel"), "")
        # What it made itself: it is left alone, or its base is used.
        self.ok("checkout", "series")
        for linux in "build/src", "build/linux":
            self.assertIn("without LINUX=", self.base(self.root / linux, fails=1))
            self.base(self.root / linux, "build/two")
            for rev in "rev-parse base", "rev-parse HEAD":
                self.assertEqual(self.git(*rev.split(), where="build/two/src"),
                                 self.src("rev-parse", "base"))
            shutil.rmtree(self.root / "build/two")
        # What a run that was stopped has left; all files, whatever .gitignore says.
        kernel = self.tmp / "third"
        shutil.copytree(self.tmp / "kernel", kernel)
        self.addCleanup(shutil.rmtree, kernel)
        (kernel / "some~").write_text("text")
        self.write("build/two/base/src.new", {"half": "made"})
        self.base(kernel, "build/two")
        self.assertEqual(sorted(os.listdir(self.root / "build/two/base")), [".lock", "err"])
        self.assertEqual(self.git("ls-tree", "base", "some~", "half", where="build/two/src")[-5:],
                         "some~")
        # The same files, the same commit.
        (kernel / "some~").unlink()
        shutil.rmtree(self.root / "build/two")
        self.base(kernel, "build/two")
        self.assertEqual(self.git("rev-parse", "base", where="build/two/src"),
                         self.src("rev-parse", "base"))
        # Made by an older version.
        self.src("update-ref", "-d", "refs/queue/base")
        self.assertIn("run 'make clean'", self.base(self.tmp / "kernel", fails=1))
        self.refused("check", says=["older version", "run 'make clean'"])

    def test_concurrent(self):
        with open(self.root / "build/.lock.queue", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            run = subprocess.Popen([*TOOL, "rev", "base"], stdout=subprocess.PIPE, text=True,
                                   cwd=self.root,
                                   env=self.env | {"QUEUE_ROOT": str(self.root), "BUILD": str(self.root / "build")})
            with self.assertRaises(subprocess.TimeoutExpired):
                run.wait(1)
        self.assertEqual(run.communicate()[0], self.src("rev-parse", "base") + "\n")

    # What it refuses

    def test_refuse_mails(self):
        self.refused("mails", says=["git config user.name"],
                     env={"GIT_CONFIG_GLOBAL": os.devnull})
        self.write("out", {"notes.txt": "mine\n"})
        self.refused("mails", says=["out", "notes.txt"])

    def test_refuse_patch_that_does_not_apply(self):
        self.edit("0001-one.patch", "-int line39", "-int line77", "patches/")
        self.refused("check", says=["0001-one.patch", "virt/kvm/main.c", "hunk 2 of 2"])
        self.refused("tree", says=["0001-one.patch", "virt/kvm/main.c", "hunk 2 of 2"])

    def test_refuse_hunk_that_does_not_reverse(self):
        self.write("", {"virt/kvm/new.c": NEW_C.replace("grown", "shrunk")})
        self.refused("check", says=["0003-three.patch", "virt/kvm/new.c", "hunk 1 of 1",
                                    "not reverse"])

    def test_refuse_claims(self):
        series = self.read("patches/series")
        self.write("patches", {"series": series.replace("  virt/kvm/new.c", "")})
        self.refused("check", says=["virt/kvm/new.c", "no patch"])
        self.write("patches", {"series": series.replace(" MAINTAINERS", "")})
        self.refused("check", says=["MAINTAINERS", "no patch"])
        self.write("patches", {"series": series.replace("-one.patch", "-one.patch virt/kvm/new.c")})
        self.refused("check", says=["virt/kvm/new.c", "0001-one.patch", "0002-two.patch"])
        self.write("patches", {"series": series.replace("[tests]", "\tvirt/kvm/lost.c\n[tests]")})
        self.refused("check", says=["virt/kvm/lost.c", "0003-three.patch", "root"])
        self.write("patches", {"series": series})
        self.write("", {"virt/kvm/stray.c": "int stray;\n"})
        self.ok("check")
        self.git("add", "virt")
        self.refused("check", says=["virt/kvm/stray.c", "no patch"])

    def test_refuse_places(self):
        series = self.read("patches/series")
        self.write("patches", {"series": series + "\tharness/tool.c\n"})
        self.refused("check", says=["harness/tool.c", "directory"])
        for path in "virt/kvm/other.c", "drivers/big.c":
            self.write("", {path: "int twice;\n"})
            self.write("patches", {"series": series + f"\t{path}\n"})
            self.refused("check", says=[path, "exists upstream"])
        self.write("patches", {"series": series})
        self.write("", {"MAINTAINERS": "ACPI\nS:\tMaintained\n"})
        self.refused("check", says=["'ACPI'", "exists upstream"])
        self.write("", {"MAINTAINERS": "Just text\n"})
        self.refused("check", says=["not a section", "Just text"])

    def test_refuse_diffs(self):
        header = "diff --git a/{0} b/{0}\n"
        for path, diff, says in (
                ("virt/kvm/x.c", "new file mode 100644\n--- /dev/null\n+++ b/virt/kvm/x.c\n"
                 "@@ -0,0 +1 @@\n+int x;\n", "root"),
                ("virt/kvm/y.c", "--- a/virt/kvm/y.c\n+++ b/virt/kvm/y.c\n"
                 "@@ -1 +1 @@\n-int x;\n+int y;\n", "does not exist"),
                ("virt/kvm/new.c", "--- a/virt/kvm/new.c\n+++ b/virt/kvm/new.c\n"
                 "@@ -1 +1 @@\n-int x;\n+int y;\n", "0002-two.patch")):
            self.write("patches", {"0001-one.patch": PATCH1 + header.format(path) + diff})
            self.refused("check", says=["0001-one.patch", path, says])
        self.write("patches", {"0001-one.patch": PATCH1 + header.format("virt/kvm/main.c")})
        self.refused("check", says=["0001-one.patch", "two diffs of virt/kvm/main.c"])
        self.write("patches", {"0001-one.patch": PATCH1 + "diff --git a/virt/a b/virt/b\n"})
        self.refused("check", says=["0001-one.patch", "renames"])
        self.write("patches", {"0001-one.patch": PATCH1.replace("diff --git", "diff")})
        self.refused("check", says=["0001-one.patch", "'diff --git'"])
        self.write("patches", {"0001-one.patch": "From: Some One <x@example.org>\n" + PATCH1})
        self.refused("check", says=["0001-one.patch", "Subject"])
        self.write("patches", {"0001-one.patch": "Subject: [PATCH] x\n\nNothing.\n---\n"})
        self.refused("check", says=["0001-one.patch", "no diff"])

    def test_refuse_lists(self):
        self.write("patches", {"0009-nine.patch": PATCH1})
        self.refused("check", says=["0009-nine.patch", "does not name"])
        (self.root / "patches/0009-nine.patch").unlink()
        series = self.read("patches/series")
        self.write("patches", {"series": series + "0001-one.patch\n"})
        self.refused("check", says=["0001-one.patch", "twice"])
        self.write("patches", {"series": "\tvirt/kvm/new.c\n" + series})
        self.refused("check", says=["patches/series", "no patch"])
        (self.root / "patches/series").unlink()
        self.refused("check", says=["patches/series is missing"])
        self.write("patches", {"series": series})
        self.edit("series", "0001-one", "0008-eight", "patches/")
        self.refused("check", says=["0008-eight.patch", "does not have"])

    def test_refuse_no_src(self):
        shutil.move(self.root / "build/src", self.root / "build/gone")
        shutil.rmtree(self.root / "build/linux")
        for command in (["check"], ["assemble"], ["tree"], ["refresh"], ["mails"],
                        ["checkout", "base"]):
            self.refused(*command, says=["build/src is missing", "make base"])

    def test_refuse_no_linux(self):
        shutil.rmtree(self.root / "build/linux")
        self.refused("refresh", says=["build/linux is missing", "make tree"])
        (self.root / "build/linux").mkdir()
        self.refused("tree", says=["build/linux", "move it away"])

    def test_refuse_checkout(self):
        self.edit("virt/kvm/main.c", "line7", "LINE7", "build/src/")
        self.refused("checkout", "series", says=["build/src", "virt/kvm/main.c"])

    def test_refuse_dirty_linux(self):
        self.edit("virt/kvm/main.c", "line7", "LINE7")
        for command in "tree", "refresh":
            self.refused(command, says=["build/linux", "virt/kvm/main.c", "no commit"])
        self.linux("commit", "-q", "-a", "-m", "KVM: Line 7")
        self.refused("tree", says=["make refresh", "reset --keep refs/queue/tree"])
        shutil.move(self.root / "build/linux", self.root / "build/moved")
        self.refused("tree", says=["make refresh", "branch -D series"])
        shutil.move(self.root / "build/moved", self.root / "build/linux")
        self.write("build/linux", {"virt/kvm/forgotten.c": "int f;\n"})
        self.refused("refresh", says=["virt/kvm/forgotten.c", "git add"])
        (self.root / "build/linux/virt/kvm/forgotten.c").unlink()
        self.ok("refresh")
        self.ok("tree")

    def test_refuse_ongoing(self):
        code, _, _ = self.sh("git", "rebase", "-q", "-x", "false", "base", where="build/linux")
        self.assertNotEqual(code, 0)
        for command in "tree", "refresh":
            self.refused(command, says=["build/linux", "rebase", "abort"])
        self.linux("rebase", "--abort")
        self.linux("checkout", "-q", "--detach")
        self.refused("refresh", says=["checkout series"])

    def test_refuse_commits(self):
        def check(*says):
            self.refused("refresh", says=says)
            self.linux("reset", "-q", "--hard", "refs/queue/tree")

        self.linux("checkout", "-q", "-b", "side", "HEAD~2")
        self.linux("commit", "-q", "--allow-empty", "-m", "side")
        self.linux("checkout", "-q", "series")
        self.linux("merge", "-q", "-m", "A merge", "side")
        check("A merge", "linear")
        self.linux("commit", "-q", "--allow-empty", "-m", "An empty one")
        check("An empty one", "changes nothing")
        self.linux("rm", "-q", "virt/kvm/new.c")
        self.linux("commit", "-q", "-m", "Remove")
        check("(Remove)", "virt/kvm/new.c")
        self.write("build/linux", {"NOTES": "x\n"})
        self.linux("add", "NOTES")
        self.linux("commit", "-q", "-m", "Notes")
        check("(Notes)", "NOTES", "directory")
        self.edit("virt/kvm/main.c", "line7", "LINE7")
        self.linux("commit", "-q", "-a", "-m", "Cut\n\nText\n---\nMore text")
        check("(Cut)", "changelog")
        self.write("build/linux", {"virt/kvm/odd name.c": "x\n"})
        self.linux("add", "virt/kvm/odd name.c")
        self.linux("commit", "-q", "-m", "Odd")
        check("(Odd)", "odd name.c")
        (self.root / "build/linux/virt/kvm/link.c").symlink_to("new.c")
        self.linux("add", "virt/kvm/link.c")
        self.linux("commit", "-q", "-m", "Link")
        check("virt/kvm/link.c", "regular")
        self.write("build/linux", {"virt/kvm/other.c": "binary \0\n"})
        self.linux("commit", "-q", "-a", "-m", "Binary")
        check("virt/kvm/other.c")
        self.linux("reset", "-q", "--hard", "base")
        check("no commits")
        self.linux("checkout", "-q", "--orphan", "other")
        self.linux("commit", "-q", "-m", "Root")
        self.linux("branch", "-q", "-M", "series")
        check("begin at base")

    def test_refuse_maintainers(self):
        def check(*says):
            self.refused("refresh", says=says)
            self.linux("reset", "-q", "--hard", "refs/queue/tree")

        self.edit("MAINTAINERS", "F:\tvirt/kvm/new.c", "F:\tvirt/kvm/new*")
        self.linux("commit", "-q", "-a", "-m", "Later")
        check("(Later)", "whole")
        self.edit("MAINTAINERS", 'M:\t"A. Sender" <sender@example.org>\n', "")
        self.linux("commit", "-q", "-a", "--amend", "--no-edit")
        check("'KVM ON PREEMPT_RT'", "M:")
        text = self.linux("show", "HEAD:MAINTAINERS") + "\n"
        section = text[text.index("KVM ON"):text.index("ZSWAP")]
        self.write("build/linux", {"MAINTAINERS": text.replace(section, "") + "\n" + section[:-1]})
        self.linux("commit", "-q", "-a", "--amend", "--no-edit")
        check("MAINTAINERS", "alphabetical")

    def test_refuse_changed_root(self):
        self.canonical()
        self.edit("virt/kvm/new.c", "int end", "int mine")
        self.linux("commit", "-q", "-a", "-m", "KVM: Mine")
        # Whether or not the root's git knows of the change.
        self.edit("virt/kvm/new.c", "int end;", "int end;\nint theirs;", "")
        self.refused("refresh", says=["virt/kvm/new.c", "rebase refs/queue/assembled"])
        self.git("commit", "-q", "-a", "-m", "Theirs")
        self.refused("refresh", says=["virt/kvm/new.c", "rebase refs/queue/assembled"])
        self.write("", {"virt/kvm/new.c": self.read("build/linux/virt/kvm/new.c")})
        self.ok("refresh")
        # The way which the refusal shows.
        self.edit("virt/kvm/main.c", "line7", "LINE7")
        self.linux("commit", "-q", "-a", "-m", "KVM: Line 7")
        self.edit("0001-KVM-main-Change-the-second-line.patch", "wr\u00f6ng", "bad", "patches/")
        self.refused("refresh", says=["0001-KVM-main", "git -C build/linux rebase"])
        self.linux("rebase", "-q", "refs/queue/assembled")
        self.round_trip()
        self.assertIn("bad", self.read("patches/0001-KVM-main-Change-the-second-line.patch"))
        # A file which the root has on its own.
        self.write("", {"virt/kvm/own.c": "int own;\n"})
        self.write("build/linux", {"virt/kvm/own.c": "int new;\n"})
        self.linux("add", "virt/kvm/own.c")
        self.linux("commit", "-q", "-m", "KVM: Own")
        self.refused("refresh", says=["virt/kvm/own.c"])

    def test_interrupted_refresh(self):
        """Stopped anywhere, it leaves patches/ as they were or complete."""
        self.canonical()
        self.rebase("1{h;d};2{G}")
        old = {x: self.read("patches/" + x) for x in self.patches()}
        source = self.src("rev-parse", "refs/queue/source")
        start = time.monotonic()
        self.ok("refresh")
        took = time.monotonic() - start
        new = {x: self.read("patches/" + x) for x in self.patches()}
        for share in (0.5, 0.7, 0.8, 0.85, 0.9, 0.95):
            shutil.rmtree(self.root / "patches")
            self.write("patches", old)
            self.src("update-ref", "refs/queue/source", source)
            run = subprocess.Popen([*TOOL, "refresh"], stderr=subprocess.DEVNULL, cwd=self.root,
                                   env=self.env | {"QUEUE_ROOT": str(self.root), "BUILD": str(self.root / "build")})
            try:
                run.wait(share * took)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.wait()
            now = {x: self.read("patches/" + x) for x in self.patches()}
            self.assertIn(now, (old, new))
        self.ok("refresh")
        self.assertEqual(new, {x: self.read("patches/" + x) for x in self.patches()})


if __name__ == "__main__":
    unittest.main()
