#!/usr/bin/env -S python3 -B
# SPDX-License-Identifier: GPL-2.0
"""soak.py: reap VMs, and stress the caches, for long, on the series with a thread for
each virtual CPU (QEMU 10.0 or newer). The counts decide when it is done, on each flavour:

    10,000 reaps of VMs that exit at the same time, and 10,000 of VMs that are kept from
    exiting, by process_mrelease() or the OOM killer; 1,000,000 events that were seen by
    a guest while its memory was invalidated; 100,000 updates of memslots meanwhile.

    HOURS    end after that time, with the result "incomplete"
    FLAVOUR  "rt std kcsan"

The table is results/soak.txt, with FLAVOUR $BUILD/soak/soak.txt. Flavours take turns, in
boots of some minutes, each with a seed of its own, which is printed. Any complaint of the
kernel, lost event, stuck vCPU, stale write or other failure ends it, with exit status 1.
If it fails because QEMU has put registers of the host into a VMCB, which the kernel then
says (see results/README.md), that is counted, and the programs run again.
"""

import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import run
from run import BUILD, Failure, Scenario, stage

GOALS = {"reaps, exiting": 10 ** 4, "reaps, kept from exiting": 10 ** 4,
         "events": 10 ** 6, "memslot updates": 10 ** 5}
FOLDER = BUILD / "soak"


def counts(said):
    """What the programs of one boot did, by their own words."""
    text = "\n".join(said)
    found = Counter({"reaps, exiting": sum(map(int, re.findall(r"(\d+) of which were reaped", text))),
                     "reaps, kept from exiting": len(re.findall(
                         r"^ok \d+ +(?:mrelease|memcg_oom)\.\S+(?!.*# SKIP)", text, re.M))})
    for line in re.findall(r"Events seen:(.*)", text):
        found["events"] += sum(map(int, re.findall(r" (\d+)\b", line)))
    for block in re.findall(r"RUN +stress\.memslot\.(.*?)\n(?:not )?ok ", text, re.S):
        found["memslot updates"] += sum(map(int, re.findall(r"(\d+) operations", block)))
    return found


def scenarios(seed):
    reap = {"test": "mmu_notifier_reap_test", "tcg": "multi", "append": "numa=fake=2"}
    return [Scenario("reap", args="-f rounds -n200", limit=3600, **reap),
            Scenario("reap-kept", args="-f mrelease -f memcg_oom", limit=900, **reap),
            Scenario("stress", test="x86/xen_gpc_stress_test", args=f"-S {seed} -D 20", tcg="multi",
                     append="numa=fake=2", limit=1800)]


def report(done, boots, failures, head, words):
    rows = [("flavour", "boots", "QEMU failed", *GOALS)]
    rows += [(x, str(boots[x]), str(failures[x]),
              *(f"{done[x][what]:,} of {goal:,}" for what, goal in GOALS.items())) for x in done]
    return [*head, "", *run.grid(rows), "", words]


def main():
    flavours = run.setting("FLAVOUR", "rt std kcsan").split()
    hours = run.setting("HOURS")
    try:
        end = time.time() + 3600 * float(hours) if hours else float("inf")
    except ValueError:
        raise Failure(f"HOURS={hours}: a number") from None
    boots, failures, words = Counter(), Counter(), "incomplete"
    done = {x: Counter() for x in flavours}
    path = (FOLDER if run.setting("FLAVOUR") else run.ROOT / "results") / "soak.txt"
    head = run.heading("soak" + (f" HOURS={hours}" if hours else ""))
    with run.result_file(path) as lines:
        try:
            while left := [x for x in flavours if any(done[x][k] < GOALS[k] for k in GOALS)]:
                if time.time() > end:
                    break
                flavour = min(left, key=lambda x: boots[x])
                seed, results = random.randrange(1 << 31), {}
                boots[flavour] += 1
                tree = "series" + ("+kcsan" if flavour == "kcsan" else "") + "+qemu-svm"
                stage(f"{flavour}, boot {boots[flavour]}, seed {seed}")
                run.run_all(flavour, tree, scenarios(seed), FOLDER / f"{flavour}-{boots[flavour]}",
                            results, run.problems, f"{flavour}, seed {seed}: ")
                for result in results.values():
                    done[flavour] += counts(result.said)
                    failures[flavour] += sum("QEMU failed" in x for x in result.notes)
                if run.failed():
                    words = f"FAILED: {flavour}, seed {seed}, see {run.short(FOLDER)}"
                    break
            else:
                words = "complete"
        finally:
            lines[:] = report(done, boots, failures, head, words)
    print(*lines, sep="\n")
    return run.failed()


run.entry(main, __doc__, arches=["x86_64"])
