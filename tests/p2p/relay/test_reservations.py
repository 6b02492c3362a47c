"""The relay's book-keeping against a plain model, and each of its limits."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2p import PeerId, RelayLimits
from p2p.relay.reservations import Circuit, Reservations
from p2p.relay.schema import Status

LIMITS = RelayLimits(
    reservations_max=4,
    reservations_per_network_max=2,
    reservation_life_s=10,
    circuits_max=3,
    circuits_per_peer_max=2,
    circuit_duration_s=5,
    circuit_bytes_each_way=100,
)
PEERS = [PeerId(f"peer-{index}") for index in range(8)]
HOSTS = ["5.6.7.1", "5.6.7.2", "5.6.8.1", "2001:db8::1"]
peers = st.sampled_from(PEERS)


class Book(RuleBasedStateMachine):
    """Whatever happens in whatever order, no limit is passed and nothing is left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Reservations(LIMITS)
        self.now_s = 0.0
        self.until_s: dict[PeerId, tuple[str, float]] = {}
        self.open: list[Circuit] = []
        self.carried: dict[tuple[int, PeerId], int] = {}

    def valid(self) -> dict[PeerId, str]:
        return {peer: host for peer, (host, end) in self.until_s.items() if end > self.now_s}

    @rule(seconds=st.floats(0, 8))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(peer=peers, host=st.sampled_from(HOSTS))
    def reserve(self, peer: PeerId, host: str) -> None:
        others = {other: at for other, at in self.valid().items() if other != peer}
        near = [at for at in others.values() if at.rpartition(".")[0] == host.rpartition(".")[0]]
        granted = self.book.on_reserve(peer, host, self.now_s)
        assert (granted is None) == (len(others) >= 4 or len(near) >= 2)
        if granted is not None:
            assert granted == self.now_s + 10
            self.until_s[peer] = (host, granted)

    @rule(peer=peers)
    def disconnect(self, peer: PeerId) -> None:
        self.book.on_disconnected(peer)
        self.until_s.pop(peer, None)

    @rule(ends=st.tuples(peers, peers))
    def connect(self, ends: tuple[PeerId, PeerId]) -> None:
        source, target = ends
        outcome = self.book.on_connect(source, target, self.now_s)
        if target not in self.valid():
            assert outcome == Status.NO_RESERVATION
        elif source == target:
            assert outcome == Status.PERMISSION_DENIED
        elif len(self.open) >= 3 or any(
            sum(peer in (one.source, one.target) for one in self.open) >= 2
            for peer in (source, target)
        ):
            assert outcome == Status.RESOURCE_LIMIT_EXCEEDED
        else:
            assert isinstance(outcome, Circuit)
            assert outcome.ends_at_s == self.now_s + 5
            self.open.append(outcome)

    @rule(index=st.integers(0, 2), size_bytes=st.integers(0, 80), back=st.booleans())
    def carry(self, index: int, size_bytes: int, back: bool) -> None:
        if index < len(self.open):
            circuit = self.open[index]
            sender = circuit.target if back else circuit.source
            before = self.carried.get((circuit.number, sender), 0)
            passed = self.book.on_bytes(circuit, sender, size_bytes)
            assert passed == min(size_bytes, 100 - before)
            self.carried[circuit.number, sender] = before + passed

    @rule(index=st.integers(0, 2))
    def end(self, index: int) -> None:
        if index < len(self.open):
            circuit = self.open.pop(index)
            self.book.on_circuit_over(circuit)
            self.book.on_circuit_over(circuit)
            assert self.book.on_bytes(circuit, circuit.source, 1) == 0

    @invariant()
    def agrees(self) -> None:
        assert set(self.book.holders(self.now_s)) == set(self.valid())
        assert self.book.circuits == len(self.open)


TestBook = Book.TestCase


def test_a_refused_refresh_keeps_what_is_held() -> None:
    book = Reservations(LIMITS)
    assert book.on_reserve(PEERS[0], "5.6.8.1", 0.0) == 10
    for peer in PEERS[1:3]:
        book.on_reserve(peer, "5.6.7.1", 0.0)
    assert book.on_reserve(PEERS[0], "5.6.7.2", 5.0) is None
    assert PEERS[0] in book.holders(9.0)
    assert PEERS[0] not in book.holders(10.0)


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="circuits_max must be positive"):
        RelayLimits(circuits_max=0)
