"""What each member brought into a round, as far as its report tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # private gradients are of use without the network, too
    from averaging import RoundReport
    from p2p import PeerId


def delivered_by(report: RoundReport) -> dict[PeerId, float]:
    """The weight of each member in the result, in order of ids; all who see the result agree.

    Behind masks only the sum is known: each who is in it counts the same share of it.
    """
    members = sorted(report.members.items())
    if not report.secure:
        return {peer_id: member.weight * member.fraction for peer_id, member in members}
    hidden = contributors_of(report)
    share = report.weight_sum / max(1, len(hidden))
    return {peer_id: share * (peer_id in hidden) for peer_id, _ in members}


def contributors_of(report: RoundReport) -> frozenset[PeerId]:
    """Those who are in the result wholly, with a weight above 0; a hidden one is NaN."""
    return frozenset(
        peer_id
        for peer_id, member in report.members.items()
        if member.fraction == 1.0 and member.weight != 0
    )


def known_contributors(report: RoundReport) -> int | None:
    """How many vectors are in the sum that a round showed; None if it showed none.

    A round that failed may have shown one to some. Then those count who were there to the end and
    of whom this peer knows that they brought a vector, itself included, so rather too few. A secure
    sum is never shown of fewer than it needs, whatever becomes of the round.
    """
    if report.succeeded:
        return len(contributors_of(report))
    if report.secure or not report.sent_bytes:
        return None
    return sum(member.weight > 0 and not member.reason for member in report.members.values())
