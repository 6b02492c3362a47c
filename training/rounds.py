"""What a session's rounds are: averages in the open, of gradients or of their factors, or sums.

Where peers average factors they share one thing beside the model: the `queries` that all begin the
next step with. They follow from the last result, and newcomers take them over with the state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, TypeAlias

from averaging import (
    Averager,
    AveragerConfig,
    RoundId,
    RoundReport,
    SecureAverager,
    TensorSpec,
    Used,
    open_averager,
    open_secure_averager,
)
from p2p import Dht, Node, PeerId
from training.config import SwarmConfig
from training.model_state import Array
from training.session_plan import SessionPlan

if TYPE_CHECKING:
    from averaging import LowRankAverager

AnyAverager: TypeAlias = "Averager | LowRankAverager | SecureAverager"
QUERIES: Final = "codec/queries"
"""The name of that array in a state."""


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
    averager = plan.averager_config(config.averager)
    if averager.power_sgd() is not None:
        # It loads PyTorch, which simulated trainers do without.
        from averaging import open_low_rank_averager

        return open_low_rank_averager(node, name, plan.spec, averager, dht=dht)
    return open_averager(node, name, plan.spec, averager, dht=dht)


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
    if isinstance(averager, Averager):
        return await averager.step(
            tensors,
            weight=weight,
            deadline_s=deadline_s,
            round=round,
            expected=expected,
            vector=vector,
            used=used,
        )
    assert vector == 0, "factors are of gradients, of which there is one vector"
    return await averager.step(
        tensors, weight=weight, deadline_s=deadline_s, round=round, expected=expected, used=used
    )


def uplink_bytes_per_s(averager: AnyAverager) -> float | None:
    """How fast we can send, as rounds have shown; of rounds behind masks nothing is known."""
    return None if isinstance(averager, SecureAverager) else averager.uplink_bytes_per_s


def shared_by(averager: AnyAverager) -> dict[str, Array]:
    """What all peers hold beside the model since the last result; a copy, perhaps empty."""
    if isinstance(averager, Averager | SecureAverager):
        return {}
    return {QUERIES: averager.queries}


def shared_shapes(spec: TensorSpec, config: AveragerConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of that, of gradients like these; all are float32.

    Raises:
        ValueError: the codec does not go with such gradients; says why.
    """
    if config.power_sgd() is None:
        return {}
    from averaging import low_rank_query_count

    return {QUERIES: (low_rank_query_count(spec, config),)}


def take_over(averager: AnyAverager, shared: Mapping[str, Array]) -> None:
    """Forget what codecs lost, which is no part of a state that was taken over; go on from that.

    Args:
        shared: as shared_by() gave it where the state comes from; empty at a run's beginning.
    """
    if isinstance(averager, Averager):
        averager.feedback.reset()
    elif not isinstance(averager, SecureAverager):
        averager.take_over(shared.get(QUERIES))
