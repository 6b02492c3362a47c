"""A check: one question about this computer's place in the network, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["well", "warn", "ill", "unknown"]
"""ill: the peer cannot take part because of it; warn: it can, but not as well as it might."""


@dataclass(frozen=True)
class Check:
    """What was looked at, what was seen, and what to do about it."""

    name: str
    verdict: Verdict
    evidence: str
    advice: str = ""
    """Empty when nothing needs to be done."""
