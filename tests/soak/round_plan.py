"""What happens in a round of the fault driver: who brings what, and what befalls whom (core).

One seed decides all of it, and each round has a generator of its own, so that any round can be
run again alone.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

PEERS: Final = 4
PROBES: Final = (
    "kill",
    "stop",
    "stop-continue",
    "cancel",
    "nan",
    "outlier",
    "zero-weight",
    "nobody",
)
"""`nobody`: the weights of all peers are 0."""
SIGNALS: Final = ("kill", "stop", "stop-continue")
"""Probes that strike a process from outside."""
AFTER_SHARE_MAX: Final = 1.5
"""A probe strikes at most so many usual lengths of a round after its start."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.2, 6.0
OUTLIER: Final = 1e30
_BAD_VALUES: Final = ("nan", "inf", "-inf")
_WEIGHTS: Final = (1.0, 1.0, 2.0, 0.5, 7.0)
EVERYBODY: Final = -1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One round."""

    text: str
    """Names the round; the values that peers bring follow from it."""
    probe: str
    """One of PROBES, or none."""
    victim: int
    """Whom the probe befalls; PEERS for nobody, EVERYBODY for all."""
    weights: tuple[float, ...]
    after_share: float = 0.0
    """When it strikes, in usual lengths of a round."""
    pause_s: float = 0.0
    """How long a stopped peer stays so before it is continued."""
    fill: str = ""
    """What takes the place of the victim's values."""
    fill_from_share: float = 0.0
    """Where in the vector that begins."""

    def healthy(self) -> tuple[int, ...]:
        """Those whom the probe does not befall, in order."""
        return tuple(rank for rank in range(PEERS) if self.victim not in (rank, EVERYBODY))

    def describe(self) -> str:
        """In a few words."""
        if self.probe in ("none", "nobody"):
            return "nothing happens" if self.probe == "none" else "all weights are 0"
        said = f"{self.probe} of peer {self.victim}"
        if self.probe in (*SIGNALS, "cancel"):
            said += f" after {self.after_share:.2f} usual rounds"
        if self.probe == "stop-continue":
            said += f", for {self.pause_s:.2f} s"
        if self.fill:
            said += f", {self.fill} from {self.fill_from_share:.1%} on"
        return said


def plan_round(seed: int, probe: str, number: int) -> Plan:
    """The so-manieth round of a probe; the same for the same arguments."""
    text = f"{seed} {probe} {number}"
    rng = random.Random(text)
    weights = [rng.choice(_WEIGHTS) for _ in range(PEERS)]
    more: dict[str, Any] = {}
    victim = rng.randrange(PEERS)
    if probe in (*SIGNALS, "cancel"):
        more["after_share"] = rng.random() * AFTER_SHARE_MAX
        more["pause_s"] = rng.uniform(PAUSE_S_MIN, PAUSE_S_MAX)
    elif probe == "nan":
        more["fill"], more["fill_from_share"] = rng.choice(_BAD_VALUES), rng.random()
    elif probe == "outlier":
        more["fill"] = str(OUTLIER)
    elif probe == "zero-weight":
        weights[victim] = 0.0
    elif probe == "nobody":
        victim, weights = EVERYBODY, [0.0] * PEERS
    else:
        assert probe == "none"
        victim = PEERS
    return Plan(text=text, probe=probe, victim=victim, weights=tuple(weights), **more)


def order_of(probes: tuple[str, ...], first: int, rounds: int, seed: int) -> list[tuple[str, int]]:
    """So many rounds of each probe, shuffled; those of one probe are in order."""
    shuffled = [probe for probe in probes for _ in range(rounds)]
    random.Random(seed).shuffle(shuffled)
    numbers = {probe: itertools.count(first) for probe in probes}
    return [(probe, next(numbers[probe])) for probe in shuffled]


def vector_of(plan: Plan, rank: int, elements: int) -> Vector:
    """What a peer brings: shape (elements,)."""
    source = hashlib.sha256(f"{plan.text} {rank}".encode()).digest()
    values = np.random.default_rng(int.from_bytes(source, "big")).standard_normal(
        elements, dtype=np.float32
    )
    if plan.fill and rank == plan.victim:
        values[int(plan.fill_from_share * elements) :] = float(plan.fill)
    return values
