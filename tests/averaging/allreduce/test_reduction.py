"""Reduction: each chunk is made of those who delivered it, whatever is lost, and nothing bad."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.allreduce.mean import Contribution, weighted_mean
from averaging.allreduce.reduction import Reduction, Senders

Array = np.ndarray[Any, Any]

NAMES = ("alice", "bob", "carol", "dave", "erin")


def values(seed: int, size: int) -> Array:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def senders_of(
    *names: str, cap: float = 10.0, norm_factor_max: float = 0.0, declared: bool = True
) -> Senders[str]:
    """Senders who have all declared weight 1, and nobody minds their norms."""
    senders: Senders[str] = Senders(names, [cap] * len(names), norm_factor_max=norm_factor_max)
    for name in names if declared else ():
        assert senders.on_weight(name, 1.0, 2.0) is None
    return senders


def reduction_of(senders: Senders[str], *names: str, chunks: int = 2) -> Reduction[str]:
    return Reduction(names, senders, [3] * chunks, ahead_max=2)


class Round:
    """Senders deliver, stall and get lost at random, to an aggregator with several pieces."""

    def __init__(self, seed: int, count: int, chunk_counts: list[int], ahead: int | None) -> None:
        rng = self.rng = random.Random(seed)
        self.names = NAMES[:count]
        self.sizes = [[rng.randint(1, 5) for _ in range(chunks)] for chunks in chunk_counts]
        self.weights = {name: rng.choice([0.0, 1.0, 1.0, 2.5]) for name in self.names}
        self.vectors = {
            name: [[values(rng.getrandbits(30), size) for size in piece] for piece in self.sizes]
            for name in self.names
        }
        whole = sum(chunk_counts)
        # How many chunks of all pieces come from each before it is lost.
        self.last = {name: rng.choice([None, None, rng.randint(-1, whole)]) for name in self.names}
        self.senders = Senders(self.names, [10.0] * count, norm_factor_max=0)
        self.reductions = [
            Reduction(self.names, self.senders, sizes, ahead_max=ahead) for sizes in self.sizes
        ]
        self.taken: list[list[tuple[Contribution, ...]]] = [[] for _ in chunk_counts]
        self.sent = {name: [0] * len(chunk_counts) for name in self.names}

    def run(self) -> None:
        while not all(reduction.done for reduction in self.reductions):
            for reduction, taken in zip(self.reductions, self.taken, strict=True):
                if reduction.ready and self.rng.random() < 0.5:
                    taken.append(reduction.take())
            self._one_sender(self.rng.choice(self.names))

    def _one_sender(self, name: str) -> None:
        last, sent = self.last[name], self.sent[name]
        if last is not None and (last == -1 or sum(sent) >= last):
            self.senders.on_excluded(name, "lost")
        elif not self.senders.declared(name):
            assert self.senders.on_weight(name, self.weights[name], 1.0) is None
        elif self.weights[name]:
            # Pieces are sent one after the other.
            for piece, reduction in enumerate(self.reductions):
                if sent[piece] < len(self.sizes[piece]):
                    if reduction.may_deliver(name):
                        part = self.vectors[name][piece][sent[piece]]
                        assert reduction.on_part(name, sent[piece], part) is None
                        sent[piece] += 1
                    return


@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.lists(st.integers(1, 6), max_size=3),
    st.sampled_from([1, 2, 3, None]),
)
def test_any_order_and_loss_gives_the_mean_of_those_who_delivered(
    seed: int, count: int, chunk_counts: list[int], ahead: int | None
) -> None:
    """Each chunk of each piece is made of its deliverers, each with its weight, in order."""
    world = Round(seed, count, chunk_counts, ahead)
    world.run()
    for piece, reduction in enumerate(world.reductions):
        included = dict(zip(world.names, reduction.included(), strict=True))
        assert included == {name: world.sent[name][piece] for name in world.names}
        for name, reason in zip(world.names, reduction.reasons(), strict=True):
            lost = world.senders.excluded(name) and included[name] < len(world.sizes[piece])
            assert reason == ("lost" if lost else "")
        for chunk, taken in enumerate(world.taken[piece]):
            expected = [
                (world.weights[name], world.vectors[name][piece][chunk])
                for name in world.names
                if included[name] > chunk
            ]
            assert [
                (part.weight, part.values is vector)
                for part, (_, vector) in zip(taken, expected, strict=True)
            ] == [(weight, True) for weight, _ in expected]
    for name in world.names:
        assert world.senders.delivered(name) == sum(world.sent[name])


def test_no_more_than_so_many_chunks_come_ahead() -> None:
    senders = senders_of("alice", "bob")
    reduction = reduction_of(senders, "alice", "bob", chunks=4)
    for chunk in range(2):
        assert reduction.may_deliver("alice")
        reduction.on_part("alice", chunk, values(chunk, 3))
    assert not reduction.may_deliver("alice")
    assert reduction.awaited() == ["bob"]
    reduction.on_part("bob", 0, values(9, 3))
    reduction.take()
    assert reduction.may_deliver("alice")


# --- who may contribute -----------------------------------------------------------------------


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 1.5])
def test_bad_weights_are_refused_and_named(weight: float) -> None:
    senders = senders_of("alice", "bob", cap=1.0, declared=False)
    reason = senders.on_weight("bob", weight, 1.0)
    assert reason is not None
    assert "weight" in reason
    assert senders.reasons() == {"bob": reason}
    assert senders.weight_of("bob") == 0
    assert senders.on_weight("alice", 0.0, math.nan) is None
    assert senders.norm_of("alice") == senders.norm_of("bob") == 0, "which can be sent"
    assert senders.on_weight("bob", 1.0, 1.0) == reason, "there is no second try"
    assert not senders.declared("bob")


def test_each_has_a_cap_of_its_own() -> None:
    senders: Senders[str] = Senders(["alice", "bob"], [1.0, 5.0], norm_factor_max=0)
    assert senders.on_weight("alice", 2.0, 1.0) == "weight is over its cap"
    assert senders.on_weight("bob", 5.0, 1.0) is None


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_no_number_tells_of_values_that_are_none(norm: float) -> None:
    senders = senders_of("alice", declared=False)
    assert senders.on_weight("alice", 1.0, norm) == "non-finite values"
    assert senders.weight_of("alice") == 0


def test_the_norm_of_who_contributes_nothing_does_not_matter() -> None:
    senders = senders_of("alice", declared=False)
    assert senders.on_weight("alice", 0.0, math.nan) is None


def test_a_second_weight_changes_nothing() -> None:
    senders = senders_of("alice")
    assert senders.on_weight("alice", 5.0, 1.0) is None
    assert senders.weight_of("alice") == 1.0


def test_nothing_is_ready_before_everyone_has_declared_or_is_excluded() -> None:
    senders = senders_of("alice", "bob", declared=False)
    reduction = reduction_of(senders, "alice", "bob")
    senders.on_weight("alice", 1.0, 1.0)
    reduction.on_part("alice", 0, values(1, 3))
    assert not senders.settled
    assert not reduction.ready
    assert reduction.awaited() == ["bob"]
    senders.on_excluded("bob", "did not come")
    assert senders.settled
    assert reduction.ready
    assert len(reduction.take()) == 1


# --- norms ------------------------------------------------------------------------------------

NORMS = {"alice": 1.0, "bob": 2.0, "carol": 21.0, "dave": 3.0}


@pytest.mark.parametrize("order", list(itertools.permutations(NORMS)))
def test_a_norm_far_over_the_median_is_refused_alike_in_any_order(order: tuple[str, ...]) -> None:
    senders = senders_of(*NORMS, norm_factor_max=10.0, declared=False)
    for name in order:
        # Nobody is refused before all norms are known: others' could change the median.
        assert senders.reasons() == {}
        senders.on_weight(name, 1.0, NORMS[name])
    assert list(senders.reasons()) == ["carol"]
    assert senders.reasons()["carol"] == "norm 21 is over 10 × the median 2"
    assert not senders.awaited("carol")
    reduction = reduction_of(senders, *NORMS, chunks=1)
    for name in ("alice", "bob", "dave"):
        reduction.on_part(name, 0, np.full(3, 0.1, np.float32))
    assert reduction.ready
    assert len(reduction.take()) == 3
    assert reduction.included() == (1, 1, 0, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(NORMS)))
def test_what_the_refused_sent_before_all_norms_were_known_does_not_count(
    order: tuple[str, ...],
) -> None:
    """Otherwise it would depend on who comes last whether an outlier gets in."""
    senders = senders_of(*NORMS, norm_factor_max=10.0, declared=False)
    reduction = reduction_of(senders, *NORMS, chunks=2)
    for name in order:
        if senders.on_weight(name, 1.0, NORMS[name]) is None:
            reduction.on_part(name, 0, np.full(3, 0.1, np.float32))
    assert reduction.ready
    assert len(reduction.take()) == 3
    for name in order:
        reduction.on_part(name, 1, np.full(3, 0.1, np.float32))
    assert len(reduction.take()) == 3
    assert reduction.included() == (2, 2, 0, 2)
    assert reduction.reasons() == ("", "", senders.reasons()["carol"], "")


@given(st.permutations(range(5)), st.integers(0, 2**32))
def test_the_refused_do_not_depend_on_the_order_of_declarations(
    order: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    norms = [rng.choice([0.0, 0.5, 1.0, 1.0, 3.0, 9.0, 1e30, math.nan]) for _ in NAMES]
    weights = [rng.choice([0.0, 1.0, 2.0, 11.0]) for _ in NAMES]
    outcomes = []
    for numbers in (range(5), order):
        senders = senders_of(*NAMES, norm_factor_max=2.0, declared=False)
        for number in numbers:
            senders.on_weight(NAMES[number], weights[number], norms[number])
        assert senders.settled
        outcomes.append(senders.reasons())
    assert outcomes[0] == outcomes[1]


def test_nobody_minds_norms_when_told_so() -> None:
    senders = senders_of(*NORMS, norm_factor_max=0.0, declared=False)
    for name, norm in NORMS.items():
        senders.on_weight(name, 1.0, 1e30 if name == "carol" else norm)
    assert senders.reasons() == {}
    assert senders.check_chunk("alice", np.full(3, 1e20, np.float32)) is None


def test_values_over_the_declared_norm_are_refused() -> None:
    senders = senders_of("alice", "bob", norm_factor_max=10.0, declared=False)
    senders.on_weight("alice", 1.0, 2.0)
    senders.on_weight("bob", 1.0, 2.0)
    reduction = reduction_of(senders, "alice", "bob")
    assert reduction.on_part("bob", 0, np.full(3, 2 / math.sqrt(3), np.float32)) is None
    over = np.full(3, 2.1 / math.sqrt(3), np.float32)
    assert reduction.on_part("bob", 1, over) == "values over the declared norm"
    assert senders.reasons() == {"bob": "values over the declared norm"}
    for chunk in range(2):
        reduction.on_part("alice", chunk, values(1, 3) / 4)
        assert len(reduction.take()) == 2 - chunk


def test_rounding_on_the_way_is_no_crime() -> None:
    """What travels as halves may have a norm a little over that of the vector itself."""
    vector = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    senders = senders_of("alice", norm_factor_max=10.0, declared=False)
    rounded = (vector * 1.0005).astype(np.float16)
    senders.on_weight("alice", 1.0, float(np.linalg.norm(vector)))
    assert senders.check_chunk("alice", rounded) is None


# --- what they send ---------------------------------------------------------------------------


def test_non_finite_values_are_refused_and_what_came_before_counts() -> None:
    senders = senders_of("alice", "bob")
    reduction = reduction_of(senders, "alice", "bob")
    assert reduction.on_part("bob", 0, values(1, 3)) is None
    bad = values(2, 3)
    bad[1] = np.nan
    assert reduction.on_part("bob", 1, bad) == "non-finite values"
    for chunk in range(2):
        reduction.on_part("alice", chunk, values(3, 3))
        assert reduction.ready
        assert len(reduction.take()) == 2 - chunk
    assert reduction.done
    assert reduction.included() == (2, 1)
    assert reduction.reasons() == ("", "non-finite values")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_one_bad_value_is_found(bad: float, dtype: str) -> None:
    senders = senders_of("alice")
    vector = values(3, 1000).astype(dtype)
    assert senders.check_chunk("alice", vector) is None
    vector[500] = bad
    assert senders.check_chunk("alice", vector) == "non-finite values"
    vector[501] = -bad
    assert senders.check_chunk("alice", vector) == "non-finite values"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_finite_values_are_fine(dtype: str) -> None:
    largest = np.full(10, np.finfo(dtype).max, dtype)
    assert senders_of("alice").check_chunk("alice", largest) is None


@pytest.mark.parametrize(
    ("chunk", "size", "reason"),
    [
        (1, 3, "chunk out of order"),
        (2, 3, "chunk out of order"),
        (0, 2, "chunk of a wrong size"),
        (0, 0, "chunk of a wrong size"),
    ],
)
def test_parts_out_of_order_or_of_a_wrong_size_are_refused(
    chunk: int, size: int, reason: str
) -> None:
    senders = senders_of("alice")
    reduction = reduction_of(senders, "alice")
    assert reduction.on_part("alice", chunk, values(1, size)) == reason
    assert senders.reasons() == {"alice": reason}


def test_a_chunk_more_than_there_are_is_refused() -> None:
    senders = senders_of("alice", "bob")
    reduction = reduction_of(senders, "alice", "bob", chunks=1)
    assert reduction.on_part("alice", 0, values(1, 3)) is None
    assert reduction.on_part("alice", 1, values(1, 3)) == "chunk out of order"


def test_values_before_their_weight_are_refused() -> None:
    senders = senders_of("alice", declared=False)
    reduction = reduction_of(senders, "alice")
    assert reduction.on_part("alice", 0, values(1, 3)) == "values before their weight"
    assert senders.on_weight("alice", 1.0, 1.0) == "values before their weight"


def test_nothing_is_accepted_after_exclusion() -> None:
    senders = senders_of("alice", "bob")
    reduction = reduction_of(senders, "alice", "bob")
    senders.on_excluded("bob", "silent")
    assert reduction.on_part("bob", 0, values(1, 3)) == "silent"
    senders.on_excluded("bob", "lost")
    assert senders.reasons() == {"bob": "silent"}


def test_the_excluded_stay_excluded_for_later_pieces() -> None:
    """Also for those that a plan makes ours afterwards, though they send them whole."""
    senders = senders_of("alice", "bob")
    first = reduction_of(senders, "alice", "bob", chunks=1)
    first.on_part("bob", 0, values(1, 3))
    senders.on_excluded("bob", "silent")
    second = reduction_of(senders, "alice", "bob", chunks=1)
    assert second.awaited() == ["alice"]
    assert second.on_part("bob", 0, values(1, 3)) == "silent"
    for reduction, count in ((first, 2), (second, 1)):
        reduction.on_part("alice", 0, values(2, 3))
        assert len(reduction.take()) == count
    assert (first.included(), second.included()) == ((1, 1), (1, 0))
    assert (first.reasons(), second.reasons()) == (("", ""), ("", "silent"))


def test_losing_a_sender_that_delivered_all_is_no_loss() -> None:
    senders = senders_of("alice")
    reduction = reduction_of(senders, "alice", chunks=1)
    reduction.on_part("alice", 0, values(1, 3))
    senders.on_excluded("alice", "lost")
    assert reduction.reasons() == ("",)
    assert len(reduction.take()) == 1


def test_nobody_waits_for_weight_zero() -> None:
    senders = senders_of("alice", "bob", declared=False)
    senders.on_weight("alice", 0.0, 1.0)
    senders.on_weight("bob", 1.0, 1.0)
    reduction = reduction_of(senders, "alice", "bob", chunks=1)
    assert reduction.on_part("alice", 0, values(2, 3)) is None, "it is not needed, and no crime"
    reduction.on_part("bob", 0, values(1, 3))
    assert reduction.ready
    assert len(reduction.take()) == 1
    assert reduction.included() == (0, 1)


def test_sums_are_made_in_member_order() -> None:
    orders = []
    for arrival in itertools.permutations(range(3)):
        reduction = reduction_of(senders_of(*NAMES[:3]), *NAMES[:3], chunks=1)
        for number in arrival:
            reduction.on_part(NAMES[number], 0, values(number, 3))
        mean = weighted_mean(reduction.take(), np.dtype("float32"))
        assert mean is not None
        orders.append(mean.tobytes())
    assert len(set(orders)) == 1
