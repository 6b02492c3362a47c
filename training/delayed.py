"""Delayed updates: a round is held while the caller computes the next global batch.

    caller's thread, inside step()            trio's thread
    batch full: begin(means) ───────────────▶ gather, average, commit: our record goes on to the
    compute the next batch, on the parameters    next position, where what was accumulated counts
        from before the round
    hear() ◀───────────────────────────────── ended
    batch full: write the parameters, begin the next round

Each round's result is applied when the next global batch is full, not as soon as it is there: so
all gradients of a batch belong to the same parameters, and every peer's are exactly one step old.
Meanwhile our position is ahead of our parameters' by the one round.

Source: J. Ren et al., ZeRO-Offload (2021), section 5.2, one-step delayed parameter update; M.
Diskin et al., Distributed Deep Learning in Open Collaborations (2021), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from averaging import RoundFailed
from p2p import open_service_nursery
from training.advice import RoundResult
from training.model_state import Array
from training.session import Session

# What any farewell gets.
_FAREWELL_S = 2.0


@dataclass
class BackgroundRound:
    """A round for the background; until it has ended, trio's thread alone may touch it."""

    means: Mapping[str, Array]
    """What is averaged; the result, if there is one."""
    samples: int
    """How many of ours are in it."""
    result: RoundResult | None = None
    failure: RoundFailed | None = None
    """Why there is no result; None also where too few samples came together to hold the round."""
    room: int = 1
    """So many samples of ours fill our part of the next batch."""
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class BackgroundRounds:
    """Holds one round at a time for a session; its methods are called through the portal."""

    def __init__(self, session: Session, nursery: trio.Nursery) -> None:
        self._session = session
        self._nursery = nursery
        self._round: BackgroundRound | None = None
        self._accumulated = 0

    async def begin(self, round: BackgroundRound) -> None:
        """Hold the round at hand; what the caller has applied so far is the state before it."""
        assert self._round is None or self._round.ended.is_set(), "one round at a time"
        session = self._session
        session.on_state_written()
        view = session.tracker.view()
        share = round.samples / view.samples if round.samples else 1 / len(view.expected)
        round.room = math.ceil(share * session.target)
        self._accumulated, self._round = 0, round
        self._nursery.start_soon(self._hold, round)

    async def hear(self, round: BackgroundRound, accumulated: int, patient: bool) -> bool:
        """Whether the round has ended.

        Args:
            accumulated: samples for the batch after it. When they fill our part, this waits.
            patient: wait in any case.
        """
        self._accumulated = accumulated
        # A round of which begin() was interrupted is none.
        if round is self._round and (patient or accumulated >= round.room):
            await round.ended.wait()
        return round is not self._round or round.ended.is_set()

    async def on_applied(self) -> None:
        """The caller has applied what it has heard, and begins nothing yet."""
        self._session.on_state_written()

    async def cancel(self) -> None:
        """Give up the round, if there is one; the others go on without us."""
        if self._round is not None:
            self._round.scope.cancel()
            await self._round.ended.wait()

    async def wait(self) -> None:
        """Until no round is under way."""
        if self._round is not None:
            await self._round.ended.wait()

    async def _hold(self, round: BackgroundRound) -> None:
        session = self._session
        enough = session.config.accept_fraction * session.target
        try:
            with round.scope:
                if await session.gather(session.averager, enough):
                    round.result = await session.hold_round(round.means, round.samples)
        except RoundFailed as failure:
            round.failure = failure
        if round.result is not None:
            left = self._accumulated + (0 if round.result.accepted else round.samples)
            session.on_committed(round.result, holds_state=True, samples=left)
        else:
            left = self._accumulated + round.samples
            session.tracker.report(
                replace(session.own, samples=left, waits=False), target=session.target
            )
        round.ended.set()


@asynccontextmanager
async def open_background_rounds(session: Session) -> AsyncIterator[BackgroundRounds]:
    """Rounds in the background while the block lasts; leaving it lets one under way end, briefly.

    Who leaves in the middle of a round may take a quorum with it, above all from a group of two.
    """
    async with open_service_nursery() as nursery:
        rounds = BackgroundRounds(session, nursery)
        try:
            yield rounds
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _FAREWELL_S):
                await rounds.wait()
