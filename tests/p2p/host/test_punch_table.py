"""The punch table: whom the listener expects from where, and for how long."""

from __future__ import annotations

import random

from p2p import Identity
from p2p.address import TcpAddress
from p2p.host.punch_table import EXPECTED_S, PunchTable

ALICE, BOB = (Identity.generate(random.Random(seed)).peer_id for seed in range(2))
HOME, OFFICE = TcpAddress("ip4", "5.6.7.8", 1), TcpAddress("ip4", "5.6.7.8", 2)


def test_expected_for_ten_seconds_from_exactly_there() -> None:
    table = PunchTable()
    table.expect(BOB, [HOME.of(BOB)], "listener", 0.0)
    found = table.find(HOME, EXPECTED_S - 0.1)
    assert found is not None
    assert (found.peer_id, found.part) == (BOB, "listener")
    assert table.find(OFFICE, 1.0) is None
    assert table.find(HOME, EXPECTED_S) is None


def test_the_newest_word_counts_and_who_has_come_is_forgotten() -> None:
    table = PunchTable()
    table.expect(BOB, [HOME, OFFICE], "listener", 0.0)
    table.expect(ALICE, [OFFICE], "dialer", 1.0)
    found = table.find(OFFICE, 2.0)
    assert found is not None
    assert (found.peer_id, found.part) == (ALICE, "dialer")
    table.forget(BOB)
    assert table.find(HOME, 2.0) is None
    assert table.find(OFFICE, 2.0) is not None


def test_its_size_is_bounded() -> None:
    table = PunchTable()
    several = [TcpAddress("ip4", "5.6.7.8", port) for port in range(1, 2_000)]
    table.expect(BOB, several, "listener", 0.0)
    assert table.find(several[0], 1.0) is None
    assert table.find(several[-1], 1.0) is not None
    assert len(table._expected) <= 512
