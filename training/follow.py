"""Taking over the swarm's state while the swarm goes on.

A newcomer claims the swarm's position at once, without holding its state. From then on the others
expect it in their rounds, and it takes part: with weight zero, keeping each result. Meanwhile the
state is downloaded; when it is here, the kept results are applied to it, from the round that it
waits for to the last. So however fast the swarm steps, and however long the download takes, the
newcomer ends where the others are; it cannot fall behind, since they step together with it.

    claimed ──── round due ────▶ take part, keep the result, claim the next position
       │ ▲                            │ refused, or failed for good
       │ └──────── a newer goal ◀─────┘   (also when the others are seen to have gone on)
       └─ state here ──▶ older than the first result kept: download again
                     └─▶ apply what is kept: done

The others make the snapshot when it is asked for, so it is never older than the claim.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import trio

from averaging import RoundFailed, RoundId, Snapshot, StateUnavailable, fetch_state
from p2p import MessageInvalid, PeerId, open_service_nursery
from training.errors import CatchUpFailed
from training.model_state import Array
from training.progress import PeerRecord, Position
from training.session import Session
from training.state_metadata import StateMetadata, decode_metadata_untrusted

logger = logging.getLogger(__name__)

# A member's round is noticed by asking, since nobody tells us; short against any round.
_LOOK_EVERY_S = 0.02
_RETRY_S = 0.1
_RETRY_S_MAX = 2.0


@dataclass(frozen=True)
class KeptRound:
    """A round that we took part in without the state: its result is to be applied."""

    gradients: Mapping[str, Array] | None
    """None when the result was discarded."""
    position: Position
    """Where it led."""
    shared: Mapping[str, Array]
    """What all peers hold beside the model there; empty when the result was discarded."""


@dataclass(frozen=True)
class CaughtUp:
    """A state of the swarm, and what has happened since it was taken."""

    snapshot: Snapshot
    metadata: StateMetadata
    rounds: tuple[KeptRound, ...]
    past: tuple[RoundId, ...]
    """The rounds that led from the snapshot to the end, the snapshot's own included."""

    @property
    def position(self) -> Position:
        """Where it all leads."""
        return self.rounds[-1].position if self.rounds else self.metadata.position


async def catch_up(session: Session, hint: RoundId | None = None) -> CaughtUp | None:
    """Take over the swarm's state.

    Args:
        hint: the round in which others said they are.

    Returns:
        None when there is nobody who is ahead, or agrees with most where we do not: then everything
        stays as it was.

    Raises:
        CatchUpFailed: there are such peers, but none gave its state in time.
    """
    before = session.own
    cause = ""
    tries = session.config.catch_up_tries_max
    for attempt in range(tries):
        goal = _goal(session, hint)
        if goal is None:
            session.tracker.report(before, target=session.target)
            return None
        try:
            return await _Following(session, *goal).run()
        except StateUnavailable as exc:
            cause = str(exc)
            logger.warning("catch_up_failed attempt=%d cause=%s", attempt + 1, cause)
        await trio.sleep(min(_RETRY_S * 2**attempt, _RETRY_S_MAX))
    session.tracker.report(before, target=session.target)
    raise CatchUpFailed(tries, cause)


def _goal(session: Session, hint: RoundId | None) -> tuple[Position, tuple[PeerId, ...]] | None:
    view = session.tracker.view()
    if view.ahead is not None:
        return view.ahead, view.donors
    if hint is not None:
        return session.tracker.holders(hint.number)
    agreeing = session.drift.agreeing
    return (session.own.position, agreeing) if agreeing else None


@dataclass
class _Following:
    """One try: a download, and the rounds meanwhile."""

    session: Session
    start: Position
    donors: tuple[PeerId, ...]
    kept: list[KeptRound] = field(default_factory=list)
    state: tuple[Snapshot, StateMetadata] | None = None
    failure: StateUnavailable | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> CaughtUp:
        logger.info("catching_up round=%s donors=%d", self.start.round, len(self.donors))
        self._claim(self.start)
        async with open_service_nursery() as nursery:
            for _ in range(self.session.config.catch_up_tries_max):
                self._begin_download(nursery)
                while not self.ended.is_set():
                    if await self._round_is_due():
                        await self._take_part()
                if self.state is None:
                    assert self.failure is not None
                    raise self.failure
                caught_up = self._join(*self.state)
                if caught_up is not None:
                    return caught_up
        raise StateUnavailable(
            f"the swarm went on by more than {self.session.config.rounds_kept_max} rounds while "
            "its state came; raise rounds_kept_max here, or the donors' limit"
        )

    @property
    def here(self) -> Position:
        """The position that we claim now."""
        return self.kept[-1].position if self.kept else self.start

    # --- the rounds ---

    async def _round_is_due(self) -> bool:
        """Wait for a round or the end of the download; False for the latter."""
        session = self.session
        while not self.ended.is_set():
            enough = session.config.accept_fraction * session.target
            view = session.tracker.view()
            trainers = {peer.peer_id for peer in view.peers if peer.holds_state}
            # A round of followers alone has no result.
            ready = not trainers.isdisjoint(view.expected) and session.is_ready(view)
            if ready and await session.gather(session.averager, enough):
                return True
            holders = session.tracker.holders(self.here.round.number)
            if holders is not None and holders[0].round != self.here.round:
                self._restart(*holders)
            with trio.move_on_after(_LOOK_EVERY_S):
                await self.ended.wait()
        return False

    async def _take_part(self) -> None:
        session = self.session
        gradients = {
            name: np.zeros(shape, dtype)
            for name, shape, dtype in zip(
                session.plan.spec.names,
                session.plan.spec.shapes,
                session.plan.spec.dtypes,
                strict=True,
            )
        }
        try:
            result = await session.hold_round(gradients, 0)
        except RoundFailed as failure:
            if failure.report.behind is not None:
                holders = session.tracker.holders(failure.report.behind.number)
                if holders is not None:
                    self._restart(*holders)
            await trio.sleep(_RETRY_S)
            return
        means = gradients if result.accepted else None
        self.kept.append(KeptRound(means, result.position, result.shared))
        if len(self.kept) > session.config.rounds_kept_max:
            # Too much to keep: the state must then be younger than the oldest result.
            self.start = self.kept.pop(0).position
        session.on_committed(result, holds_state=False)

    def _restart(self, goal: Position, donors: tuple[PeerId, ...]) -> None:
        """A round was missed: only a state from after it helps."""
        logger.info("catching_up round=%s missed=%s", goal.round, self.here.round)
        self.start, self.donors = goal, donors
        self.kept.clear()
        self._claim(goal)

    def _claim(self, position: Position) -> None:
        session = self.session
        own: PeerRecord = session.own
        claimed = PeerRecord(
            position=position,
            spec_hash=own.spec_hash,
            samples_per_s=own.samples_per_s,
            role=own.role,
            holds_state=False,
            waits=True,
        )
        session.tracker.on_claimed(claimed, target=session.target)

    # --- the download ---

    def _begin_download(self, nursery: trio.Nursery) -> None:
        self.state, self.ended = None, trio.Event()
        nursery.start_soon(self._download)

    async def _download(self) -> None:
        session = self.session
        try:
            snapshot = await fetch_state(
                session.node,
                session.plan.run,
                self.donors,
                check=session.plan.check_state,
                minimum_version=self.start.round.number,
                timeout_s=session.config.state_timeout_s,
                config=session.config.fetch,
            )
            metadata = decode_metadata_untrusted(snapshot.metadata, version=snapshot.version)
            self.state = (snapshot, metadata)
        except MessageInvalid as exc:
            self.failure = StateUnavailable(f"a donor sent metadata that is none: {exc}")
        except StateUnavailable as exc:
            self.failure = exc
        finally:
            self.ended.set()

    def _join(self, snapshot: Snapshot, metadata: StateMetadata) -> CaughtUp | None:
        """The state together with the rounds after it; None if it is older than what is kept."""
        path = [self.start, *(kept.position for kept in self.kept)]
        there = metadata.position
        if snapshot.version < path[0].round.number:
            return None
        for index, position in enumerate(path):
            if (position.round, position.batch_memory) == (there.round, there.batch_memory):
                return CaughtUp(
                    snapshot,
                    metadata,
                    tuple(self.kept[index:]),
                    tuple(position.round for position in path[index:]),
                )
        if snapshot.version > path[-1].round.number:
            return CaughtUp(snapshot, metadata, (), (there.round,))
        raise StateUnavailable("the donors hold a state of another lineage than they claim")
