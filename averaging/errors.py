"""Errors of the averaging layer: what happened to a round or a download, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2p import PeerId, short

if TYPE_CHECKING:
    from averaging.report import RoundReport
    from averaging.round_id import RoundId


class AveragingError(Exception):
    """Something in the averaging layer failed; each subclass says what, and what to do."""


class RoundFailed(AveragingError):
    """A round ended without an agreed result: the caller's tensors are untouched.

    `report` says who took part and why it failed. Call `step()` again with the same tensors;
    when `report.behind` is set the others are in another round: catch up with their state first.
    """

    def __init__(self, report: RoundReport) -> None:
        super().__init__(str(report))
        self.report = report


class UpdateSpent(AveragingError):
    """A vector was offered to a secure sum again, in which it could be told from another sum.

    Once its first masked element has left, a vector is spent, whatever came of the round. Drop it,
    or put new noise on it, and go on with the next one.
    """


class MatchmakingFailed(AveragingError):
    """No group was found before the deadline.

    Args:
        reason: one sentence that names the cause.
        behind: the round that the others are in, when they refused because ours is another one.
        refusals: what each peer that was asked said, or why it could not be asked.
    """

    def __init__(
        self,
        reason: str,
        *,
        behind: RoundId | None = None,
        refusals: Mapping[PeerId, str] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.behind = behind
        self.refusals: dict[PeerId, str] = dict(refusals or {})


class StateUnavailable(AveragingError):
    """No donor could give a state that is new enough and whole.

    `reasons` says why for each donor. Ask again with other donors, or wait until one publishes.
    """

    def __init__(self, message: str, reasons: Mapping[PeerId, str] | None = None) -> None:
        self.reasons: dict[PeerId, str] = dict(reasons or {})
        details = "; ".join(f"{short(peer)}: {why}" for peer, why in sorted(self.reasons.items()))
        super().__init__(f"{message} ({details})" if details else message)
