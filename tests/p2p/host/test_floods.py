"""Floods from many hosts: whatever strangers do, those who are known find a place."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from p2p.host.gate import GRACE_S, KEPT_SHARE, Gate

FRIEND = "198.51.100.7"


def gate_of(**more: float) -> Gate:
    return Gate(
        connections_max=64,
        connections_per_host_max=64,
        handshakes_max=16,
        handshakes_per_host_max=8,
        **more,  # type: ignore[arg-type]
    )


def test_strangers_cut_off_no_handshake_of_who_is_known() -> None:
    gate = gate_of()
    # Two friends behind one address: this host holds more places than any other.
    friends = [gate.on_accepted(FRIEND, 0.0, known=True) for _ in range(2)]
    assert all(friends)
    mine = {admission.place for admission in friends if admission}
    cut = set()
    for number in range(400):
        admission = gate.on_accepted(f"192.0.{number % 200}.{number % 256}", number * 0.01)
        if admission is not None and admission.displaced is not None:
            cut.add(admission.displaced)
    assert cut
    assert not cut & mine


def test_one_range_of_addresses_takes_neither_all_places_nor_the_whole_rate() -> None:
    gate = gate_of(handshakes_per_s=20, handshakes_per_s_and_host=5)
    now_s = 0.0
    for number in range(2_000):
        # A flood from 256 addresses of one owner, ten times as fast as we shake hands.
        now_s += 0.005
        gate.on_accepted(f"192.0.2.{number % 256}", now_s)
        if number % 200 == 199:
            newcomer = gate.on_accepted("203.0.113.9", now_s)
            assert newcomer is not None
            gate.on_handshake_over(newcomer.place)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stranger", "neighbour", "over", "prove"]),
            st.integers(0, 40),
            st.sampled_from([0.0, 0.01, 0.4, GRACE_S]),
        ),
        max_size=80,
    )
)
def test_whatever_strangers_do_one_who_is_known_gets_in(
    steps: list[tuple[str, int, float]],
) -> None:
    gate = gate_of(handshakes_per_s=20, handshakes_per_s_and_host=5)
    places: list[int] = []
    now_s = 0.0
    for what, number, passed_s in steps:
        now_s += passed_s
        host = f"192.0.2.{number}" if what == "neighbour" else f"203.{number}.113.9"
        if what in ("stranger", "neighbour"):
            admission = gate.on_accepted(host, now_s)
            if admission is not None:
                places.append(admission.place)
        elif what == "over" and places:
            gate.on_handshake_over(places.pop(number % len(places)))
        elif what == "prove":
            gate.on_proved(host)
        assert gate.handshakes <= 16 - 16 // KEPT_SHARE
        assert gate.connections <= 64 - 64 // KEPT_SHARE
    friend = gate.on_accepted(FRIEND, now_s, known=True)
    assert friend is not None
    assert friend.displaced is None
    # And keeps its place for as long as a slow handshake may take.
    for number in itertools.islice(itertools.count(), 300):
        now_s += 0.02
        admission = gate.on_accepted(f"203.{number % 250}.113.9", now_s)
        assert admission is None or admission.displaced != friend.place
    assert gate.on_proved(FRIEND, known=True)
