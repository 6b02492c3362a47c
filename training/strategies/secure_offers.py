"""Exchanges as secure sums: all learn the mean of what peers offer, and nobody a single offer.

What a peer has offered may be in a sum that somebody knows, whatever it heard of the exchange. The
difference of two sums with that same offer, or with one that contains it, and other members can be
one peer's offer. So what was offered in an exchange that failed goes into no later one:

    nothing was sent yet        the local steps stay, and are offered with the next ones
    sent, without noise         they are dropped: back to the parameters that all have in common
    sent, with each peer's own  they stay: the next offer has noise of its own, and is paid for,
    noise (PrivateClients)      so that both sums together tell no more than the budget allows

Only strategies will do whose peers all go on from one anchor after an exchange, so that each offer
is made of new steps alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from averaging import AveragerConfig, SecureConfig, check_secure_options
from training.errors import UpdateTooLarge
from training.model_state import Array
from training.privacy.clients import PrivateClients
from training.strategies.anchored import DiLoCo, FederatedAveraging, FedProx, LocalSGD
from training.strategies.secure import SecureExchange
from training.strategies.strategy import Strategy

# Parameters that move further between two exchanges are rather diverging than learning.
_VALUE_MAX: Final = 8.0
# That one of a million elements has more noise than this has a probability of 10^-9.
_NOISE_WIDTHS: Final = 8.0


class SecureOffers:
    """What one peer may put into secure sums.

    Args:
        averager: its options for groups hold here, too; each sum has at least group_size_min
            offers, as many as make up the whole noise, and never fewer than three.

    Raises:
        ValueError: the strategy or an option of the averager cannot be had with secure sums.
    """

    def __init__(
        self, options: SecureExchange, strategy: Strategy, averager: AveragerConfig
    ) -> None:
        _check_strategy(strategy)
        _check_averager(averager)
        self.noised = isinstance(strategy, PrivateClients)
        """Whether each offer has noise of its own."""
        self.config = SecureConfig(
            value_max=options.value_max or _usual_value_max(strategy),
            weight_max=1.0 if self.noised else float(options.samples_max),
            bits=options.bits,
            contributors_min=max(3, averager.group_size_min, _noise_shares(strategy)),
            group_size_max=max(3, averager.group_size_max),
            join_window_s=averager.join_window_s,
        )

    @property
    def terms(self) -> str:
        """What all peers must have alike, in words."""
        return self.config.matchmaking().terms

    def weight_of(self, tensors: Mapping[str, Array], weight: float) -> float:
        """The weight that these tensors have in the sum.

        Noise may reach beyond the largest value, and is cut there.

        Raises:
            UpdateTooLarge: a value does not fit; nothing was sent.
        """
        if weight and not self.noised:
            for name, values in tensors.items():
                largest = float(np.abs(values).max(initial=0.0))
                if not largest <= self.config.value_max:
                    raise UpdateTooLarge(name, largest, self.config.value_max)
        return min(weight, self.config.weight_max)

    def too_few(self, trainers: int) -> str | None:
        """Why no exchange is held among so many that train; None if one may be."""
        needed = self.config.contributors_min
        if trainers >= needed:
            return None
        return (
            f"a secure sum needs {needed} peers that train, and there are {trainers}: fewer do not "
            "hide each other; wait for more, or draw a larger fraction of them"
        )


def _usual_value_max(strategy: Strategy) -> float:
    if not isinstance(strategy, PrivateClients):
        return _VALUE_MAX
    noise = strategy.shares.deviation(strategy.noise_multiplier * strategy.clip)
    return strategy.clip + _NOISE_WIDTHS * noise


def _noise_shares(strategy: Strategy) -> int:
    return strategy.shares.needed if isinstance(strategy, PrivateClients) else 0


def _check_strategy(strategy: Strategy) -> None:
    inner = strategy.strategy if isinstance(strategy, PrivateClients) else strategy
    if not isinstance(inner, LocalSGD | DiLoCo | FederatedAveraging | FedProx):
        raise ValueError(
            "secure sums need a strategy whose peers all go on from the mean, so that no offer "
            "contains an earlier one: LocalSGD, DiLoCo, FederatedAveraging or FedProx, not "
            f"{type(inner).__name__}"
        )


def _check_averager(averager: AveragerConfig) -> None:
    codec = averager.wire_dtype
    check_secure_options(rule=averager.rule, codec=None if codec is None else str(codec))
    if averager.tolerated_liars:
        raise ValueError(
            "secure sums cannot be combined with tolerated_liars: whether a member lies about its "
            "vector nobody can see behind masks"
        )
    if averager.grid:
        raise ValueError(
            "secure sums cannot be combined with a grid, whose small groups each have another "
            "result: all peers must go on from one mean"
        )
    if averager.auxiliary:
        raise ValueError("secure sums take no auxiliary peers: each member of a sum masks a vector")
