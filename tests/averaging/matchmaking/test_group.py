"""Groups: quorums against a slow count, and bodies that are changed on the way."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.balance import Capacity
from averaging.matchmaking import schema
from averaging.matchmaking.group import (
    Group,
    Join,
    blocking,
    capacities_of,
    choose_chunk_elements,
    form_group,
    in_order,
    join_on_wire,
    parse_group_untrusted,
    parse_join_untrusted,
    quorum_reached,
    sign_join,
    span_seconds,
)
from averaging.matchmaking.plan import check_plan_untrusted, plan_spans
from averaging.round_id import RoundId
from p2p import Identity, MessageInvalid, PeerId, decode_untrusted, encode, short

IDENTITIES = [Identity.generate(random.Random(seed)) for seed in range(4)]
ROUND = RoundId(7, b"p" * 32)


def make_join(identity: Identity, **changes: object) -> Join:
    join = Join(
        peer_id=identity.peer_id,
        group_name="run",
        round=ROUND,
        spec_hash=b"s" * 32,
        terms="",
        role="node",
        weight_cap=1.0,
        up_bytes_per_s=0,
        down_bytes_per_s=0,
        nonce=b"n" * 16,
        addresses=("/ip4/10.0.0.1/tcp/4001",),
        previous=b"",
        abandoned=False,
    )
    return sign_join(dataclasses.replace(join, **changes), identity.sign)  # type: ignore[arg-type]


def body_of(*joins: Join) -> schema.GroupBody:
    on_wire = tuple(join_on_wire(join) for join in joins)
    return schema.GroupBody(on_wire, 4096, (1000,) * len(joins), 30.0, 0, b"")


def group_of(joins: list[Join], **changes: Any) -> tuple[Group, bytes]:
    terms = {"chunk_elements": 4096, "deadline_s": 30.0, "attempt": 2, "previous": b"g" * 32}
    spans = plan_spans(capacities_of(in_order(joins)), 100_000)
    return form_group(joins, **{"span_elements": spans, **terms, **changes})


@given(st.integers(1, 8))
def test_two_quorums_share_a_voter(count: int) -> None:
    voters = [PeerId(f"peer{index}") for index in range(count)]
    subsets = [set(s) for size in range(count + 1) for s in itertools.combinations(voters, size)]
    for votes in subsets:
        half = 2 * len(votes) == count and voters[0] in votes
        assert quorum_reached(voters, votes) == (2 * len(votes) > count or half)
        others = set(voters) - votes
        # Exactly one side of a split has a quorum, so an abandonment blocks or leaves one.
        assert quorum_reached(voters, votes) != quorum_reached(voters, others)
        assert blocking(voters, votes) == quorum_reached(voters, votes)
    assert not quorum_reached(voters, ["stranger"] * count)


def test_a_group_is_the_same_at_its_members() -> None:
    joins = [make_join(identity) for identity in IDENTITIES]
    group, body = group_of(joins)
    assert parse_group_untrusted(body) == group
    assert group.leader == IDENTITIES[0].peer_id
    assert set(group.voters) == {identity.peer_id for identity in IDENTITIES}
    assert group.join_of(IDENTITIES[2].peer_id) == joins[2]
    assert group.join_of(PeerId("nobody")) is None
    other, _ = group_of(joins, attempt=3)
    assert other.group_id != group.group_id


def test_clients_own_no_spans() -> None:
    joins = [make_join(IDENTITIES[0]), make_join(IDENTITIES[1], role="client")]
    group, _ = group_of(joins)
    assert group.aggregators == (IDENTITIES[0].peer_id,)
    assert group.span_elements == (100_000,)
    alone, _ = group_of(joins[1:])
    assert alone.aggregators == (IDENTITIES[1].peer_id,)
    assert alone.span_elements == (100_000,)


def test_auxiliary_peers_average_and_do_not_vote() -> None:
    joins = [
        make_join(IDENTITIES[0], role="aux", weight_cap=0.0),
        make_join(IDENTITIES[1], role="client"),
        make_join(IDENTITIES[2]),
    ]
    group, body = group_of(joins)
    # One may lead like any other that can be dialed.
    assert parse_group_untrusted(body).leader == IDENTITIES[0].peer_id
    assert set(group.aggregators) == {IDENTITIES[0].peer_id, IDENTITIES[2].peer_id}
    assert set(group.voters) == {IDENTITIES[1].peer_id, IDENTITIES[2].peer_id}
    assert sum(group.span_elements) == 100_000


def test_spans_follow_the_rates_that_members_tell() -> None:
    rates = (9_000_000, 1_000_000, 1_000_000, 0)
    joins = [
        make_join(identity, up_bytes_per_s=rate, down_bytes_per_s=2 * rate)
        for identity, rate in zip(IDENTITIES, rates, strict=True)
    ]
    group, body = group_of(joins)
    assert group.capacities[0].up_bytes_per_s == 9e6
    assert {one.up_bytes_per_s for one in group.capacities[1:]} == {1e6, None}
    # The slow ones need a second for each byte to contribute, in which the fast one averages all.
    assert group.span_elements == (100_000, 0, 0, 0)
    check_plan_untrusted(parse_group_untrusted(body), 100_000)
    equal, _ = group_of(joins, span_elements=(25_000,) * 4)
    with pytest.raises(MessageInvalid, match=f"{short(group.leader)} split the vector badly"):
        check_plan_untrusted(equal, 100_000)
    with pytest.raises(MessageInvalid, match=r"badly: .* do not cover the 99999 elements"):
        check_plan_untrusted(group, 99_999)


def test_an_auxiliary_peer_has_no_weight() -> None:
    join = make_join(IDENTITIES[0], role="aux", weight_cap=1.0)
    with pytest.raises(MessageInvalid, match="declares a weight"):
        parse_join_untrusted(join_on_wire(join))


@given(st.data())
def test_a_changed_join_is_noticed(data: st.DataObject) -> None:
    signed = join_on_wire(make_join(IDENTITIES[0]))
    body = bytearray(signed.body)
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MessageInvalid):
        parse_join_untrusted(schema.SignedJoin(bytes(body), signed.signature))


def test_a_join_for_somebody_else_is_noticed() -> None:
    signed = join_on_wire(make_join(IDENTITIES[0], peer_id=IDENTITIES[1].peer_id))
    with pytest.raises(MessageInvalid, match="not signed by the peer"):
        parse_join_untrusted(signed)


def test_a_join_has_one_spelling() -> None:
    join = make_join(IDENTITIES[0])
    body = decode_untrusted(
        join_on_wire(join).body, schema.JoinBody, size_bytes_max=schema.JOIN_BYTES_MAX
    )
    padded = encode(body)[:-1] + b"\xc2\xc0"
    longer = bytes([padded[0] + 1]) + padded[1:]
    with pytest.raises(MessageInvalid):
        parse_join_untrusted(schema.SignedJoin(longer, join.signature))


@pytest.mark.parametrize(
    ("joins", "complaint"),
    [
        ([make_join(IDENTITIES[0]), make_join(IDENTITIES[0])], "twice"),
        ([make_join(IDENTITIES[0], role="client")], "led by a client"),
        ([make_join(IDENTITIES[0], role="aux", weight_cap=0.0)], "no member that contributes"),
        ([make_join(IDENTITIES[0]), make_join(IDENTITIES[1], spec_hash=b"t" * 32)], "one spec"),
        ([make_join(IDENTITIES[0]), make_join(IDENTITIES[1], group_name="run2")], "one spec"),
        ([make_join(IDENTITIES[0]), make_join(IDENTITIES[1], round=RoundId(8))], "same round"),
        ([make_join(IDENTITIES[0]), make_join(IDENTITIES[1], previous=b"g")], "group id"),
    ],
)
def test_bad_groups_are_refused(joins: list[Join], complaint: str) -> None:
    with pytest.raises(MessageInvalid, match=complaint):
        parse_group_untrusted(encode(body_of(*joins)))


def test_members_are_ordered_by_rank() -> None:
    joins = [make_join(identity) for identity in IDENTITIES]
    group, _ = group_of(joins)
    leader, *others = group.members
    parse_group_untrusted(encode(body_of(leader, *others)))
    with pytest.raises(MessageInvalid, match="ordered by rank"):
        parse_group_untrusted(encode(body_of(leader, *reversed(others))))


def test_members_signatures_are_checked() -> None:
    good, forged = make_join(IDENTITIES[0]), make_join(IDENTITIES[1])
    forged = dataclasses.replace(forged, signature=good.signature)
    with pytest.raises(MessageInvalid, match="not signed"):
        parse_group_untrusted(encode(body_of(good, forged)))


@given(st.binary(max_size=300))
def test_noise_is_no_group(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        parse_group_untrusted(data)


@given(
    st.integers(0, 10**9),
    st.integers(0, 256),
    st.sampled_from([262_144, 524_288, 1_048_576]),
    # What a span takes, and its parts.
    st.sampled_from([(None, 8), (0.0, 1), (0.02, 1), (0.125, 2), (0.2, 3), (0.6, 8), (400.0, 8)]),
)
def test_chunks_are_a_part_of_a_span_within_bounds(
    elements: int, aggregators: int, longest: int, taken: tuple[float | None, int]
) -> None:
    span_s, parts = taken
    chunk = choose_chunk_elements(elements, aggregators, longest, span_s)
    assert 4096 <= chunk <= longest
    if 4096 < chunk < longest:
        span = -(-elements // max(aggregators, 1))
        assert chunk == -(-span // parts)


def test_a_span_takes_as_long_as_over_the_slowest_link() -> None:
    slow, fast = Capacity(True, True, 1_000, 5_000), Capacity(True, True, 10**8, 10**8)
    client, aux = Capacity(True, False, None, None), Capacity(False, True, None, 0)
    assert span_seconds([client, aux], 4_000) is None
    # From two others, and from one.
    assert span_seconds([fast, slow, client], 4_000) == 8.0
    assert span_seconds([fast, slow], 4_000) == 4.0


def test_a_liars_promise_never_to_vote_blocks_nothing() -> None:
    voters = [f"peer {number}" for number in range(4)]
    assert blocking(voters, voters[:2])
    assert not blocking(voters, voters[:2], tolerated_liars=1)
    assert blocking(voters, voters[:3], tolerated_liars=1)
