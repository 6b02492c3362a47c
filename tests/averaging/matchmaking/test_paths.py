"""Who owns spans and who takes part, by what JOINs say of paths."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.matchmaking import schema
from averaging.matchmaking.group import (
    Group,
    Join,
    body_of,
    capacities_of,
    form_group,
    in_order,
    join_on_wire,
    parse_group_untrusted,
    parse_join_untrusted,
    sign_join,
)
from averaging.matchmaking.lineup import line_up
from averaging.matchmaking.paths import (
    PathTable,
    Way,
    Ways,
    digest_of,
    paths_of_leader,
    paths_told,
)
from averaging.matchmaking.plan import check_plan_untrusted, plan_spans
from averaging.round_id import RoundId
from p2p import Identity, MessageInvalid, PeerId, relayed_bytes_needed

RNG = random.Random(5)
IDENTITIES = [Identity.generate(RNG) for _ in range(8)]
IDS = [identity.peer_id for identity in IDENTITIES]
RELAYED = Way(relayed=True, bytes_each_way=1_000_000)
VECTOR = 400_000


def join_of(
    number: int,
    *,
    open: bool = False,
    near: Collection[int] = (),
    relayed: Collection[int] = (),
    relayed_bytes: int = 0,
    role: schema.Role = "node",
) -> Join:
    """The JOIN of one of the peers, which says this of its paths."""
    names = b"".join(digest_of(IDS[other]) for other in sorted(near))
    circuits = b"".join(digest_of(IDS[other]) for other in sorted(relayed))
    return Join(
        peer_id=IDS[number],
        group_name="run",
        round=RoundId(1),
        spec_hash=bytes(32),
        terms="",
        role=role,
        weight_cap=0.0 if role == "aux" else 1.0,
        up_bytes_per_s=0,
        down_bytes_per_s=0,
        nonce=bytes(16),
        addresses=(),
        previous=b"",
        abandoned=False,
        paths=schema.Paths(open, names, circuits, relayed_bytes),
    )


def owners(joins: Sequence[Join], **terms: bool) -> list[int]:
    """Who aggregates, by number."""
    return [n for n, capacity in enumerate(capacities_of(joins, **terms)) if capacity.aggregates]


@pytest.mark.parametrize(
    ("joins", "expected"),
    [
        ([join_of(0, role="client"), join_of(1, role="client", near=[0])], []),
        ([join_of(0, open=True), join_of(1, open=True)], [0, 1]),
        # One that is alone needs no path to anybody.
        ([join_of(0)], [0]),
        ([join_of(0, role="client")], [0]),
        # Either of the two may say it.
        ([join_of(0, open=True), join_of(1, near=[0])], [0, 1]),
        ([join_of(0, open=True, near=[1]), join_of(1)], [0, 1]),
        ([join_of(0, open=True), join_of(1)], [0]),
        ([join_of(0), join_of(1)], []),
        ([join_of(0), join_of(1, near=[0])], [0, 1]),
        # Every contributor needs a path, clients too; auxiliary peers do not contribute.
        ([join_of(0, open=True), join_of(1, near=[0]), join_of(2, role="client")], [0]),
        (
            [join_of(0, open=True), join_of(1, near=[0]), join_of(2, role="client", near=[1])],
            [0, 1],
        ),
        (
            [join_of(0, open=True), join_of(1, near=[0]), join_of(2, role="aux", open=True)],
            [0, 1, 2],
        ),
        ([join_of(0, open=True), join_of(1, role="aux", near=[0])], [0, 1]),
        # A client is none by its own word, whatever else it says.
        ([join_of(0, open=True), join_of(1, role="client", open=True, near=[0])], [0]),
        # Circuits are no paths.
        ([join_of(0, relayed=[1], relayed_bytes=10**9), join_of(1)], []),
    ],
)
def test_who_can_own_a_span(joins: list[Join], expected: list[int]) -> None:
    assert owners(joins) == expected


@given(st.data())
def test_a_private_owner_has_a_path_from_every_contributor(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    numbers = st.sets(st.integers(0, count - 1))
    roles = st.sampled_from(["node", "node", "client", "aux"])
    joins = [
        join_of(n, open=data.draw(st.booleans()), near=data.draw(numbers), role=data.draw(roles))
        for n in range(count)
    ]
    for owner in owners(joins):
        join = joins[owner]
        if join.paths.open or count == 1:
            continue
        for other, contributor in enumerate(joins):
            if other == owner or contributor.role == "aux":
                continue
            said = digest_of(contributor.peer_id) in _names(join)
            assert said or digest_of(join.peer_id) in _names(contributor)


def _names(join: Join) -> list[bytes]:
    near = join.paths.near
    return [near[start : start + 8] for start in range(0, len(near), 8)]


def plan_of(joins: Sequence[Join], *, over_relay: bool) -> Group:
    """A signed group of these, with spans for who aggregates in it."""
    signed = [sign_join(j, IDENTITIES[IDS.index(j.peer_id)].sign) for j in joins]
    capacities = capacities_of(in_order(signed), over_relay=over_relay)
    group, _ = form_group(
        signed,
        chunk_elements=4096,
        span_elements=plan_spans(capacities, 100_000),
        deadline_s=30.0,
        attempt=0,
        previous=b"",
        over_relay=over_relay,
    )
    return group


@pytest.mark.parametrize(
    ("joins", "members", "over_relay"),
    [
        # Anybody open serves everybody.
        ([join_of(0), join_of(1, open=True), join_of(2)], [0, 1, 2], False),
        # The most that somebody serves.
        ([join_of(0, near=[1, 2]), join_of(1), join_of(2), join_of(3)], [0, 1, 2], False),
        (
            [join_of(0, near=[1]), join_of(1, near=[2, 3]), join_of(2), join_of(3)],
            [0, 1, 2, 3],
            False,
        ),
        # Relays, when they serve more.
        (
            [join_of(0, near=[1], relayed=[2], relayed_bytes=10**6), join_of(1), join_of(2)],
            [0, 1, 2],
            True,
        ),
        ([join_of(0, relayed=[1], relayed_bytes=10**6), join_of(1), join_of(2)], [0, 1], True),
        ([join_of(0), join_of(1)], [0], False),
        # Only groups with their leader in them.
        ([join_of(0), join_of(1, near=[2, 3]), join_of(2), join_of(3)], [0], False),
    ],
)
def test_who_takes_part(joins: list[Join], members: list[int], over_relay: bool) -> None:
    lineup = line_up(joins)
    assert [IDS.index(join.peer_id) for join in lineup.joins] == members
    assert lineup.over_relay == over_relay
    assert set(lineup.left_out) == {j.peer_id for j in joins} - {j.peer_id for j in lineup.joins}
    assert lineup.most_are_in == (2 * len(members) > len(joins))
    group = plan_of(lineup.joins, over_relay=lineup.over_relay)
    check_plan_untrusted(group, 100_000, VECTOR)
    assert parse_group_untrusted(body_of(group)) == group
    if over_relay:
        assert group.aggregators == (IDS[0],)


def test_most_must_be_in_and_enough() -> None:
    lineup = line_up([join_of(0, near=[1]), join_of(1), join_of(2)])
    assert lineup.most_are_in
    assert not replace(lineup, too_few=True).most_are_in
    whole = line_up([join_of(0, open=True), join_of(1)])
    # Nobody is left out, so that is another's question.
    assert replace(whole, too_few=True).most_are_in


LEADER = join_of(0, relayed=[1], relayed_bytes=relayed_bytes_needed(VECTOR))


@pytest.mark.parametrize(
    ("joins", "vector_bytes", "complaint"),
    [
        ([LEADER, join_of(1)], VECTOR, ""),
        ([LEADER, join_of(1)], VECTOR + 1, "carry more than their 490536 bytes"),
        ([LEADER, join_of(1, open=True)], VECTOR, "what needs none"),
        ([LEADER, join_of(1, near=[0])], VECTOR, "what needs none"),
        ([LEADER, join_of(2)], VECTOR, "no path to some member"),
    ],
)
def test_relays_carry_bulk_only_where_nothing_else_does(
    joins: list[Join], vector_bytes: int, complaint: str
) -> None:
    group = plan_of(joins, over_relay=True)
    if not complaint:
        check_plan_untrusted(group, 100_000, vector_bytes)
        return
    with pytest.raises(MessageInvalid, match=complaint):
        check_plan_untrusted(group, 100_000, vector_bytes)


def test_spans_for_those_that_some_cannot_reach_are_refused() -> None:
    joins = [join_of(0, open=True), join_of(1), join_of(2)]
    group = replace(plan_of(joins, over_relay=False), span_elements=(50_000, 50_000))
    with pytest.raises(MessageInvalid, match="2 spans for 1 aggregators"):
        check_plan_untrusted(group, 100_000, VECTOR)
    nobody = replace(plan_of([join_of(0, open=True), join_of(1)], over_relay=False))
    members = (replace(nobody.members[0], paths=schema.Paths(False)), nobody.members[1])
    with pytest.raises(MessageInvalid, match="split the vector badly"):
        check_plan_untrusted(replace(nobody, members=members), 100_000, VECTOR)


def ways(**to: Way) -> Ways:
    """Ways to peers that are named by p and their number."""
    return Ways(False, {IDS[int(name[1:])]: way for name, way in to.items()})


def test_a_join_names_the_likeliest_members_first() -> None:
    many = {PeerId(f"peer-{n}"): Way() for n in range(200)}
    known = Ways(True, {**many, IDS[0]: Way(), IDS[1]: RELAYED})
    paths = paths_told(known, [IDS[0], IDS[1], IDS[2]])
    assert paths.open
    assert len(paths.near) == 64 * 8
    assert paths.near.startswith(digest_of(IDS[0]))
    assert digest_of(IDS[1]) not in paths.near
    assert paths.relayed == b""


def test_a_leader_names_the_circuits_that_carry_the_vector() -> None:
    narrow = Way(relayed=True, bytes_each_way=relayed_bytes_needed(VECTOR) - 1)
    wide = Way(relayed=True, bytes_each_way=relayed_bytes_needed(VECTOR))
    known = ways(p1=Way(), p2=narrow, p3=wide, p4=Way(relayed=True), p6=Way())
    paths = paths_of_leader(known, IDS[1:6], VECTOR)
    assert paths == schema.Paths(
        False,
        digest_of(IDS[1]),
        digest_of(IDS[3]) + digest_of(IDS[4]),
        relayed_bytes_needed(VECTOR),
    )
    assert paths_of_leader(ways(p1=narrow), [IDS[1]], VECTOR) == schema.Paths(False)
    unlimited = paths_of_leader(ways(p1=Way(relayed=True)), [IDS[1]], VECTOR)
    assert unlimited.relayed_bytes == 2**53


@pytest.mark.parametrize(
    "paths",
    [
        schema.Paths(False, bytes(7)),
        schema.Paths(False, b"", bytes(9), 5),
        schema.Paths(False, b"", bytes(8), 0),
        schema.Paths(False, b"", b"", 5),
    ],
)
def test_half_said_paths_are_refused(paths: schema.Paths) -> None:
    join = sign_join(replace(join_of(0), paths=paths), IDENTITIES[0].sign)
    with pytest.raises(MessageInvalid, match="a JOIN names"):
        parse_join_untrusted(join_on_wire(join))


def test_paths_are_signed() -> None:
    join = sign_join(join_of(0, near=[1]), IDENTITIES[0].sign)
    assert parse_join_untrusted(join_on_wire(join)) == join
    with pytest.raises(MessageInvalid, match="not signed"):
        parse_join_untrusted(join_on_wire(replace(join, paths=schema.Paths(True))))


def test_the_largest_join_fits() -> None:
    paths = schema.Paths(False, bytes(512), bytes(512), 2**53)
    join = replace(
        join_of(0), group_name="g" * 256, terms="t" * 128, addresses=("a" * 256,) * 8, paths=paths
    )
    join = replace(join, previous=bytes(32), weight_cap=1e18, up_bytes_per_s=10**15)
    join = replace(join, down_bytes_per_s=10**15, bucket="0" * 16, round=RoundId(2**53, bytes(32)))
    join = replace(join, reference=bytes(32))
    assert len(join_on_wire(join).body) <= schema.JOIN_BYTES_MAX


def test_a_table_knows_whom_an_owner_serves() -> None:
    joins = [join_of(0, near=[1]), join_of(1), join_of(2, role="aux"), join_of(3)]
    table = PathTable(joins)
    assert table.served_by(0) == (0, 1, 2)
    assert table.served_by(3) == (2, 3)
    assert not table.aggregates(0)
