"""Holdings: a piece is awaited, held, lost, fetched, or awaited anew, and never two of these."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.holdings import Holdings
from averaging.allreduce.schema import MEMBERS_MAX, Plan

AGGREGATORS = ("alice", "bob", "carol")
OWNERS = (0, 0, 1, 1, 2)


def holdings() -> Holdings[str]:
    return Holdings(OWNERS, AGGREGATORS)


def plan(number: int, *owners: int) -> Plan:
    return Plan(number * MEMBERS_MAX, owners, bytes(64))


def digest(piece: int) -> bytes:
    return bytes([piece]) * 32


def test_it_is_complete_when_all_pieces_are_held() -> None:
    ours = holdings()
    for piece in (4, 0, 2, 1):
        ours.on_piece(piece, digest(piece))
        assert ours.complete is None
    ours.on_piece(3, digest(3))
    assert ours.complete == tuple(map(digest, range(5)))
    assert ours.lacking == []


def test_a_vector_without_elements_is_complete_from_the_start() -> None:
    assert Holdings((), AGGREGATORS).complete == ()


def test_what_a_suspect_had_sent_stays_and_the_rest_is_lost() -> None:
    ours = holdings()
    ours.on_piece(2, digest(2))
    ours.on_suspect("bob")
    assert ours.suspected("bob")
    assert not ours.suspected("alice")
    assert ours.lacking == [3]
    assert ours.digest_of(2) == digest(2)
    ours.on_piece(3, digest(3))
    assert ours.lacking == []


def test_one_that_averages_nothing_can_be_suspected() -> None:
    ours = holdings()
    ours.on_suspect("dave")
    assert ours.lacking == []
    assert ours.owned_by("dave") == []


def test_a_piece_that_comes_ends_its_fetching() -> None:
    ours = holdings()
    ours.on_suspect("bob")
    ours.fetching.update({2: "alice", 3: "carol"})
    ours.on_piece(2, digest(2))
    assert ours.fetching == {3: "carol"}


def test_the_newest_version_counts() -> None:
    ours = holdings()
    ours.on_piece(0, digest(0))
    ours.on_piece(0, digest(9))
    assert ours.digest_of(0) == digest(9)


def test_a_version_that_was_not_agreed_is_dropped_and_sought() -> None:
    ours = holdings()
    for piece in range(5):
        ours.on_piece(piece, digest(piece))
    ours.drop(1)
    assert ours.complete is None
    assert ours.digest_of(1) is None
    assert ours.lacking == [1]


def test_a_plan_voids_what_changes_hands_and_nothing_else() -> None:
    ours = holdings()
    assert (ours.plan_number, ours.plan) == (0, None)
    for piece in (0, 1, 2):
        ours.on_piece(piece, digest(piece))
    ours.on_suspect("bob")
    ours.fetching[3] = "alice"
    new = plan(1, 0, 0, 0, 2, 2)
    assert ours.on_plan(new) == (2, 3)
    assert (ours.plan, ours.plan_number, ours.owners) == (new, MEMBERS_MAX, new.owners)
    # Awaited from the new owners: neither held nor lost nor being fetched.
    assert [ours.digest_of(piece) for piece in range(5)] == [digest(0), digest(1), None, None, None]
    assert ours.lacking == []
    assert ours.fetching == {}
    assert ours.owned_by("alice") == [0, 1, 2]
    assert ours.owned_by("bob") == []


def test_a_plan_may_name_an_owner_that_we_suspect() -> None:
    """Others reach it: it averages, and somebody will pass the piece on to us."""
    ours = holdings()
    ours.on_suspect("bob")
    ours.on_suspect("carol")
    assert ours.lacking == [2, 3, 4]
    assert ours.on_plan(plan(1, 0, 0, 2, 0, 2)) == (2, 3)
    assert sorted(ours.lacking) == [2, 4]


def test_a_suspect_stays_one_over_plans_and_new_suspects_lose_what_they_own_then() -> None:
    ours = holdings()
    ours.on_suspect("bob")
    ours.on_plan(plan(1, 0, 0, 0, 2, 2))
    ours.on_suspect("carol")
    assert sorted(ours.lacking) == [3, 4]
    assert ours.on_plan(plan(2, 0, 0, 0, 0, 1)) == (3, 4)
    assert ours.lacking == [4]


def test_a_piece_can_be_lost_though_its_owner_is_well() -> None:
    ours = holdings()
    ours.on_lost(4)
    assert ours.lacking == [4]
    assert not ours.suspected("carol")


def test_after_the_end_nothing_is_held() -> None:
    ours = holdings()
    for piece in range(5):
        ours.on_piece(piece, digest(piece))
    ours.clear()
    assert ours.complete is None
    assert ours.digest_of(0) is None


@given(st.integers(0, 2**32))
def test_whatever_happens_each_piece_stands_one_way(seed: int) -> None:
    """Compared with a plain list of how each piece stands, through any series of events."""
    rng = random.Random(seed)
    ours = holdings()
    owners = list(OWNERS)
    stands = ["awaited"] * len(owners)
    suspects: list[str] = []
    for number in range(1, 30):
        piece = rng.randrange(len(owners))
        match rng.randrange(5):
            case 0 | 1:
                ours.on_piece(piece, digest(piece))
                stands[piece] = "held"
            case 2:
                peer = rng.choice(AGGREGATORS)
                ours.on_suspect(peer)
                suspects.append(peer)
                for own in range(len(owners)):
                    if AGGREGATORS[owners[own]] == peer and stands[own] == "awaited":
                        stands[own] = "lost"
            case 3:
                if stands[piece] == "held":
                    ours.drop(piece)
                    stands[piece] = "lost"
            case 4:
                new = [rng.choice([owner, owner, rng.randrange(3)]) for owner in owners]
                ours.on_plan(plan(number, *new))
                for own, owner in enumerate(new):
                    if owner != owners[own]:
                        lost = AGGREGATORS[owner] in suspects
                        stands[own] = "lost" if lost else "awaited"
                owners = new
        assert ours.owners == tuple(owners)
        assert sorted(ours.lacking) == [p for p, stand in enumerate(stands) if stand == "lost"]
        held = [p for p in range(len(owners)) if ours.digest_of(p) is not None]
        assert held == [p for p, stand in enumerate(stands) if stand == "held"]
        assert (ours.complete is not None) == (len(held) == len(owners))
