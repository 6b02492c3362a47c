"""Run many schedules of the simulated round: `python -m tests.soak.schedules --count 10000`.

Each seed is one schedule of faults; see `tests.averaging.allreduce.model`. A schedule that breaks
an invariant is printed in words, and its seed is worth a place among the tests' seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.averaging.allreduce.model_faults import Report, run_schedule

PROGRESS_S = 5.0
BATCH = 20
WORDS_MAX = 3
"""So many failing schedules are told in words."""


def reports(seeds: range, jobs: int) -> Iterator[Report]:
    """What came of each schedule, in any order."""
    if jobs == 1:
        yield from map(run_schedule, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_schedule, seeds, BATCH)


def soak(seeds: range, jobs: int) -> dict[str, Any]:
    """Run them all, with a line of progress now and then; says what came out."""
    started_s = told_s = time.monotonic()
    outcomes: Counter[str] = Counter()
    failing: dict[int, Report] = {}
    groups = events = 0
    for done, report in enumerate(reports(seeds, jobs), 1):
        outcomes.update(report.outcomes)
        groups, events = groups + report.groups, events + report.events
        if report.complaints:
            failing[report.seed] = report
            print(f"schedule {report.seed}: {report.complaints[0]}", file=sys.stderr, flush=True)
        now_s = time.monotonic()
        if now_s >= told_s + PROGRESS_S or done == len(seeds):
            told_s = now_s
            rate = done / max(now_s - started_s, 1e-9)
            print(
                f"{done} of {len(seeds)} schedules, {len(failing)} wrong, {rate:.1f}/s",
                file=sys.stderr,
                flush=True,
            )
    for seed in sorted(failing)[:WORDS_MAX]:
        print(f"schedule {seed} went wrong:", *failing[seed].words, sep="\n", file=sys.stderr)
    return {
        "schedules": len(seeds),
        "first_seed": seeds.start,
        "seconds": round(time.monotonic() - started_s, 1),
        "groups": groups,
        "events": events,
        "ends": dict(sorted(outcomes.items())),
        "wrong": {str(seed): failing[seed].complaints for seed in sorted(failing)},
    }


def main() -> None:
    """Run it; exit 1 when an invariant was broken."""
    parser = argparse.ArgumentParser(description="Run schedules of the simulated round.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    options = parser.parse_args()
    if options.count < 1 or options.jobs < 1:
        parser.error("--count and --jobs must be at least 1")
    seeds = range(options.first_seed, options.first_seed + options.count)
    said = soak(seeds, options.jobs)
    if options.json:
        print(json.dumps(said, indent=2))
    else:
        ends = ", ".join(f"{count} {how}" for how, count in said["ends"].items())
        print(f"{said['schedules']} schedules, {said['groups']} groups; members ended: {ends}")
        for seed, complaints in said["wrong"].items():
            print(f"WRONG: schedule {seed}: {complaints[0]}")
        print("the soak failed" if said["wrong"] else "no schedule broke an invariant")
    sys.exit(1 if said["wrong"] else 0)


if __name__ == "__main__":
    main()
