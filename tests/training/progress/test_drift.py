"""Who is astray: the few, never the many, and nobody where it is unclear."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging import RoundId
from p2p import PeerId
from training.progress import GlobalBatch, PeerRecord, Position, Sketch
from training.progress.drift import SKETCH_SIZE, agreeing

ALICE, BOB, CAROL, DAVE = (PeerId(name) for name in ("alice", "bob", "carol", "dave"))
START: Sketch = (0.0,) * SKETCH_SIZE
THERE: Sketch = (10.0,) * SKETCH_SIZE
"""Where all have come since; a hundredth of the way is allowed: 0.4."""
EQUAL = dict.fromkeys((ALICE, BOB, CAROL, DAVE), 1.0)


def moved(sketch: Sketch, distance: float) -> Sketch:
    return (sketch[0] + distance, *sketch[1:])


def judge(own: PeerId, sketches: dict[PeerId, Sketch], **options: object) -> tuple[PeerId, ...]:
    arguments: dict[str, object] = {"reference": START, "rounding": 0.0, **options}
    weights = arguments.pop("weights", EQUAL)
    return agreeing(own, sketches, weights, **arguments)  # type: ignore[arg-type]


def test_the_one_who_is_far_from_the_others_is_astray() -> None:
    sketches = {ALICE: moved(THERE, 0.7), BOB: THERE, CAROL: moved(THERE, 0.1)}
    assert judge(ALICE, sketches) == (BOB, CAROL)
    assert judge(BOB, sketches) == judge(CAROL, sketches) == ()


def test_rounding_is_no_drift() -> None:
    sketches = {ALICE: moved(THERE, 0.39), BOB: THERE, CAROL: THERE}
    assert judge(ALICE, sketches) == ()
    sketches[ALICE] = moved(THERE, 0.41)
    assert judge(ALICE, sketches) == (BOB, CAROL)
    assert judge(ALICE, sketches, rounding=0.01) == ()


def test_of_two_nobody_can_tell_which_is_right() -> None:
    sketches = {ALICE: START, BOB: THERE}
    assert judge(ALICE, sketches) == judge(BOB, sketches) == ()
    assert judge(ALICE, {**sketches, CAROL: ()}) == (), "who says nothing does not count"
    assert judge(ALICE, {**sketches, CAROL: (10.0,)}) == (), "nor does who says nonsense"


def test_two_against_two_is_unclear() -> None:
    sketches = {ALICE: START, BOB: START, CAROL: THERE, DAVE: THERE}
    for one in sketches:
        assert judge(one, sketches, reference=(1.0,) * SKETCH_SIZE) == ()


def test_weight_counts_and_not_heads() -> None:
    sketches = {ALICE: START, BOB: THERE, CAROL: THERE, DAVE: START}
    weights = {ALICE: 1.0, BOB: 3.0, CAROL: 3.0, DAVE: 1.0}
    assert judge(ALICE, sketches, weights=weights) == (BOB, CAROL)
    assert judge(BOB, sketches, weights=weights) == ()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_parameters_that_are_no_numbers_are_astray(broken: float) -> None:
    sketches = {ALICE: (broken,) * SKETCH_SIZE, BOB: THERE, CAROL: THERE}
    assert judge(ALICE, sketches) == (BOB, CAROL)
    assert judge(BOB, sketches) == ()


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_no_minority_leads_a_majority_astray(seed: int, liars: int) -> None:
    rng = random.Random(seed)
    honest = [PeerId(f"honest{index}") for index in range(liars + 1)]
    sketches = {
        peer: tuple(10 + rng.uniform(-0.05, 0.05) for _ in range(SKETCH_SIZE)) for peer in honest
    }
    for index in range(liars):
        scale = 10.0 ** rng.randint(-3, 9)
        sketches[PeerId(f"liar{index}")] = tuple(rng.gauss(0, scale) for _ in range(SKETCH_SIZE))
    weights = dict.fromkeys(sketches, 1.0)
    for peer in honest:
        assert agreeing(peer, sketches, weights, reference=START, rounding=0.0) == ()


def test_only_those_at_our_position_are_asked() -> None:
    here, later = Position(RoundId(4, b"x" * 32), 4), Position(RoundId(5, b"y" * 32), 5)

    def record(position: Position, sketch: Sketch, sequence: int = 1) -> PeerRecord:
        return PeerRecord(position=position, spec_hash=b"s", sketch=sketch, sequence=sequence)

    batch = GlobalBatch(ALICE, record(here, START))
    batch.on_record(BOB, record(here, THERE), life_s=9, now_s=0)
    batch.on_record(CAROL, record(later, THERE), life_s=9, now_s=0)
    assert batch.agreeing(START, 0.0) == ()
    batch.on_record(DAVE, record(here, THERE), life_s=9, now_s=0)
    assert batch.agreeing(START, 0.0) == (BOB, DAVE)
    batch.on_round({ALICE: 1.0, BOB: 1.0, DAVE: 1.0}, later)
    batch.on_own(record(later, START))
    assert batch.agreeing(START, 0.0) == (), "what was said of an earlier position is no answer"
