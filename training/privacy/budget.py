"""PrivacyBudget: how much privacy may be spent, how much is, and a stop before it is too much.

A budget belongs to examples, not to a run: whoever trains on them again spends from the same. So it
can be kept in a file, its ledger, which is written before what it pays for is given away. Runs at
the same time, in one process or in several, may share a ledger: each payment reads it, adds to it
and writes it under a lock, so that none forgets what another has spent.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from training.checkpoint import flush_folder
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
        ledger: a file to keep what was spent in; read when it is there. It must be on a disk of
            this machine, or one whose locks hold for all machines that write it. None keeps it in
            memory, and forgets it with the process.

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
        """ε so far: of all runs on the ledger, when this one last paid."""
        return self._accountant.epsilon(self.delta)

    @property
    def steps(self) -> int:
        """Steps that were paid for, as of then."""
        return self._accountant.steps

    def spend(self, *, rate: float, noise_multiplier: float, count: int = 1) -> None:
        """Pay for steps that are about to be taken.

        Raises:
            PrivacyBudgetExhausted: they would cost more than is left; nothing is spent then.
            TrainingError: the ledger cannot be read or written, or was set back; neither then.
        """
        with self._paying() as after:
            after.add(rate=rate, noise_multiplier=noise_multiplier, count=count)
            needed = after.epsilon(self.delta)
            if needed > self.epsilon:
                raise PrivacyBudgetExhausted(
                    epsilon=self.epsilon, delta=self.delta, spent=self.spent, needed=needed
                )

    def correct(
        self, *, rate: float, noise_multiplier: float, actual: float, count: int = 1
    ) -> None:
        """Steps that were paid for had less noise than they should have; the truth is kept.

        What is spent may then be more than the budget, and the next spend() raises.

        Raises:
            TrainingError: as spend() does.
        """
        with self._paying() as after:
            after.add(rate=rate, noise_multiplier=noise_multiplier, count=-count)
            after.add(rate=rate, noise_multiplier=actual, count=count)

    @contextmanager
    def _paying(self) -> Iterator[Accountant]:
        """Give what was spent by now, to be added to; kept unless that raises.

        It is written down first, so that a crash never forgets what was given away.
        """
        if self._ledger is None:
            after = self._accountant.copy()
            yield after
        else:
            with _locked(self._ledger):
                latest = _read(self._ledger)
                if latest.steps < self._accountant.steps:
                    raise TrainingError(
                        f"{self._ledger}: tells of {latest.steps} paid steps, of which there were "
                        f"{self._accountant.steps} before; bring the newer file back"
                    )
                self._accountant = latest
                after = latest.copy()
                yield after
                _write(self._ledger, after)
        self._accountant = after


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


@contextmanager
def _locked(ledger: Path) -> Iterator[None]:
    """Let no other budget, in this process or another, read or write the ledger meanwhile.

    The lock's file stays when it is free: whoever removed it might part two that wait for it. A
    process that ends frees its locks, however it ends.
    """
    try:
        ledger.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            ledger.with_name(f".{ledger.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600
        )
    except OSError as exc:
        raise _unwritten(ledger, exc) from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as exc:
            raise _unwritten(ledger, exc) from exc
        yield
    finally:
        os.close(descriptor)


def _write(ledger: Path, accountant: Accountant) -> None:
    entries = [
        {"rate": rate, "noise_multiplier": multiplier, "count": count}
        for (rate, multiplier), count in sorted(accountant.counts.items())
    ]
    temporary = ledger.with_name(f".{ledger.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(entries) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(ledger)
        flush_folder(ledger.parent)
    except OSError as exc:
        raise _unwritten(ledger, exc) from exc


def _unwritten(ledger: Path, exc: OSError) -> TrainingError:
    return TrainingError(
        f"{ledger}: what is spent of the privacy budget cannot be written ({exc}); make room, "
        "or give another folder; nothing was given away"
    )
