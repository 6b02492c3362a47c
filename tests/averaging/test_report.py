"""RoundReport reads as one line that says who, what and why."""

from averaging.allreduce.result import RoundResult
from averaging.attempts import Attempts
from averaging.errors import MatchmakingFailed
from averaging.report import MemberReport, RoundReport
from averaging.round_id import RoundId
from p2p import PeerId

ALICE, BOB = PeerId("12D3KooWxxxxALICEALI"), PeerId("12D3KooWxxxxxxxxBOBBOBBO")


def report(**changes: object) -> RoundReport:
    fields: dict[str, object] = {
        "group_id": bytes(32),
        "round": RoundId(12),
        "members": {
            ALICE: MemberReport(fraction=1.0, weight=1.0),
            BOB: MemberReport(fraction=0.25, weight=2.0, reason="silent"),
        },
        "digest": bytes(32),
        "succeeded": True,
        "outcome": "success",
        "sent_bytes": 4000,
        "received_bytes": 4001,
        "seconds": 1.234,
    }
    return RoundReport(**{**fields, **changes})  # type: ignore[arg-type]


def test_success() -> None:
    assert str(report()) == (
        "round 12 success, 1 of 2 contributed wholly, BOBBOBBO 25% (silent), "
        "1.23 s, 4000 bytes sent, 4001 received"
    )


def test_failure() -> None:
    failed = report(
        succeeded=False,
        outcome="failed",
        reason="no agreement before the deadline",
        attempts=2,
        lost=(BOB,),
        behind=RoundId(15),
        members={
            ALICE: MemberReport(fraction=0.0, weight=1.0),
            BOB: MemberReport(fraction=0.0, weight=2.0, reason="lost"),
        },
    )
    assert str(failed) == (
        "round 12 failed: no agreement before the deadline, group of 2, lost BOBBOBBO, "
        "the others are in round 15, 1.23 s in 2 attempts, 4000 bytes sent, 4001 received"
    )


def test_no_group() -> None:
    nobody = report(
        succeeded=False, outcome="failed", reason="nobody came", members={}, group_id=b""
    )
    assert str(nobody).startswith("round 12 failed: nobody came, 1.23 s")


def test_a_search_that_found_nobody_tells_of_the_group_before_it() -> None:
    attempts, nobody = Attempts(0.0), MatchmakingFailed("nobody came")
    alone = attempts.report_without_group(RoundId(12), ALICE, 2.0, nobody, 1.0)
    assert alone.members == {ALICE: MemberReport(fraction=0.0, weight=2.0)}
    members = {peer: MemberReport(fraction=0.0, weight=1.0) for peer in (ALICE, BOB)}
    failed = RoundResult(
        outcome="failed",
        certain=True,
        hopeless=False,
        reason="too few are left",
        digest=b"",
        members=members,
        lost=(BOB,),
        promised=False,
    )
    attempts.add(failed)
    after = attempts.report_without_group(RoundId(12), ALICE, 2.0, nobody, 1.0)
    assert (after.group_id, after.members, after.lost) == (b"", members, (BOB,))
