"""A trace says of each query who named the peer, how long it took and what came of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.dht.contact import Contact
from p2p.dht.trace import HopOutcome, Tracer
from p2p.errors import (
    CallTimeout,
    MessageInvalid,
    P2PError,
    RefusedError,
    StreamBroken,
    UnreachableError,
)
from p2p.peer_id import PeerId

TARGET = 0


def contact(key: int) -> Contact:
    return Contact(PeerId(f"peer{key}"), key, (f"/ip4/10.0.0.{key}/tcp/1",))


def test_each_hop_tells_who_named_it_and_how_deep_it_is() -> None:
    tracer = Tracer(TARGET, 10.0, known=[contact(9), contact(8)])
    tracer.on_asked(contact(9), 10.0)
    # 8 was known before 9 named it.
    tracer.on_answer(contact(9), [contact(8), contact(4)], None, 10.5)
    tracer.on_asked(contact(4), 10.5)
    tracer.on_asked(contact(8), 10.75)
    tracer.on_answer(contact(4), [contact(2)], "version", 11.0)
    tracer.on_answer(contact(8), [contact(9)], None, 11.5)
    tracer.on_asked(contact(2), 11.5)
    trace = tracer.finish([contact(4), contact(8)], 12.0)
    assert [
        (hop.peer_id, hop.named_by, hop.depth, hop.asked_at_s, hop.took_s, hop.outcome, hop.named)
        for hop in trace.hops
    ] == [
        ("peer9", None, 1, 0.0, 0.5, HopOutcome.CLOSER, 2),
        ("peer4", "peer9", 2, 0.5, 0.5, HopOutcome.FOUND, 1),
        ("peer8", None, 1, 0.75, 0.75, HopOutcome.NONE_CLOSER, 1),
        ("peer2", "peer4", 3, 1.5, 0.5, HopOutcome.NOT_AWAITED, 0),
    ]
    assert (trace.took_s, trace.depth) == (2.0, 2)
    assert (trace.holders, trace.replicas) == (("peer4",), ("peer4", "peer8"))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RefusedError("busy", "too many calls"), HopOutcome.REFUSED),
        (CallTimeout("5 s"), HopOutcome.TIMEOUT),
        (MessageInvalid("garbage"), HopOutcome.INVALID),
        (UnreachableError(None), HopOutcome.UNREACHABLE),
        (StreamBroken("lost"), HopOutcome.UNREACHABLE),
    ],
)
def test_failures_are_told_apart(error: P2PError, outcome: HopOutcome) -> None:
    tracer = Tracer(TARGET, 0.0)
    tracer.on_asked(contact(1), 0.0)
    tracer.on_failure(contact(1), error, 2.0)
    (hop,) = tracer.finish([], 3.0).hops
    assert (hop.outcome, hop.took_s, hop.cause) == (outcome, 2.0, str(error))


def test_nobody_was_asked() -> None:
    trace = Tracer(TARGET, 1.0).finish([], 1.0)
    assert (trace.hops, trace.holders, trace.depth) == ((), (), 0)


@given(st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(1, 30))), max_size=20))
def test_depths_follow_from_who_named_whom(answers: list[tuple[int, list[int]]]) -> None:
    tracer = Tracer(TARGET, 0.0)
    for key, named in answers:
        tracer.on_asked(contact(key), 0.0)
        tracer.on_answer(contact(key), [contact(other) for other in named], None, 1.0)
    hops = {hop.peer_id: hop for hop in tracer.finish([], 1.0).hops}
    assert set(hops) == {contact(key).peer_id for key, _ in answers}
    for hop in hops.values():
        assert hop.depth == (1 if hop.named_by is None else hops[hop.named_by].depth + 1)
