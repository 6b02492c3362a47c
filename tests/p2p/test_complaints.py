"""Complaints: one line for each peer, and a bound on how many peers are remembered."""

from __future__ import annotations

import logging

import pytest

from p2p import PeerId
from p2p.complaints import PEERS_MAX, Complaints

LOGGER = logging.getLogger("tests.complaints")


def test_a_peer_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(LOGGER, "it_refuses")
    for cause in ("sends garbage", "sends garbage", "asks too often"):
        complaints.add(PeerId("alice"), cause)
    complaints.add(PeerId("bob"), "asks too often")
    assert [record.getMessage() for record in caplog.records] == [
        "it_refuses peer=alice cause=sends garbage",
        "it_refuses peer=bob cause=asks too often",
    ]


def test_a_flood_of_keys_is_not_remembered_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(LOGGER, "it_refuses")
    for number in range(PEERS_MAX + 10):
        complaints.add(PeerId(f"peer-{number}"), "sends garbage")
    assert len(complaints._known) == PEERS_MAX
    caplog.clear()
    complaints.add(PeerId(f"peer-{PEERS_MAX + 9}"), "again")
    complaints.add(PeerId("peer-0"), "again")
    assert [record.getMessage() for record in caplog.records] == [
        "it_refuses peer=peer-0 cause=again"
    ]
