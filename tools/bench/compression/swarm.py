"""A swarm of real processes behind slow uplinks: seconds and bytes to a loss, by codec.

Peers are processes whose traffic passes token buckets, both ways at the rate of the case; what is
counted is what passed them, encryption, headers and the finding of groups included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tools.bench.compression.swarm_peer import FLOATS, WIDTH
from tools.bench.links import LinksProcess, open_links
from tools.bench.processes import ANSWER_S_MAX, RivalFailed, Worker
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

SWARM = "swarm"
TABLES: dict[str, tuple[str, ...]] = {
    SWARM: (
        "uplink_mbit_per_s",
        "codec",
        "steps_to_loss",
        "seconds_to_loss",
        "mb_sent_to_loss",
        "seconds_per_step",
        "mb_sent_per_step",
        "accuracy",
        "steps",
        "same_parameters",
    )
}
LOST_MAX = 0.02
"""Of the accuracy without a codec, with 1 % of the elements, after as many steps."""
SPEEDUP_MIN = 1.5
"""Of the best codec at the slowest uplink, against floats."""
FULL_CODECS = (
    FLOATS,
    "float16",
    "int8-block",
    "int4-block",
    "gaussian-k:0.01",
    "topk:0.01",
    "topk:0.01/int4-block",
    "topk:0.01/topk:0.05",
    "topk:0.01:dither:2,7/int4-block",
    "powersgd:4",
)
FULL_UPLINKS_MBIT = (100.0, 50.0, 20.0, 10.0)
_DELAY_S = 0.01
"""Of each piece, one way."""
_BLOCK_STEPS = 10
"""Peers are asked so often whether that is enough."""
_STEP_S_MAX = 30.0
_BITS = 8
_MB = 1e6

Answer = dict[str, Any]


@dataclass(frozen=True)
class SwarmOptions:
    """How much is measured."""

    codecs: tuple[str, ...] = (FLOATS, "int8-block", "topk:0.01", "topk:0.01/topk:0.05")
    """After a slash that of results, if not the usual one."""
    uplinks_mbit: tuple[float, ...] = (100.0, 20.0)
    """The first one trains to the last step, where accuracies are compared; the others stop at
    the loss."""
    peers: int = 4
    steps: int = 120
    """Global steps at most; after half as many 1 % of the elements may be some points behind."""
    loss: float = 0.25
    """To be reached."""
    width: int = WIDTH


def measure_swarm(options: SwarmOptions, steps: Steps, report: Report) -> list[Row]:
    """A row for each codec and uplink; what failed is skipped in the report."""
    rows = []
    for uplink_mbit in options.uplinks_mbit:
        for codec in options.codecs:
            case = f"swarm, {uplink_mbit:g} Mbit/s, {codec}"
            steps.case(case)
            try:
                # Each with processes of its own, so that one that failed is nobody else's trouble.
                with _processes(options.peers) as workers:
                    rows.append(_case(codec, uplink_mbit, workers, options))
            except RivalFailed as exc:
                report.skip(case, str(exc))
            steps.step()
    return rows


def expected_steps(options: SwarmOptions) -> int:
    """How often measure_swarm() says that it has got further."""
    return len(options.codecs) * len(options.uplinks_mbit)


@dataclass
class _Progress:
    """What the first peer has told so far, and what passed the links until then."""

    losses: list[tuple[int, float, float]] = field(default_factory=list)
    """Steps, seconds since training began, and loss."""
    sent_mb: list[tuple[int, float]] = field(default_factory=list)
    """Steps, and what a peer had sent on average."""
    seconds: float = 0.0


def _case(codec: str, uplink_mbit: float, workers: Sequence[Worker], options: SwarmOptions) -> Row:
    """One swarm from its beginning to its end; raises RivalFailed."""
    to_the_end = uplink_mbit == options.uplinks_mbit[0]
    progress = _Progress()
    answers: list[Answer] = []
    samples = failed = told = 0
    with _swarm(codec, uplink_mbit, workers, options) as links:
        before = links.passed_bytes()[0]
        taken = 0
        while taken < options.steps and (
            to_the_end or first_at(progress.losses, options.loss) is None
        ):
            block = min(_BLOCK_STEPS, options.steps - taken)
            for rank, worker in enumerate(workers):
                worker.tell(do="train", steps=block, judge=rank == 0)
            answers = [
                worker.answer(timeout_s=ANSWER_S_MAX + block * _STEP_S_MAX) for worker in workers
            ]
            taken += block
            passed = sum(links.passed_bytes()[0]) - sum(before)
            progress.sent_mb.append((taken, passed / len(workers) / _MB))
            progress.losses += [
                (step, progress.seconds + at_s, loss) for step, at_s, loss in answers[0]["reached"]
            ]
            progress.seconds += answers[0]["seconds"]
            samples += sum(answer["samples"] for answer in answers)
            failed += sum(answer["failed"] for answer in answers)
            told += sum(answer["sent_bytes"] for answer in answers)
            if passed < told:
                raise RivalFailed("some bytes went past the links")
    row = summary(codec, uplink_mbit, progress.losses, progress.sent_mb, options.loss)
    return row | {
        "peers": len(workers),
        "width": options.width,
        "seconds_per_step": progress.seconds / taken,
        "mb_sent_per_step": progress.sent_mb[-1][1] / taken,
        "accuracy": answers[0]["accuracy"],
        "steps": taken,
        "samples_per_step": samples / taken,
        "failed_rounds": failed,
        "same_parameters": int(len({answer["hash"] for answer in answers}) == 1),
        "curve": [(at_s, loss) for _, at_s, loss in progress.losses],
    }


def first_at(losses: Sequence[tuple[int, float, float]], loss: float) -> tuple[int, float] | None:
    """The step after which the loss was first so low, and when that was; None if never."""
    return next(((step, at_s) for step, at_s, one in losses if one <= loss), None)


def summary(
    codec: str,
    uplink_mbit: float,
    losses: Sequence[tuple[int, float, float]],
    sent_mb: Sequence[tuple[int, float]],
    loss: float,
) -> Row:
    """When the loss was reached, and what a peer had sent by then.

    Args:
        losses: steps, seconds and the loss then, in order.
        sent_mb: steps, and megabytes until then, in order; between them as if sent evenly.
    """
    first = first_at(losses, loss)
    sent = None
    if first is not None:
        places = [(0, 0.0), *sent_mb]
        for (low, low_mb), (high, high_mb) in pairwise(places):
            if low < first[0] <= high:
                sent = low_mb + (high_mb - low_mb) * (first[0] - low) / (high - low)
    return {
        "part": SWARM,
        "uplink_mbit_per_s": uplink_mbit,
        "codec": codec,
        "loss": loss,
        "steps_to_loss": None if first is None else first[0],
        "seconds_to_loss": None if first is None else first[1],
        "mb_sent_to_loss": sent,
    }


def swarm_budgets(rows: Sequence[Row], options: SwarmOptions) -> list[Budget]:
    """That little is enough, and that on a slow uplink it is also sooner."""
    at = {(row["uplink_mbit_per_s"], row["codec"]): row for row in rows}
    fastest, slowest = options.uplinks_mbit[0], min(options.uplinks_mbit)
    found = [
        Budget(
            f"swarm, {codec}: accuracy lost against floats",
            at[fastest, FLOATS]["accuracy"] - at[fastest, codec]["accuracy"],
            LOST_MAX,
            "of the test set",
            "<=",
        )
        for codec in options.codecs
        if ":0.01" in codec and {(fastest, FLOATS), (fastest, codec)} <= at.keys()
    ]
    there_s = {
        codec: row["seconds_to_loss"]
        for (uplink, codec), row in at.items()
        if uplink == slowest and row["seconds_to_loss"] is not None
    }
    if len(there_s) > 1 and FLOATS in there_s:
        floats_s = there_s.pop(FLOATS)
        best = min(there_s, key=lambda codec: there_s[codec])
        found.append(
            Budget(
                f"swarm, {slowest:g} Mbit/s: {best} against floats, to the same loss",
                floats_s / there_s[best],
                SPEEDUP_MIN,
                "times as fast",
                ">=",
            )
        )
    if rows:
        alike = min(row["same_parameters"] for row in rows)
        found.append(
            Budget("swarm: all peers hold the same parameters", alike, 1, "(1 is yes)", ">=")
        )
    return found


@contextmanager
def _processes(count: int) -> Iterator[list[Worker]]:
    """So many peers; they are gone when the block ends."""
    with ExitStack() as stack:
        workers = []
        for rank in range(count):
            workers.append(Worker(f"peer {rank}", "tools.bench.compression.swarm_peer"))
            stack.callback(workers[-1].end)
        yield workers


@contextmanager
def _swarm(
    codec: str, uplink_mbit: float, workers: Sequence[Worker], options: SwarmOptions
) -> Iterator[LinksProcess]:
    """All of these train together over links, which it gives; raises RivalFailed."""
    with open_links(uplink_mbit * 1e6 / _BITS, delay_s=_DELAY_S) as links:
        links.reserve(len(workers))
        addresses: list[str] = []
        for rank, worker in enumerate(workers):
            # Whoever comes later dials those before it: so every connection is over the links.
            found = [links.seen_from(rank, i, address) for i, address in enumerate(addresses)]
            answer = worker.ask(
                do="join",
                rank=rank,
                width=options.width,
                codec=codec,
                peers=len(workers),
                initial_peers=found,
            )
            links.place(rank, answer["address"])
            addresses.append(answer["address"])
        _ask_all(workers, do="meet", peers=len(workers))
        yield links
        _ask_all(workers, do="leave")


def _ask_all(workers: Sequence[Worker], **order: Any) -> list[Answer]:
    """Give all of them an order at once, and wait for all answers; raises RivalFailed."""
    for worker in workers:
        worker.tell(**order)
    return [worker.answer() for worker in workers]
