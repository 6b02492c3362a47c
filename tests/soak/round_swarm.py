"""The processes of the fault driver: they meet, take steps together, are struck and replaced."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.soak.round_plan import PEERS, Plan, Vector
from tools.bench.processes import RivalFailed, Worker

DEADLINE_S = 20.0
"""That of each step."""
LATE_S_MAX = 1.0
"""How much longer than its deadline a step may take."""
_HUNG_S = DEADLINE_S + 20.0
"""Who has said nothing for so long after a round's start hangs."""


@dataclass(kw_only=True)
class Happened:
    """What came of a round."""

    begun_s: float
    before: list[str]
    """The hash of what each peer brought."""
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What each peer said of its step; those who were killed may have said nothing."""
    silent: dict[int, str] = field(default_factory=dict)
    """Why the others said nothing."""
    struck_s: float | None = None
    """When the signal was sent."""
    continued_s: float | None = None

    def succeeded(self) -> list[int]:
        """Who reports success, in order."""
        return [rank for rank, said in sorted(self.answers.items()) if said["outcome"] == "success"]


class Swarm:
    """The peers, whoever is behind them at the moment."""

    def __init__(self, elements: int, folder: Path) -> None:
        self._elements = elements
        self._folder = folder
        self._peers: dict[int, Worker] = {}
        self._addresses: dict[int, str] = {}
        self._round_number = 0
        self._parent = bytes(32).hex()

    @property
    def peer_ids(self) -> list[str]:
        """In order."""
        return [address.rsplit("/", 1)[1] for _, address in sorted(self._addresses.items())]

    def complete(self) -> None:
        """Start whoever is missing, and tell everybody where all are; raises RivalFailed."""
        missing = [rank for rank in range(PEERS) if rank not in self._peers]
        for rank in missing:
            self._peers[rank] = Worker(f"peer {rank}", "tests.soak.round_peer")
            key = self._folder / f"peer-{rank}.key"
            self._peers[rank].tell(elements=self._elements, identity_path=str(key))
        for rank in missing:
            self._addresses[rank] = self._peers[rank].answer()["address"]
        if missing:
            self._ask_all(do="meet", addresses=list(self._addresses.values()))

    def _ask_all(self, **order: Any) -> list[dict[str, Any]]:
        for rank in range(PEERS):
            self._peers[rank].tell(**order)
        return [self._peers[rank].answer() for rank in range(PEERS)]

    def take_round(self, plan: Plan, usual_s: float) -> Happened:
        """Let all take a step and the probe strike; raises RivalFailed if somebody is unfit."""
        seed, probe, number = plan.text.split()
        for rank in range(PEERS):
            order = {"seed": int(seed), "probe": probe, "number": int(number), "rank": rank}
            self._peers[rank].tell(do="bring", **order)
        before = [self._peers[rank].answer()["sha256"] for rank in range(PEERS)]
        happened = Happened(begun_s=time.monotonic(), before=before)
        for rank in range(PEERS):
            cancels = plan.probe == "cancel" and rank == plan.victim
            self._peers[rank].tell(
                do="step",
                round_number=self._round_number,
                parent=self._parent,
                weight=plan.weights[rank],
                deadline_s=DEADLINE_S,
                expected=self.peer_ids,
                cancel_after_s=plan.after_share * usual_s if cancels else None,
            )
        self._strike(plan, usual_s, happened)
        for rank in sorted(range(PEERS), key=lambda rank: rank == plan.victim):
            if rank == plan.victim and plan.probe == "stop":
                happened.continued_s = time.monotonic()
                self._peers[rank].signal(signal.SIGCONT)
            self._hear(rank, happened)
        self._go_on(happened)
        return happened

    def _strike(self, plan: Plan, usual_s: float, happened: Happened) -> None:
        numbers = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "stop-continue": signal.SIGSTOP}
        if plan.probe not in numbers:
            return
        until_s = happened.begun_s + plan.after_share * usual_s
        time.sleep(max(until_s - time.monotonic(), 0.0))
        happened.struck_s = time.monotonic()
        self._peers[plan.victim].signal(numbers[plan.probe])
        if plan.probe == "stop-continue":
            time.sleep(plan.pause_s)
            happened.continued_s = time.monotonic()
            self._peers[plan.victim].signal(signal.SIGCONT)

    def _hear(self, rank: int, happened: Happened) -> None:
        patience_s = max(happened.begun_s, happened.continued_s or 0.0) + _HUNG_S - time.monotonic()
        try:
            happened.answers[rank] = self._peers[rank].answer(timeout_s=max(patience_s, 1.0))
        except RivalFailed as exc:
            happened.silent[rank] = str(exc)
            self._peers.pop(rank).end()

    def _go_on(self, happened: Happened) -> None:
        digests = [happened.answers[rank]["report"]["digest"] for rank in happened.succeeded()]
        if digests:
            self._round_number += 1
            self._parent = digests[0]

    def dismiss(self, rank: int) -> None:
        """End a process; complete() starts a fresh one with the same key."""
        if rank in self._peers:
            self._peers.pop(rank).end()

    def result_of(self, rank: int) -> Vector:
        """What a peer holds now: shape (elements,)."""
        path = self._folder / "result.npy"
        self._peers[rank].ask(do="save", path=str(path))
        result: Vector = np.load(path)
        path.unlink()
        return result

    def end(self) -> None:
        """Kill all."""
        for peer in self._peers.values():
            peer.end()


@contextmanager
def open_swarm(elements: int, folder: Path) -> Iterator[Swarm]:
    """All peers, ready and known to each other; they are gone when the block ends.

    Args:
        folder: for their keys, and for results on the way to us.
    """
    swarm = Swarm(elements, folder)
    try:
        swarm.complete()
        yield swarm
    finally:
        swarm.end()
