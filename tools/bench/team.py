"""A team: the processes of one rival that average with each other, led through rounds together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tools.bench.processes import ANSWER_S_MAX, RivalFailed, Worker

HEAD_START_S = 0.05
"""After so long every process has heard when the round begins, and begins it at the same time."""
ROUND_S_MAX = 150.0
"""Longer than any rival's own patience."""
Routes = Callable[[list[str]], list[list[str]]]
"""From where each peer can be met: for each rank, where it finds each of them."""


@dataclass(frozen=True)
class RoundFigures:
    """One round of a whole team, which is over when its slowest peer is done."""

    step_s: float
    cpu_s: float
    """Of all processes together."""
    error_max: float
    matchmaking_s: float | None = None
    transfer_s: float | None = None
    sent_bytes: float | None = None
    """By each peer, on average."""
    whole: bool = True
    """Whether all peers' whole vectors are in it."""


class Team:
    """Processes that have met."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self._opened = 0

    def open(self, elements: int, dtype: str) -> None:
        """From now on average vectors of this size; raises RivalFailed."""
        self._opened += 1
        name = f"bench-{self._opened}"
        self.ask_all(do="open", name=name, elements=elements, dtype=dtype)

    def begin(self, round_index: int) -> float:
        """Have all of them average once; returns when they begin.

        Raises:
            RivalFailed: one of them is not ready.
        """
        self.ask_all(do="prepare", round=round_index)
        at_s = time.perf_counter() + HEAD_START_S
        for worker in self.workers:
            worker.tell(do="go", at_s=at_s)
        return at_s

    def round(self, round_index: int) -> RoundFigures:
        """One round in which nobody is lost; raises RivalFailed."""
        self.begin(round_index)
        ended = [worker.answer(timeout_s=ROUND_S_MAX) for worker in self.workers]
        for answer in ended:
            if answer.get("outcome", "success") != "success":
                raise RivalFailed(f"a round failed: {answer['reason']}")
        checked = self.ask_all(do="check", lost=None, digest=False)
        sent = [answer["sent_bytes"] for answer in ended if "sent_bytes" in answer]
        return RoundFigures(
            step_s=max(one["ended_s"] for one in ended) - min(one["begun_s"] for one in ended),
            cpu_s=sum(one["cpu_s"] for one in checked),
            error_max=max(one["error_max"] for one in checked),
            matchmaking_s=_slowest(ended, "matchmaking_s"),
            transfer_s=_slowest(ended, "transfer_s"),
            sent_bytes=sum(sent) / len(sent) if sent else None,
            whole=all(one.get("group_size", len(ended)) == len(ended) for one in ended),
        )

    def ask_all(self, **order: Any) -> list[dict[str, Any]]:
        """Give all of them an order at once, and wait for all answers; raises RivalFailed."""
        for worker in self.workers:
            worker.tell(**order)
        return [worker.answer(timeout_s=ANSWER_S_MAX) for worker in self.workers]


def _slowest(answers: list[dict[str, Any]], key: str) -> float | None:
    return max((answer[key] for answer in answers if key in answer), default=None)


@contextmanager
def open_team(
    rival: str,
    peers: int,
    *,
    hivemind_python: str | None = None,
    routes: Routes | None = None,
    watch: bool = False,
) -> Iterator[Team]:
    """So many processes of one rival that have met; they are gone when the block ends.

    Args:
        rival: ours, whatever its records are, aes, noise, gloo or hivemind.
        hivemind_python: the Python that has hivemind.
        routes: given where each is, where each other finds it; None for there.
        watch: have ours say when they notice that one of them is lost.

    Raises:
        RivalFailed: one of them did not come up.
    """
    with ExitStack() as stack:
        workers = []
        for rank in range(peers):
            name = f"{rival} peer {rank}"
            if rival == "hivemind":
                worker = Worker(
                    name, "tools.bench.hivemind_worker", str(rank), python=hivemind_python
                )
            else:
                worker = Worker(name, "tools.bench.allreduce_worker", rival, str(rank))
            stack.callback(worker.end)
            workers.append(worker)
        hellos = [worker.answer()["hello"] for worker in workers]
        routed = routes(hellos) if routes is not None else [hellos] * peers
        for worker, found in zip(workers, routed, strict=True):
            worker.tell(hellos=found, watch=watch)
        for worker in workers:
            worker.answer()
        yield Team(workers)
