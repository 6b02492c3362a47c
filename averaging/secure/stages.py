"""How far a member has come, and what its coordinator gathers (core)."""

from __future__ import annotations

from enum import Enum


class Stage(Enum):
    """How far a member has come."""

    KEYS = "keys"
    SHARES = "shares"
    PARTS = "parts"
    SIGNED = "signed"
    REVEALED = "revealed"
    DONE = "done"
    ABANDONED = "abandoned"


class Phase(Enum):
    """What the coordinator gathers."""

    KEYS = "keys"
    SHARES = "shares"
    PARTS = "parts"
    SUMS = "sums"
    SIGNATURES = "signatures"
    REVEALS = "reveals"
    DONE = "done"
    FAILED = "failed"
