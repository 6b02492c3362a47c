"""The relay's book-keeping against a plain model, and each of its limits."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2p import PeerId, RelayLimits
from p2p.relay.reservations import Circuit, Passage, Reservations
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
ALICE, BOB, CAROL, DAVE = PEERS[:4]


class Book(RuleBasedStateMachine):
    """Whatever happens in whatever order, no limit is passed and nothing is left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Reservations(LIMITS, 0.0)
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
            passed = self.book.on_bytes(circuit, sender, size_bytes, self.now_s).passed_bytes
            assert passed == min(size_bytes, 100 - before)
            self.carried[circuit.number, sender] = before + passed

    @rule(index=st.integers(0, 2))
    def end(self, index: int) -> None:
        if index < len(self.open):
            circuit = self.open.pop(index)
            self.book.on_circuit_over(circuit)
            self.book.on_circuit_over(circuit)
            assert self.book.on_bytes(circuit, circuit.source, 1, self.now_s).passed_bytes == 0

    @invariant()
    def agrees(self) -> None:
        assert set(self.book.holders(self.now_s)) == set(self.valid())
        assert self.book.circuits == len(self.open)


TestBook = Book.TestCase


def test_a_refused_refresh_keeps_what_is_held() -> None:
    book = Reservations(LIMITS, 0.0)
    assert book.on_reserve(PEERS[0], "5.6.8.1", 0.0) == 10
    for peer in PEERS[1:3]:
        book.on_reserve(peer, "5.6.7.1", 0.0)
    assert book.on_reserve(PEERS[0], "5.6.7.2", 5.0) is None
    assert PEERS[0] in book.holders(9.0)
    assert PEERS[0] not in book.holders(10.0)


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="circuits_max must be positive"):
        RelayLimits(circuits_max=0)


def open_book(**limits: int) -> Reservations:
    """A book in which bob and carol have reserved for as long as the test takes."""
    book = Reservations(RelayLimits(reservation_life_s=10**6, **limits), 0.0)
    for peer in (BOB, CAROL):
        assert book.on_reserve(peer, "5.6.7.1", 0.0)
    return book


def connect(book: Reservations, source: PeerId, target: PeerId, now_s: float = 0.0) -> Circuit:
    outcome = book.on_connect(source, target, now_s)
    assert isinstance(outcome, Circuit)
    return outcome


def seconds_to_carry(book: Reservations, circuits: list[Circuit], pieces: int) -> float:
    """How long it takes when each circuit's source sends its pieces as it may, all at once."""
    due = [(0.0, index, circuit) for index, circuit in enumerate(circuits)]
    left = dict.fromkeys(range(len(circuits)), pieces)
    now_s = 0.0
    while due:
        due.sort()
        now_s, index, circuit = due.pop(0)
        if left[index]:
            left[index] -= 1
            passage = book.on_bytes(circuit, circuit.source, 1_000, now_s)
            assert passage.passed_bytes == 1_000
            due.append((now_s + passage.wait_s, index, circuit))
    return now_s


@pytest.mark.parametrize(
    ("limit", "ends", "seconds"),
    [
        # One circuit is held by its own rate; others beside it are not.
        ("circuit_bytes_per_s", [(ALICE, BOB)], 10.0),
        ("circuit_bytes_per_s", [(ALICE, BOB), (DAVE, CAROL)], 10.0),
        # A peer's circuits share its rate, on whichever end it is.
        ("peer_bytes_per_s", [(ALICE, BOB), (ALICE, CAROL)], 20.0),
        ("peer_bytes_per_s", [(ALICE, BOB), (DAVE, BOB)], 20.0),
        ("peer_bytes_per_s", [(ALICE, BOB), (DAVE, CAROL)], 10.0),
        # All share the whole.
        ("bytes_per_s", [(ALICE, BOB), (DAVE, CAROL)], 20.0),
    ],
)
def test_rates(limit: str, ends: list[tuple[PeerId, PeerId]], seconds: float) -> None:
    book = open_book(**{limit: 10_000})
    circuits = [connect(book, *two) for two in ends]
    # Less the burst that each begins with.
    assert seconds - 1 < seconds_to_carry(book, circuits, 100) <= seconds


def test_a_slow_rate_passes_a_large_piece_and_waits_for_it() -> None:
    book = open_book(circuit_bytes_per_s=1_000)
    circuit = connect(book, ALICE, BOB)
    passage = book.on_bytes(circuit, ALICE, 100_250, 0.0)
    assert passage == Passage(100_250, 100.0)
    assert book.on_bytes(circuit, BOB, 1_000, 100.0).wait_s == pytest.approx(1.0)
    # A pause is made good for by a quarter of a second at most.
    assert book.on_bytes(circuit, BOB, 1_250, 900.0).wait_s == pytest.approx(1.0)
    # A clock that goes back makes no bytes.
    assert book.on_bytes(circuit, BOB, 0, 800.0).wait_s == pytest.approx(1.0)


def test_a_peers_quota_ends_its_circuits_and_comes_back() -> None:
    book = open_book(peer_bytes_per_hour=360_000)
    circuit = connect(book, ALICE, BOB)
    assert book.on_bytes(circuit, BOB, 360_001, 0.0).passed_bytes == 360_000
    book.on_circuit_over(circuit)
    # Alice and bob have spent theirs, on either end; others have not.
    for source, target in ((ALICE, BOB), (DAVE, BOB), (ALICE, CAROL)):
        assert book.on_connect(source, target, 1.0) == Status.RESOURCE_LIMIT_EXCEEDED
    connect(book, DAVE, CAROL, 1.0)
    assert book.on_connect(ALICE, BOB, 655.0) == Status.RESOURCE_LIMIT_EXCEEDED
    again = connect(book, ALICE, BOB, 656.0)
    assert book.on_bytes(again, ALICE, 10**6, 656.0).passed_bytes == 65_600


def test_the_quota_of_all_holds_for_all() -> None:
    book = open_book(bytes_per_hour=100_000)
    first, second = connect(book, ALICE, BOB), connect(book, DAVE, CAROL)
    assert book.on_bytes(first, ALICE, 90_000, 0.0).passed_bytes == 90_000
    assert book.on_bytes(second, CAROL, 20_000, 0.0).passed_bytes == 10_000
    assert book.on_connect(DAVE, CAROL, 0.0) == Status.RESOURCE_LIMIT_EXCEEDED


def test_floods_of_requests_are_refused_by_peer_and_by_network() -> None:
    book = Reservations(
        RelayLimits(requests_per_minute_and_peer=6, requests_per_minute_and_network=60), 0.0
    )
    assert [book.on_request(ALICE, "5.6.7.1", 0.0) for _ in range(8)] == [True] * 6 + [False] * 2
    assert not book.on_request(ALICE, "5.6.7.1", 9.0)
    assert book.on_request(ALICE, "5.6.7.1", 10.5)
    # Keys cost nothing: so many more from the same network are too many, from another they are not.
    asked = [book.on_request(PeerId(f"sybil-{n}"), f"5.6.7.{n}", 10.5) for n in range(100)]
    assert 50 <= sum(asked) <= 65
    assert book.on_request(BOB, "5.6.8.1", 10.5)


def test_accounts_of_strangers_are_bounded() -> None:
    book = open_book()
    for number in range(5_000):
        book.on_circuit_over(connect(book, PeerId(f"stranger-{number}"), BOB))
    assert len(book._accounts) <= 4_096
    assert BOB in book._accounts
