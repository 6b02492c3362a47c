"""`manyhands bench equivalence`: whether several peers learn what one process learns.

Each recipe is trained by an ordinary loop of PyTorch without a swarm, by 1, 4 and 8 peers, and by
four of which one is killed or joined by another every few steps. All take as many global steps, of
at least as many samples; which ones differs, so figures are compared over several seeds.
Source: Diskin et al., "Distributed Deep Learning in Open Collaborations", 2021, section 4.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from p2p import DhtConfig
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row
from training.network import enter_network
from training.recipe import Recipe, load_recipe, override

COLUMNS = (
    "recipe",
    "setup",
    "figure",
    "mean",
    "spread",
    "difference",
    "joins",
    "deaths",
    "samples_per_step",
    "seconds",
)
FIGURES = {"digits": "accuracy", "albert-tiny": "loss", "swav-tiny": "knn_accuracy"}
"""What each recipe is judged by."""
DIFFERENCE_MAX = {"digits": 0.02, "albert-tiny": 0.1, "swav-tiny": 0.05}
"""Of the means of a swarm and of one process: what seeds alone bring about at reduced steps."""
PLAIN = "one process"
CHURN_EVERY_STEPS = 5
CHURN_STEP_S = 0.5
"""A step takes at least so long, or a newcomer would need more than the steps until the next."""
CHURN_PEERS = 4
SETUPS: dict[str, tuple[int, bool]] = {
    PLAIN: (0, False),
    "1 peer": (1, False),
    "4 peers": (4, False),
    "8 peers": (8, False),
    f"{CHURN_PEERS} peers, churn": (CHURN_PEERS, True),
}
LISTEN = "/ip4/127.0.0.1/tcp/0"
POLL_S = 0.05
RUN_S_MAX = 600.0
FAREWELL_S = 30.0


class RunFailed(Exception):
    """A run did not end as it must; the text says how."""


@dataclass(frozen=True, kw_only=True)
class EquivalenceOptions:
    """How much is measured."""

    recipes: Sequence[str] = tuple(FIGURES)
    steps: int = 100
    """Global steps of each run, instead of the recipe's."""
    seeds: int = 3


@dataclass
class _Peer:
    """One process and what it has written."""

    process: BaseProcess
    events_path: Path
    step: int = 0
    trains: bool = False
    """Whether it has taken a step with the others."""
    finished: dict[str, Any] | None = None
    killed: bool = False
    _offset: int = 0

    def listen(self) -> None:
        """Read what is new."""
        try:
            content = self.events_path.read_bytes()[self._offset :]
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for event in map(json.loads, whole.splitlines()):
            match event["event"]:
                case "step" | "caught_up":
                    self.step = event["step"]
                    self.trains |= event["event"] == "step"
                case "finished":
                    self.finished = event


@dataclass
class _Outcome:
    """What came of one run."""

    figures: dict[str, float]
    samples: int
    joins: int
    deaths: int
    seconds: float


@dataclass
class _Run:
    """One training of a recipe by one setup."""

    recipe: Recipe
    peers: int
    churn: bool
    folder: Path
    context: multiprocessing.context.ForkServerContext
    everybody: list[_Peer] = field(default_factory=list)
    bootstrap: tuple[str, ...] = ()
    """Addresses of a node that trains nothing and is there from the beginning to the end."""
    joins: int = 0
    deaths: int = 0

    def train(self) -> _Outcome:
        """Run it to its end; raises RunFailed."""
        began_s = time.monotonic()
        rng = random.Random(f"{self.recipe.run} {self.recipe.seed}")
        portal, (node, _) = enter_network(
            self.recipe.run,
            initial_peers=(),
            listen=(LISTEN,),
            announce=(),
            identity_path=None,
            client_mode=False,
            node_config=None,
            dht=DhtConfig(),
        )
        try:
            self._begin(node.addresses)
            due_step = CHURN_EVERY_STEPS
            while not all(peer.finished for peer in self._alive()):
                self._wait(began_s)
                step = max(peer.step for peer in self.everybody)
                # Who came so late that all others are gone would begin anew, alone.
                last = self.recipe.steps - 2 * CHURN_EVERY_STEPS
                if self.churn and due_step <= step <= last and self._come_or_go(rng):
                    due_step = step + CHURN_EVERY_STEPS
                if any(peer.finished for peer in self.everybody):
                    self._dismiss_late()
            return self._outcome(time.monotonic() - began_s)
        finally:
            for peer in self.everybody:
                peer.process.join(FAREWELL_S)
                peer.process.kill()
                peer.process.join()
            portal.close()

    def _begin(self, addresses: Sequence[str]) -> None:
        if self.peers == 0:
            self._start(alone=True)
            return
        self.bootstrap = tuple(addresses)
        for _ in range(self.peers):
            self._start()

    def _start(self, *, alone: bool = False) -> None:
        from tools.bench.equivalence_peer import run_alone, run_peer

        events = self.folder / f"{len(self.everybody)}.jsonl"
        if alone:
            process = self.context.Process(target=run_alone, args=(self.recipe, events))
        else:
            wait = self.peers if len(self.everybody) < self.peers else 1
            step_s = CHURN_STEP_S if self.churn else 0.0
            arguments = (self.recipe, self.bootstrap, wait, events, step_s)
            process = self.context.Process(target=run_peer, args=arguments)
        process.start()
        self.everybody.append(_Peer(process, events))

    def _alive(self) -> list[_Peer]:
        return [one for one in self.everybody if not one.killed]

    def _wait(self, began_s: float) -> None:
        """A moment; raises RunFailed when the run cannot end well any more."""
        time.sleep(POLL_S)
        for peer in self._alive():
            peer.listen()
            if peer.process.exitcode is not None:
                peer.listen()
                if peer.finished is None:
                    raise RunFailed(f"a peer ended with exit code {peer.process.exitcode}")
        if time.monotonic() - began_s > RUN_S_MAX:
            raise RunFailed(f"it did not end within {RUN_S_MAX:.0f} s")

    def _come_or_go(self, rng: random.Random) -> bool:
        """One dies when all are there, and one joins when one is missing; whether that was so.

        All have taken a step then: of a group of two the survivor would wait for a minute, since
        the round may have succeeded at the other one.
        """
        there = [one for one in self._alive() if one.finished is None]
        if len(there) < self.peers:
            self.joins += 1
            self._start()
            return True
        if not all(one.trains for one in there):
            return False
        victim = rng.choice(there)
        victim.killed = True
        victim.process.kill()
        self.deaths += 1
        return True

    def _dismiss_late(self) -> None:
        """Who had not taken a step when the first one finished is not waited for."""
        for peer in self._alive():
            if peer.finished is None and not peer.trains:
                peer.killed = True
                peer.process.kill()

    def _outcome(self, seconds: float) -> _Outcome:
        ends = [one.finished for one in self._alive() if one.finished is not None]
        if not ends:
            raise RunFailed("nobody finished")
        if len({end["hash"] for end in ends}) > 1:
            raise RunFailed("peers ended with different parameters")
        samples = sum(end["samples"] for end in ends)
        return _Outcome(ends[0]["figures"], samples, self.joins, self.deaths, seconds)


def run_equivalence(options: EquivalenceOptions, steps: Steps) -> Report:
    """Train each recipe in each setup with each seed, and set the means side by side."""
    report = Report("equivalence", COLUMNS)
    steps.expect(len(options.recipes) * len(SETUPS) * options.seeds)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tools.bench.equivalence_peer"])
    for name in options.recipes:
        for setup in SETUPS:
            try:
                report.rows.append(_measure(name, setup, options, context, steps))
            except RunFailed as failure:
                report.skip(f"{name}, {setup}", str(failure))
    compare(report)
    return report


def _measure(
    name: str,
    setup: str,
    options: EquivalenceOptions,
    context: multiprocessing.context.ForkServerContext,
    steps: Steps,
) -> Row:
    peers, churn = SETUPS[setup]
    outcomes = []
    for seed in range(options.seeds):
        steps.case(f"{name}, {setup}, seed {seed}")
        changes = {"steps": options.steps, "seed": seed}
        recipe = override(load_recipe(name), changes, source="options")
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(_Run(recipe, peers, churn, Path(folder), context).train())
        steps.step()
    values = [one.figures[FIGURES[name]] for one in outcomes]
    return {
        "recipe": name,
        "setup": setup,
        "figure": FIGURES[name],
        "mean": statistics.mean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else None,
        "joins": sum(one.joins for one in outcomes),
        "deaths": sum(one.deaths for one in outcomes),
        # Those who died took theirs with them, so with churn it cannot be told.
        "samples_per_step": None
        if churn
        else sum(one.samples for one in outcomes) / len(outcomes) / options.steps,
        "seconds": statistics.mean(one.seconds for one in outcomes),
        "steps": options.steps,
        "values": values,
        "figures": [one.figures for one in outcomes],
    }


def compare(report: Report) -> None:
    """Set each swarm's mean beside that of one process, and the farthest beside its budget."""
    plain = {row["recipe"]: row["mean"] for row in report.rows if row["setup"] == PLAIN}
    farthest: dict[str, float] = {}
    for row in report.rows:
        recipe = row["recipe"]
        if recipe in plain and row["setup"] != PLAIN:
            row["difference"] = row["mean"] - plain[recipe]
            farthest[recipe] = max(farthest.get(recipe, 0.0), abs(row["difference"]))
    for recipe, difference in farthest.items():
        words = f"{recipe}: the mean {FIGURES[recipe]} farthest from one process"
        report.budgets.append(Budget(words, difference, DIFFERENCE_MAX[recipe], "", "<="))
