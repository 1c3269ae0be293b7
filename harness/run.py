#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: GPL-2.0
"""run.py [OPTION...] SCENARIO...: run scenarios of scenarios.toml in harness/vm.

    --flavour=F[,F]   rt (default), std, ... (harness/configs)
    --tree=T[,T]      series (default), base, ... (harness/kernel)
    --tests=TREE      use the selftests of that tree
    -v                print what the programs print, too
    --selftest TEST   run only this KVM selftest; prints what it prints, and has the
                      exit status of harness/vm, 4 if it is skipped
    --list            the scenarios

In place of scenarios, one of these:

    demo              base, base+rtlocks and series, with a table
    after-parts       the tests that pass after each part of the series
    kcsan             those that race on purpose, with KCSAN: results/kcsan.txt
    kselftest         all KVM selftests, base against series: FLAVOUR, NPT=0, ONLY;
                      results/kselftest-FLAVOUR[-nonpt].txt, with ONLY in
                      $BUILD/kselftest

The environment variables FLAVOUR, TREE, TESTS, ARGS, CPUS, MEM, TCG, APPEND, TIMEOUT
and SUITE (of KUnit) override what scenarios.toml and the defaults are; ARCH and MODE
are those of harness/vm. A TAP line for each run,
and a table if there is more than one tree. Exit status 0 if all is as expected, 1 if
not, 2 for bad input or if a kernel can't be built or does not boot, 130 if it was
interrupted. Scenarios that need the same machine share a boot on the series, where
no complaint is expected. Output and kernel logs: $BUILD/runs.
"""

import collections
import contextlib
import dataclasses
import difflib
import fcntl
import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from dataclasses import dataclass, field

try:
    import tomllib
except ImportError:
    sys.exit("run.py: Python is too old: 3.11 or later is needed")

HARNESS = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(HARNESS)
BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, "build"))
# The folder of the kernel's sources for each architecture, and how much longer than
# with x86_64 a program may take: QEMU emulates some with more effort.
ARCHES = {"x86_64": ("x86", 1), "arm64": ("arm64", 2), "riscv64": ("riscv", 5)}
ARCH = os.environ.get("ARCH") or "x86_64"
FOLDER, SLOWER = ARCHES.get(ARCH, ("", 1))
MODE = os.environ.get("MODE") or ""
# For the names of what is built, and of what comes of it.
SUFFIX = f"-{ARCH}" * (ARCH != "x86_64")
RUNS = SUFFIX + f"-{MODE}" * bool(MODE)
GIVEN = f" ARCH={ARCH}" * bool(SUFFIX) + f" MODE={MODE}" * bool(MODE)
# The series leaves the invalidations of protected KVM as they are: what is expected
# on the base is expected on the series.
UNFIXED = MODE == "protected"

MARK = re.compile(r"\[ *(\d+\.\d+)\](?:\[[^]]*\])? vm: (?:(run|done) (\S+)(?: rc=(\d+))?|end)$")
CASE = re.compile(r"(not ok|ok)\b(?: \d+)?(?: -)? ?(\S*)(.*)")
BOOT = int(os.environ.get("BOOT") or 120) + 180      # seconds until a boot is given up
GRACE = int(os.environ.get("GRACE") or 60)      # and the guest to kill a program
SKIP = 4

# What child processes print about their stages goes where this process' does.
STAGE = int(os.environ.get("STAGE_FD") or 0) or os.dup(2)
os.environ.setdefault("STAGE_T0", str(int(time.time())))
# With whom child processes end, see lib.sh.
os.environ.setdefault("HARNESS_TOP", str(os.getppid() if os.environ.get("MAKELEVEL") else os.getpid()))
STOPPED = threading.Event()
CHILDREN = set()


class Failure(Exception):
    """One clear line."""


def stage(text):
    now = int(time.time()) - int(os.environ["STAGE_T0"])
    os.write(STAGE, f"[{now // 60:2}:{now % 60:02}] {text}\n".encode())


def number(name, otherwise=0):
    """An environment variable."""
    value = os.environ.get(name) or str(otherwise)
    if not value.isdigit():
        raise Failure(f"{name}={value}: a number")
    return int(value)


def near(name, names):
    """For a refusal."""
    last = {x.split("/")[-1]: x for x in names}
    found = [x for x in names if name in x] + [last[x] for x in difflib.get_close_matches(
        name.split("/")[-1], last, 5, 0.6)]
    return "; near it: " + " ".join(list(dict.fromkeys(found))[:8]) if found else ""


@contextlib.contextmanager
def child(args, env=None, **options):
    """A process that ends with the block."""
    if STOPPED.is_set():
        raise KeyboardInterrupt
    process = subprocess.Popen(args, env=os.environ | {"STAGE_FD": str(STAGE)} | (env or {}),
                               stdin=subprocess.DEVNULL, pass_fds=[STAGE], **options)
    CHILDREN.add(process)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        CHILDREN.discard(process)


def no_arguments(doc):
    """For a program that takes none but --help."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(doc, end="")
        sys.exit(0)
    if sys.argv[1:]:
        raise Failure(f"unknown argument '{sys.argv[1]}': see --help")


def entry(main, *args, arches=tuple(ARCHES)):
    """main() as a program, for some architectures: signals end the child processes, too."""
    def stop(*_):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        STOPPED.set()
        for process in list(CHILDREN):
            process.terminate()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    name = os.path.basename(sys.argv[0])
    try:
        if ARCH not in arches:
            raise Failure(f"unknown ARCH '{ARCH}' to run this on: {' '.join(arches)}")
        status = main(*args)
    except Failure as failure:
        sys.stderr.write(f"{name}: {failure}\n")
        status = 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        status = 130
    except Exception:   # not 1, which is that of tests that fail
        traceback.print_exc()
        status = 2
    sys.exit(status)


@dataclass(frozen=True)
class Scenario:
    """See scenarios.toml."""
    name: str
    title: str = ""
    test: str = ""
    source: str = ""
    kunit: str = ""
    program: str = ""       # the path of one that is there
    args: str = ""
    cpus: int = 4
    mem: str = "1G"
    append: str = ""
    tcg: str = "auto"
    icount: bool = False
    limit: int = 300 * SLOWER
    tries: int = 1
    arch: tuple = field(default=(), compare=False)
    not_on: dict = field(default_factory=dict, compare=False)
    skips: dict = field(default_factory=dict, compare=False)
    base: dict = field(default=None, compare=False)

    @property
    def key(self):
        """What the guest calls it."""
        return os.path.basename(self.name)

    def machine(self):
        return {"CPUS": str(self.cpus), "MEM": self.mem, "TCG": self.tcg, "APPEND": self.append,
                "ICOUNT": "1" if self.icount else ""}

    def unsuited(self, flavour):
        """Why it is not run, if it is not."""
        if self.arch and ARCH not in self.arch or "/" in self.test and self.test.split("/")[0] != FOLDER:
            return f"not for {ARCH}"
        return self.not_on.get(flavour.split("-")[0], "")


def load():
    """What scenarios.toml has, its scenarios as such."""
    with open(os.path.join(HARNESS, "scenarios.toml"), "rb") as file:
        data = tomllib.load(file)
    data["scenario"] = {k: Scenario(k, **v) for k, v in data["scenario"].items()}
    return data


try:
    DATA = load()
except (tomllib.TOMLDecodeError, TypeError) as error:
    sys.exit(f"scenarios.toml: {error}")


def customized(scenario):
    """As the environment wants it."""
    given = {k.lower(): os.environ[k] for k in ("ARGS", "MEM", "TCG") if os.environ.get(k)}
    given |= {to: number(name) for name, to in (("CPUS", "cpus"), ("TIMEOUT", "limit")) if os.environ.get(name)}
    if scenario.kunit and os.environ.get("SUITE"):
        given["kunit"] = os.environ["SUITE"]
    given["append"] = f"{scenario.append} {os.environ.get('APPEND', '')}".strip()
    return dataclasses.replace(scenario, **given)


@dataclass
class Result:
    outcome: str                # pass, fail, skip, timeout, died
    reason: str = ""
    seconds: float = 0
    tries: int = 1
    status: int | None = None
    log: str = ""
    said: list = field(default_factory=list)        # lines of output
    cases: list = field(default_factory=list)       # (passed, name, the rest of the line)
    complaints: list = field(default_factory=list)  # (count, kind, text)
    notes: list = field(default_factory=list)       # second tries

    def kinds(self):
        count = collections.Counter()
        for n, kind, _ in self.complaints:
            count[kind] += n
        return count

    def verdict(self):
        """What the program itself calls its result, if it does."""
        return next((x[10:] for x in self.said if x.startswith("# result: ")), "")

    def words(self):
        """What it came to."""
        words = [f"{n} {kind}" for kind, n in self.kinds().most_common()]
        failed = sum(not case[0] for case in self.cases)
        if self.outcome == "fail":
            words.insert(0, self.verdict() or (f"{failed} of {len(self.cases)} tests fail" if self.cases else "fails"))
        elif self.outcome != "pass":
            words.insert(0, {"skip": "skipped", "timeout": "timeout"}.get(self.outcome, "no answer"))
        return ", ".join(words) or "clean"


def judge(rc, said):
    """The outcome of an exit status, and why: what is missing, or what failed first."""
    text = "\n".join(said)
    if rc == 0:
        return "pass", ""
    if rc == SKIP:
        why = re.findall(r"# SKIP(?: -)? *(.*)", text) or re.findall(r"(.*), skipping test", text)
        return "skip", (why or said[-1:] or [""])[-1]
    why = re.search(r"Test Assertion Failure ====\n *(.*)", text) or \
        re.search(r"^(not ok .*|.*[Ff]ailed.*)", text, re.M)
    return "fail", why[1] if why else f"status {rc}: {said[-1] if said else 'no output'}"


def problems(scenario, flavour, tree, result):
    """What differs from the expectation."""
    want = scenario.base if UNFIXED or re.split("[+@]", tree)[0] == "base" else None
    if want is None:
        allowed = scenario.skips.get(flavour)
        return [x for x in [result.words()] if x != "clean"] + [
            f"must not be skipped: {name}{rest}" for _, name, rest in result.cases
            if "# SKIP" in rest and allowed is not None and name not in allowed]
    complaints = [f"{kind}\t{text}" for _, kind, text in result.complaints]
    bad = [f"expected a complaint like '{x}'" for x in want.get("complaints", [])
           if not any(re.search(x, line) for line in complaints)]
    if want.get("status") not in (None, result.status):
        bad.append(f"expected status {want['status']}, got {result.status}")
    for what, text in (("output", "\n".join(result.said)), ("result", result.verdict())):
        if not re.search(want.get(what, ""), text):
            bad.append(f"expected as {what}: '{want[what]}'")
    return bad


class Build:
    """A build folder: sources, kernels, selftests."""

    def __init__(self, path=BUILD):
        self.path, self.src, self.revs = path, os.path.join(path, "src"), {}

    def run(self, log, *command, env=None):
        """The exit status of a command whose output goes to a log."""
        with open(log, "wb") as out, child(command, {"BUILD": self.path} | (env or {}), stdout=out,
                                           stderr=subprocess.STDOUT) as process:
            process.wait()
        if STOPPED.is_set():
            raise KeyboardInterrupt
        return process.returncode

    def command(self, *command, env=None, **options):
        """What a command prints, or why it fails."""
        with child(command, {"BUILD": self.path} | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                   text=True, errors="replace", **options) as process:
            out, err = process.communicate()
        if STOPPED.is_set():
            raise KeyboardInterrupt
        if process.returncode:
            raise Failure(err.strip() or f"{os.path.basename(command[0])} failed")
        sys.stderr.write(err)
        return out.strip()

    def git(self, *args, **options):
        return self.command("git", "-C", self.src, *args, **options)

    def rev(self, tree):
        """The commit of a tree."""
        if tree not in self.revs:
            self.command(os.path.join(HARNESS, "base"))
            self.revs[tree] = self.command(os.path.join(HARNESS, "queue"), "rev", tree)
        return self.revs[tree]

    def kernel(self, flavour, tree):
        self.command(os.path.join(HARNESS, "kernel"), flavour, tree)

    def compiler(self):
        """The C compiler for ARCH."""
        return self.command("bash", "-c", '. "$0/lib.sh"; set_arch; echo "$compiler"', HARNESS)

    def selftest_names(self, tree):
        paths = self.git("ls-tree", "-r", "--name-only", self.rev(tree), "tools/testing/selftests/kvm/")
        return {x[1] for x in re.finditer(
            rf"^tools/testing/selftests/kvm/((?:{FOLDER}/)?[^/\n]*)\.c$", paths, re.M)}

    def selftest(self, test, tree):
        """The program of a KVM selftest, of the series if the tree does not have it."""
        names = {x: self.selftest_names(x) for x in (tree, "base", "series")}
        known = set().union(*names.values())
        found = [x for x in (test, f"{FOLDER}/{test}") if x in known]
        if not found:
            raise Failure(f"no selftest '{test}'" + f" for {ARCH}" * bool(SUFFIX) + near(test, sorted(known)))
        return self.selftests(tree if found[0] in names[tree] else "series", found[:1])[found[0]]

    def selftests(self, tree, tests=()):
        """Build KVM's selftests of a tree, static, in $BUILD/selftests/TREE; all of
        them, or some. {name: program}. All trees with +NAME share a folder.

        They are built from a copy: $BUILD/src stays clean, and may be busy with a
        kernel of another tree."""
        rev, out = self.rev(tree), os.path.join(self.path, "selftests" + SUFFIX, "extra" if "+" in tree else tree)
        copy, top, done, log, stamp = (os.path.join(out, x) for x in ("src", "bin", "done", "build.log", "stamp"))

        compiler = self.compiler()
        cross = [f"ARCH={FOLDER}", "CROSS_COMPILE=" + compiler.removesuffix("gcc")] if SUFFIX else []

        def make(folder, *args):
            unset = (x for name in ("ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT", "MAKEFLAGS", "MFLAGS", "MAKELEVEL",
                                    "MAKEOVERRIDES") for x in ("-u", name))
            if self.run(log, "env", *unset, "LC_ALL=C", "make", "-C", os.path.join(copy, folder), *cross, *args):
                lines = read(log).splitlines()
                for x in re.findall(rf"No rule to make target '{re.escape(top)}/(\S+)'", "\n".join(lines)):
                    raise Failure(f"selftest '{x}' of {tree} is not for {ARCH}")
                errors = [x for x in lines if re.search(
                    r"error:|undefined reference|\*\*\*|No rule|No space left", x)]
                raise Failure("\n".join([*(errors[:10] or lines[-10:]),
                                         f"building selftests of {tree} failed (see {log})"]))

        os.makedirs(out, exist_ok=True)
        with open(os.path.join(out, ".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            key = "\n".join([self.git("rev-parse", rev + "^{tree}"), read(self.src + "/.base"),
                             self.command(compiler, "--version")])
            if not os.path.exists(stamp) or read(stamp) != key:
                stage(f"copying the selftests of {tree}")
                shutil.rmtree(done, ignore_errors=True)
                self.export(rev, copy)
                make("", f"O={out}/headers", f"INSTALL_HDR_PATH={out}/headers/usr", "headers_install")
                os.mkdir(done)
                write(stamp, key)
            targets = [x for x in tests or ["all"]
                       if not {"all", x.replace("/", "_")} & set(os.listdir(done))]
            if targets:
                stage(f"building selftests of {tree}: {' '.join(targets)}")
                make("tools/testing/selftests/kvm", f"-j{os.cpu_count() + 1}", f"OUTPUT={top}",
                     f"KHDR_INCLUDES=-isystem {out}/headers/usr/include", "USERLDFLAGS=-static",
                     *(x if x == "all" else f"{top}/{x}" for x in targets))
                for x in targets:
                    write(os.path.join(done, x.replace("/", "_")), "")
        return {x: os.path.join(top, x) for x in tests} or {
            os.path.join(sub, x.name): x.path for sub in ("", FOLDER) for x in os.scandir(os.path.join(top, sub))
            if x.is_file() and os.access(x, os.X_OK) and "." not in x.name}

    def export(self, rev, copy):
        """What selftests are made of; files that don't change keep their time stamps."""
        arch, env = FOLDER, {"GIT_ALTERNATE_OBJECT_DIRECTORIES": f"{self.src}/.git/objects"}
        if not os.path.isdir(copy):
            self.command("git", "init", "-q", copy)
            self.command("git", "-C", copy, "sparse-checkout", "set", "--cone", "scripts", "include", "usr",
                         f"arch/{arch}", *(f"tools/{x}" for x in ("arch", "build", "include", "lib", "scripts",
                                                                  "testing/selftests")),
                         # Of their headers, the vfio tests have symbolic links.
                         "drivers/dma", "drivers/net/ethernet/intel/igb")
        self.command("git", "-C", copy, "checkout", "-q", "-f", "--detach", rev, env=env)

    def program(self, scenario, tree):
        """The scenario's program, and what it is called in the guest."""
        path = os.path.join(self.path, "programs" + SUFFIX, scenario.key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if scenario.kunit:
            # KUnit runs before init does, there is nothing to be done after it.
            write(path, "#!/bin/sh\n")
            os.chmod(path, 0o755)
            return path
        if scenario.source:
            self.command(self.compiler(), "-O2", "-Wall", "-static", "-pthread", "-o", path,
                         os.path.join(ROOT, scenario.source))
            return path
        program = scenario.program or self.selftest(scenario.test, tree)
        if os.path.basename(program) == scenario.key:
            return program
        # Two scenarios may have the same program, but not in one boot.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.symlink(program, path)
        return path


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


class Boot:
    """One boot with as many of the scenarios as it survives."""

    def __init__(self, build, flavour, tree, scenarios, path, tests="", env=None, overlay=None):
        self.build, self.flavour, self.tree, self.path = build, flavour, tree, path
        self.scenarios = {s.key: s for s in scenarios}
        self.log, self.out, self.err, self.over = (path + x for x in (".log", ".out", ".err", ".overlay"))
        self.running, self.hung, self.ended, self.ends = None, False, False, []
        self.first, self.begin, self.seconds = scenarios[0], time.monotonic(), 0
        programs = [build.program(s, tests or tree) for s in scenarios]
        shutil.rmtree(self.over, ignore_errors=True)
        for s in scenarios:
            write(f"{self.over}/args.d/{s.key}", s.args + "\n")
            write(f"{self.over}/limit.d/{s.key}", f"{s.limit}\n")
        if overlay:
            shutil.copytree(overlay, self.over, dirs_exist_ok=True, symlinks=True)
        timeout = self.first.limit if self.first.kunit else BOOT + sum(s.limit + GRACE for s in scenarios)
        self.env = {"BUILD": build.path} | self.first.machine() | (env or {}) | {
            "TREE": tree, "FLAVOUR": flavour, "LOG": self.log, "OVERLAY": self.over,
            "NAME": self.first.key if len(scenarios) == 1 else os.path.basename(path),
            "RUN": " ".join(programs), "ARGS": "", "ONCE": "1", "TIMEOUT": str(timeout)}
        if self.first.kunit:
            self.env["APPEND"] += " kunit.enable=1 kunit.autorun=1 kunit.filter_glob=" + self.first.kunit

    def run(self):
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            with child([os.path.join(HARNESS, "vm")], env=self.env, stdout=out, stderr=err) as vm:
                self.watch(vm)
        self.seconds = time.monotonic() - self.begin
        shutil.rmtree(self.over)
        if STOPPED.is_set():
            raise KeyboardInterrupt
        if vm.returncode == 2:
            raise Failure((self.whys() or ["vm failed"])[0] + f" (see {self.err})")

    def watch(self, vm):
        since, at, seen = time.monotonic(), 0.0, 0
        while True:
            alive = vm.poll() is None
            for stamp, what, key, rc in list(self.marks())[seen:]:
                seen, since = seen + 1, time.monotonic()
                if what == "run":
                    self.running, at = self.scenarios[key], float(stamp)
                elif what == "done":
                    self.ends.append((self.running, int(rc), float(stamp) - at))
                    self.running = None
                    if len(self.scenarios) > 1:
                        stage(f"  {self.tree}: {key}: status {rc}, {self.ends[-1][2]:.0f} s")
            limit = self.running.limit + GRACE if self.running else BOOT + self.first.limit
            self.hung = alive and time.monotonic() - since > limit
            if not alive or self.hung:
                self.ended = True
                return
            time.sleep(0.5)

    def marks(self):
        with contextlib.suppress(FileNotFoundError), \
                open(self.log, encoding="utf-8", errors="replace") as log:
            for line in log:
                if line.endswith("\n") and (mark := MARK.search(line.rstrip())):
                    yield mark.groups()

    def said(self, *command):
        """Status and output of what is short, and wanted after an interruption, too."""
        done = subprocess.run(command, env=os.environ | self.env, stdin=subprocess.DEVNULL, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return done.returncode, done.stdout

    def whys(self):
        return [x[4:].strip() for x in read(self.err).split("\n") if x.startswith("vm: ")]

    def results(self, judge_status):
        """{scenario: Result}, and the complaints that came during none of them."""
        if not os.path.exists(self.out):
            return {}, []
        output, key = {}, None
        for line in read(self.out).splitlines():
            if line.startswith("vm: run ") and line[8:] in self.scenarios:
                key = line[8:]
            output.setdefault(key, []).append(line.rstrip())
        results = {}
        if self.first.kunit:
            self.kunit(results)
        for s, rc, seconds in [] if self.first.kunit else self.ends:
            said = output.get(s.key, [])[1:]
            ended = ("timeout", f"after {s.limit} s") if rc == 137 and seconds >= s.limit - 1 else \
                judge_status(rc, said)
            results[s] = Result(*ended, seconds, status=rc, said=said)
        if self.running and self.ended and not self.first.kunit:
            results[self.running] = Result("died", "the guest hung" if self.hung else
                                           (self.whys() or ["no reason is known"])[0],
                                           said=output.get(self.running.key, [])[1:])
        for r in results.values():
            r.log = self.log
            if not self.first.kunit:
                r.cases = [(m[1] == "ok", m[2], m[3]) for x in r.said if (m := CASE.match(x))]
        found = self.said(os.path.join(HARNESS, "complaints"), "-p", self.log)[1]
        rest, of = [], {s.key: r.complaints for s, r in results.items()}
        for line in found.splitlines():
            count, kind, text, program = line.split("\t")
            to = rest if len(self.scenarios) > 1 or not results else of[self.first.key]
            of.get(program.removeprefix("after "), to).append((int(count), kind, text))
        return results, rest

    def kunit(self, results):
        """By kunit.py's parser, if there is anything to be parsed."""
        log, suite, cases = read(self.log), "", []
        if STOPPED.is_set() or any(x.startswith("QEMU itself failed") for x in self.whys()) or \
                "KTAP version" not in log and not self.ends:
            return
        rc, text = self.said(sys.executable, "-B", f"{self.build.src}/tools/testing/kunit/kunit.py", "parse",
                             self.log)
        write(self.out, text)
        for line in log.splitlines():
            line = re.sub(r"^\[[ 0-9.]*\](\[[^]]*\])? ", "", line)
            if m := re.match(r"    # Subtest: (\S+)", line):
                suite = m[1]
            elif m := re.match(r"    (not ok|ok) \d+ (\S+)(.*)", line):
                cases.append((m[1] == "ok", f"{suite}.{m[2]}", m[3]))
        said = text.splitlines()
        why = re.sub(r".*complete\. *", "", next((x for x in said if "Testing complete" in x), "no tests"))
        outcome = "timeout" if not self.ends else "fail" if rc else "pass"
        results[self.first] = Result(outcome, why, self.seconds, status=rc, said=said, cases=cases)


def run_all(build, flavour, tree, scenarios, folder, results, shared=False, name="", tests="",
            env=None, overlay=None, judge_status=judge, ended=None):
    """Fill results, {(tree, name): Result}, with those of the scenarios that suit the
    flavour.

    shared: those with the same machine share a boot, and what the guest did not
    survive is the result of the scenario that ran. Those that remain go on in
    another boot, as they do if lockdep has turned itself off, after which a complaint
    would be missed. A scenario has a second try if QEMU failed.

    ended(scenario, Result) is called when a result is known."""
    groups = collections.defaultdict(list)
    for s in scenarios:
        if s.unsuited(flavour):
            continue
        groups[str(s.machine()) + (s.kunit and s.name) if shared else s.name].append(s)
    os.makedirs(folder, exist_ok=True)
    for number, left in enumerate(groups.values(), 1):
        one = left[0].key if len(left) == 1 else f"{name or 'shared'}{number if len(groups) > 1 else ''}"
        n = fruitless = 0
        aborted, failures, notes = set(), collections.Counter(), collections.defaultdict(list)
        while left:
            n += 1
            path = os.path.join(folder, f"{one}-{flavour}{RUNS}-{tree}" + (f"-{n}" if n > 1 else ""))
            boot = Boot(build, flavour, tree, left, path, tests, env, overlay)
            for old in (boot.log, boot.out, boot.err):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(old)
            again = False
            try:
                boot.run()
            finally:
                found, rest = boot.results(judge_status)
                for s, r in list(found.items()):
                    failures[s] += r.outcome == "fail"
                    whys = [x["why"] for x in DATA["retry"] if re.search(x["output"], "\n".join(r.said))]
                    if r.outcome == "fail" and not r.complaints and failures[s] < max(s.tries, 1 + bool(whys)):
                        why = (whys or [r.reason])[0]
                    elif r.reason.startswith("QEMU itself failed") and not r.complaints and s not in aborted:
                        aborted.add(s)
                        why = r.reason
                    else:
                        r.tries, r.notes = failures[s] + (r.outcome != "fail"), notes[s]
                        continue
                    notes[s].append(f"{why}: another try")
                    stage(f"{s.name}, {tree}: {notes[s][-1]}")
                    again = True
                    del found[s]
                results.update({(tree, s.name): r for s, r in found.items()})
                if rest:
                    results.setdefault((tree, "(boot)"), Result("pass", log=boot.log)).complaints += rest
            for s, r in found.items():
                if ended:
                    ended(s, r)
            left = [s for s in left if s not in found]
            fruitless = 0 if found or again else fruitless + 1
            if fruitless == 2:
                raise Failure(f"{tree} does not boot, see {boot.err}")
            if fruitless:
                notes[left[0]].append(f"{(boot.whys() or ['the boot had no result'])[0]}: another try")
                stage(f"{tree}: {notes[left[0]][-1]}")


# Reports

def tap(text, bad, result, n=[0]):
    """A line, with what there is to say below it."""
    n[0] += 1
    print(f"{'not ok' if bad else 'ok'} {n[0]} - {text}: {result.words()} # {result.seconds:.0f} s")
    lines = result.notes + [f"ok {x}{rest}" for _, x, rest in result.cases if "# SKIP" in rest]
    if bad:
        lines += bad + [f"{n}x {text}" for n, _, text in result.complaints[:8]]
        if result.reason:
            lines.append(result.reason)
        lines += [f"not ok {x}{rest}" for ok, x, rest in result.cases if not ok][:8]
        lines += ["..."] + result.said[-12:] + [f"see {os.path.relpath(result.log)}"]
    print("".join(f"# {x}\n" for x in lines), end="", flush=True)
    return bool(bad)


def table(head, rows, widths):
    """Cells that are too long go on in the next line, below an indented title."""
    for row in [head, None, *rows]:
        if not row:
            yield "-" * (sum(widths) + 3 * len(widths) - 3)
            continue
        cells = [textwrap.wrap(x, w - 2 * (i == 0), break_on_hyphens=False)
                 for i, (x, w) in enumerate(zip(row, widths))]
        for k in range(max(len(x) for x in cells)):
            line = [x[k] if k < len(x) else "" for x in cells]
            line[0] = "  " * (k > 0 and line[0] != "") + line[0]
            yield " | ".join(x.ljust(w) for x, w in zip(line, widths)).rstrip()


def grid(rows):
    """Columns as wide as they need to be."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, width)).rstrip()


def heading(target):
    """The first lines of a table in results/: those of lib.sh."""
    return Build().command("bash", "-c", '. "$0/lib.sh"; heading "$1"', HARNESS, target).split("\n")


@contextlib.contextmanager
def result_file(path):
    """Lines for a file, which is written as a whole; if interrupted, as .partial."""
    lines, name = [], path + ".partial"
    try:
        yield lines
        name = path
    finally:
        if lines:
            write(name, "\n".join(lines) + "\n")
            stage(f"written: {os.path.relpath(name)}" + (", not whole" if name != path else ""))


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


def report(results, names, head, whole=True):
    """Base against series: the table, what does not pass, the complaints; and what is
    worse."""
    def cells(name):
        yield name
        both = [results.get((tree, name)) for tree in ("base", "series")]
        yield from (r.outcome + f", try {r.tries}" * (r.tries > 1) if r else "-" for r in both)
        yield from (f"{r.seconds:.0f}" if r and r.seconds else "-" for r in both)
        for r in both:
            yield ", ".join(f"{n} {k}" for k, n in sorted(r.kinds().items())) or "-" if r else "-"

    names = [x for x in ["(boot)", *names] if any((t, x) in results for t in ("base", "series"))]
    worse = list(regressions(results, names))
    said, lines = [x for x in names if x != "(boot)"], list(head)
    for tree in ("base", "series"):
        got = [results[tree, x] for x in said if (tree, x) in results]
        count = collections.Counter(r.outcome for r in got)
        lines.append(f"# {tree}: {', '.join(f'{n} {k}' for k, n in count.most_common())}, "
                     f"{sum(r.seconds for r in got) / 60:.0f} minutes in tests")
    lines += ["", "Worse on the series:" if worse else "Nothing is worse on the series." if whole
              else "Interrupted; nothing is worse so far."]
    lines += ["  " + line for line in worse] + [""]
    lines += grid([("test", "base", "series", "s", "s", "complaints: base", "series"),
                   *(tuple(cells(x)) for x in names)])
    part = [(x, results["series", x]) for x in said if ("series", x) in results]
    part = [(x, r.outcome, r.reason) for x, r in part if r.outcome != "pass"]
    if part:
        lines += ["", "Not a pass on the series:", *("  " + x for x in grid(part))]
    texts = {}
    for (tree, name), result in results.items():
        for count, kind, text in result.complaints:
            texts.setdefault((kind, text), {}).setdefault(tree, []).append(f"{name} ({count})")
    if texts:
        lines += ["", "Complaints, in which tests, and how often:"]
    for (kind, text), of in sorted(texts.items()):
        lines.append(f"  {kind}: {text}")
        lines += [f"    {tree}: {', '.join(where)}" for tree, where in sorted(of.items())]
    return lines, worse


def side_by_side(flavour, tests, folder, path, target, **options):
    """Run {tree: [Scenario]}, in few boots, and write the report to path. The exit
    status is 1 if anything is worse on the series."""
    results, worse, whole, head = {}, [], False, heading(target)
    names = list(dict.fromkeys(s.name for scenarios in tests.values() for s in scenarios))
    shutil.rmtree(folder, ignore_errors=True)
    with result_file(path) as lines:
        try:
            for tree, scenarios in tests.items():
                results.update({(tree, s.name): Result("skip", s.unsuited(flavour)) for s in scenarios
                                if s.unsuited(flavour)})
                run_all(Build(), flavour, tree, scenarios, folder, results, shared=True, name="tests", **options)
            whole = True
        finally:
            if any(name != "(boot)" for _, name in results):
                lines[:], worse = report(results, names, head, whole)
    print(f"{len(worse)} worse on the series" if worse else "nothing is worse on the series", *worse, sep="\n  ")
    return int(bool(worse))


def judged(build, flavour, tree, scenarios, folder, title, expected=problems, said=None, results=None, **options):
    """Run scenarios with a TAP line for each. True if any is not as expected."""
    failed, results = [], {} if results is None else results

    def ended(s, r):
        bad = expected(s, flavour, tree, r)
        if said:
            said(s, r, bad)
        failed.append(tap(title + s.title, bad, r))

    for s in scenarios:
        if why := s.unsuited(flavour):
            print(f"ok - {title}{s.title} # SKIP {why}", flush=True)
    run_all(build, flavour, tree, scenarios, folder, results, ended=ended, **options)
    if boot := results.pop((tree, "(boot)"), None):
        failed.append(tap(title + "between the programs", [boot.words()], boot))
    return any(failed)


# Lists

def kselftest():
    flavour, npt, only = (os.environ.get(k) or v for k, v in (("FLAVOUR", "rt"), ("NPT", "1"), ("ONLY", "")))
    if npt not in ("0", "1"):
        raise Failure(f"NPT={npt}: 0 or 1")
    if flavour not in ("rt", "std") or SUFFIX and (flavour, npt) != ("rt", "1"):
        raise Failure("FLAVOUR=rt, and no NPT=, with ARCH=" + ARCH if SUFFIX else f"FLAVOUR={flavour}: rt or std")
    build, data = Build(), DATA["kselftest"]
    programs = {tree: build.selftests(tree) for tree in ("base", "series")}
    names = set(programs["base"]) | set(programs["series"])
    for test in set(data["tests"]) - names if not SUFFIX else ():
        raise Failure(f"scenarios.toml: no selftest '{test}'")
    whole = flavour == "rt" and npt == "1"
    patterns, chosen = (only or ("*" if whole else data["some"])).split(), set()
    for pattern in patterns:
        found = {x for x in names if any(fnmatch.fnmatchcase(y, pattern) for y in (
            x, x.removeprefix(FOLDER + "/")))}
        if not found:
            raise Failure(f"no selftest '{pattern}'{near(pattern, sorted(names))}")
        chosen |= found
    append = "kasan_multi_shot" + " kvm_amd.npt=0" * (npt == "0")
    tests = {}
    for tree in programs:
        build.kernel(flavour, tree)
        tests[tree] = [customized(Scenario(x, program=programs[tree][x], append=append, **(
            {"mem": "3G"} | data["tests"].get(x, {}) | {"limit": data["tests"].get(x, {}).get("limit", 120) * SLOWER})))
            for x in sorted(chosen) if x in programs[tree]]
    name = f"kselftest-{flavour}{RUNS}{'' if npt == '1' else '-nonpt'}"
    folder = os.path.join(BUILD, "kselftest")
    target = f"kselftest{GIVEN} FLAVOUR={flavour}" + " NPT=0" * (npt == "0") + f' ONLY="{only}"' * bool(only)
    return side_by_side(flavour, tests, os.path.join(folder, name),
                        os.path.join(folder if only else os.path.join(ROOT, "results"), name + ".txt"), target)


def kcsan():
    build, flavour, tree = Build(), "kcsan", "series+kcsan"
    folder = os.path.join(BUILD, "kcsan")
    overlay, known = os.path.join(folder, "overlay"), os.path.join(folder, "known-complaints")
    races = [x for x in read(f"{HARNESS}/known-races").splitlines() if x and not x.startswith("#")]
    write(overlay + "/known-races", "".join(x + "\n" for x in races))
    # KUnit runs before init can tell the kernel about them.
    write(known, read(f"{HARNESS}/known-complaints") + "".join(
        f"*\tBUG: KCSAN: data-race in (\\S+ / )?{x}( / \\S+)?$\tknown-races\n" for x in races))
    build.kernel(flavour, tree)
    # A race takes two threads.
    scenarios = [dataclasses.replace(DATA["scenario"][x], tcg="multi") for x in DATA["list"]["kcsan"]]
    with result_file(f"{ROOT}/results/kcsan.txt") as lines:
        lines += heading("kcsan")

        def said(s, r, bad):
            lines.append(f"{'not ok' if bad else 'ok'} - {s.title}: " +
                         (r.reason if s.kunit and not bad else r.words()))
            lines.extend(f"# {n}x {kind}\t{text}" for n, kind, text in r.complaints)

        return int(judged(build, flavour, tree, scenarios, folder, "", said=said, tests="series",
                          overlay=overlay, env={"KNOWN_COMPLAINTS": known}))


def after_parts():
    """After each part of the series, the tests that it makes pass. After the fixes,
    there may be as many complaints as on the base."""
    build, flavour, folder, failed = Build(), "rt", os.path.join(BUILD, "after-parts"), False
    base = {}

    def as_base(s, flavour, tree, r):
        before = {text: n for n, _, text in base["base", s.name].complaints}
        return [f"{n - before.get(text, 0)} more: {text}" for n, _, text in r.complaints
                if n > before.get(text, 0)] + [r.words()] * (r.outcome != "pass")

    for part, data in DATA["after"].items():
        text = read(f"{ROOT}/patches/series").partition(f"[{part}]\n")[2].partition("\n[")[0]
        tree = "series@" + re.findall(r"^(\d{4})-", text, re.M)[-1]
        scenarios = [dataclasses.replace(s, args=data.get("args", {}).get(s.name, s.args))
                     for s in (DATA["scenario"][x] for x in data["scenarios"])]
        if data.get("as_base"):
            build.kernel(flavour, "base")
            run_all(build, flavour, "base", scenarios, folder, base, tests="series")
        stage(f"after the part {part}, {tree}")
        build.kernel(flavour, tree)
        failed |= judged(build, flavour, tree, scenarios, folder, f"after {part}: ",
                         as_base if data.get("as_base") else problems, tests="series")
    return int(failed)


def bench_figure(section, row):
    """What results/bench.txt has for it with PREEMPT_RT: the base's and the series'."""
    with contextlib.suppress(FileNotFoundError):
        text = read(f"{ROOT}/results/bench.txt")
        here = text[text.index(section):]
        if m := re.search(rf"^ *{re.escape(row)} *\|[^|]*\| *(\d+) +(\d+)", here, re.M):
            return m.groups()
    return None


def demo():
    build, flavour, trees, results = Build(), "rt", ["base", "base+rtlocks", "series"], {}
    scenarios = [s for s in (DATA["scenario"][x] for x in DATA["list"]["demo"]) if not s.unsuited(flavour)]
    if SUFFIX:
        trees.remove("base+rtlocks")
    build.command("bash", "-c", '. "$0/lib.sh" && need_space 12 "make demo"', HARNESS)
    for tree in trees:
        build.kernel(flavour, tree)
    for n, (s, tree) in enumerate((s, tree) for s in scenarios for tree in trees):
        stage(f"run {n + 1} of {len(scenarios) * len(trees)}: {s.title}, {tree}")
        run_all(build, flavour, tree, [s], os.path.join(BUILD, "runs"), results)

    def cell(r, tree):
        return "not fixed: " * (UNFIXED and tree == "series" and r.words() != "clean") + (
            r.verdict() if r.words() == "clean" and r.verdict() else r.words())

    linux = f"Linux {build.command('make', '-s', '--no-print-directory', '-C', build.src, 'ARCH=' + FOLDER, 'kernelversion')} RT"
    rows = [[s.title, *(cell(results[tree, s.name], tree) for tree in trees)] for s in scenarios]
    figure = None if SUFFIX else bench_figure("Reaping a VM: KVM's start() + end()", "64 MiB, 4 KiB pages, 1 vCPU")
    if figure:
        rows.append(["start() and end(), VM of 64 MiB, 4 KiB pages", figure[0] + " instructions",
                     "the same", figure[1]])
    heads = {"base": linux + " as is", "base+rtlocks": linux + " with rtlocks allowed to sleep", "series": "with the series"}
    print("", *table([RUNS[1:].replace("-", ", "), *(heads[tree] for tree in trees)], rows, [25, 29, 29, 26]), sep="\n")
    if not SUFFIX:
        print("""
rtlocks: spinlock_t and rwlock_t, which sleep on PREEMPT_RT, may sleep where mm reaps:
  harness/extra/rtlocks.patch, which names the author of the idea.
The preempted vCPU: a vCPU thread handles a page fault, with mmu_lock held for read,
  when a SCHED_FIFO task takes its CPU. The VM's process is killed, and reaped by
  process_mrelease() on another CPU.""")
    if figure:
        print(f"The instructions are quoted from results/bench.txt, "
              f"{read(ROOT + '/results/bench.txt')[:12].strip('# :')}, PREEMPT_RT.\n"
              '  Without debug options, as there, rtlocks.patch changes no code: "the same".')
    print()
    for s in scenarios:
        for tree in trees:
            r = results[tree, s.name]
            if cell(r, tree) != "clean":
                print(f"{s.title}, {tree}: {os.path.relpath(r.log)}",
                      *(f"{n}x {text}" for n, _, text in r.complaints),
                      # A program that says what its result is says why, too.
                      *(x for x in r.said if re.match("(not )?ok" if r.verdict() else "not ok", x)),
                      sep="\n  ")
    return int(any(problems(s, flavour, "series", results["series", s.name]) for s in scenarios))


LISTS = {"demo": demo, "after-parts": after_parts, "kcsan": kcsan, "kselftest": kselftest}


def scenarios_of(names, flavours, trees, tests="", verbose=False):
    """Run them, and a table if there are several trees."""
    scenarios = [customized(DATA["scenario"][x]) for x in names]
    build, failed = Build(), False
    for flavour in flavours:
        results = {}
        for tree in trees:
            build.kernel(flavour, tree)
            failed |= judged(build, flavour, tree, scenarios, os.path.join(BUILD, "runs"), f"{flavour}{RUNS}, {tree}: ",
                             said=(lambda s, r, bad: print(*r.said, sep="\n")) if verbose else None,
                             results=results, shared=tree.startswith("series") and not UNFIXED, tests=tests)
        if len(trees) > 1:
            print("", *table(["", *trees], [[s.title, *(results[tree, s.name].words() for tree in trees)]
                                            for s in scenarios if not s.unsuited(flavour)],
                             [25] + [29] * len(trees)), sep="\n")
    return int(failed)


def main(args):
    option = {x: os.environ.get(x.upper()) or y for x, y in (("flavour", "rt"), ("tree", "series"), ("tests", ""))}
    names, verbose = [], False
    while args:
        arg = args.pop(0)
        if arg in ("-h", "--help"):
            print(__doc__, end="")
            return 0
        if arg == "--list":
            print(*grid([(s.name, s.title) for s in DATA["scenario"].values()] + [(x, "") for x in LISTS]), sep="\n")
            return 0
        if arg == "--selftest":
            if len(args) != 1 or not args[0]:
                raise Failure("TEST= is empty: which selftest?" if len(args) < 2 else f"unknown argument '{args[1]}'")
            program = Build().selftest(args[0], option["tests"] or option["tree"])
            vm = os.path.join(HARNESS, "vm")
            os.execve(vm, [vm], os.environ | {"RUN": program, "TREE": option["tree"], "FLAVOUR": option["flavour"],
                                        "TIMEOUT": os.environ.get("TIMEOUT") or str(300 * SLOWER)})
        if m := re.match(r"--(flavour|tree|tests)=(.+)", arg):
            option[m[1]] = m[2]
        elif arg == "-v":
            verbose = True
        elif arg.startswith("-"):
            raise Failure(f"unknown option '{arg}': see run.py --help")
        else:
            names.append(arg)
    if not names:
        raise Failure("no scenario is given: see run.py --list")
    if names[0] in LISTS:
        if names[1:]:
            raise Failure(f"unknown argument '{names[1]}': {names[0]} takes none")
        return LISTS[names[0]]()
    for name in names:
        if name not in DATA["scenario"]:
            raise Failure(f"no scenario '{name}'{near(name, list(DATA['scenario']))}")
    return scenarios_of(names, option["flavour"].split(","), option["tree"].split(","), option["tests"], verbose)


if __name__ == "__main__":
    entry(main, sys.argv[1:])
