# SPDX-License-Identifier: GPL-2.0
"""Run many programs in vm, on two trees, and put the results side by side.

Used by kselftest and kvm-unit-tests. Many programs share a boot. If the guest
dies or hangs this is the result of the program that ran, and those that remain
go on in another boot; so they do when lockdep turned itself off, or a later
complaint would be missed. If QEMU itself failed, the program has a second try,
and so have those that are known to fail on a busy machine.
"""

import collections
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, "build"))
HARNESS = os.path.join(ROOT, "harness")

MARK = re.compile(r"\[ *(\d+\.\d+)\](?:\[[^]]*\])? vm: (?:(run|done) (\S+)(?: rc=(\d+))?|end)$")
CPUS, MEM = os.environ.get("CPUS") or "4", os.environ.get("MEM") or "3G"
BOOT = 300          # seconds that a boot may take
GRACE = int(os.environ.get("GRACE") or 60)      # and the guest to kill a program


@dataclass(frozen=True)
class Test:
    name: str               # in the table
    program: str            # its path
    args: str = ""
    limit: int = 120        # seconds
    tries: int = 1          # it may fail, if the kernel doesn't complain, but for the last

    @property
    def key(self):
        """What vm calls it."""
        return os.path.basename(self.program)


@dataclass
class Result:
    outcome: str            # pass, fail, skip, timeout, died
    reason: str = ""
    seconds: float = 0
    tries: int = 1
    complaints: list = field(default_factory=list)      # (count, kind, text)

    def kinds(self):
        count = collections.Counter()
        for n, kind, _ in self.complaints:
            count[kind] += n
        return count


class Failure(Exception):
    """One clear line."""


def command(*args):
    """What a command prints; it says itself why it fails."""
    done = subprocess.run(args, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise Failure(f"{os.path.basename(args[0])} failed")
    return done.stdout.strip()


def progress(text):
    print(text, file=sys.stderr, flush=True)


class Boot:
    """One boot of a tree with as many of the tests as it survives."""

    def __init__(self, tree, tests, path, env, overlay=None):
        self.tree, self.tests, self.log = tree, {t.key: t for t in tests}, path + ".log"
        self.out, self.err, self.path = path + ".out", path + ".err", path
        self.running, self.hung, self.ended, self.ends = None, False, False, []
        self.over = path + ".overlay"
        shutil.rmtree(self.over, ignore_errors=True)
        for sub, of in (("args.d", lambda t: t.args), ("limit.d", lambda t: t.limit)):
            os.makedirs(os.path.join(self.over, sub))
            for test in tests:
                with open(os.path.join(self.over, sub, test.key), "w", encoding="utf-8") as file:
                    print(of(test), file=file)
        if overlay:
            shutil.copytree(overlay, self.over, dirs_exist_ok=True, symlinks=True)
        self.env = os.environ | {"CPUS": CPUS, "MEM": MEM} | env | {
            "TREE": tree, "LOG": self.log, "OVERLAY": self.over, "NAME": os.path.basename(path),
            "RUN": " ".join(t.program for t in tests),
            "ARGS": "",
            "ONCE": "1", "TIMEOUT": str(BOOT + sum(t.limit + GRACE for t in tests))}

    def run(self, done):
        """done(test, seconds) is called whenever one has ended."""
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            vm = subprocess.Popen([os.path.join(HARNESS, "vm")], env=self.env,
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            try:
                self.watch(vm, done)
            finally:
                if vm.poll() is None:
                    vm.terminate()
                vm.wait()
                shutil.rmtree(self.over)

    def watch(self, vm, done):
        since, at, seen = time.monotonic(), 0.0, 0
        while True:
            alive = vm.poll() is None
            for stamp, what, key, rc in list(self.marks())[seen:]:
                seen, since = seen + 1, time.monotonic()
                if what == "run":
                    self.running, at = self.tests[key], float(stamp)
                elif what == "done":
                    self.ends.append((self.running, int(rc), float(stamp) - at))
                    self.running = None
                    done(*self.ends[-1])
            limit = self.running.limit + GRACE if self.running else BOOT
            self.hung = alive and time.monotonic() - since > limit
            if not alive or self.hung:
                self.ended = True
                return
            time.sleep(1)

    def marks(self):
        with contextlib.suppress(FileNotFoundError), \
                open(self.log, encoding="utf-8", errors="replace") as log:
            for line in log:
                if line.endswith("\n") and (mark := MARK.search(line.rstrip())):
                    yield mark.groups()

    def results(self, judge):
        """{test: Result}, and the complaints of no test's."""
        output, key = {}, None
        with open(self.out, encoding="utf-8", errors="replace") as out:
            for line in out:
                line = line.rstrip()
                if line.startswith("vm: run ") and line[8:] in self.tests:
                    key = line[8:]
                output.setdefault(key, []).append(line)
        results = {}
        for test, rc, seconds in self.ends:
            said = output.get(test.key, [])[1:]
            if rc == 137 and seconds >= test.limit - 1:
                results[test] = Result("timeout", f"after {test.limit} s", seconds)
            else:
                results[test] = Result(*judge(rc, said), seconds)
        if self.running and self.ended:
            with open(self.err, encoding="utf-8", errors="replace") as err:
                why = [x[4:].strip() for x in err if x.startswith("vm: ")]
            results[self.running] = Result("died", "the guest hung" if self.hung else
                                           why[0] if why else "no reason is known")
        rest = []
        found = subprocess.run([os.path.join(HARNESS, "complaints"), "-p", self.log],
                               stdout=subprocess.PIPE, text=True, env=self.env, check=False)
        of = {t.key: r.complaints for t, r in results.items()}
        for line in found.stdout.splitlines():
            count, kind, text, program = line.split("\t")
            of.get(program.removeprefix("after "), rest).append((int(count), kind, text))
        return results, rest


def run_all(results, tests, folder, env, judge, overlay=None):
    """Fill results, {(tree, test's name): Result}, with those of {tree: [Test]}.

    judge(exit status, lines of output) gives an outcome and the reason.
    """
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for tree, left in tests.items():
        n = fruitless = ended = 0
        retried, failures = set(), collections.Counter()
        while left:
            n += 1
            boot = Boot(tree, left, os.path.join(folder, f"{tree}-{n}"), env, overlay)

            def done(test, rc, seconds, tree=tree):
                nonlocal ended
                ended += 1
                progress(f"  {tree} {ended}/{len(tests[tree])} {test.name}: "
                         f"status {rc}, {seconds:.0f} s")

            try:
                boot.run(done)
            finally:
                found, rest = boot.results(judge)
                aborted = boot.running if boot.running not in retried and boot.running in found and \
                    found[boot.running].reason.startswith("QEMU itself failed") and \
                    not found[boot.running].complaints else None
                if aborted:
                    retried.add(aborted)
                    progress(f"  {tree} {aborted.name}: {found.pop(aborted).reason}: a second try")
                fruitless = 0 if found or aborted else fruitless + 1
                for test, result in list(found.items()):
                    failures[test] += result.outcome == "fail"
                    if result.outcome == "fail" and not result.complaints and \
                            failures[test] < test.tries:
                        ended -= 1
                        progress(f"  {tree} {test.name}: {found.pop(test).reason}: another try")
                    else:
                        result.tries = failures[test] + (result.outcome != "fail")
                results |= {(tree, test.name): result for test, result in found.items()}
                if rest:
                    results.setdefault((tree, "(boot)"), Result("pass")).complaints += rest
            if boot.running and not aborted:
                ended += 1
                progress(f"  {tree} {ended}/{len(tests[tree])} {boot.running.name}: "
                         f"{found[boot.running].reason}")
            left = [t for t in left if t not in found]
            if fruitless == 2:
                raise Failure(f"{tree} does not boot, see {boot.err}")


def regressions(results, names):
    """What is worse on the series, one line each."""
    for name in names:
        base, series = results.get(("base", name)), results.get(("series", name))
        if not series:
            continue
        if base and base.outcome == "pass" and series.outcome != "pass" or \
                series.outcome in ("died", "timeout") and base and base.outcome != series.outcome or \
                not base and series.outcome not in ("pass", "skip"):
            yield f"{name}: {base.outcome if base else 'new'} on base, {series.outcome} on " \
                  f"series: {series.reason}"
        before = base.kinds() if base else {}
        for kind, count in series.kinds().items():
            if count > before.get(kind, 0) and not kind.startswith("known "):
                yield f"{name}: {before.get(kind, 0)} {kind} on base, {count} on series"


def grid(rows):
    """Columns as wide as they need to be."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip()


def report(results, names, head, whole=True):
    """The table, what is common to both, the complaints; and what is worse."""
    def cells(name):
        yield name
        both = [results.get((tree, name)) for tree in ("base", "series")]
        yield from (r.outcome + f", try {r.tries}" * (r.tries > 1) if r else "-" for r in both)
        yield from (f"{r.seconds:.0f}" if r and r.seconds else "-" for r in both)
        for r in both:
            yield ", ".join(f"{n} {k}" for k, n in sorted(r.kinds().items())) or "-" if r else "-"

    names = [x for x in ["(boot)", *names] if any((t, x) in results for t in ("base", "series"))]
    if not results:
        return "", []
    worse = list(regressions(results, names))
    said = [x for x in names if x != "(boot)"]
    lines = ["# " + line for line in head]
    for tree in ("base", "series"):
        got = collections.Counter(results[tree, x].outcome for x in said if (tree, x) in results)
        lines.append(f"# {tree}: {', '.join(f'{n} {k}' for k, n in got.most_common())}, "
                     f"{sum(results[tree, x].seconds for x in said if (tree, x) in results) / 60:.0f}"
                     " minutes in tests")
    lines += ["", "Worse on the series:" if worse else "Nothing is worse on the series." if whole
              else "Interrupted; nothing is worse so far."]
    lines += ["  " + line for line in worse] + [""]
    lines += grid([("test", "base", "series", "s", "s", "complaints: base", "series"),
                   *(tuple(cells(x)) for x in names)])
    for tree, title in (("base", "Not a pass on both, with the reason on the series:"),
                        ("series", "Not a pass of what only the series has:")):
        part = [(x, results["series", x]) for x in said if ("series", x) in results and
                (("base", x) in results) == (tree == "base") and
                (results.get(("base", x)) or results["series", x]).outcome != "pass" and
                results["series", x].outcome != "pass"]
        if part:
            lines += ["", title, *("  " + x for x in grid([(x, r.outcome, r.reason) for x, r in part]))]
    texts = {}
    for (tree, name), result in results.items():
        for count, kind, text in result.complaints:
            texts.setdefault((kind, text), {}).setdefault(tree, []).append(f"{name} ({count})")
    if texts:
        lines += ["", "Complaints, in which tests, and how often:"]
    for (kind, text), of in sorted(texts.items()):
        lines.append(f"  {kind}: {text}")
        lines += [f"    {tree}: {', '.join(where)}" for tree, where in sorted(of.items())]
    return "\n".join(lines) + "\n", worse


def main(run, make_report, path):
    """run() fills, make_report(whole) gives (text, what is worse); the table goes to
    path, or to path.partial if it is not whole. The exit status is 1 if
    anything is worse, 2 for a Failure."""
    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    status = 0
    try:
        run()
    except KeyboardInterrupt:
        status = 130
    except Failure as failure:
        progress(f"{os.path.basename(sys.argv[0])}: {failure}")
        status = 2
    text, worse = make_report(not status)
    if status:
        if not text:
            return status
        path += ".partial"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    progress(f"{path}: " + (f"{len(worse)} worse on the series:" if worse else
                            "not whole" if status else "nothing is worse on the series"))
    for line in worse:
        progress("  " + line)
    return status or bool(worse)
