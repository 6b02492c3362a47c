"""PrivacyBudget: how much privacy may be spent, how much is, and a stop before it is too much.

A budget belongs to examples, not to a run: whoever trains on them again spends from the same. So it
can be kept in a file, its ledger, which is written before what it pays for is given away.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from training.errors import PrivacyBudgetExhausted, TrainingError
from training.privacy.accountant import Accountant


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Steps of one kind."""

    rate: Annotated[float, Meta(ge=0, le=1)]
    noise_multiplier: Annotated[float, Meta(ge=0)]
    count: Annotated[int, Meta(ge=0)]


class PrivacyBudget:
    """An (ε, δ) that is spent step by step; str() says how far.

    Args:
        epsilon: what may be spent, ε.
        delta: the probability with which the promise may fail, δ; well below one in the number of
            examples.
        ledger: a file to keep what was spent in; read when it is there. None keeps it in memory,
            and forgets it with the process.

    Raises:
        ValueError: epsilon or delta is out of range.
        TrainingError: the ledger is not one.
    """

    def __init__(self, *, epsilon: float, delta: float, ledger: Path | None = None) -> None:
        if not epsilon > 0 or not 0 < delta < 1:
            raise ValueError(
                f"a budget needs epsilon > 0 and 0 < delta < 1, not {epsilon} and {delta}"
            )
        self.epsilon = epsilon
        self.delta = delta
        self._ledger = ledger
        self._accountant = Accountant() if ledger is None else _read(ledger)

    def __str__(self) -> str:
        return f"epsilon {self.spent:.3g} of {self.epsilon:g} at delta {self.delta:g}"

    @property
    def spent(self) -> float:
        """ε so far."""
        return self._accountant.epsilon(self.delta)

    @property
    def steps(self) -> int:
        """Steps that were paid for."""
        return self._accountant.steps

    def spend(self, *, rate: float, noise_multiplier: float, count: int = 1) -> None:
        """Pay for steps that are about to be taken.

        Raises:
            PrivacyBudgetExhausted: they would cost more than is left; nothing is spent then.
        """
        after = self._accountant.copy()
        after.add(rate=rate, noise_multiplier=noise_multiplier, count=count)
        needed = after.epsilon(self.delta)
        if needed > self.epsilon:
            raise PrivacyBudgetExhausted(
                epsilon=self.epsilon, delta=self.delta, spent=self.spent, needed=needed
            )
        self._keep(after)

    def correct(
        self, *, rate: float, noise_multiplier: float, actual: float, count: int = 1
    ) -> None:
        """Steps that were paid for had less noise than they should have; the truth is kept.

        What is spent may then be more than the budget, and the next spend() raises.
        """
        after = self._accountant.copy()
        after.add(rate=rate, noise_multiplier=noise_multiplier, count=-count)
        after.add(rate=rate, noise_multiplier=actual, count=count)
        self._keep(after)

    def _keep(self, accountant: Accountant) -> None:
        """Write down first, so that a crash never forgets what was given away."""
        if self._ledger is not None:
            _write(self._ledger, accountant)
        self._accountant = accountant


def _read(ledger: Path) -> Accountant:
    accountant = Accountant()
    try:
        entries = msgspec.json.decode(ledger.read_bytes(), type=list[_Entry])
    except FileNotFoundError:
        return accountant
    except (OSError, msgspec.DecodeError) as exc:
        raise TrainingError(
            f"{ledger}: what was spent of the privacy budget cannot be read ({exc}); bring the "
            "file back, or remove it if nothing trained on these examples was ever given away"
        ) from exc
    for entry in entries:
        accountant.add(rate=entry.rate, noise_multiplier=entry.noise_multiplier, count=entry.count)
    return accountant


def _write(ledger: Path, accountant: Accountant) -> None:
    entries = [
        {"rate": rate, "noise_multiplier": multiplier, "count": count}
        for (rate, multiplier), count in sorted(accountant.counts.items())
    ]
    temporary = ledger.with_name(f".{ledger.name}.{os.getpid()}.tmp")
    try:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries) + "\n", "utf-8")
        temporary.replace(ledger)
    except OSError as exc:
        raise TrainingError(
            f"{ledger}: what is spent of the privacy budget cannot be written ({exc}); make room, "
            "or give another folder; nothing was given away"
        ) from exc
