#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: GPL-2.0
"""liveness.py: refreshes of a cache, and updates of memslots, under streams of
invalidations that concern neither, base against series. See liveness.c.

    FLAVOUR  "rt std"
    TREE     series; another one is compared with base in its place
    RUNS     5, boots of each tree, which take turns
    MS       1500, the time for each row in each boot
    ONLY     these rows, such as "slot/4K/* */1G/8"

The table is results/liveness.txt, if any of these is given $BUILD/liveness/liveness.txt;
what was printed, and the kernel logs, are in $BUILD/liveness/.

A row is worse if refreshes, or updates, have a rate below 0.9 of the base's. Without
threads a refresh has 1 lookup of the page, 0 sleeps, and no invalidation is completed
while it waits. The counts grow if with threads it is more than 1.5 lookups and sleeps,
or 1 invalidation, on average. Exit status 1 if a row is worse, if the counts grow on
the series, or if none do on the base: it is known for that, and a table that doesn't
show it says nothing about the series either. A comparison of the base with itself must
fail:

    make liveness TREE=base RUNS=1 FLAVOUR=rt ONLY="slot/4K/*"

The counts can be trusted on a busy machine, too, the rates cannot.
"""

import fnmatch
import os
import sys
import time
from statistics import median

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
import run
from run import Failure, Scenario, stage

GIVEN = {x: os.environ[x] for x in ("FLAVOUR", "TREE", "RUNS", "MS", "ONLY") if os.environ.get(x)}
FLAVOURS = GIVEN.get("FLAVOUR", "rt std").split()
TREES = ("base", GIVEN.get("TREE", "series"))
THREADS, NONE = (1, 2, 4, 8), "slot/4K/0"
# More tasks than CPUs, of which many are preempted within an invalidation.
MANY = [f"slot/{size}/64" for size in ("near", "4K", "64M")]
KIB = {"near": 4, "4K": 4, "64M": 64 << 10, "1G": 1 << 20}
ROWS = [NONE] + [f"{where}/{size}/{n}"
                 for size in KIB for where in ("slot", "outside") for n in THREADS] + MANY
RATES = {"refresh": "refreshes", "update": "updates"}
WORSE, COUNTS, WAITED = 0.9, 1.5, 1
CPUS, RUNS, MS = 2, 5, 1500
FOLDER = os.path.join(run.BUILD, "liveness")
NAMES = ("range", "refresh", "refresh_us", "lookups", "sleeps", "waited", "refresh_most",
         "update", "update_us", "update_most", "invalidation", "invalidation_us")


def boot(flavour, tree, side, n, rows):
    """{row: {name: figure}} of one boot."""
    scenario = Scenario("liveness", source="harness/bench/liveness.c", args=" ".join([str(MS), *rows]),
                        cpus=CPUS, append=os.environ.get("APPEND", ""), limit=300 + 10 * len(rows) * MS // 1000)
    results, tree = {}, tree + "+liveness"
    run.run_all(flavour, tree, [scenario], os.path.join(FOLDER, f"{side}-{n}"), results)
    result = results[tree, "liveness"]
    if result.words() != "clean":
        raise Failure(f"{flavour}, {tree}: {result.words()}: {result.reason} (see {run.short(result.log)})")
    found = {}
    for line in result.said:
        if line.startswith("liveness:\t"):
            _, row, *figures = line.split()
            found[row] = dict(zip(NAMES, map(float, figures), strict=True))
    for row in rows:
        seen = found[row]["range"]
        if row != NONE and seen != KIB[row.split("/")[1]]:
            raise Failure(f"{row}: KVM is told of ranges of {seen:.0f} KiB")
    return found


def number(x):
    return f"{x:.2f}" if x < 99.5 else f"{x:.0f}"


class Row:
    """Both trees in all runs."""

    def __init__(self, flavour, name, results):
        self.flavour, self.name = flavour, name
        self.stream, self.threads = name.rsplit("/", 1)
        self.runs = [[results[flavour, side, n][name] for side in (0, 1)]
                     for n in range(RUNS) if (flavour, 1, n) in results]

    def per_refresh(self, side, *what):
        return median(sum(run[side][x] for x in what) / run[side]["refresh"] for run in self.runs)

    def most(self, side, what):
        return median(run[side][what + "_most"] for run in self.runs)

    def ratio(self, what):
        """Of the rates, series / base."""
        return median(series[what] / series[what + "_us"] / (base[what] / base[what + "_us"])
                      for base, series in self.runs)

    def worse(self):
        return [f"{name} {self.ratio(what):.2f}" for what, name in RATES.items()
                if self.ratio(what) < WORSE]

    def grown(self, side):
        """There's no need to look up the page more than once, or to wait."""
        return self.per_refresh(side, "lookups", "sleeps") > COUNTS or \
            self.per_refresh(side, "waited") > WAITED

    def cells(self):
        yield self.stream
        yield self.threads
        for what in ("lookups", "sleeps", "waited"):
            yield from (number(self.per_refresh(side, what)) for side in (0, 1))
        for what in RATES:
            yield from (f"{self.most(side, what):.0f}" for side in (0, 1))
        for what in (*RATES, "invalidation"):
            yield f"{self.ratio(what):.2f}" if self.threads != "0" or what in RATES else "-"
        yield ", ".join(["counts"] * self.grown(1) + (["worse"] if self.worse() else []))


LEGEND = f"""
Per refresh: lookups of the page, sleeps, and the invalidations that were completed
while it waited (inv). The invalidations that were completed during the longest wait of
a refresh, and the longest memslot update. Rates of refreshes (refr), memslot updates
(upd) and invalidations (inv), {TREES[1]} / base. See harness/bench/liveness.py."""
SIDES = "base", TREES[1]
HEADS = [("", "", "lookups", "", "sleeps", "", "inv", "", "longest", "", "update", "",
          "rates", "", "", ""),
         ("stream", "threads", *SIDES * 5, "refr", "upd", "inv", "")]


def grown(rows, side):
    """The streams in which the counts of a refresh do."""
    return list(dict.fromkeys(row.stream for row in rows if row.grown(side)))


def make_report(results, rows, head, whole):
    """The lines, and what is bad."""
    table = [Row(flavour, row, results) for flavour in FLAVOURS for row in rows
             if (flavour, 1, 0) in results]
    lines = [*head, f"# Medians of {RUNS} boots of each tree, {MS} ms for each row, {CPUS} virtual CPUs.",
             *LEGEND.split("\n")]
    bad = []
    for flavour in FLAVOURS:
        part = [row for row in table if row.flavour == flavour]
        if not part:
            continue
        base, series = (grown(part, side) for side in (0, 1))
        lines += ["", f"{flavour}:", *run.grid(HEADS + [tuple(row.cells()) for row in part]), "",
                  "The counts of a refresh grow on base: " + (" ".join(base) or "none"),
                  f"on {TREES[1]}: " + (" ".join(series) or "none")]
        bad += [f"{flavour} {x}: the counts of a refresh grow" for x in series]
        if not base:
            bad.append(f"{flavour}: nothing grows on the base, which is known for it")
    worse = [f"{row.flavour} {row.name}: {', '.join(row.worse())}" for row in table if row.worse()]
    lines += ["", *(["Not whole."] if not whole else []), f"{len(table)} rows, {len(worse)} worse"]
    return lines, bad + worse


def main():
    global CPUS, RUNS, MS
    CPUS, RUNS, MS = (run.number(*x) for x in (("CPUS", CPUS), ("RUNS", RUNS), ("MS", MS)))
    results, begin, whole, bad = {}, time.time(), False, []
    rows = [x for x in ROWS if any(fnmatch.fnmatchcase(x, p)
                                   for p in GIVEN.get("ONLY", "*").split())]
    if not rows:
        raise Failure(f"ONLY={GIVEN['ONLY']}: no row is like that")
    run.rev("base")
    head = run.heading("liveness" + "".join(f' {k}="{v}"' for k, v in GIVEN.items()))
    folder = FOLDER if GIVEN else os.path.join(run.ROOT, "results")
    with run.result_file(os.path.join(folder, "liveness.txt")) as lines:
        try:
            for flavour in FLAVOURS:
                for tree in TREES:
                    run.command(run.HARNESS / "kernel", flavour, tree + "+liveness")
                for n in range(RUNS):
                    for side, tree in enumerate(TREES):
                        results[flavour, side, n] = boot(flavour, tree, side, n, rows)
                        stage(f"  {flavour} {n + 1}/{RUNS} {tree}: {(time.time() - begin) / 60:.0f} minutes")
            whole = True
        finally:
            if results:
                lines[:], bad = make_report(results, rows, head, whole)
    print(*bad or ["nothing is worse on the series"], sep="\n")
    return int(bool(bad))


run.entry(main, __doc__, arches=["x86_64"])
