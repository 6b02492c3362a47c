"""Average in four processes while they are killed, stopped and fed nonsense, and check each round.

python -m tests.soak.rounds --probe kill --rounds 50 --seed 1

Every peer must end its step in time; all who report success must hold the same bits, namely the
mean that their reports describe, and whoever fails must hold what it had. A round that breaks
this is named with its seed and number, and `--first NUMBER --rounds 1` runs it again alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.round_checks import complaints, value_complaints
from tests.soak.round_plan import PEERS, PROBES, Plan, order_of, plan_round, vector_of
from tests.soak.round_swarm import Happened, Swarm, open_swarm

ELEMENTS = 2_000_000
_PRACTICE_ROUNDS = 5


@dataclass
class Tally:
    """What came of the rounds of one probe."""

    rounds: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)
    """From the round's start until the last peer that is well had ended its step."""
    after_signal_s: list[float] = field(default_factory=list)
    """From the signal until then, in rounds that the signal hit."""
    outcomes: Counter[str] = field(default_factory=Counter)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rounds": self.rounds,
            "wrong": self.wrong,
            "seconds_median": statistics.median(self.seconds) if self.seconds else None,
            "seconds_worst": max(self.seconds, default=None),
            "hit": len(self.after_signal_s),
            "after_signal_s_median": (
                statistics.median(self.after_signal_s) if self.after_signal_s else None
            ),
            "after_signal_s_worst": max(self.after_signal_s, default=None),
            "outcomes": dict(sorted(self.outcomes.items())),
        }


class Driver:
    """Runs rounds on a swarm, judges them, and keeps count."""

    def __init__(self, swarm: Swarm, elements: int, seed: int, say: Callable[[str], None]) -> None:
        self.usual_s = 0.0
        self.tallies: dict[str, Tally] = {}
        self.wrong: list[str] = []
        self._swarm = swarm
        self._elements = elements
        self._seed = seed
        self._say = say

    def practise(self) -> None:
        """Learn how long a round takes that nothing befalls."""
        for number in range(_PRACTICE_ROUNDS):
            self.run_round("none", number)
        # The first one also connects.
        self.usual_s = statistics.median(self.tallies["none"].seconds[1:])
        self._say(f"a round usually takes {self.usual_s:.3f} s")

    def run_round(self, probe: str, number: int) -> None:
        """Run one round and judge it."""
        plan = plan_round(self._seed, probe, number)
        self._swarm.complete()
        happened = self._swarm.take_round(plan, self.usual_s)
        found = complaints(plan, self._swarm.peer_ids, happened) + self._check_values(
            plan, happened
        )
        if plan.probe == "kill":
            self._swarm.dismiss(plan.victim)
        seconds = self._count(plan, happened, bool(found))
        outcomes = ", ".join(
            happened.answers[rank]["outcome"] if rank in happened.answers else "gone"
            for rank in range(PEERS)
        )
        self._say(f"{probe} {number}: {plan.describe()}: {outcomes} in {seconds:.2f} s")
        for text in found:
            self.wrong.append(f"seed {self._seed}, {probe} {number}: {text}")
            self._say(f"WRONG: {self.wrong[-1]}")

    def _check_values(self, plan: Plan, happened: Happened) -> list[str]:
        winners = happened.succeeded()
        living = [rank for rank in winners if not (plan.probe == "kill" and rank == plan.victim)]
        if not living:
            return []
        members = happened.answers[living[0]]["report"]["members"]
        return value_complaints(
            self._swarm.result_of(living[0]),
            [vector_of(plan, rank, self._elements) for rank in range(PEERS)],
            plan.weights,
            [members.get(peer, {"fraction": 0.0})["fraction"] for peer in self._swarm.peer_ids],
        )

    def _count(self, plan: Plan, happened: Happened, wrong: bool) -> float:
        tally = self.tallies.setdefault(plan.probe, Tally())
        tally.rounds += 1
        tally.wrong += wrong
        well = [rank for rank in plan.healthy() if rank in happened.answers]
        ends = [happened.answers[rank]["ended_s"] for rank in well or happened.answers]
        seconds = max(ends, default=happened.begun_s) - happened.begun_s
        tally.seconds.append(seconds)
        if happened.struck_s is not None and max(ends, default=0.0) > happened.struck_s:
            tally.after_signal_s.append(max(ends) - happened.struck_s)
        for rank in range(PEERS):
            role = "well" if rank in plan.healthy() else "victim"
            outcome = happened.answers[rank]["outcome"] if rank in happened.answers else "gone"
            tally.outcomes[f"{role} {outcome}"] += 1
        return seconds


@contextmanager
def open_driver(seed: int, elements: int, say: Callable[[str], None]) -> Iterator[Driver]:
    """A driver whose swarm has practised; raises RivalFailed when a peer does not come up."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_swarm(elements, Path(folder)) as swarm,
    ):
        driver = Driver(swarm, elements, seed, say)
        driver.practise()
        yield driver


def _print_table(driver: Driver) -> None:
    print(
        f"\n{'probe':<14}{'rounds':>7}{'hit':>5}{'wrong':>6}  {'median s':>8} {'worst s':>8}",
        end="",
    )
    print("  worst s after the signal   outcomes")
    for probe, tally in driver.tallies.items():
        after_s = max(tally.after_signal_s, default=None)
        print(
            f"{probe:<14}{tally.rounds:>7}{len(tally.after_signal_s):>5}{tally.wrong:>6}  "
            f"{statistics.median(tally.seconds):>8.2f} {max(tally.seconds):>8.2f}  "
            f"{'' if after_s is None else f'{after_s:.2f}':>24}   "
            + ", ".join(f"{name} {count}" for name, count in sorted(tally.outcomes.items()))
        )


def main() -> None:
    """Run as the options say; exit 1 when a round broke a promise."""
    parser = argparse.ArgumentParser(description="Average under faults in real processes.")
    parser.add_argument("--probe", choices=(*PROBES, "none", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=50, help="of each probe")
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--elements", type=int, default=ELEMENTS, help="of the vector, float32")
    parser.add_argument("--json", action="store_true", help="print one object, and the rest beside")
    options = parser.parse_args()
    probes = PROBES if options.probe == "all" else (options.probe,)
    order = order_of(probes, options.first, options.rounds, options.seed)
    words = sys.stderr if options.json else sys.stdout

    def say(text: str) -> None:
        print(text, file=words, flush=True)

    say(f"seed {options.seed}, in this order: " + ", ".join(f"{p} {n}" for p, n in order))
    with open_driver(options.seed, options.elements, say) as driver:
        for probe, number in order:
            driver.run_round(probe, number)
    if options.json:
        tallies = {probe: tally.plain() for probe, tally in driver.tallies.items()}
        facts = {"seed": options.seed, "peers": PEERS, "elements": options.elements}
        print(
            json.dumps(
                {**facts, "usual_s": driver.usual_s, "probes": tallies, "wrong": driver.wrong}
            )
        )
    else:
        _print_table(driver)
        print("every round kept its promises" if not driver.wrong else "promises were broken")
    sys.exit(1 if driver.wrong else 0)


if __name__ == "__main__":
    main()
