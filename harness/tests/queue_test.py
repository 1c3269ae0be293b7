#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Test harness/queue and harness/base on a small made-up kernel, with the cases of queue.data."""

import difflib
import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

HARNESS = pathlib.Path(__file__).resolve().parent.parent
MAIN, NEW = "virt/kvm/main.c", "virt/kvm/new.c"
TEST = "tools/testing/selftests/kvm/new_test.sh"
# For all scripts, which run at the root. Without site-packages, Python starts faster.
COMMANDS = rf"""
set -eEuo pipefail
NEW={NEW} TEST={TEST}
queue() {{ {sys.executable} -S {HARNESS}/queue "$@"; }}
base() {{ {HARNESS}/base "$@"; }}
export -f queue
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
am()
{{
	src checkout -q --detach base
	src -c user.name=X -c user.email=x@y.z am -q --empty=drop "$@"
}}

# What a case expects: all words are the same; a file has texts, or one not; it is what is on
# stdin; a command fails, and prints a text; it changes nothing; the queue refuses a command in
# one line with the words, and changes nothing.
same()
{{
	local word

	for word in "$2" "${{@:2}}"; do
		[ -n "$word" ] && [ "$word" = "$1" ] || {{ echo "not the same: $*"; return 1; }}
	done
}}
has()
{{
	local text want

	text=$'\n'$(cat "$1")$'\n'
	for want in "${{@:2}}"; do
		[[ $text == *"$want"* ]] || {{ echo "no '$want' in $1:$text"; return 1; }}
	done
}}
lacks() {{ [[ $(cat "$1") != *"$2"* ]]; }}
is() {{ diff - "$1"; }}
fails()
{{
	local out

	! out=$("${{@:2}}" 2>&1) && [[ $out == *"$1"* ]] ||
		{{ echo "no failure with '$1': $out"; return 1; }}
}}
unchanged()
{{
	local before

	before=$(state)
	eval "$@"
	is <(state) <<< "$before"
}}
refused()
{{
	local before out

	before=$(state)
	! out=$(queue $2 2>&1) && [[ $out == "queue: "*"$1"* && $out != *$'\n'* ]] ||
		{{ echo "no refusal with '$1': $out"; return 1; }}
	is <(state) <<< "$before"
}}
# refresh gives the trees of the branch, and says so; then refresh and tree change nothing.
round_trip()
{{
	local trees

	trees=$(linux log --format=%T base..series)
	has <(queue refresh) "$@"
	same "$trees" "$(src log --format=%T base..$(queue rev series))"
	unchanged queue refresh
	queue tree
	unchanged 'queue refresh; queue tree'
}}
"""
# Ends refresh when so many files have been written or removed.
STOPPED = f"""
import os, runpy, sys
left, sys.argv = int(sys.argv[1]), ["queue", "refresh"]
def stop_in(real):
    def stopping(*args):
        global left
        left -= 1
        real(*args) if left >= 0 else os._exit(9)
    return stopping
os.replace, os.removedirs = stop_in(os.replace), stop_in(os.removedirs)
runpy.run_path("{HARNESS}/queue", run_name="__main__")
"""


def diff(path, *change):
    old, new = (text.splitlines(True) for text in change)
    return f"diff --git a/{path} b/{path}\n" + "".join(
        difflib.unified_diff(old, new, f"a/{path}", f"b/{path}"))


KERNEL = {
    "Makefile": "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n",
    "Kbuild": "", ".gitignore": ".*\n!.gitignore\n*.o\n*~\n",
    "MAINTAINERS": "List\n====\n\nACPI\nM:\tOne <one@example.org>\nF:\tdrivers/acpi/\n\n"
                   "ZSWAP\nM:\tTwo <two@example.org>\n\nMISPLACED\nS:\tMaintained\n",
    MAIN: "".join(f"int line{i};\n" for i in range(1, 41)),
    "virt/kvm/other.c": "int other;\nint more;\n", "arch/x86/kvm/mmu.c": "int mmu;\nint last;\n",
    "drivers/big.c": "int big;\n", "include/kvm/old.h": "int old;\n",
    "tools/testing/selftests/kvm/old_test.c": "int old;\n",
    "scripts/get_maintainer.pl": "#!/bin/sh\necho 'Some One <one@example.org> (maintainer:KVM)'\n"
                                 "case $* in *--no-l*) ;; *) echo 'kvm@example.org (open list:KVM)'"
                                 ";; esac\n",
}
NEW_C = "int new;\nint grown;\nint end;\n"
SECTION = "KVM ON PREEMPT_RT\nL:\tkvm@vger.kernel.org\nS:\tMaintained\n"
ROOT = {
    ".gitignore": "/build/\n/out/\n", "harness/tool.c": "int tool;\n", NEW: NEW_C,
    TEST: "#!/bin/sh\ntrue\n", "MAINTAINERS": SECTION,
    "patches/series": f"# The series.\n\n[fixes]\n0001-one.patch\n0002-two.patch  {NEW}\n"
                      f"0003-three.patch\n[tests]\n0004-four.patch\n\t{TEST} MAINTAINERS\n",
    "patches/0001-one.patch":
        "Subject: [PATCH] KVM: main: Change the second line\n\nIt was wr\u00f6ng.\n\n"
        'Fixes: 123456789abc ("KVM: Bug")\nSigned-off-by: Other <other@example.org>\n---\n'
        " virt/kvm/main.c | 2 +-\n\n" + diff(MAIN, KERNEL[MAIN], KERNEL[MAIN].replace(
            "line2;", "second;").replace("line39;", "last_but_one;")),
    "patches/0002-two.patch": "Subject: [PATCH] KVM: new: Add a file\n\n---\n" + diff(
        "virt/kvm/other.c", KERNEL["virt/kvm/other.c"], "int other;\nint hook;\nint more;\n"),
    "patches/0003-three.patch": "Subject: [PATCH] KVM: new: Let it grow\n\nMore of it.\n---\n" +
                                diff(NEW, "int new;\nint end;\n", NEW_C),
    "patches/0004-four.patch": "Subject: [PATCH] KVM: selftests: Add a test\n\nTest it.\n---\n",
}


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
        config = ("[user]\nname = A. Sender\nemail = sender@example.org\n"
                  # What must not get into anything.
                  "[diff]\nnoprefix = true\ncontext = 1\n[format]\nsignOff = true\n"
                  "[apply]\nwhitespace = error\n")
        files = {"../kernel/" + path: text for path, text in KERNEL.items()}
        for path, text in (files | ROOT | {"../gitconfig": config}).items():
            path = cls.root / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        # No package is fetched for merging.
        cls.sh(f"chmod +x {TEST} ../kernel/scripts/*; git init -q -b main; git add .; "
               "git commit -q -m Root; base; src update-ref refs/queue/pinned base; queue tree")
        # Every test gets a copy, at the same path, which the worktree has.
        cls.root.rename(cls.tmp / "saved")

    def setUp(self):
        self.sh("rm -rf root; cp -a saved root", cwd=self.tmp)

    @classmethod
    def sh(cls, script, cwd=None):
        """Run it, and say where it failed."""
        run = subprocess.run(["bash", "-c", COMMANDS + "trap 'echo failed: $BASH_COMMAND' ERR\n" +
                              script], cwd=cwd or cls.root, env=cls.env, check=False,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = os.fsdecode(run.stdout).strip()
        assert run.returncode == 0, f"{script}\n{out}\nstatus {run.returncode}"
        return out

    def case(self, script):
        self.sh(script)

    def test_interrupted_refresh(self):
        """Stopped between any two files, it can be repeated, and nothing else runs before that."""
        self.sh(f"queue refresh; sed -i s/end/mine/ build/linux/{NEW}; commit --amend -m Mine; "
                f"cp -a . ../old; queue refresh; state > ../new; echo '{STOPPED}' > ../stopped")
        for files in range(4):
            self.sh("rm -rf root; cp -a old root", cwd=self.tmp)
            self.sh(f"rc=0; {sys.executable} -S ../stopped {files} || rc=$?; same $rc 9; "
                    "refused 'a refresh was interrupted' mails; queue refresh; is <(state) < ../new")


def add_cases():
    """A test for each case, and for each refusal: commands, words, and how it comes about."""
    text = pathlib.Path(__file__).with_name("queue.data").read_text(encoding="utf-8")
    refusals, *cases = re.split("^=== ", text, flags=re.M)
    cases = [case.split("\n", 1) for case in cases]
    for commands, says, script in re.findall(r"^(\w[^:\n]*): (.*)\n((?:\t.*\n)*)", refusals, re.M):
        cases += [(f"{command}: {says}", f"{script}refused {shlex.quote(says)} '{command}'")
                  for command in commands.split(", ")]
    for name, script in cases:
        setattr(QueueTest, f"test_{name}", functools.partialmethod(QueueTest.case, script))


add_cases()
if __name__ == "__main__":
    unittest.main()
