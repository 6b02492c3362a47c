"""What each member brought into a round, as far as its report tells."""

from __future__ import annotations

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
