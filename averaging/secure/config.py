"""The options of secure aggregation, and what it cannot be combined with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from averaging.matchmaking import MatchmakingConfig
from averaging.robust.rule import Rule, RuleKind
from averaging.secure.ring import Bits, Ring
from averaging.secure.schema import MEMBERS_MAX


@dataclass(frozen=True, kw_only=True)
class SecureConfig:
    """How vectors become whole numbers, and how patient a group is. Members must agree on all."""

    value_max: float
    """The largest absolute value of an element; each member clips its own vector to it. Only the
    model knows it: with clipped and noised updates, the clipping norm and some widths of noise."""
    weight_max: float = 1.0
    """The largest weight; a small part of it is coarse, as there are 2^31 / n steps up to it."""
    bits: Bits = 32
    """Of the ring, 32 or 64. With 32, n members have steps of n · value_max / 2^31; 64 is finer and
    takes twice the bytes."""
    patience_s: float = 5.0
    """How long a small message may take; for parts and sums, how much longer than twice what most
    members need."""
    silence_s: float = 2.5
    """A coordinator from which nothing came for so long is lost; it says something five times as
    often."""
    farewell_s: float = 2.0
    """How long a member that is done goes on sending to others what it has for them."""
    contributors_min: int = 3
    """A sum has at least so many vectors of a weight above 0, since fewer would not hide each
    other; more where each brings a share of the noise."""
    group_size_max: int = 32
    """A group of this size closes at once; a member's work grows with it."""
    join_window_s: float = 5.0
    """The longest wait for strangers, and for a better-ranked peer that is not yet looking."""

    def __post_init__(self) -> None:
        self.ring(self.group_size_max)
        if not 3 <= self.group_size_max <= MEMBERS_MAX:
            raise ValueError(f"group_size_max must be between 3 and {MEMBERS_MAX}")
        if not 3 <= self.contributors_min <= self.group_size_max:
            raise ValueError("contributors_min must be between 3 and group_size_max")
        seconds = (self.patience_s, self.silence_s, self.farewell_s)
        if not all(0 < value < math.inf for value in seconds):
            raise ValueError("patience_s, silence_s and farewell_s must be positive")
        self.matchmaking()

    def ring(self, members: int) -> Ring:
        """The ring of a group of so many."""
        return Ring(
            bits=self.bits, members=members, value_max=self.value_max, weight_max=self.weight_max
        )

    def matchmaking(self) -> MatchmakingConfig:
        """The part for finding groups: of three at least, since a sum of two hides nothing."""
        return MatchmakingConfig(
            terms=f"secure sum, {self.bits} bits, values to {self.value_max!r}, "
            f"weights to {self.weight_max!r}, of {self.contributors_min} at least",
            group_size_min=self.contributors_min,
            group_size_max=self.group_size_max,
            join_window_s=self.join_window_s,
            join_window_s_min=min(self.join_window_s, MatchmakingConfig.join_window_s_min),
        )


def check_secure_options(
    *, rule: str = "mean", codec: str | None = None, whole: bool = True
) -> None:
    """Refuse what needs to see single vectors, or pieces of them.

    Noise for differential privacy and any rounding are in the vector before it is masked, so they
    go together with masks.

    Args:
        rule: how contributions are combined, see `averaging.robust`.
        codec: what vectors would travel in; None as they are.
        whole: whether a member is in all chunks of the result or in none.

    Raises:
        ValueError: with the reason.
    """
    if Rule.parse(rule).kind is not RuleKind.MEAN:
        raise ValueError(
            f"secure aggregation cannot be combined with the rule {rule}: robust rules compare the "
            "members' vectors, which masks hide; use the mean, and clip at each member"
        )
    if codec is not None:
        raise ValueError(
            f"secure aggregation cannot be combined with the codec {codec}: masked vectors are "
            "added as they are, so all members need the same elements in the same ring, and a "
            "codec chooses its own elements or scale at each; the ring is the quantisation"
        )
    if not whole:
        raise ValueError(
            "secure aggregation needs whole inclusion: of a member that is in some chunks only, "
            "masks would have to come off those and stay on the others"
        )
