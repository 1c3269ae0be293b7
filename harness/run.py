#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: GPL-2.0
"""run.py [-v] SCENARIO...: run scenarios of scenarios.toml in harness/vm.

    -v                print what the programs print, too
    --list            the scenarios
    --path TEST       build this KVM selftest, of TESTS or TREE, and print where it is

In place of scenarios, one of these:

    demo              base, base+rtlocks and series, with a table; with BASE, the base and
                      its queue, and what that changes
    kselftest         all KVM selftests, base against series: FLAVOUR, NPT=0, ONLY;
                      results/kselftest-FLAVOUR[-nonpt].txt, with ONLY in $BUILD/kselftest
    kvm-unit-tests    the same of KVM-unit-tests: FLAVOUR, ONLY ("nodefault" ones included),
                      KUT, their tree, in which make standalone was run for x86_64. The
                      installed QEMU runs them; $BUILD/kvm-unit-tests/FLAVOUR.txt

Environment variables: FLAVOUR (rt, see harness/configs), TREE (series, see harness/kernel;
also several, "base,series", with a table), and what overrides scenarios.toml: TESTS (the
tree of the selftests), ARGS, CPUS, MEM, TCG, APPEND, TIMEOUT and SUITE (of KUnit). ARCH
and MODE are those of harness/vm. A TAP line for each run. Exit status 0 if all is as
expected, 1 if not, 2 for bad input or if a kernel can't be built or does not boot, 130 if
it was interrupted. Scenarios that need the same machine share a boot on the series, where
no complaint is expected. Output and kernel logs: $BUILD/runs.
"""

import contextlib
import dataclasses
import difflib
import fcntl
import fnmatch
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

def setting(name, otherwise=""):
    """An environment variable; an empty one is none."""
    return os.environ.get(name) or otherwise

HARNESS = Path(__file__).resolve().parent
ROOT = HARNESS.parent
# As at the end of lib.sh: the build folder of all bases, and that of another one than 7.3.
BASE = setting("BASE", "7.3")
MAIN = BUILD = Path(setting("BUILD", ROOT / "build")).absolute()
if STABLE := BASE.removeprefix("7.3"):
    MAIN = BUILD.parent if BUILD.name == f"stable-{STABLE}" else BUILD
    BUILD = MAIN / f"stable-{STABLE}"
SRC = BUILD / "src"
os.environ["BUILD"] = str(BUILD)
# The folder of the kernel's sources for each architecture, and how much longer than
# with x86_64 a program may take: QEMU emulates some with more effort.
ARCHES = {"x86_64": ("x86", 1), "arm64": ("arm64", 2), "riscv64": ("riscv", 5)}
ARCH, MODE = setting("ARCH", "x86_64"), setting("MODE")
FOLDER, SLOWER = ARCHES.get(ARCH, ("", 1))
# For the names of what is built, and of what comes of it; for the command in a result.
SUFFIX = "" if ARCH == "x86_64" else f"-{ARCH}"
RUNS = SUFFIX + (f"-{MODE}" if MODE else "")
GIVEN = (f" ARCH={ARCH}" if SUFFIX else "") + (f" MODE={MODE}" if MODE else "")
# The series leaves the invalidations of protected KVM as they are: what is expected
# on the base is expected on the series.
UNFIXED = MODE == "protected"

MARK = re.compile(r"^\[ *(\d+\.\d+)\](?:\[.*?\])? vm: (run|done) (\S+)(?: rc=(\d+))?\r?\n", re.M)
KUNIT = re.compile(r"^\[ *\d+\.\d+\](?:\[.*?\])?     "
                   r"(?:# Subtest: (\S+)|(not ok|ok) \d+ (\S+)(.*))", re.M)
CASE = re.compile(r"(not ok|ok)\b(?: \d+)?(?: -)? ?(\S*)(.*)")
MAKE = """clean_environment; log=$1; shift
"${with_me[@]}" make "${kbuild_arch[@]}" -C "$@" >"$log" 2>&1 || {
    grep -E -m 10 'error:|undefined reference|[*]{3}|No rule|No space left' "$log" || tail "$log"
    die "building selftests failed (see $log)"
} >&2"""
BOOT = int(setting("BOOT", 120)) + 180      # seconds until a boot is given up
GRACE = int(setting("GRACE", 60))           # and the guest to kill a program

# What child processes print about their stages goes where this process' does.
STAGE = int(setting("STAGE_FD", 0)) or os.dup(2)
os.environ.setdefault("STAGE_T0", str(int(time.time())))
# With whom child processes end, see lib.sh.
os.environ.setdefault("HARNESS_TOP", str(os.getppid() if setting("MAKELEVEL") else os.getpid()))
SAID = []       # all that was printed about runs

class Failure(Exception):
    """One clear line."""

def stage(text):
    now = int(time.time()) - int(os.environ["STAGE_T0"])
    os.write(STAGE, f"[{now // 60:2}:{now % 60:02}] {text}\n".encode())

def number(name, otherwise=0):
    value = str(setting(name, otherwise))
    if not re.fullmatch("[1-9][0-9]*", value):
        raise Failure(f"{name}={value}: a number")
    return int(value)

def near(name, names):
    """For a refusal."""
    found = [x for x in names if name in x] + difflib.get_close_matches(name, names, 5)
    return "; near it: " + " ".join(list(dict.fromkeys(found))[:8]) if found else ""

def read(path):
    return Path(path).read_text(encoding="utf-8", errors="replace")

def short(path):
    """For messages and results: from the root, or by the name of the variable."""
    path = Path(path).absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else \
        str(path).replace(str(MAIN), "$BUILD")

def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")

@contextlib.contextmanager
def child(args, env, **options):
    """A process that ends with the block, as does its group if it has one of its own."""
    process = subprocess.Popen(args, env=os.environ | {"STAGE_FD": str(STAGE)} | env,
                               stdin=subprocess.DEVNULL, pass_fds=[STAGE], **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            if options.get("process_group") == 0:
                os.killpg(process.pid, signal.SIGTERM)
            else:
                process.terminate()
        process.wait()

def said_by(args, env):
    """The exit status of a command, what it prints, and its errors."""
    with child(args, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
               errors="replace") as process:
        out, err = process.communicate()
    return process.returncode, out, err

def command(*args):
    """What a command prints, or why it fails."""
    status, out, err = said_by(args, {})
    if status:
        raise Failure(err.strip() or f"{os.path.basename(args[0])} failed")
    sys.stderr.write(err)
    return out.strip()

def shell(script, *args):
    """The same for a script that uses lib.sh."""
    return command("bash", "-c", f'. "$0/lib.sh"; set_arch; {script}', HARNESS, *args)

def entry(main, doc, arguments=False, arches=tuple(ARCHES)):
    """main() as a program, for some architectures; a signal ends it, and what it runs."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(*_):
        for x in signals:
            signal.signal(x, signal.SIG_IGN)
        raise KeyboardInterrupt

    for x in signals:
        signal.signal(x, stop)
    name, status, args = os.path.basename(sys.argv[0]), 2, sys.argv[1:]
    try:
        if args[:1] in (["-h"], ["--help"]):
            print(doc, end="")
            sys.exit(0)
        if args and not arguments:
            raise Failure(f"unknown argument '{args[0]}': see --help")
        if ARCH not in arches:
            raise Failure(f"unknown ARCH '{ARCH}' to run this on: {' '.join(arches)}")
        status = main(args) if arguments else main()
    except Failure as failure:
        print(f"{name}: {failure}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        status = 130
    except Exception:   # not 1, which is that of tests that fail
        traceback.print_exc()
    sys.exit(status)

@dataclass(frozen=True)
class Scenario:
    """See scenarios.toml."""
    name: str
    title: str = ""
    test: str = ""
    tests: str = ""         # the tree of it, if not the kernel's
    source: str = ""
    kunit: str = ""
    program: str = ""       # the path of one that is there
    args: str = ""
    cpus: int = 4
    mem: str = "1G"
    append: str = ""
    tcg: str = "auto"
    icount: bool = False
    limit: int = 300        # seconds, with x86_64
    tries: int = 1
    arch: tuple = field(default=(), compare=False)
    not_on: dict = field(default_factory=dict, compare=False)
    skips: dict = field(default_factory=dict, compare=False)
    base: dict = field(default=None, compare=False)
    base_std: dict = field(default=None, compare=False)

    @property
    def key(self):
        """What the guest calls it."""
        return os.path.basename(self.name)

    @property
    def seconds(self):
        return self.limit * SLOWER

    def machine(self):
        """For harness/vm."""
        kunit = f" kunit.enable=1 kunit.autorun=1 kunit.filter_glob={self.kunit}"
        return {"CPUS": str(self.cpus), "MEM": self.mem, "TCG": self.tcg,
                "ICOUNT": "1" * self.icount, "APPEND": self.append + kunit * bool(self.kunit)}

    def unsuited(self, flavour):
        """Why it is not run, if it is not."""
        folder, found, _ = self.test.partition("/")
        if self.arch and ARCH not in self.arch or found and folder != FOLDER:
            return f"not for {ARCH}"
        return self.not_on.get(flavour.split("-")[0], "") or self.not_on.get(ARCH, "")

    def customized(self):
        """As the environment wants it."""
        return dataclasses.replace(
            self, args=setting("ARGS", self.args), mem=setting("MEM", self.mem),
            tcg=setting("TCG", self.tcg), tests=setting("TESTS", self.tests),
            cpus=number("CPUS", self.cpus), limit=number("TIMEOUT", self.limit),
            append=f"{self.append} {setting('APPEND')}".strip(),
            kunit=self.kunit and setting("SUITE", self.kunit))

try:
    DATA = tomllib.loads(read(HARNESS / "scenarios.toml"))
    DATA["scenario"] = {k: Scenario(k, **v) for k, v in DATA["scenario"].items()}
except (tomllib.TOMLDecodeError, TypeError) as error:
    sys.exit(f"scenarios.toml: {error}")

@dataclass
class Result:
    outcome: str                # pass, fail, skip, timeout, died; - if there is none
    reason: str = ""
    seconds: float = 0
    status: int | None = None
    said: list = field(default_factory=list)        # lines of output
    cases: list = field(default_factory=list)       # (passed, name, the rest of the line)
    verdict: str = ""           # what the program itself calls its result
    log: Path = ROOT            # of the kernel
    complaints: Counter = field(default_factory=Counter)    # (kind, text)
    notes: list = field(default_factory=list)       # second tries, known complaints

    def __post_init__(self):
        self.cases = self.cases or [(m[1] == "ok", m[2], m[3])
                                    for x in self.said if (m := CASE.match(x))]
        self.verdict = self.verdict or next(
            (x[10:] for x in self.said if x.startswith("# result: ")), "")

    def kinds(self):
        kinds = dict.fromkeys(kind for kind, _ in self.complaints)
        return [f"{sum(n for (x, _), n in self.complaints.items() if x == kind)} {kind}"
                for kind in kinds]

    def clean(self):
        return self.outcome == "pass" and not self.complaints

    def words(self):
        """What it came to."""
        failed = sum(not ok for ok, *_ in self.cases)
        tests = f"{failed} of {len(self.cases)} tests fail" if self.cases else "fails"
        how = {"pass": self.verdict, "fail": self.verdict or tests, "skip": "skipped",
               "timeout": "timeout"}.get(self.outcome, "no answer")
        return ", ".join([how] * bool(how) + self.kinds()) or "clean"

def judge(rc, said):
    """The outcome of an exit status, and why: what is missing, or what failed first."""
    text, last = "\n".join(said), said[-1] if said else "no output"
    if rc == 0:
        return "pass", ""
    if 128 < rc <= 128 + 64:
        return "died", f"by signal {rc - 128}: {last}"
    # KVM-unit-tests end like this, with two statuses.
    if rc == 4 or rc in (2, 77) and last.startswith("SKIP "):
        why = re.findall(r"# SKIP(?: -)? *(.*)", text) or \
            re.findall(r"(.*), skipping test", text) or re.findall(r"^SKIP: (.*)", text, re.M)
        return "skip", why[-1] if why else last.removeprefix("SKIP ")
    why = re.search(r"Test Assertion Failure ====\n *(.*)", text) or \
        re.search(r"^(not ok .*|.*[Ff]ailed.*|FAIL: .*)", text, re.M)
    return "fail", why[1] if why else f"status {rc}: {last}"

def problems(scenario, flavour, tree, result, base=None):
    """What differs from the expectation."""
    if STABLE and tree != "base" or tree == "series@fixes":
        return as_base(result, base)
    if not scenario.base or not UNFIXED and not tree.startswith("base"):
        allowed = scenario.skips.get(flavour)
        return [result.words()] * (not result.clean()) + [
            f"must not be skipped: {name}{rest}" for _, name, rest in result.cases
            if "# SKIP" in rest and allowed is not None and name not in allowed]
    got = {"status": str(result.status), "output": "\n".join(result.said),
           "result": result.verdict,
           "complaints": "\n".join(map("\t".join, result.complaints))}
    expected = flavour == "std" and scenario.base_std or scenario.base
    wanted = [(what, x) for what, these in expected.items()
              for x in (these if isinstance(these, list) else [these])]
    return [f"expected {what} {x!r}, got {got[what][-200:]!r}" for what, x in wanted
            if not re.search(f"^{x}$" if what == "status" else x, got[what], re.M)]

def worse(_, __, tree, result, base):
    """What is worse on the series than on the base."""
    fine = {"-": ("pass", "skip"), "pass": ("pass",)}.get(
        base.outcome, ("pass", "skip", "fail", base.outcome))
    how = "not" if base.outcome == "-" else base.outcome
    return [] if tree == "base" else [f"{how} on base"] * (result.outcome not in fine) + [
        f"{n} more than on base: {kind}: {text}"
        for (kind, text), n in (result.complaints - base.complaints).items()]

def as_base(result, base):
    """What is wrong after the fixes: the tests pass, but there may be the complaints of the
    base. Their number depends on how long it takes."""
    return [result.words()] * (result.outcome != "pass") + [
        f"not on base: {kind}: {text}"
        for kind, text in result.complaints.keys() - base.complaints.keys()]

# What is built: kernels, selftests, programs

@functools.cache
def rev(tree):
    """The commit of a tree."""
    command(HARNESS / "base")
    return command(HARNESS / "queue", "rev", tree)

def selftest(test, tree):
    """The program of a KVM selftest, of the series if the tree does not have it."""
    if STABLE:      # They are those of the series for 7.3.
        return command("env", "BASE=7.3", "TESTS=series", f"BUILD={MAIN}", HARNESS / "run.py",
                       "--path", test)
    top = "tools/testing/selftests/kvm/"
    for where in (tree, "series"):
        paths = command("git", "-C", SRC, "ls-tree", "--name-only", rev(where), top,
                        f"{top}{FOLDER}/")
        names = [x[len(top):-2] for x in paths.split() if x.endswith(".c")]
        for name in (test, f"{FOLDER}/{test}"):
            if name in names:
                return selftests(where, name) / name
    raise Failure(f"no selftest '{test}' for {ARCH}{near(test, names)}")

def selftests(tree, *tests):
    """Build KVM's selftests of a tree, static; all of them, or some. Their folder in
    $BUILD/selftests/TREE; all trees with +NAME share one."""
    out = BUILD / f"selftests{SUFFIX}" / ("extra" if "+" in tree else tree)
    stamp, top, log = out / "stamp", out / "bin", out / "build.log"
    out.mkdir(parents=True, exist_ok=True)
    compiler = shell('"$compiler" --version')
    key = command("git", "-C", SRC, "rev-parse", rev(tree) + "^{tree}") + compiler
    # That of harness/kernel: $BUILD/src has one tree at a time.
    with open(BUILD / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh = stamp.exists() and read(stamp) == key
        missing = [x for x in map(top.joinpath, tests) if not fresh or not x.exists()
                   or x.stat().st_mtime < stamp.stat().st_mtime]
        if fresh and tests and not missing:
            return top
        stage(f"building selftests of {tree}: {' '.join(tests) or 'all'}")
        command(HARNESS / "queue", "checkout", tree)
        if not fresh:
            shell(MAKE, log, SRC, f"O={out}/headers", "headers_install",
                  f"INSTALL_HDR_PATH={out}/headers/usr")
            # That of what is there now, which may be newer than rev(tree).
            write(stamp, command("git", "-C", SRC, "rev-parse", "HEAD^{tree}") + compiler)
        try:
            shell(MAKE, log, SRC / "tools/testing/selftests/kvm", f"OUTPUT={top}",
                  f"-j{os.cpu_count() + 1}", f"KHDR_INCLUDES=-isystem {out}/headers/usr/include",
                  "USERLDFLAGS=-static", *missing or ["-k", "all"])
        except Failure:
            if tests or not uncompiled(top):
                raise
        for path in missing:
            os.utime(path)
    return top

def uncompiled(top):
    """Those of upstream's that do not compile for an architecture, after selftests()."""
    return set(re.findall(rf"[*]{{3}} \[.*? {re.escape(str(top))}/(\S+?)(?:\.o)?\] Error",
                          read(top.parent / "build.log")))

def program(s, tree, folder):
    """A scenario's program in this folder, by the name that it has in the guest."""
    path = folder / s.key
    # For KUnit, which runs before init does: nothing is to be done after it.
    write(path, "#!/bin/sh\n")
    path.chmod(0o755)
    if s.source:
        shell('"$compiler" -O2 -Wall -static -pthread -o "$@"', path, ROOT / s.source)
    elif not s.kunit:
        path.unlink()
        path.symlink_to(s.program or selftest(s.test, s.tests or tree))
    return str(path)

class Boot:
    """One boot with as many of the scenarios as it survives."""

    def __init__(self, flavour, tree, scenarios, path, overlay=None):
        self.tree, self.first, self.scenarios = tree, scenarios[0], {s.key: s for s in scenarios}
        self.log, self.out, self.err, over, programs = (
            Path(f"{path}.{x}") for x in ("log", "out", "err", "overlay", "programs"))
        write(self.log, "")
        for folder in over, programs:
            shutil.rmtree(folder, ignore_errors=True)
        if overlay:
            shutil.copytree(overlay, over, symlinks=True)
        for s in scenarios:
            write(over / "args.d" / s.key, s.args + "\n")
            write(over / "limit.d" / s.key, f"{s.seconds}\n")
        timeout = BOOT + sum(s.seconds + GRACE for s in scenarios)
        self.env = self.first.machine() | {
            "TREE": tree, "FLAVOUR": flavour, "LOG": str(self.log), "OVERLAY": str(over), "ARGS": "",
            "RUN": " ".join(program(s, tree, programs) for s in scenarios),
            "TIMEOUT": str(self.first.seconds if self.first.kunit else timeout)}
        self.hung, self.ended, self.took = False, False, 0

    def run(self):
        """Until it ends, or the guest does not go on."""
        last, limit, begin = None, BOOT + self.first.seconds, time.monotonic()
        since = begin
        with open(self.out, "wb") as out, open(self.err, "wb") as err, \
                child([HARNESS / "vm"], self.env, stdout=out, stderr=err) as vm:
            while vm.poll() is None and not self.hung:
                marks = self.marks()
                if marks and marks[-1] != last:
                    last, since = marks[-1], time.monotonic()
                    limit = self.scenarios[last[2]].seconds + GRACE if last[1] == "run" else BOOT
                    stage(f"  {self.tree}: {last[2]}: {last[1]}")
                self.hung = time.monotonic() - since > limit
                time.sleep(0.5)
            self.ended = True
        self.took = time.monotonic() - begin
        if vm.returncode == 2:
            raise Failure(f"{self.why('vm failed')} (see {self.err})")

    def marks(self):
        """(time, "run" or "done", program, exit status) for each in the log."""
        # It is away for a moment when vm has a second try.
        with contextlib.suppress(FileNotFoundError):
            return MARK.findall(read(self.log))
        return []

    def why(self, otherwise):
        """What vm says about it."""
        return (re.findall("^vm: *((?!.* a second try).*)", read(self.err), re.M) or [otherwise])[0]

    def results(self):
        """{scenario: Result} of those that began, and of what came between them if the
        kernel complained there."""
        found, between = self.kunit() if self.first.kunit else self.programs(), Result("pass")
        of = {s.key: r for s, r in found.items()}
        otherwise = found.get(self.first, between) if len(self.scenarios) == 1 else between
        _, lines, error = said_by([HARNESS / "complaints", self.log], self.env)
        if error:
            raise Failure(error.strip())
        for line in lines.splitlines():
            count, kind, text, program = line.split("\t")
            r = of.get(program.removeprefix("after "), otherwise)
            if kind.startswith("known "):
                r.notes.append(f"{count}x {kind}: {text}")
            else:
                r.complaints[kind, text] += int(count)
        if between.complaints:
            found[Scenario("(boot)", "between the programs")] = between
        for r in found.values():
            r.log = self.log
        for r in list(found.values())[:1]:
            r.notes += re.findall("^vm: (.* a second try.*)", read(self.err), re.M)
        return found

    def programs(self):
        found, begun = {}, {}
        parts = re.split(r"^vm: run (\S+)\r?\n", read(self.out), flags=re.M)
        # Without colors.
        said = {key: [re.sub(r"\x1b\[[\d;]*m", "", x).rstrip() for x in text.splitlines()]
                for key, text in zip(parts[1::2], parts[2::2])}
        for stamp, what, key, rc in self.marks():
            s, lines = self.scenarios[key], said.get(key, [])
            if what == "run":
                begun[s] = float(stamp)
                # If it goes on, this is replaced.
                found[s] = Result("died", "the guest hung" if self.hung else
                                  self.why("no reason is known"), said=lines)
                continue
            rc, seconds = int(rc), float(stamp) - begun[s]
            ended = ("timeout", f"after {s.seconds} s") if rc == 137 and seconds >= s.seconds - 1 \
                else judge(rc, lines)
            found[s] = Result(*ended, seconds, rc, lines)
        return {s: r for s, r in found.items() if self.ended or r.outcome != "died"}

    def kunit(self):
        """By kunit.py's parser, if there is anything to be parsed."""
        log, suite, cases = read(self.log), "", []
        if not self.ended or "KTAP version" not in log and not self.marks():
            return {}
        kunit = SRC / "tools/testing/kunit/kunit.py"
        status, parsed, _ = said_by([sys.executable, "-B", kunit, "parse", self.log], self.env)
        for subtest, ok, name, rest in KUNIT.findall(log):
            suite = subtest or suite
            if ok:
                cases.append((ok == "ok", f"{suite}.{name}", rest.rstrip()))
        outcome = "timeout" if not self.marks() else "fail" if status else "pass"
        ran = (re.findall(r"Testing complete\. *(.*)", parsed) or ["no tests"])[0]
        return {self.first: Result(outcome, ran, self.took, status, parsed.splitlines(), cases,
                                   ran)}

def another_try(s, r, notes):
    """Why a scenario has one, if it has."""
    if r.outcome != "fail" or r.complaints:
        return ""
    said = "\n".join(r.said) + read(r.log)
    why = next((x["why"] for x in DATA["retry"] if re.search(x["output"], said)), "")
    tries = max(s.tries, 1 + bool(why))
    return f"{why or r.reason}: another try" if len(notes) + 1 < tries else ""

def run_all(flavour, tree, scenarios, folder, results, expected=None, title="", **options):
    """Fill results, {(tree, name): Result}, with a TAP line for each if something is
    expected(scenario, flavour, tree, Result, that of the base).

    Those with the same machine share a boot, and what the guest did not survive is the
    result of the scenario that ran. Those that remain go on in another boot, as they do
    if lockdep has turned itself off, after which a complaint would be missed. On the
    base, where complaints are expected, they only share it to be compared with the series."""
    def ended(s, r):
        results[tree, s.name] = r
        base = results.get(("base", s.name), Result("-"))
        if expected:
            bad = [] if s.unsuited(flavour) else expected(s, flavour, tree, r, base)
            tap(title + (s.title or s.name), bad, r)

    shared = expected is worse or tree.startswith("series") and not UNFIXED
    groups = defaultdict(list)
    for s in scenarios:
        if s.unsuited(flavour):
            ended(s, Result("skip", s.unsuited(flavour)))
        else:
            groups[str(s.machine()) if shared else s.name].append(s)
    command(HARNESS / "kernel", flavour, tree)
    for left in groups.values():
        name, notes, boots = left[0].key, defaultdict(list), 0
        if left[1:]:
            name += f"+{len(left) - 1}"
        while left:
            boots += 1
            path = f"{folder}/{name}-{flavour}{RUNS}-{tree}" + (f"-{boots}" if boots > 1 else "")
            boot = Boot(flavour, tree, left, path, **options)
            try:
                boot.run()
            finally:
                found = boot.results()
                for s, r in found.items():
                    if why := another_try(s, r, notes[s]):
                        notes[s].append(why)
                    else:
                        r.notes += notes[s]
                        left = [x for x in left if x != s]
                        ended(s, r)
            if not set(boot.scenarios.values()) & set(found):
                raise Failure(f"{tree} does not boot, see {boot.err}")

# Reports

def say(*lines):
    SAID.extend(lines)
    print(*lines, sep="\n", flush=True)

def result(ok, text, below=()):
    """A line of TAP, with what there is to say below it."""
    number = 1 + sum(re.match("(not )?ok ", x) is not None for x in SAID)
    say(f"{'ok' if ok else 'not ok'} {number} - {text}", *(f"# {x}" for x in below if x))

def tap(text, bad, r):
    """The same for a Result, and what is bad about it."""
    words = f"# SKIP {r.reason}" if r.outcome == "skip" and not bad else \
        f"{r.words()} # {r.seconds:.0f} s"
    below = r.notes + [f"ok {x}{rest}" for _, x, rest in r.cases if "# SKIP" in rest] + \
        bad + [f"{n}x {kind}: {text}" for (kind, text), n in r.complaints.most_common(8)]
    if not r.clean() and r.outcome != "skip":
        below.append(r.reason)
    if bad:
        below += [f"not ok {x}{rest}" for ok, x, rest in r.cases if not ok][:8]
        below += ["...", *r.said[-12:], f"see {short(r.log)}"]
    if "-v" in sys.argv:
        print(*r.said, sep="\n")
    result(not bad, f"{text}: {words}", below)

def failed():
    return int(any(x.startswith("not ok") for x in SAID))

def table(rows):
    """Below the first, the others. Cells that are too long go on in the next line."""
    lines, ends = [], []
    for row in rows:
        lines += itertools.zip_longest(*(textwrap.wrap(
            x, 29 if i else 25, subsequent_indent="" if i else "  ", break_on_hyphens=False)
            for i, x in enumerate(row)), fillvalue="")
        ends.append(len(lines))
    lines = list(grid(lines, " | "))
    return lines[:ends[0]] + ["-" * max(map(len, lines))] + lines[ends[0]:]

def grid(rows, between="  "):
    """Columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield between.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()

def heading(target):
    """The first lines of a table in results/: those of lib.sh."""
    return shell('heading "$1"', target).split("\n")

@contextlib.contextmanager
def result_file(path, head=(), lines=None):
    """Lines for a file, which is written as a whole; if interrupted, as .partial."""
    lines, name = [] if lines is None else lines, f"{path}.partial"
    try:
        yield lines
        name = path
    finally:
        if lines:
            write(name, "\n".join([*head, *lines]) + "\n")
            stage(f"written: {short(name)}" + (", not whole" if name != path else ""))

def side_by_side(flavour, tests, name, target, where="", **options):
    """Run {tree: [Scenario]}, in few boots, and write what becomes of them to a table in this
    folder, or in $BUILD. The exit status is 1 if anything is worse on the series."""
    results, folder = {}, BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    with result_file(f"{where or folder.parent}/{folder.name}.txt", heading(target), SAID):
        for tree, scenarios in tests.items():
            run_all(flavour, tree, scenarios, folder, results, worse, f"{tree}: ", **options)
        rows = [("test", *tests, *["s"] * len(tests), "")]
        for name in dict.fromkeys(name for _, name in results):
            row = [results.get((tree, name), Result("-")) for tree in tests]
            rows.append((name, *(", ".join([r.outcome, *r.kinds()]) for r in row),
                         *(f"{r.seconds:.0f}" for r in row), row[-1].reason))
        say("", *grid(rows), "")
        for tree in tests:
            count = Counter(r.outcome for (t, _), r in results.items() if t == tree)
            say(f"{tree}: " + ", ".join(f"{n} {x}" for x, n in count.most_common()))
        bad = [x for x in SAID if x.startswith("not ok")]
        say(f"{len(bad) or 'nothing is'} worse on the series", *bad)
    return failed()

# Lists

def chosen(names, patterns, what):
    """Those of the names that patterns ask for."""
    found = {}
    for pattern in patterns.split():
        found[pattern] = {x for x in names for y in (x, x.removeprefix(FOLDER + "/"))
                          if fnmatch.fnmatchcase(y, pattern)}
        if not found[pattern]:
            raise Failure(f"no {what} '{pattern}'{near(pattern, names)}")
    return [x for x in names if x in set().union(*found.values())]

def kselftest():
    flavour, npt, only = setting("FLAVOUR", "rt"), setting("NPT", "1"), setting("ONLY")
    if npt not in ("0", "1"):
        raise Failure(f"NPT={npt}: 0 or 1")
    whole, off = (flavour, npt) == ("rt", "1"), npt == "0"
    if not whole and (flavour not in ("rt", "std") or SUFFIX):
        raise Failure(f"FLAVOUR={flavour}: rt or std; rt, and no NPT=, with ARCH={ARCH}")
    data, programs, broken = DATA["kselftest"], {}, {}
    for tree in ("base", "series"):
        top = selftests(tree)
        broken[tree] = uncompiled(top)
        programs[tree] = {x.relative_to(top).as_posix(): x for sub in (top, top / FOLDER)
                          for x in sub.iterdir() if "." not in x.name and x.is_file()
                          and os.access(x, os.X_OK)}
    if more := broken["series"] - broken["base"]:
        raise Failure(f"with the series, {' '.join(more)} does not compile")
    for x in sorted(broken["base"]):
        say(f"# {x} does not compile, on the base neither")
    names = sorted(programs["base"] | programs["series"])
    unknown = {x for x in data["tests"] if x.startswith(f"{FOLDER}/") or "/" not in x} - set(names)
    if not SUFFIX and unknown:
        raise Failure(f"scenarios.toml: no selftest {' '.join(unknown)}")
    names = chosen(names, only or ("*" if whole else data["some"]), "selftest")
    append = data["append"] + " kvm_amd.npt=0" * off
    tests = {tree: [Scenario(x, program=paths[x], append=append, **{
        "mem": "3G", "limit": 120} | data["tests"].get(x, {})).customized()
        for x in names if x in paths] for tree, paths in programs.items()}
    return side_by_side(
        flavour, tests, f"kselftest/kselftest-{flavour}{RUNS}" + "-nonpt" * off,
        f"kselftest{GIVEN} FLAVOUR={flavour}" + " NPT=0" * off + f' ONLY="{only}"' * bool(only),
        "" if only else ROOT / "results")

def pack(programs, firmware, root):
    """Dynamic programs, what they need, and the firmware of the last one, which is QEMU."""
    paths = [shutil.which(x) or x for x in programs]
    where = ":".join(command(paths[-1], "-L", "help").split())
    files = paths + re.findall(r"(/\S+) \(0x", command("ldd", *paths)) + [
        shutil.which(x, os.F_OK, where) or x for x in firmware]
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "usr"):
        os.makedirs(root / folder)
    # All of busybox and of this is found in both.
    (root / "usr/bin").symlink_to("../bin")
    command("cp", "-L", "--parents", *dict.fromkeys(files), root)

def kvm_unit_tests():
    kut, flavour, only = Path(setting("KUT")), setting("FLAVOUR", "rt"), setting("ONLY")
    if not setting("KUT"):
        raise Failure("KUT= is empty: give it a tree of KVM-unit-tests in which ./configure and "
                      "make standalone were run, for x86_64; nothing is fetched or built here")
    tests, data = {x.name: x for x in sorted(kut.glob("tests/*"))}, DATA["kvm-unit-tests"]
    if ARCH != "x86_64" or not tests:
        raise Failure(f"KUT={kut} has no tests for {ARCH}: there, run make standalone")
    names = chosen(tests, only or "*", "test")
    overlay = BUILD / "kvm-unit-tests/overlay"
    pack(["bash", "qemu-system-x86_64"], data["firmware"].split(), overlay)
    # The scripts get their settings from init, which has them from the kernel.
    append = f"{data['append']} MAX_SMP={number('CPUS', 4)}" + " run_all_tests=yes" * bool(only)
    scenarios = [Scenario(x, program=tests[x], args=data["args"], mem=data["mem"], append=append,
                          limit=data["limit"].get(x, 240)).customized() for x in names]
    revision = re.findall(r"BUILD_HEAD=(\S+)", read(tests[names[0]])) or ["of unknown revision"]
    return side_by_side(
        flavour, {"base": scenarios, "series": scenarios}, f"kvm-unit-tests/{flavour}",
        f"kvm-unit-tests FLAVOUR={flavour}, KVM-unit-tests {revision[0]}", overlay=overlay)

def on_trees(flavour, trees, scenarios, expected=problems, more=()):
    """Run scenarios on {tree: head}, with a table if there are several."""
    results = {}
    for tree in trees:
        run_all(flavour, tree, scenarios, BUILD / "runs", results, expected,
                f"{flavour}{RUNS}, {tree}: ")
    if len(trees) > 1:
        rows = [[s.title, *(results[tree, s.name].words() for tree in trees)] for s in scenarios]
        print("", *table([[RUNS[1:].replace("-", ", "), *trees.values()], *rows, *more]), sep="\n")
    return failed()

def demo():
    data, more, legend = DATA["demo"], [], ""
    shell('need_space 8 "make demo"')
    rev("base")
    linux = shell('clean_environment; make -s "${kbuild_arch[@]}" -C "$BUILD/src" kernelversion')
    trees = {tree: head.format(linux=linux) for tree, head in data["trees"].items()
             if "+" not in tree or not SUFFIX + STABLE}
    scenarios = [s for x in DATA["list"]["demo"] if not (s := DATA["scenario"][x]).unsuited("rt")]
    bench = ROOT / "results/bench.txt"
    if STABLE:
        fixed, trees["series"] = DATA["list"]["stable-" + STABLE], data["stable"]
        more = [[s.title, *["not in this queue"] * 2] for s in scenarios if s.name not in fixed]
        scenarios, legend = [DATA["scenario"][x] for x in fixed], data["stable_legend"]
    elif not SUFFIX:
        legend = data["legend"]
        if figures := bench.exists() and re.search(data["figure"], read(bench), re.M | re.S):
            more = [[x.format(*figures.groups()) for x in data["row"]]]
            legend += data["quoted"].format(*figures.groups())
    # On the others, whatever happens is shown.
    bad = on_trees("rt", trees, scenarios, lambda s, flavour, tree, r, base: problems(
        s, flavour, tree, r, base) if tree == "series" else [], more)
    print(legend)
    return bad

LISTS = {"demo": demo, "kselftest": kselftest, "kvm-unit-tests": kvm_unit_tests}

def main(args):
    tree, flavour = setting("TREE", "series"), setting("FLAVOUR", "rt")
    names = [x for x in args if x != "-v"]
    if names == ["--list"]:
        print(*grid([(x.name, x.title) for x in DATA["scenario"].values()]), *LISTS, sep="\n")
        return 0
    if names[:1] == ["--path"]:
        if names[1:] in ([], [""]):
            raise Failure("TEST= is empty: which selftest?")
        print(selftest(names[1], setting("TESTS", tree)))
        return 0
    if not names:
        raise Failure("no scenario is given: see run.py --list")
    if names[0] in LISTS:
        if names[1:]:
            raise Failure(f"unknown argument '{names[1]}': {names[0]} takes none")
        return LISTS[names[0]]()
    for name in names:
        if name not in DATA["scenario"]:
            raise Failure(f"no scenario '{name}'{near(name, DATA['scenario'])}: see --help")
    return on_trees(flavour, {x: x for x in tree.split(",")},
                    [DATA["scenario"][x].customized() for x in names])

if __name__ == "__main__":
    entry(main, __doc__, arguments=True)
