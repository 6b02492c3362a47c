"""LeaderSession: trio's side of Leader SGD, which hears claims and downloads a leader's parameters.

Progress, the spec's check and the donor are those of a session of the run, none of whose rounds is
held.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from averaging import fetch_state
from p2p import Dht, Node, PeerId
from training.advice import OnCaller
from training.config import SwarmConfig
from training.model_state import Array
from training.progress import BatchView, Position
from training.session import Session, open_session
from training.session_plan import SessionPlan
from training.strategies.claims import Claim, ask_claims, claims_served


class LeaderSession:
    """Trio's side: who is there, what they claim, and the parameters of one of them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.claim = Claim()

    async def introduce(self) -> None:
        """Tell the swarm that we are here, and hear who is; raises SpecDiffers."""
        await self.session.introduce()

    async def view(self) -> BatchView:
        """Who is there."""
        return await self.session.view()

    async def tell(
        self, position: Position, steps: int, loss: float, samples_per_s: float, period_s: float
    ) -> BatchView:
        """Tell our progress and our claim, and hear who is there; raises SpecDiffers."""
        # Reports that have arrived while we computed are heard first.
        await trio.lowlevel.checkpoint()
        session = self.session
        session.check_spec()
        self.claim = Claim(loss if math.isfinite(loss) else None)
        own = replace(
            session.own,
            position=position,
            samples=steps,
            samples_per_s=samples_per_s,
            period_s=period_s,
        )
        session.tracker.report(own, target=session.target)
        return session.tracker.view()

    async def claims(self, peers: tuple[PeerId, ...]) -> dict[str, float]:
        """What these claim."""
        session = self.session
        timeout_s = session.config.progress.report_timeout_s
        return await ask_claims(session.node, session.plan.run, peers, timeout_s=timeout_s)

    async def download(self, leader: PeerId) -> Mapping[str, Array]:
        """The leader's parameters; raises StateUnavailable."""
        session = self.session
        snapshot = await fetch_state(
            session.node,
            session.plan.run,
            [leader],
            check=session.plan.check_state,
            timeout_s=session.config.state_timeout_s,
            config=session.config.fetch,
        )
        return snapshot.arrays


@asynccontextmanager
async def open_leader_session(
    node: Node, dht: Dht | None, plan: SessionPlan, config: SwarmConfig, on_caller: OnCaller
) -> AsyncIterator[LeaderSession]:
    """Everything that one model needs to lead and to follow, while the block lasts."""
    async with open_session(node, dht, plan, config, on_caller) as session:
        leading = LeaderSession(session)
        async with claims_served(node, plan.run, lambda: leading.claim):
            yield leading
