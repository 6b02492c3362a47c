"""The errors of averaging say what happened and to whom."""

from __future__ import annotations

import pytest

from averaging.errors import AveragingError, MatchmakingFailed, RoundFailed, StateUnavailable
from averaging.report import RoundReport
from averaging.round_id import RoundId
from p2p import PeerId

ALICE, BOB = PeerId("12D3KooWxxxxalice"), PeerId("12D3KooWxxxxxxbob")


def test_a_failed_round_brings_its_report() -> None:
    report = RoundReport(
        group_id=b"",
        round=RoundId(3),
        members={},
        digest=b"",
        succeeded=False,
        outcome="failed",
        reason="nobody came",
    )
    with pytest.raises(AveragingError, match="nobody came") as raised:
        raise RoundFailed(report)
    assert isinstance(raised.value, RoundFailed)
    assert raised.value.report is report


def test_failed_matchmaking_says_who_said_what() -> None:
    with pytest.raises(AveragingError, match="we are behind") as raised:
        raise MatchmakingFailed("we are behind", behind=RoundId(4), refusals={BOB: "other-round"})
    assert isinstance(raised.value, MatchmakingFailed)
    assert raised.value.behind == RoundId(4)
    assert raised.value.refusals == {BOB: "other-round"}


def test_unavailable_state_names_each_donor() -> None:
    reasons = {BOB: "its newest is version 3", ALICE: "unreachable"}
    with pytest.raises(AveragingError) as raised:
        raise StateUnavailable("no donor has version 4", reasons)
    assert isinstance(raised.value, StateUnavailable)
    assert raised.value.reasons == reasons
    # In order, each by the end of its id.
    assert str(raised.value) == (
        "no donor has version 4 (xxxalice: unreachable; xxxxxbob: its newest is version 3)"
    )
    assert str(StateUnavailable("no donors")) == "no donors"


def test_rounds_are_checked() -> None:
    assert str(RoundId(7, b"\xab" * 32)) == "7@abababab"
    assert RoundId(1, b"z" * 32) < RoundId(2)
    for number, parent in ((-1, bytes(32)), (0, b"short")):
        with pytest.raises(ValueError, match="32 bytes"):
            RoundId(number, parent)
