#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Test harness/queue and harness/base on a small made-up kernel."""

import difflib
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HARNESS = pathlib.Path(__file__).resolve().parent.parent
WHO = "A. Sender <sender@example.org>"
# For all scripts below, which run at the root. Without site-packages, Python starts faster.
COMMANDS = f"""
queue() {{ {sys.executable} -S {HARNESS}/queue "$@"; }}
base() {{ {HARNESS}/base "$@"; }}
src() {{ git -C build/src "$@"; }}
linux() {{ git -C build/linux "$@"; }}
commit() {{ linux add -A; linux commit -q "$@"; }}
reorder() {{ linux -c sequence.editor="sed -i '$1'" rebase -q -i base; }}
# All of the root but build/, and what git knows in there.
state()
{{
	find . -path ./build -prune -o -path ./.git -prune -o -type f -printf '%m ' -exec sha1sum {{}} +
	for tree in build/src build/linux; do
		[ ! -d $tree ] || git -C $tree status --porcelain 2>&1 || true
		[ ! -d $tree ] || git -C $tree rev-parse HEAD 2>&1 || true
	done
}}
"""


def diff(path, *change):
    old, new = (text.splitlines(True) for text in change)
    return f"diff --git a/{path} b/{path}\n" + "".join(
        difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"))


MAIN, NEW = "virt/kvm/main.c", "virt/kvm/new.c"
TEST = "tools/testing/selftests/kvm/new_test.sh"
KERNEL = {
    "Makefile": "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n",
    "Kbuild": "", ".gitignore": ".*\n!.gitignore\n*.o\n*~\n",
    "MAINTAINERS": "List\n====\n\nACPI\nM:\tOne <one@example.org>\nF:\tdrivers/acpi/\n\n"
                   "ZSWAP\nM:\tTwo <two@example.org>\n\nMISPLACED\nS:\tMaintained\n\n"
                   "THE REST\nM:\tThree <three@example.org>\nF:\t*\n",
    MAIN: "".join(f"int line{i};\n" for i in range(1, 41)),
    "virt/kvm/other.c": "int other;\nint more;\n", "arch/x86/kvm/mmu.c": "int mmu;\nint last;\n",
    "drivers/big.c": "int big;\n", "include/kvm/old.h": "int old;\n",
    "tools/testing/selftests/kvm/old_test.c": "int old;\n",
    "scripts/get_maintainer.pl": "#!/bin/sh\necho 'Some One <one@example.org> (maintainer:KVM)'\n"
                                 "case $* in *--no-l*) ;; *) echo 'kvm@example.org (open list:KVM)'"
                                 ";; esac\n",
}
NEW_C = "int new;\nint grown;\nint end;\n"
SECTION = f"KVM ON PREEMPT_RT\nL:\tkvm@vger.kernel.org\nS:\tMaintained\nF:\t{NEW}\n"
PATCH1 = ("Subject: [PATCH] KVM: main: Change the second line\n\nIt was wr\u00f6ng.\n\n"
          'Fixes: 123456789abc ("KVM: Bug")\nSigned-off-by: Other <other@example.org>\n---\n'
          " virt/kvm/main.c | 2 +-\n\n" + diff(MAIN, KERNEL[MAIN], KERNEL[MAIN].replace(
              "line2;", "second;").replace("line39;", "last_but_one;")))
ROOT = {
    ".gitignore": "/build/\n/out/\n", "harness/tool.c": "int tool;\n", NEW: NEW_C,
    TEST: "#!/bin/sh\ntrue\n", "MAINTAINERS": SECTION,
    "patches/series": f"# The series.\n\n[fixes]\n0001-one.patch\n0002-two.patch  {NEW}\n"
                      f"0003-three.patch\n[tests]\n0004-four.patch\n\t{TEST} MAINTAINERS\n",
    "patches/0001-one.patch": PATCH1,
    "patches/0002-two.patch": "Subject: [PATCH] KVM: new: Add a file\n\n---\n" + diff(
        "virt/kvm/other.c", KERNEL["virt/kvm/other.c"], "int other;\nint hook;\nint more;\n"),
    "patches/0003-three.patch": "Subject: [PATCH] KVM: new: Let it grow\n\nMore of it.\n---\n" +
                                diff(NEW, "int new;\nint end;\n", NEW_C),
    "patches/0004-four.patch": "Subject: [PATCH] KVM: selftests: Add a test\n\nTest it.\n---\n",
}
SERIES = ROOT["patches/series"]
ONE, FOUR = "0001-KVM-main-Change-the-second-line.patch", "0004-KVM-selftests-Add-a-test.patch"


class QueueTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = pathlib.Path(tempfile.mkdtemp(prefix="queue-test."))
        cls.addClassCleanup(shutil.rmtree, cls.tmp)
        cls.root = cls.tmp / "root"
        cls.env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") and k != "EMAIL"}
        cls.env.pop("BASE", None)
        cls.env |= {"GIT_CONFIG_GLOBAL": f"{cls.tmp}/gitconfig", "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_EDITOR": "true", "QUEUE_ROOT": str(cls.root), "STAGE_FD": "2",
                    "BUILD": f"{cls.root}/build", "LINUX": f"{cls.tmp}/kernel"}
        cls.write({"../kernel/" + path: text for path, text in KERNEL.items()} | ROOT)
        cls.write({"../gitconfig": "[user]\nname = A. Sender\nemail = sender@example.org\n"
                   # What must not get into anything.
                   "[diff]\nnoprefix = true\ncontext = 1\n[format]\nsignOff = true\n"
                   "[apply]\nwhitespace = error\n"})
        # No package is fetched for merging.
        cls.sh(f"chmod +x {TEST} ../kernel/scripts/*; git init -q -b main; git add .; "
               "git commit -q -m Root; base; src update-ref refs/queue/pinned base; queue tree")
        # Every test gets a copy, at the same path, which the worktree has.
        cls.root.rename(cls.tmp / "saved")

    def setUp(self):
        self.sh("rm -rf root; cp -a saved root", cwd=self.tmp)

    @classmethod
    def write(cls, files):
        for path, text in files.items():
            path = cls.root / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    @classmethod
    def sh(cls, script, fails=0, cwd=None):
        run = subprocess.run(["bash", "-euc", COMMANDS + script], cwd=cwd or cls.root, env=cls.env,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        out = run.stdout.decode().strip()
        assert run.returncode == fails, (script, run.returncode, out)
        return out

    def same(self, script, count=2):
        """It prints the same name of git's some times."""
        out = self.sh(script).split()
        self.assertEqual(out, out[:1] * count)

    def read(self, path):
        return (self.root / path).read_text(encoding="utf-8")

    def contains(self, path, *texts):
        for text in texts:
            self.assertIn(text, self.read(path))

    def unchanged(self, script):
        before = self.sh("state")
        self.sh(script)
        self.assertEqual(before, self.sh("state"))

    def refused(self, command, says):
        """It says so in one line, and changes nothing."""
        before = self.sh("state")
        out = self.sh("queue " + command, fails=1)
        self.assertRegex(out, r"\Aqueue: [^\n]+\Z")
        self.assertIn(says, out)
        self.assertEqual(before, self.sh("state"))

    def round_trip(self):
        """refresh gives the trees of the branch, and then refresh and tree change nothing."""
        trees = self.sh("linux log --format=%T base..series")
        out = self.sh("queue refresh")
        self.assertEqual(trees, self.sh("src log --format=%T base..$(queue rev series)"))
        self.unchanged("queue refresh")
        self.sh("queue tree")
        self.unchanged("queue refresh; queue tree")
        return out

    def test_refusals(self):
        text = self.read(HARNESS / "tests/queue.data")
        rows = re.findall(r"^(\w[^:\n]*): (.*)\n((?:\t.*\n)*)", text, re.M)
        for commands, says, script in rows:
            for command in commands.split(", "):
                with self.subTest(f"{command}: {says}"):
                    self.setUp()
                    self.sh(script)
                    self.refused(command, says)
        self.setUp()
        self.sh("touch virt/kvm/stray.c; queue check")      # git does not know it.

    # From patches to commits

    def test_assemble(self):
        self.same("src update-ref -d refs/queue/assembled; queue rev series; "
                  "src rev-parse refs/queue/tree refs/queue/assembled", 3)
        self.assertEqual(self.sh("src log --format='%an <%ae> %s' base..series").split("\n"), [
            f"{WHO} KVM: selftests: Add a test", f"{WHO} KVM: new: Let it grow",
            f"{WHO} KVM: new: Add a file", f"{WHO} KVM: main: Change the second line"])
        upstream, main = KERNEL["MAINTAINERS"], KERNEL[MAIN].replace("line2;", "second;")
        section = SECTION.replace("\n", '\nM:\t"A. Sender" <sender@example.org>\n', 1)
        for rev, text in ((f"series~2:{NEW}", "int new;\nint end;\n"), (f"series~1:{NEW}", NEW_C),
                          (f"series~3:{MAIN}", main.replace("line39;", "last_but_one;")),
                          ("series~1:MAINTAINERS", upstream),
                          ("series:MAINTAINERS", upstream.replace("ZSWAP", section + "\nZSWAP"))):
            self.assertEqual(self.sh(f"src show {rev}"), text.strip())
        self.assertIn("100755", self.sh(f"src ls-tree series {TEST}"))
        # By nobody, and then by somebody.
        self.sh("export GIT_CONFIG_GLOBAL=/dev/null; queue tree; queue refresh")
        self.contains("build/linux/MAINTAINERS", "M:\tnobody <nobody@localhost>")
        self.unchanged("queue refresh")

    def test_rev(self):
        self.same("queue rev base; src rev-parse base")
        self.same("queue rev series@0001; src rev-parse series~3")
        # Patches on top, which are not part of the series, with a file that stands beside one.
        more, most = NEW_C + "int more;\n", NEW_C + "int more;\nint most;\n"
        extra = {"more.patch": "Brings: virt/brought.c\n\n" + diff(NEW, NEW_C, more),
                 "brought.c": "int brought;\n",
                 "most.patch": diff(NEW, more, most).partition("\n")[2],
                 "x.patch": "--- /dev/null\n+++ b/virt/x.c\n@@ -0,0 +1 @@\n+int x;\n"}
        self.write({"harness/extra/" + name: text for name, text in extra.items()})
        rev = self.sh("queue rev series+more+most")
        self.same(f"src rev-parse {rev}~2 series")
        self.assertEqual(self.sh(f"src show {rev}:virt/brought.c {rev}:{NEW}"),
                         f"int brought;\n{most}".strip())
        self.assertEqual(self.sh(f"src diff --name-only series {rev}"), f"virt/brought.c\n{NEW}")
        for tree in "series+most", "base+more":
            self.refused("rev " + tree, "does not apply")
        for tree in "base", "series@0001":
            self.same(f"queue rev {tree}; src rev-parse $(queue rev {tree}+x)~")
        self.same("src rev-parse refs/queue/assembled series")

    def test_checkout(self):
        times = lambda: {x: (self.root / "build/src" / x).stat().st_mtime_ns for x in KERNEL}
        before = times()
        self.sh("queue checkout series; queue check")
        self.assertEqual({x for x in KERNEL if times()[x] != before[x]},
                         {MAIN, "virt/kvm/other.c", "MAINTAINERS"})
        self.contains("build/src/" + NEW, NEW_C)
        self.sh("queue checkout base")
        self.assertFalse((self.root / "build/src" / NEW).exists())
        self.assertEqual({x: self.read("build/src/" + x) for x in KERNEL}, KERNEL)

    def test_concurrent(self):
        with open(self.root / "build/.lock.queue", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.sh("export -f queue; timeout 1 bash -c 'queue rev base'", fails=124)
        self.sh("queue rev base")

    # build/linux, and back

    def test_tree(self):
        self.contains("build/linux/" + NEW, NEW_C)
        self.assertEqual(self.sh("linux branch --show; linux status --porcelain"), "series")
        self.unchanged("queue tree")
        # An edit of the root gets there, also if it is made anew.
        self.sh(f"sed -i s/end/END/ {NEW} patches/0003*; queue tree")
        self.contains("build/linux/" + NEW, "END")
        self.sh("queue checkout series; rm -r build/linux; queue tree")
        self.assertEqual(self.sh("linux status --porcelain"), "")

    def test_round_trip(self):
        self.assertIn("4 commits taken back", self.sh("queue refresh"))
        self.assertEqual(self.sh("git status --porcelain | grep -v patches/ || true"), "")
        text = ROOT["patches/series"].replace(f"{TEST} MAINTAINERS", f"MAINTAINERS\n\t{TEST}")
        for old, new in (("0001-one.patch", ONE), ("0002-two", "0002-KVM-new-Add-a-file"),
                         ("0003-three", "0003-KVM-new-Let-it-grow"), ("0004-four.patch", FOUR)):
            text = text.replace(old, new)
        self.assertEqual(self.read("patches/series"), text)
        self.assertEqual(self.sh("ls patches").split(), [*re.findall("0.*patch", text), "series"])
        self.assertEqual(self.read("patches/" + FOUR), ROOT["patches/0004-four.patch"])
        self.contains("patches/" + ONE, PATCH1.partition("---")[0] + "---\n\ndiff --git a/virt/kvm"
                      "/main.c b/virt/kvm/main.c\nindex ")
        self.round_trip()

    def test_reorder(self):
        self.sh("reorder '1{h;d};2{G}'")
        self.round_trip()
        self.contains("patches/series", f"[fixes]\n0001-KVM-new-Add-a-file.patch  {NEW}\n0002-KVM")

    def test_amend_drop_and_sign(self):
        self.sh(f"reorder '/ new: /d'; sed -i s/true/false/ build/linux/{TEST}; commit --amend "
                f"-m Reworded -m Why. -m 'Reviewed-by: O <o@example.org>\nSigned-off-by: {WHO}'")
        self.assertIn("0002-Reworded.patch: new", self.round_trip())
        self.assertEqual(self.sh("ls patches").split(), [ONE, "0002-Reworded.patch", "series"])
        self.assertEqual(self.read("patches/0002-Reworded.patch"), "Subject: [PATCH] Reworded\n\n"
                         "Why.\n\nReviewed-by: O <o@example.org>\n---\n")
        self.contains(TEST, "false")
        self.assertFalse((self.root / "virt").exists())

    def test_new_commits(self):
        self.sh("linux commit -q --amend -m 'KVM: Reworded'")
        self.assertIn("in part [tests]", self.round_trip())
        self.sh("linux reset -q --hard HEAD~; echo 'int thing;' > build/linux/include/kvm/thing.h; "
                f"sed -i 's/int end/int thing/' build/linux/{NEW}; commit -m 'KVM: thing' -m X; "
                "linux cherry-pick refs/queue/tree")
        self.assertIn("KVM-thing.patch: new, in part [fixes]", self.round_trip())
        self.contains("include/kvm/thing.h", "int thing;\n")
        self.contains(NEW, "int thing")
        self.contains("patches/series", "0004-KVM-thing.patch  include/kvm/thing.h\n[tests]\n0005")
        self.contains("patches/0004-KVM-thing.patch", "+int thing")

    def test_maintainers(self):
        self.sh("sed -i '/KVM ON/,/^$/s/Main/MAIN/' build/linux/MAINTAINERS; commit --amend -m x")
        self.round_trip()
        self.assertEqual(self.read("MAINTAINERS"), SECTION.replace("Main", "MAIN"))

    def test_changed_root(self):
        self.sh(f"queue refresh; sed -i s/end/mine/ build/linux/{NEW}; commit -m 'KVM: Mine'")
        # Whether or not the root's git knows of the change.
        for script in f"echo >> {NEW}", "git commit -q -a -m Theirs":
            self.sh(script)
            self.refused("refresh", f"{NEW}: run 'git -C build/linux rebase refs/queue/assembled'")
        self.sh(f"cp build/linux/{NEW} {NEW}; queue refresh")
        # The way which the refusal shows.
        self.sh(f"sed -i s/line7/X/ build/linux/{MAIN}; commit -m x; sed -i s/wr/WR/ patches/0001*")
        self.refused("refresh", f"patches/{ONE}: run 'git -C build/linux rebase")
        self.sh("linux rebase -q refs/queue/assembled")
        self.round_trip()
        self.contains("patches/" + ONE, "WR\u00f6ng")

    def test_interrupted_refresh(self):
        """Stopped anywhere, it leaves patches/ and each new file as they were or complete."""
        look = lambda: (self.sh("md5sum patches/*"), self.read(NEW))
        self.sh(f"queue refresh; sed -i s/end/mine/ build/linux/{NEW}; commit --amend -m Mine; "
                "rm -rf ../old; cp -a . ../old")
        old, start = look(), time.monotonic()
        self.sh("queue refresh")
        took, new = time.monotonic() - start, look()
        for share in (0.5, 0.7, 0.8, 0.85, 0.9, 0.95):
            self.sh("rm -rf root; cp -a old root", cwd=self.tmp)
            self.sh(f"export -f queue; timeout -s KILL {share * took} bash -c 'queue refresh' || :")
            for now, *known in zip(look(), old, new):
                self.assertIn(now, known)
        self.sh("queue refresh")
        self.assertEqual(new, look())

    # Mails

    def test_mails(self):
        self.sh("queue mails")
        self.contains("out/0002-KVM-new-Add-a-file.patch", 'From: "A. Sender" <sender@example.org>',
                      "Subject: [PATCH 2/4] KVM: new: Add a file\n", "\nnew file mode 100644\n")
        self.assertEqual(self.read("out/" + ONE).count(f"Signed-off-by: {WHO}\n"), 1)
        # On a pristine kernel they give the same tree.
        self.sh("src checkout -q --detach base; "
                "src -c user.name=X -c user.email=x@y.z am -q $PWD/out/*")
        self.same("src rev-parse HEAD^{tree} series^{tree}")
        self.assertEqual(self.sh("src log -1 --format='%an <%ae>'"), WHO)
        # The directory is its own. One mail has no cover letter.
        self.write({"patches/cover/fixes": "KVM: Why\n\nBecause.\n", "patches/cover/tests": "x\n"})
        self.sh("queue mails tests")
        self.assertEqual(self.sh("ls out"), FOUR.replace("4", "1"))
        self.contains("out/" + FOUR.replace("4", "1"), "Subject: [PATCH] KVM: selftests")
        self.sh("queue mails -v 3 --rfc --in-reply-to '<first@example.org>' fixes")
        self.assertEqual(len(os.listdir(self.root / "out")), 4)
        self.contains("out/v3-0000-cover-letter.patch", "\nSubject: [RFC PATCH v3 0/3] KVM: Why\n",
                      "\n\nBecause.\n\nBase: ", '("Linux 7.3.4")\n\nA. Sender (3):\n  KVM: main: ',
                      "\nIn-Reply-To: <first@example.org>\n", 'From: "A. Sender" <sender@example.o')
        self.contains("out/v3-" + ONE, "\nSubject: [RFC PATCH v3 1/3] KVM: main")
        self.sh("queue mails -v three", fails=2)

    def test_security(self):
        self.write({"patches/cover/security": "KVM: A bug\n\nReport.\n",
                    "patches/cover/all": "KVM: X\n\nY.\n"})
        self.sh(r"sed -i '3s/.*/[security]/; 4s/$/\n[fixes]/' patches/series")
        self.assertIn("security-bugs.rst", self.sh("OUT=sec queue mails security"))
        self.assertEqual(self.sh("ls sec").split(), ["0000-cover-letter.patch", ONE])
        base = f"\nbase-commit: {self.sh('src rev-parse base')}\n"
        self.contains("sec/0000-cover-letter.patch", "\nSubject: [PATCH 0/1] KVM: A bug\n", base)
        self.assertNotIn("prerequisite-patch-id", self.read("sec/0000-cover-letter.patch"))
        for mail in self.sh("ls sec").split():
            self.contains(f"sec/{mail}",
                          "\nTo: Some One <one@example.org>\nCc: security@kernel.org\n")
        self.assertIn("may be sent before patch 1", self.sh("queue mails"))
        self.assertEqual(self.sh("ls out").split()[1], "0001-KVM-new-Add-a-file.patch")
        needs = "prerequisite-patch-id: " + self.sh("git patch-id --stable < sec/0001*").split()[0]
        self.contains("out/0000-cover-letter.patch", base + needs, "\nSubject: [PATCH 0/3] KVM: X",
                      "\nTo: Some One <one@example.org>\nCc: kvm@example.org\n")
        # git am of the first, then of the others, is the series.
        self.sh("src checkout -q --detach base; src -c user.name=X -c user.email=x@y.z am -q "
                "--empty=drop $PWD/sec/* $PWD/out/*")
        self.same("src rev-parse HEAD^{tree} $(queue rev series)^{tree}")
        self.sh("queue mails tests")
        self.contains("out/" + FOUR.replace("4", "1"), needs + "\nprerequisite-patch-id: ")
        # No other commit becomes part of it, or comes before it.
        self.sh("queue tree; reorder '1{h;d};2{G}'")
        self.refused("refresh", "[security] must be the first part")
        self.sh("linux reset -q --hard series~4; linux reset -q --hard refs/queue/tree~3; "
                "echo >> build/linux/arch/x86/kvm/mmu.c; commit -m 'KVM: More'; "
                "linux cherry-pick refs/queue/tree~3..refs/queue/tree")
        self.assertIn("0002-KVM-More.patch: new, in part [fixes]", self.sh("queue refresh"))
        self.contains("patches/series", "[security]\n0001-KVM-main")

    def test_stable(self):
        """Another BASE has its own queue, in folders of its own, and mails for stable."""
        commit = "[ Upstream commit <to be filled in> ]\n"
        self.write({"patches/stable/6.12/" + name: text for name, text in {
            "series": "[security]\n0001-a.patch\n[fixes]\n0002-b.patch\n",
            "0001-a.patch": PATCH1.replace("It was", commit + "It was"),
            "0002-b.patch": ROOT["patches/0002-two.patch"].replace(
                "---\n", commit + "\nText.\n---\n", 1),
            "cover/security": "KVM: A bug\n\nReport.\n"}.items()})
        six, where = "export BASE=6.12; ", "git -C build/stable-6.12/linux "
        self.sh("mkdir build/stable-6.12; cp -a build/src build/stable-6.12/; "
                "cd build/stable-6.12/src; rm -r .git/worktrees; git branch -q -D series")
        said = "1 of 1 do not name the upstream commit: all are marked RFC"
        self.assertIn(said, self.sh(six + "OUT=sec queue mails security"))
        self.contains(f"sec/{ONE}", "Subject: [RFC PATCH 6.12.y 1/1]",
                      "\nTo: Some One <one@example.org>\nCc: security@kernel.org\n")
        out = self.sh(six + "queue mails")
        self.assertRegex(out, f"(?s)may be sent before patch 1 .*{said}")
        mail = "out/0001-KVM-new-Add-a-file.patch"
        self.contains(mail, "Subject: [RFC PATCH 6.12.y] KVM", "\nTo: stable@vger.kernel.org,\n"
                      "\tSome One <one@example.org>\nCc: kvm@example.org\n")
        src = "git -C build/stable-6.12/src "
        self.sh(f"{src} checkout -q --detach base; {src} -c user.name=X -c user.email=x@y.z am -q "
                "--empty=drop $PWD/sec/* $PWD/out/*")
        self.same(f"{src} rev-parse HEAD^{{tree}} $({six} queue rev series)^{{tree}}")
        # With its commit, it can be sent.
        self.sh(f"sed -i 's/<to be filled in>/{'5' * 40}/' patches/stable/6.12/0002*")
        self.assertNotIn("RFC", self.sh(six + "queue mails"))
        self.contains(mail, "Subject: [PATCH 6.12.y] KVM", f"\n[ Upstream commit {'5' * 40} ]\n")
        # To commits and back; the other queue stays as it is.
        other = "md5sum patches/* virt/kvm/* 2>&1 || :; linux log -1 --format=%H"
        before = self.sh(other)
        self.sh(f"{six} queue tree; {where} commit -q --amend -m Mine; queue refresh")
        self.contains("patches/stable/6.12/series", "[fixes]\n0002-Mine.patch\n")
        self.assertEqual(before, self.sh(other))
        self.sh(f"echo x > build/stable-6.12/linux/{NEW}; {where} add .; {where} commit -q -m New")
        self.assertIn("adds a file, which only patches/ may",
                      self.sh(six + "queue refresh", fails=1))

    # The base

    def test_other_base(self):
        """The kernel is another one: merge, with what is known of the pinned one."""
        self.sh("queue refresh; src bundle create -q $PWD/../pinned base; cp -a ../kernel ../other")
        for line, code, says in (("line36;", 0, ""), ("line39;", 1, f"{ONE}: does not apply")):
            self.sh(f"sed -i 's/line4;/four;/; s/{line}/x;/' ../other/{MAIN}; rm -rf build; "
                    "LINUX=../other base; src fetch -q $PWD/../pinned base:refs/queue/pinned")
            out = self.sh("queue rev series", fails=code)
            self.assertRegex(out, r"the hunk at line \d+: trying to merge\n.*" + says)
            if not code:
                self.assertIn("second;\nint line3;\nint four;\n",
                              self.sh(f"src show refs/queue/assembled:{MAIN}"))

    def test_base(self):
        base = self.sh("src rev-parse base")
        self.assertIn(f"base: Linux 7.3.4, {base[:12]}, not the pinned linux-source-",
                      self.sh("base --pinned", fails=1))
        self.assertEqual(self.sh("base"), "")
        # It is for one base.
        for linux in "build/src", "build/linux":
            self.assertIn(f"not from {self.root}/{linux} ", self.sh(f"LINUX={linux} base", fails=1))
        two = "two() { git -C build/two/src \"$@\"; }; export BUILD=build/two; rm -rf $BUILD; "
        # What a run that was stopped has left is removed; what .gitignore says is not taken.
        self.sh(f"{two} cp -a ../kernel ../third; mkdir -p build/two/base/src.new; touch ../third/"
                "some~ ../third/other build/two/base/src.new/half; LINUX=../third base")
        self.assertEqual(self.sh("ls -A build/two/base").split(), [".lock", "err"])
        self.assertEqual(self.sh("git -C build/two/src ls-tree --name-only base some~ other half"),
                         "other")
        # The same files, the same commit.
        self.same(f"{two} rm ../third/other; LINUX=../third base 2> build/log; two rev-parse base; "
                  f"echo {base}")
        # Made by an older version.
        self.sh("src update-ref -d refs/queue/base")
        self.assertIn("run 'make clean'", self.sh("base", fails=1))


if __name__ == "__main__":
    unittest.main()
