"""What a session's rounds are: averages in the open, or sums behind masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager

from averaging import (
    Averager,
    RoundId,
    RoundReport,
    SecureAverager,
    Used,
    open_averager,
    open_secure_averager,
)
from p2p import Dht, Node, PeerId
from training.config import SwarmConfig
from training.model_state import Array
from training.session_plan import SessionPlan

AnyAverager = Averager | SecureAverager


def open_rounds(
    node: Node, dht: Dht | None, plan: SessionPlan, config: SwarmConfig
) -> AbstractAsyncContextManager[AnyAverager]:
    """The averager that a plan asks for.

    Raises:
        ValueError: how the swarm averages does not go with the plan.
    """
    name = f"{plan.run}/gradients"
    if plan.secure is not None:
        return open_secure_averager(node, name, plan.spec, plan.secure, dht=dht)
    return open_averager(node, name, plan.spec, plan.averager_config(config.averager), dht=dht)


async def hold_round(
    averager: AnyAverager,
    tensors: Mapping[str, Array],
    *,
    weight: float,
    deadline_s: float,
    round: RoundId,
    expected: Collection[PeerId],
    vector: int = 0,
    used: Used | None = None,
) -> RoundReport:
    """One round, as Averager.step(); masks go with no codec, so `vector` and `used` say nothing.

    Raises:
        RoundFailed, UpdateSpent: as the averager's step() does.
    """
    if isinstance(averager, SecureAverager):
        return await averager.step(
            tensors, weight=weight, deadline_s=deadline_s, round=round, expected=expected
        )
    return await averager.step(
        tensors,
        weight=weight,
        deadline_s=deadline_s,
        round=round,
        expected=expected,
        vector=vector,
        used=used,
    )


def uplink_bytes_per_s(averager: AnyAverager) -> float | None:
    """How fast we can send, as rounds have shown; of rounds behind masks nothing is known."""
    return averager.uplink_bytes_per_s if isinstance(averager, Averager) else None


def owe_nothing(averager: AnyAverager) -> None:
    """Forget what codecs lost: it is no part of a state that was taken over."""
    if isinstance(averager, Averager):
        averager.feedback.reset()
