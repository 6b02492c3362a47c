"""The gate: floods are turned away, and those who hold many places give way to others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.gate import GRACE_S, Gate, host_key

FLOODER, OTHER = "192.0.2.1", "198.51.100.7"


def gate_of(
    *, connections: int = 4, per_host: int = 4, handshakes: int = 4, handshakes_per_host: int = 3
) -> Gate:
    return Gate(
        connections_max=connections,
        connections_per_host_max=per_host,
        handshakes_max=handshakes,
        handshakes_per_host_max=handshakes_per_host,
    )


def place(gate: Gate, host: str, now_s: float = 0.0) -> int:
    admission = gate.on_accepted(host, now_s)
    assert admission is not None
    assert admission.displaced is None
    return admission.place


def test_a_host_over_its_limit_is_turned_away_at_first() -> None:
    gate = gate_of()
    for _ in range(3):
        place(gate, FLOODER)
    assert gate.on_accepted(FLOODER, GRACE_S / 2) is None
    assert gate.handshakes == 3
    place(gate, OTHER)


def test_a_host_over_its_limit_displaces_its_own_oldest() -> None:
    gate = gate_of()
    oldest = place(gate, FLOODER)
    for _ in range(2):
        place(gate, FLOODER)
    admission = gate.on_accepted(FLOODER, GRACE_S)
    assert admission is not None
    assert admission.displaced == oldest
    assert gate.handshakes == 3


def test_when_all_places_are_taken_the_greediest_host_gives_way_at_once() -> None:
    gate = gate_of(handshakes=3)
    oldest = place(gate, FLOODER)
    for _ in range(2):
        place(gate, FLOODER)
    admission = gate.on_accepted(OTHER, 0.0)
    assert admission is not None
    assert admission.displaced == oldest
    assert gate.handshakes == 3


def test_among_equals_the_newcomer_waits_its_turn() -> None:
    gate = gate_of(handshakes=2)
    first = place(gate, FLOODER)
    place(gate, OTHER)
    assert gate.on_accepted("203.0.113.9", 0.0) is None
    admission = gate.on_accepted("203.0.113.9", GRACE_S)
    assert admission is not None
    assert admission.displaced == first


def test_a_handshake_that_is_over_frees_its_place_once() -> None:
    gate = gate_of(handshakes_per_host=1)
    first = place(gate, FLOODER)
    gate.on_handshake_over(first)
    gate.on_handshake_over(first)
    place(gate, FLOODER)
    assert gate.handshakes == 1


def test_connections_are_limited_in_all_and_by_host() -> None:
    gate = gate_of(connections=3, per_host=2)
    waiting = place(gate, FLOODER)
    assert gate.on_proved(FLOODER)
    assert gate.on_proved(FLOODER)
    assert not gate.on_proved(FLOODER)
    assert gate.on_accepted(FLOODER, 0.0) is None
    gate.on_handshake_over(waiting)
    assert gate.on_proved(OTHER)
    assert gate.on_accepted("203.0.113.9", 0.0) is None
    gate.on_disconnected(FLOODER)
    place(gate, "203.0.113.9")
    assert gate.connections == 2


@pytest.mark.parametrize(
    ("host", "key"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::/64"), ("::1", "::/64")],
)
def test_an_ipv6_host_has_many_addresses(host: str, key: str) -> None:
    assert host_key(host) == key


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["accept", "over", "prove", "leave"]),
            st.sampled_from([FLOODER, OTHER, "203.0.113.9"]),
            st.sampled_from([0.0, 0.4, 1.5]),
        ),
        max_size=60,
    )
)
def test_limits_hold_and_nothing_leaks(steps: list[tuple[str, str, float]]) -> None:
    gate = gate_of()
    open_places: dict[int, str] = {}
    proved: list[str] = []
    now_s = 0.0
    for what, host, passed_s in steps:
        now_s += passed_s
        if what == "accept":
            admission = gate.on_accepted(host, now_s)
            if admission is not None:
                if admission.displaced is not None:
                    del open_places[admission.displaced]
                open_places[admission.place] = host
        elif what == "over" and open_places:
            done = next(iter(open_places))
            del open_places[done]
            gate.on_handshake_over(done)
        elif what == "prove" and gate.on_proved(host):
            proved.append(host)
        elif what == "leave" and proved:
            gate.on_disconnected(proved.pop())
        assert gate.handshakes == len(open_places) <= 4
        assert gate.connections == len(proved) <= 4
        assert all(list(open_places.values()).count(each) <= 3 for each in open_places.values())
    for done in list(open_places):
        gate.on_handshake_over(done)
    for host in proved:
        gate.on_disconnected(host)
    assert gate.handshakes == gate.connections == 0
