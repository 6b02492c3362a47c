"""`manyhands bench overlap`: how much of a swarm's time is computing, with delayed updates or not.

Peers are processes whose traffic passes links of a limited rate and a delay. Each peer computes
real gradients, and sleeps for the rest of the time that a micro-batch should take: so the share
of the network is seen as it would be on machines of their own, where the processors are free.
What a round costs a step that does need the processor is measured beside it, with no sleep.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tools.bench.links import LinksProcess, open_links
from tools.bench.processes import ANSWER_S_MAX, RivalFailed, Worker
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

COLUMNS = (
    "mode",
    "peers",
    "steps",
    "seconds_per_step",
    "seconds_computing",
    "waited_seconds",
    "other_seconds",
    "coreless_seconds",
    "utilisation",
    "round_seconds",
    "matchmaking_seconds",
    "failed_rounds",
    "same_parameters",
    "slowed_by",
    "slowed_by_with_a_core",
)
SYNCHRONOUS, DELAYED = "synchronous", "delayed"
PLAIN, BESIDE = "plain loop, no padding", "the same beside rounds"
UTILISATION_MIN = 0.95
SLOWED_MAX = 0.05
SLOWED_STEP_S_MIN = 0.01
"""The promise is for steps of this length: of shorter ones, waking a thread is a larger part."""
_LONGER_BY = 1.2
"""So that steps of a quick moment are long enough, too."""
_SAMPLES_MIN, _SAMPLES_MAX = 8, 1024
"""In a step that is to be so long: processors differ."""
_BITS = 8
_BESIDE_PEERS = 2
"""One that is measured and one to average with, so that these two hardly need its core."""
_ROUND_STEP_S_MAX = 60.0
"""As long as one global step may take: two rounds that fail by their deadlines."""

Answer = dict[str, Any]


@dataclass(frozen=True)
class OverlapOptions:
    """How much is measured."""

    peers: int = 4
    parameters: int = 5_000_000
    megabits_per_s: float = 100.0
    """Of each peer's link, each way."""
    round_trip_s: float = 0.04
    compute_s: float = 3.0
    """Of each peer for one global step, filled up by sleeping."""
    micro_batches: int = 6
    """Of each peer for one global step: about so often a peer looks what the others do."""
    steps: int = 8
    warmup: int = 2
    """Global steps before those that count: connections and buffers are made in them."""
    pairs: int = 8
    """Of a plain loop and one beside a round."""

    @property
    def loop_s(self) -> float:
        """How long each of both loops: with the usual options longer than a round of two peers."""
        return self.compute_s / 2

    @property
    def rate_bytes_per_s(self) -> float:
        """Of each link."""
        return self.megabits_per_s * 1e6 / _BITS


def run_overlap(options: OverlapOptions, steps: Steps) -> Report:
    """Measure both ways of stepping, and then a step that needs its core."""
    report = Report("overlap", COLUMNS)
    steps.expect(2 + options.pairs)
    with ExitStack() as stack:
        workers = []
        for rank in range(options.peers):
            workers.append(Worker(f"peer {rank}", "tools.bench.overlap_worker"))
            stack.callback(workers[-1].end)
        for mode in (SYNCHRONOUS, DELAYED):
            steps.case(f"{options.peers} peers, {mode}")
            try:
                report.rows.append(_train(mode, workers, options))
            except RivalFailed as exc:
                report.skip(mode, str(exc))
            steps.step()
        steps.case("a plain loop, and the same beside rounds")
        try:
            report.rows.extend(_beside(workers[:_BESIDE_PEERS], options, steps))
        except RivalFailed as exc:
            report.skip(BESIDE, str(exc))
    report.budgets = budgets(report.rows)
    return report


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """What delayed updates promise."""
    at = {row["mode"]: row for row in rows}
    found = []
    if DELAYED in at:
        name = "delayed: of the time, spent computing"
        found.append(Budget(name, at[DELAYED]["utilisation"], UTILISATION_MIN, "of all", ">="))
    for mode in (SYNCHRONOUS, DELAYED):
        if mode in at:
            name = f"{mode}: all peers hold the same parameters"
            found.append(Budget(name, at[mode]["same_parameters"], 1, "(1 is yes)", ">="))
    if BESIDE in at and at[PLAIN]["seconds_per_step"] >= SLOWED_STEP_S_MIN:
        name = "a step that needs its core, slowed by a round beside it"
        found.append(Budget(name, at[BESIDE]["slowed_by"], SLOWED_MAX, "of its time", "<="))
    return found


# --- swarms whose computing is padded ---


def _train(mode: str, workers: Sequence[Worker], options: OverlapOptions) -> Row:
    """All global steps of one swarm; raises RivalFailed."""
    micro_batches = len(workers) * options.micro_batches
    with _swarm(mode, workers, micro_batches, options) as links:
        before = sum(links.passed_bytes()[0])
        answers = _ask_all(
            workers,
            timeout_s=ANSWER_S_MAX + (options.warmup + options.steps) * _ROUND_STEP_S_MAX,
            do="train",
            warmup=options.warmup,
            steps=options.steps,
            micro_batch_s=options.compute_s / options.micro_batches,
        )
        linked = sum(links.passed_bytes()[0]) - before
    if linked < sum(answer["sent_bytes"] for answer in answers):
        raise RivalFailed("some bytes went past the links")
    return summary(mode, answers, options)


def summary(mode: str, answers: Sequence[Mapping[str, Any]], options: OverlapOptions) -> Row:
    """What all peers of a swarm say, in a row; seconds are a peer's for one global step."""

    def per_step(key: str) -> float:
        return float(statistics.mean(answer[key] for answer in answers)) / options.steps

    def median(key: str) -> float | None:
        every = [value for answer in answers for value in answer[key]]
        return statistics.median(every) if every else None

    wall_s, computing_s, waited_s = (
        per_step("wall_s"),
        per_step("computing_s"),
        per_step("waited_s"),
    )
    return {
        "mode": mode,
        "peers": len(answers),
        "steps": options.steps,
        "parameters": options.parameters,
        "rate_bytes_per_s": options.rate_bytes_per_s,
        "round_trip_s": options.round_trip_s,
        "micro_batches_per_step": per_step("micro_batches"),
        "seconds_per_step": wall_s,
        "seconds_computing": computing_s,
        "optimizer_seconds": per_step("optimizer_s"),
        "waited_seconds": waited_s,
        # Sums of gradients, means, copies: what step() does beside.
        "other_seconds": wall_s - computing_s - waited_s,
        # Of both, but for how long the network's thread had no core.
        "coreless_seconds": per_step("coreless_s"),
        "utilisation": computing_s / wall_s,
        "utilisation_min": min(answer["computing_s"] / answer["wall_s"] for answer in answers),
        "round_seconds": median("round_s"),
        "matchmaking_seconds": median("matchmaking_s"),
        "transfer_seconds": median("transfer_s"),
        "agreement_seconds": median("agreement_s"),
        "failed_rounds": max(answer["failed"] for answer in answers),
        "caught_up": sum(answer["caught_up"] for answer in answers),
        "same_parameters": int(len({answer["hash"] for answer in answers}) == 1),
    }


# --- steps that need their core ---


def _beside(workers: Sequence[Worker], options: OverlapOptions, steps: Steps) -> list[Row]:
    """A loop in turns with nothing, and with a round in its background; raises RivalFailed."""
    one = workers[0]
    plain: list[Answer] = []
    beside: list[Answer] = []
    rounds_s: list[float | None] = []
    one.ask(do="make", rank=0, parameters=options.parameters)
    one.ask(do="loop", seconds=options.loop_s, samples=_SAMPLES_MIN)
    unnetworked, loop = _long_enough(one, options)
    # One micro-batch fills the batch, so that whoever is told begins at once.
    with _swarm(DELAYED, workers, 1, options):
        # The first round is to warm up.
        _begin(workers)
        one.ask(**loop)
        for index in range(options.pairs):
            plain.append(one.ask(**loop))
            round_s = _begin(workers)
            if index:
                rounds_s.append(round_s)
            beside.append(one.ask(**loop))
            steps.step()
        plain.append(one.ask(**loop))
        rounds_s.append(_begin(workers))
    return loops_summary(unnetworked, plain, beside, rounds_s, options)


def _long_enough(one: Worker, options: OverlapOptions) -> tuple[Answer, Answer]:
    """Steps of this processor that are as long as the promise asks, and the order for such."""
    samples = _SAMPLES_MIN
    while True:
        order: Answer = {"do": "loop", "seconds": options.loop_s, "samples": samples}
        answer = one.ask(**order)
        median_s = statistics.median(answer["took_s"])
        if median_s >= _LONGER_BY * SLOWED_STEP_S_MIN or samples >= _SAMPLES_MAX:
            return answer, order
        samples *= 2


def _begin(peers: Sequence[Worker]) -> float | None:
    """Put a round under way at all; returns how long the one before took, None if it failed."""
    told = _ask_all(peers, do="begin")
    seconds: float | None = told[0]["round_s"]
    return seconds


def loops_summary(
    unnetworked: Mapping[str, Any],
    plain: Sequence[Mapping[str, Any]],
    beside: Sequence[Mapping[str, Any]],
    rounds_s: Sequence[float | None],
    options: OverlapOptions,
) -> list[Row]:
    """Two rows; each loop beside a round is compared with the plain ones before and after it.

    Args:
        unnetworked: steps of a process that has joined no swarm.
        plain: steps while no round was under way, one more than beside.
        beside: steps since each round began; some are after its end, and are left out.
        rounds_s: how long each of the rounds took; None for one that failed.

    Raises:
        RivalFailed: no round succeeded while steps were measured.
    """
    medians_s = [statistics.median(one["took_s"]) for one in plain]
    on_core_s = [_median_on_core_s(one["took_s"], one["coreless_s"]) for one in plain]
    slowed, slowed_on_core, during_s = [], [], []
    for index, (one, round_s) in enumerate(zip(beside, rounds_s, strict=True)):
        count = sum(ended_s <= round_s for ended_s in one["ended_s"]) if round_s else 0
        if count == 0:
            continue
        took_s, coreless_s = one["took_s"][:count], one["coreless_s"][:count]
        during_s += took_s
        before, after = list(pairwise(medians_s))[index]
        slowed.append(statistics.median(took_s) * 2 / (before + after) - 1)
        before, after = list(pairwise(on_core_s))[index]
        slowed_on_core.append(_median_on_core_s(took_s, coreless_s) * 2 / (before + after) - 1)
    if not slowed:
        raise RivalFailed("no round was there to compute beside")
    shared = {"parameters": options.parameters, "waited_seconds": 0.0, "other_seconds": 0.0}
    took_s = unnetworked["took_s"]
    return [
        {
            "mode": PLAIN,
            "peers": 0,
            "steps": len(took_s),
            "seconds_per_step": statistics.median(took_s),
            "seconds_computing": statistics.median(took_s),
            "utilisation": 1.0,
            **shared,
        },
        {
            "mode": BESIDE,
            "peers": _BESIDE_PEERS,
            "steps": len(during_s),
            "seconds_per_step": statistics.median(during_s),
            "seconds_computing": statistics.median(during_s),
            "seconds_per_step_between_rounds": statistics.median(medians_s),
            "round_seconds": statistics.median(one for one in rounds_s if one is not None),
            "failed_rounds": sum(one is None for one in rounds_s),
            "slowed_by": statistics.median(slowed),
            "slowed_by_min": min(slowed),
            "slowed_by_max": max(slowed),
            "slowed_by_with_a_core": statistics.median(slowed_on_core),
        },
    ]


def _median_on_core_s(took_s: Sequence[float], coreless_s: Sequence[float]) -> float:
    """Of steps without the time in which another process had the core."""
    return statistics.median(
        took - coreless for took, coreless in zip(took_s, coreless_s, strict=True)
    )


# --- processes ---


@contextmanager
def _swarm(
    mode: str, workers: Sequence[Worker], micro_batches: int, options: OverlapOptions
) -> Iterator[LinksProcess]:
    """All of these train together over links, which it gives; raises RivalFailed."""
    with open_links(options.rate_bytes_per_s, delay_s=options.round_trip_s / 2) as links:
        links.reserve(len(workers))
        addresses: list[str] = []
        for rank, worker in enumerate(workers):
            worker.ask(do="make", rank=rank, parameters=options.parameters)
            # Whoever comes later dials those before it: so every connection is over the links.
            found = [links.seen_from(rank, i, address) for i, address in enumerate(addresses)]
            answer = worker.ask(
                do="join",
                run="bench-overlap",
                initial_peers=found,
                micro_batches=micro_batches,
                delayed=mode == DELAYED,
            )
            links.place(rank, answer["hello"])
            addresses.append(answer["hello"])
        _ask_all(workers, do="meet", peers=len(workers))
        yield links
        _ask_all(workers, do="leave")


def _ask_all(
    workers: Sequence[Worker], *, timeout_s: float = ANSWER_S_MAX, **order: Any
) -> list[Answer]:
    """Give all of them an order at once, and wait for all answers; raises RivalFailed."""
    for worker in workers:
        worker.tell(**order)
    return [worker.answer(timeout_s=timeout_s) for worker in workers]
