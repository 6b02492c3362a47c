"""The swarm summed up: samples, who is expected, where to go, whom to believe."""

import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from averaging import RoundId
from p2p import PeerId
from training.progress.global_batch import GlobalBatch, _weight_cap, worth_telling
from training.progress.position import PeerRecord, Position

ME, ALICE, BOB, CAROL = (PeerId(name) for name in ("me", "alice", "bob", "carol"))
SPEC = bytes(32)
LIFE_S = 30.0


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def at(number: int, parent: str = "", *, samples: int | None = None) -> Position:
    """A position of the one true history, or of another one."""
    committed = 100 * number if samples is None else samples
    return Position(RoundId(number, digest(parent or f"round {number}")), number, committed)


def record(position: Position, sequence: int = 1, **changes: Any) -> PeerRecord:
    return PeerRecord(position=position, spec_hash=SPEC, sequence=sequence, **changes)


def swarm(own: PeerRecord, *others: tuple[PeerId, PeerRecord]) -> GlobalBatch:
    core = GlobalBatch(ME, own)
    for peer_id, said in others:
        assert core.on_record(peer_id, said, life_s=LIFE_S, now_s=0)
    return core


def walk(core: GlobalBatch, number: int, peers: tuple[PeerId, ...]) -> None:
    """Rounds in which everybody delivered, up to a number."""
    while core.own.position.round.number < number:
        position = at(core.own.position.round.number + 1)
        core.on_round({ME: 10.0, **dict.fromkeys(peers, 10.0)}, position)
        core.on_own(record(position))


def test_alone_there_is_nobody_else() -> None:
    view = swarm(record(at(5), samples=7)).view()
    assert (view.samples, view.expected, view.ahead) == (7, (ME,), None)
    assert [peer.is_me for peer in view.peers] == [True]


def test_samples_add_up_where_parameters_are_the_same() -> None:
    core = swarm(
        record(at(5), samples=1),
        (ALICE, record(at(5), samples=10)),
        (BOB, record(at(4), samples=100)),
        (CAROL, record(at(5, "fork"), samples=1000)),
        (PeerId("stranger"), PeerRecord(position=at(5), spec_hash=b"x" * 32, samples=5000)),
    )
    view = core.view()
    assert view.samples == 11
    assert view.expected == (ALICE, ME)
    assert [peer_id for peer_id, _ in view.strangers] == ["stranger"]
    assert [peer.peer_id for peer in view.peers] == [ALICE, BOB, CAROL, ME]


def test_only_a_newer_sequence_is_news() -> None:
    core = swarm(record(at(5)), (ALICE, record(at(5), 7, samples=3)))
    assert not core.on_record(ALICE, record(at(5), 7, samples=9), life_s=LIFE_S, now_s=1)
    assert not core.on_record(ALICE, record(at(5), 6, samples=9), life_s=LIFE_S, now_s=1)
    assert not core.on_record(ME, record(at(9), 9), life_s=LIFE_S, now_s=1)
    assert core.view().samples == 3
    assert core.on_record(ALICE, record(at(5), 8, samples=9), life_s=LIFE_S, now_s=1)
    assert core.view().samples == 9


def test_the_silent_are_forgotten() -> None:
    core = swarm(record(at(5)), (ALICE, record(at(5), samples=3)))
    assert core.deadline_s == LIFE_S
    assert core.on_deadline(LIFE_S - 1) == ()
    assert core.on_deadline(LIFE_S) == (ALICE,)
    assert core.deadline_s is None
    assert core.view().samples == 0
    assert core.sequence_of(ALICE) == -1


def test_who_cannot_be_reached_does_not_count_until_it_speaks() -> None:
    core = swarm(record(at(5)), (ALICE, record(at(5), 1, samples=3)))
    core.on_contact_lost(ALICE, sequence=0)
    assert core.view().samples == 3, "it spoke after the contact was tried"
    core.on_contact_lost(ALICE, sequence=1)
    assert core.view().expected == (ME,)
    assert core.view().samples == 0
    core.on_record(ALICE, record(at(5), 2, samples=3), life_s=LIFE_S, now_s=1)
    assert core.view().expected == (ALICE, ME)


def test_who_was_missing_in_a_round_does_not_count_until_it_moves() -> None:
    core = swarm(record(at(5)), (ALICE, record(at(5), 1, samples=3)))
    core.on_absent([ALICE, PeerId("unknown")])
    assert core.view().expected == (ME,)
    core.on_record(ALICE, record(at(5), 2, samples=3), life_s=LIFE_S, now_s=1)
    assert core.view().expected == (ME,), "a sign of life is no move"
    core.on_record(ALICE, record(at(5), 3, samples=4), life_s=LIFE_S, now_s=2)
    assert core.view().expected == (ALICE, ME)


def test_members_of_a_round_are_presumed_where_it_led() -> None:
    core = swarm(record(at(5)), (ALICE, record(at(5), 1, samples=3)))
    walk(core, 6, (ALICE,))
    assert core.view().expected == (ALICE, ME)
    assert core.view().samples == 0
    # A report that was under way while the round ended.
    core.on_record(ALICE, record(at(5), 2, samples=4), life_s=LIFE_S, now_s=1)
    assert core.view().expected == (ALICE, ME)
    core.on_record(ALICE, record(at(6), 3, samples=5), life_s=LIFE_S, now_s=1)
    assert core.view().samples == 5
    core.on_absent([ALICE])
    assert core.view().expected == (ME,)


def test_before_the_first_round_the_smallest_digest_is_adopted() -> None:
    inits = sorted((at(0, name) for name in "xyz"), key=lambda position: position.round.parent)
    core = swarm(record(inits[1]), (ALICE, record(inits[2])), (BOB, record(inits[0])))
    assert core.view().ahead == inits[0]
    assert core.view().donors == (BOB,)
    core.on_own(record(inits[0]))
    assert core.view().ahead is None
    assert core.view().expected == (BOB, ME)


def test_who_has_done_nothing_has_no_say() -> None:
    beginners = [(PeerId(f"new {i}"), record(at(0))) for i in range(9)]
    assert swarm(record(at(3)), *beginners).view().ahead is None
    assert swarm(record(at(0)), *beginners, (ALICE, record(at(3)))).view().ahead == at(3)


def test_a_newcomer_goes_where_most_are() -> None:
    core = swarm(
        record(at(0)), (ALICE, record(at(7))), (BOB, record(at(7))), (CAROL, record(at(900)))
    )
    view = core.view()
    assert view.ahead == at(7)
    assert view.donors == (ALICE, BOB)


def test_who_downloads_the_state_follows_and_is_no_donor() -> None:
    core = swarm(
        record(at(7), holds_state=False),
        (ALICE, record(at(7))),
        (BOB, record(at(7), holds_state=False)),
    )
    assert core.view().ahead == at(7), "it still needs the state"
    assert core.view().donors == (ALICE,)
    assert core.view().expected == (ALICE, BOB, ME)
    core.on_own(record(at(7)))
    assert core.view().ahead is None


def test_who_follows_is_expected_in_whichever_round_is_next() -> None:
    follower = record(at(3), holds_state=False, waits=True, samples=99)
    core = swarm(record(at(7), samples=5), (ALICE, record(at(7))), (BOB, follower))
    view = core.view()
    assert view.expected == (ALICE, BOB, ME)
    assert view.samples == 5, "it has computed nothing that counts"
    assert [peer_id for peer_id, _ in view.computing] == [ALICE]
    assert not view.somebody_waits
    core.on_absent([BOB])
    assert core.view().expected == (ALICE, ME)


def test_one_that_fell_behind_is_told() -> None:
    core = swarm(record(at(0)))
    walk(core, 5, (ALICE, BOB))
    core.on_record(ALICE, record(at(6), 1), life_s=LIFE_S, now_s=0)
    assert core.view().ahead == at(6), "alone against one, the more samples count"
    core.on_record(BOB, record(at(5), 1), life_s=LIFE_S, now_s=0)
    assert core.view().ahead is None, "one of three does not pull the others"
    core.on_record(BOB, record(at(6), 2), life_s=LIFE_S, now_s=0)
    assert core.view().ahead == at(6)


def test_those_who_lag_do_not_pull_us_back() -> None:
    core = swarm(record(at(0)))
    walk(core, 5, (ALICE, BOB, CAROL))
    for peer_id in (ALICE, BOB, CAROL):
        core.on_record(peer_id, record(at(4), 1), life_s=LIFE_S, now_s=0)
        core.on_absent([peer_id])
    assert core.view().ahead is None


def test_strangers_and_one_loud_peer_move_nobody() -> None:
    core = swarm(record(at(0)))
    walk(core, 5, (ALICE, BOB, CAROL))
    core.on_round({ME: 1.0, ALICE: 1e12, BOB: 1.0, CAROL: 1.0}, at(6))
    core.on_own(record(at(6)))
    for peer_id in (BOB, CAROL):
        core.on_record(peer_id, record(at(6), 1), life_s=LIFE_S, now_s=0)
    core.on_record(ALICE, record(at(10**9), 1), life_s=LIFE_S, now_s=0)
    assert core.view().ahead is None
    core.on_record(PeerId("stranger"), record(at(10**9), 1), life_s=LIFE_S, now_s=0)
    assert core.view().ahead is None


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 50), st.integers(1, 50))
def test_of_two_swarms_that_meet_exactly_one_moves(
    here: int, there: int, rounds_here: int, rounds_there: int
) -> None:
    """Both grew apart from the start; each sees all peers of the other where they are."""
    left = at(rounds_here, "left", samples=10 * here * rounds_here)
    right = at(rounds_there, "right", samples=10 * there * rounds_there)

    def moves(mine: Position, others: int, theirs: Position, peers: int) -> bool:
        fellows = [(PeerId(f"fellow {i}"), record(mine)) for i in range(others - 1)]
        strangers = [(PeerId(f"other {i}"), record(theirs)) for i in range(peers)]
        core = swarm(record(mine), *fellows, *strangers)
        core.on_round({ME: 10.0}, mine)
        return core.view().ahead == theirs

    left_moves, right_moves = moves(left, here, right, there), moves(right, there, left, here)
    assert not (left_moves and right_moves)
    if here == there or (rounds_here >= rounds_there) == (here > there):
        assert left_moves != right_moves


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ALICE, BOB, CAROL]),
            st.sampled_from(["record", "lost", "absent", "round", "moved", "deadline"]),
            st.integers(0, 6),
            st.integers(0, 50),
        ),
        max_size=40,
    )
)
def test_whatever_happens_the_view_makes_sense(events: list[tuple[PeerId, str, int, int]]) -> None:
    core = swarm(record(at(0)))
    now_s = 0.0
    for peer_id, kind, number, count in events:
        now_s += count / 10
        if kind == "record":
            said = record(at(number), count, samples=count, holds_state=count % 3 > 0)
            core.on_record(peer_id, said, life_s=LIFE_S, now_s=now_s)
        elif kind == "lost":
            core.on_contact_lost(peer_id, sequence=count)
        elif kind == "absent":
            core.on_absent([peer_id])
        elif kind == "round":
            position = at(core.own.position.round.number + 1)
            core.on_round({ME: 1.0, peer_id: float(count)}, position)
            core.on_own(record(position))
        elif kind == "moved" and (there := core.view().ahead) is not None:
            core.on_own(record(there))
            core.on_moved([])
        else:
            core.on_deadline(now_s)
        view = core.view()
        assert ME in view.expected
        assert list(view.expected) == sorted(set(view.expected))
        assert view.samples >= core.own.samples
        assert view.ahead is None or view.ahead.round != core.own.position.round
        assert (view.ahead is None) == (view.donors == ())
        assert core.deadline_s is None or core.deadline_s > now_s - LIFE_S


@given(st.lists(st.floats(0, 1e6), max_size=12))
def test_no_word_counts_more_than_a_quarter(weights: list[float]) -> None:
    cap = _weight_cap(weights)
    capped = [min(weight, cap) for weight in weights]
    if sum(weight > 0 for weight in weights) >= 4:
        assert max(capped) <= 0.25 * sum(capped) * (1 + 1e-9)
        assert cap > 0
    else:
        assert len({weight for weight in capped if weight > 0}) <= 1
    if weights and max(weights) <= 0.25 * sum(weights):
        assert capped == weights


def test_what_is_worth_telling() -> None:
    told = record(at(5), samples=100)
    assert worth_telling(told, None, target=300, peers=3)
    assert worth_telling(record(at(6)), told, target=300, peers=3)
    assert worth_telling(record(at(5), samples=100, holds_state=False), told, target=300, peers=3)
    assert not worth_telling(record(at(5), samples=110), told, target=300, peers=3)
    assert worth_telling(record(at(5), samples=111), told, target=300, peers=3)
    assert worth_telling(record(at(5), samples=0), told, target=300, peers=3)
