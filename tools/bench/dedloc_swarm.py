"""A swarm that trains for simulated hours: batches, rounds, peers that come and go (core).

The network is gone, the rules are not: each peer has the training layer's own GlobalBatch, fed with
records that reach it a moment later, tells others when worth_telling() says so, and measures its
speed with SpeedMeter. What a session does with the answers is retold here, in short:

    after a micro-batch   the batch is there, or most of it and somebody waits   wait for the round
                          else                                                   compute
    waiting               nobody who is expected computes                        the round begins
                          too little is left, since somebody is gone             compute
    round over            all stand one step further, with nothing accumulated

With delayed updates a peer that waits hands its gradients over and computes on for the next step,
which may not begin before the last one is over: its gradients are one step old.

Who is to leave during a round leaves at its end. Lives of records are not simulated: who leaves
closes its connections, and the others hear of that as fast as of anything.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from averaging import RoundId
from p2p import PeerId
from training.progress import GlobalBatch, PeerRecord, Position, SpeedMeter
from training.progress.global_batch import worth_telling

_SPEC: Final = bytes(32)
# Longer than any simulation: records are renewed in life, and here they stay.
_LIFE_S: Final = 1e9


@dataclass(frozen=True)
class Trainer:
    """A peer with a GPU."""

    name: str
    samples_per_s: float
    comes_at_s: float = 0.0
    """When it has downloaded the state; 0 for those who begin the run."""
    leaves_at_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class SwarmRules:
    """What is alike for all peers; times of what is not simulated."""

    global_batch: int
    micro_batch: int
    """Samples that a peer computes between two looks at the swarm."""
    accept_fraction: float
    """Of the global batch: enough for a step, as in SwarmConfig."""
    matchmaking_s: float
    latency_s: float
    """Until a word of one peer has reached another."""
    jitter: float
    """A micro-batch takes up to so much less or more than usual, as a part of its time."""
    delayed: bool
    """Whether peers compute on during a round."""


@dataclass(frozen=True)
class Step:
    """One global step."""

    over_at_s: float
    members: tuple[Trainer, ...]
    samples: int
    computing_s: float
    """From the end of the last round, or its beginning with delayed updates, until the batch was
    there."""
    gathering_s: float
    """Until all waited, and the last round was over."""
    transfer_s: float


@dataclass
class _Peer:
    trainer: Trainer
    peer_id: PeerId
    core: GlobalBatch
    speed: SpeedMeter = field(default_factory=SpeedMeter)
    told: PeerRecord | None = None
    computed: int = 0
    """Samples computed for the step at hand, or with delayed updates for the one after it."""
    computing: bool = False
    gone: bool = False

    @property
    def own(self) -> PeerRecord:
        """What it says of itself."""
        return self.core.own


class Swarm:
    """Runs until an end, and notes each global step.

    Args:
        transfer_s: how long the all-reduce of these trainers takes.
    """

    def __init__(
        self,
        trainers: Sequence[Trainer],
        rules: SwarmRules,
        transfer_s: Callable[[tuple[Trainer, ...]], float],
        *,
        seed: int,
    ) -> None:
        self.steps: list[Step] = []
        self._rules = rules
        self._transfer_s = transfer_s
        self._rng = random.Random(seed)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._position = Position(RoundId(0, _digest(0)))
        self._peers: dict[PeerId, _Peer] = {}
        self._in_round = False
        self._computing_since_s = 0.0
        self._full_at_s: float | None = None
        self._postponed: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        for trainer in trainers:
            self._after(trainer.comes_at_s, self._come, trainer)

    def run(self, until_s: float) -> list[Step]:
        """Let time pass; returns all steps so far."""
        while self._events and self._events[0][0] <= until_s:
            self._now_s, _, deed, arguments = heapq.heappop(self._events)
            deed(*arguments)
        return self.steps

    def run_steps(self, count: int) -> list[Step]:
        """Let time pass until there were so many steps."""
        while len(self.steps) < count and self._events:
            self.run(self._events[0][0])
        return self.steps

    def _after(self, delay_s: float, deed: Callable[..., None], *arguments: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (self._now_s + delay_s, self._order, deed, arguments))

    # --- coming and going ---------------------------------------------------------------------

    def _come(self, trainer: Trainer) -> None:
        if self._in_round:
            self._postponed.append((self._come, (trainer,)))
            return
        peer_id = PeerId(trainer.name)
        own = PeerRecord(position=self._position, spec_hash=_SPEC)
        peer = _Peer(trainer, peer_id, GlobalBatch(peer_id, own))
        for other in self._peers.values():
            self._hear(peer, other.peer_id, other.own)
        self._peers[peer_id] = peer
        self._tell(peer)
        self._compute(peer)
        if trainer.leaves_at_s is not None:
            self._after(trainer.leaves_at_s - self._now_s, self._leave, peer)

    def _leave(self, peer: _Peer) -> None:
        if self._in_round:
            self._postponed.append((self._leave, (peer,)))
            return
        peer.gone = True
        del self._peers[peer.peer_id]
        self._after(self._rules.latency_s, self._miss, peer)

    def _miss(self, gone: _Peer) -> None:
        for peer in list(self._peers.values()):
            peer.core.on_contact_lost(gone.peer_id, sequence=gone.own.sequence)
            self._on_news(peer)

    # --- what peers say -----------------------------------------------------------------------

    def _say(self, peer: _Peer, **changes: Any) -> None:
        """Its progress changed; others are told if it matters to them."""
        peer.core.on_own(replace(peer.own, **changes))
        peers, target = len(self._peers), self._rules.global_batch
        if worth_telling(peer.own, peer.told, target=target, peers=peers):
            self._tell(peer)

    def _tell(self, peer: _Peer) -> None:
        peer.core.on_own(replace(peer.own, sequence=peer.own.sequence + 1))
        peer.told = peer.own
        self._after(self._rules.latency_s, self._spread, peer, peer.own)

    def _spread(self, source: _Peer, record: PeerRecord) -> None:
        if source.gone:
            return
        for peer in list(self._peers.values()):
            if peer is not source:
                self._hear(peer, source.peer_id, record)
                # Whoever computes still is what others wait for.
                if record.waits:
                    self._on_news(peer)

    def _hear(self, peer: _Peer, source: PeerId, record: PeerRecord) -> None:
        peer.core.on_record(source, record, life_s=_LIFE_S, now_s=self._now_s)

    # --- computing ----------------------------------------------------------------------------

    def _compute(self, peer: _Peer) -> None:
        peer.computing = True
        usual_s = self._rules.micro_batch / peer.trainer.samples_per_s
        jitter = self._rules.jitter
        seconds = usual_s * self._rng.uniform(1 - jitter, 1 + jitter)
        self._after(seconds, self._on_micro_batch, peer, seconds)

    def _on_micro_batch(self, peer: _Peer, seconds: float) -> None:
        peer.computing = False
        if peer.gone:
            return
        rules = self._rules
        peer.speed.on_done(rules.micro_batch, seconds)
        peer.computed += rules.micro_batch
        if peer.own.waits:
            # Its gradients are handed over; this is for the step after.
            self._compute(peer)
            return
        self._say(peer, samples=peer.computed, samples_per_s=peer.speed.units_per_s)
        view = peer.core.view()
        enough = rules.accept_fraction * rules.global_batch
        if view.samples < rules.global_batch and not (
            view.somebody_waits and view.samples >= enough
        ):
            self._compute(peer)
            return
        if self._full_at_s is None:
            self._full_at_s = self._now_s
        self._say(peer, waits=True)
        if rules.delayed:
            peer.computed = 0
            self._compute(peer)
        self._on_news(peer)

    def _on_news(self, peer: _Peer) -> None:
        """Somebody who waits may have been waited for, or may wait in vain."""
        if not peer.own.waits or self._in_round:
            return
        view = peer.core.view()
        if view.samples < self._rules.accept_fraction * self._rules.global_batch:
            peer.computed += peer.own.samples if self._rules.delayed else 0
            self._say(peer, waits=False, samples=peer.computed)
            self._full_at_s = None
            if not peer.computing:
                self._compute(peer)
        elif not view.computing:
            self._begin_round()

    # --- the round ----------------------------------------------------------------------------

    def _begin_round(self) -> None:
        # All who are expected wait; one that came in this very moment is not expected yet.
        members = {p: peer for p, peer in sorted(self._peers.items()) if peer.own.waits}
        self._in_round = True
        trainers = tuple(peer.trainer for peer in members.values())
        transfer_s = self._transfer_s(trainers)
        delivered = {peer_id: float(peer.own.samples) for peer_id, peer in members.items()}
        full_at_s = self._now_s if self._full_at_s is None else self._full_at_s
        step = Step(
            self._now_s + self._rules.matchmaking_s + transfer_s,
            trainers,
            round(sum(delivered.values())),
            full_at_s - self._computing_since_s,
            self._now_s - full_at_s,
            transfer_s,
        )
        self._full_at_s = None
        if self._rules.delayed:
            # The next batch is gathered from now on, though the result is still to come.
            self._move_on(members, delivered)
        self._after(step.over_at_s - self._now_s, self._end_round, step, members, delivered)

    def _end_round(
        self, step: Step, members: dict[PeerId, _Peer], delivered: dict[PeerId, float]
    ) -> None:
        self.steps.append(step)
        self._in_round = False
        if not self._rules.delayed:
            self._move_on(members, delivered)
            for peer in list(self._peers.values()):
                if not peer.computing:
                    self._compute(peer)
        postponed, self._postponed = self._postponed, []
        for deed, arguments in postponed:
            deed(*arguments)
        for peer in list(self._peers.values()):
            self._on_news(peer)

    def _move_on(self, members: dict[PeerId, _Peer], delivered: dict[PeerId, float]) -> None:
        number = self._position.round.number + 1
        samples = self._position.samples + round(sum(delivered.values()))
        self._position = Position(RoundId(number, _digest(number)), number, samples)
        self._computing_since_s = self._now_s
        for peer in list(self._peers.values()):
            if peer.peer_id in members:
                peer.core.on_round(delivered, self._position)
            else:
                # It came as the round began, unknown to those who began it, and follows them.
                peer.core.on_moved(())
            if peer.peer_id not in members or not self._rules.delayed:
                peer.computed = 0
            peer.core.on_own(
                replace(peer.own, position=self._position, samples=peer.computed, waits=False)
            )
            self._tell(peer)


def _digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()
