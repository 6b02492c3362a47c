"""The global batch by step: fixed, on a ramp, and by the gradient noise scale."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.progress.batch_schedule import (
    NUMBER_MAX,
    BatchMemory,
    BatchSchedule,
    FixedBatch,
    NoiseScaleBatch,
    RampBatch,
    StepNorms,
    measure_noise,
)

ANY = st.floats()


def norms_of(*members: tuple[float, float], squared: float, whole: bool = True) -> StepNorms:
    return StepNorms(members=members, whole=whole, squared=squared)


def test_a_fixed_batch_is_the_same_at_each_step() -> None:
    schedule = FixedBatch(256)
    assert {schedule.samples_at(step) for step in (0, 1, 10_000)} == {256}


def test_a_linear_ramp_grows_by_the_same_number() -> None:
    schedule = RampBatch(first=100, last=200, steps=4)
    assert [schedule.samples_at(step) for step in range(6)] == [100, 125, 150, 175, 200, 200]


def test_a_doubling_ramp_doubles_at_even_distances() -> None:
    schedule = RampBatch(first=32, last=256, steps=6, kind="doubling")
    sizes = [schedule.samples_at(step) for step in range(8)]
    assert sizes == [32, 32, 64, 64, 128, 128, 256, 256]
    uneven = RampBatch(first=32, last=100, steps=4, kind="doubling")
    assert [uneven.samples_at(step) for step in range(5)] == [32, 32, 64, 64, 100]


@given(
    first=st.integers(1, 10_000),
    last=st.integers(1, 10_000),
    steps=st.integers(1, 500),
    kind=st.sampled_from(["linear", "doubling"]),
)
def test_a_ramp_goes_one_way_and_stays_between_its_ends(
    first: int, last: int, steps: int, kind: Any
) -> None:
    schedule = RampBatch(first=first, last=last, steps=steps, kind=kind)
    sizes = [schedule.samples_at(step) for step in range(steps + 2)]
    assert (sizes[0], sizes[-2], sizes[-1]) == (first, last, last)
    assert sizes == sorted(sizes, reverse=last < first)


@pytest.mark.parametrize("schedule", [FixedBatch(8), RampBatch(first=8, last=16, steps=2)])
def test_what_the_step_decides_needs_no_memory(schedule: BatchSchedule) -> None:
    assert not schedule.uses_norms
    assert schedule.remember((1.0,), norms_of(squared=1.0)) == ()
    assert schedule.samples_at(1, (1.0, 2.0)) == schedule.samples_at(1)


def by_noise(**options: Any) -> NoiseScaleBatch:
    return NoiseScaleBatch(**{"first": 64, "smallest": 16, "largest": 4096, "grid": 16, **options})


@pytest.mark.parametrize(
    ("make", "options", "complaint"),
    [
        (FixedBatch, {"samples": 0}, "at least 1 sample"),
        (RampBatch, {"first": 0, "last": 8, "steps": 1}, "at least 1 sample"),
        (RampBatch, {"first": 8, "last": 8, "steps": 0}, "at least 1 step"),
        (RampBatch, {"first": 8, "last": 8, "steps": 1, "kind": "cubic"}, "cubic"),
        (by_noise, {"first": 65}, "multiples"),
        (by_noise, {"grid": 0}, "multiples"),
        (by_noise, {"smallest": 128}, "smallest <= first"),
        (by_noise, {"smallest": 0}, "smallest <= first"),
        (by_noise, {"decay": 1.0}, "decay"),
    ],
)
def test_senseless_schedules_are_refused(
    make: Callable[..., object], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        make(**options)


# --- the gradient noise scale -----------------------------------------------------------------


def drawn_norms(
    rng: np.random.Generator, gradient: Any, spread: Any, samples: list[int]
) -> StepNorms:
    """A step of members whose samples' gradients are normal, with a known mean and covariance."""
    means = [gradient + spread * rng.standard_normal(len(spread)) / math.sqrt(n) for n in samples]
    whole = sum(n * mean for n, mean in zip(samples, means, strict=True)) / sum(samples)
    members = [(float(n), float(np.linalg.norm(m))) for n, m in zip(samples, means, strict=True)]
    return norms_of(*members, squared=float(whole @ whole))


@pytest.mark.slow
@pytest.mark.parametrize("samples", [[40, 40], [8, 24, 100], [5] * 20])
def test_estimates_are_right_on_average(samples: list[int]) -> None:
    """The oracle: |G|² and tr Σ are known, and members may bring different numbers of samples."""
    rng = np.random.default_rng(7)
    spread = np.linspace(0.1, 2.0, 200)
    gradient = rng.standard_normal(200) * 0.3
    found = [measure_noise(drawn_norms(rng, gradient, spread, samples)) for _ in range(2000)]
    squares, noise = np.array([pair for pair in found if pair is not None]).mean(axis=0)
    assert len(found) == 2000
    assert squares == pytest.approx(gradient @ gradient, rel=0.05)
    assert noise == pytest.approx(spread @ spread, rel=0.02)


@given(
    count=st.integers(2, 40),
    samples=st.integers(1, 1000),
    small=st.floats(0.1, 1e3),
    whole=st.floats(0.1, 1e3),
)
def test_with_equal_members_it_is_the_papers(
    count: int, samples: int, small: float, whole: float
) -> None:
    """Appendix A.1, equations A.2 and A.3, as written there."""
    found = measure_noise(norms_of(*[(float(samples), small)] * count, squared=whole * whole))
    assert found is not None
    big = count * samples
    squares = (big * whole**2 - samples * small**2) / (big - samples)
    noise = (small**2 - whole**2) / (1 / samples - 1 / big)
    tolerance = 1e-9 * (small**2 + whole**2) * big
    assert found == (pytest.approx(squares, abs=tolerance), pytest.approx(noise, abs=tolerance))


@pytest.mark.parametrize(
    "norms",
    [
        norms_of(squared=1.0),
        norms_of((8.0, 1.0), squared=1.0),
        norms_of((8.0, 1.0), (8.0, 2.0), squared=1.0, whole=False),
        norms_of((8.0, 1e200), (8.0, 2.0), squared=1.0),
        norms_of((8.0, 1.0), (8.0, 2.0), squared=math.inf),
        norms_of((8.0, math.nan), (8.0, 2.0), squared=1.0),
    ],
)
def test_what_shows_nothing_changes_nothing(norms: StepNorms) -> None:
    assert measure_noise(norms) is None
    memory = (32.0, 1.0, 5.0, 0.7)
    assert by_noise().remember(memory, norms) == memory


def test_the_batch_finds_the_noise_scale() -> None:
    rng = np.random.default_rng(3)
    spread = np.full(500, 1.0)
    gradient = rng.standard_normal(500)
    gradient *= math.sqrt(500 / 800) / np.linalg.norm(gradient)  # so that B = 800
    schedule = by_noise(decay=0.98)
    memory: BatchMemory = ()
    sizes = []
    for step in range(400):
        size = schedule.samples_at(step, memory)
        sizes.append(size)
        memory = schedule.remember(
            memory, drawn_norms(rng, gradient, spread, [size // 4, size // 4, size // 2])
        )
    assert sizes[0] == 64
    moved = next(step for step, size in enumerate(sizes) if size != 64)
    assert 30 <= moved <= 50, "half of the average's weight comes first"
    assert sizes[-50:] == pytest.approx([800] * 50, rel=0.15)


@pytest.mark.parametrize(
    ("gradient", "noise", "expected"),
    [
        (1.0, 100.0, 96),
        (1.0, 88.0, 96),
        (1.0, 10.0, 32),
        (1.0, 1e9, 128),
        (-1.0, 100.0, 128),
        (0.0, 100.0, 128),
        (1.0, -5.0, 32),
        (0.0, 0.0, 32),
    ],
)
def test_the_next_batch(gradient: float, noise: float, expected: int) -> None:
    """From 64, with nothing averaged: a step of two members that shows just these."""
    squared = gradient + noise / 64
    member = noise / 64 + squared
    norms = norms_of((32.0, math.sqrt(member)), (32.0, math.sqrt(member)), squared=squared)
    schedule = by_noise(decay=0.0)
    assert schedule.samples_at(1, schedule.remember((), norms)) == expected


@given(
    grid=st.integers(1, 20),
    bounds=st.tuples(st.integers(1, 50), st.integers(0, 50), st.integers(0, 200)),
    decay=st.floats(0, 0.99),
    steps=st.lists(st.tuples(ANY, ANY, ANY, ANY), max_size=30),
)
def test_whatever_is_measured_the_batch_keeps_to_its_bounds(
    grid: int,
    bounds: tuple[int, int, int],
    decay: float,
    steps: list[tuple[float, float, float, float]],
) -> None:
    smallest = bounds[0] * grid
    first, largest = smallest + bounds[1] * grid, smallest + (bounds[1] + bounds[2]) * grid
    schedule = NoiseScaleBatch(
        first=first, smallest=smallest, largest=largest, grid=grid, decay=decay
    )
    memory: BatchMemory = ()
    before = schedule.samples_at(0, memory)
    assert before == first
    for step, (samples, one, other, squared) in enumerate(steps):
        memory = schedule.remember(memory, norms_of((samples, one), (8.0, other), squared=squared))
        size = schedule.samples_at(step, memory)
        assert smallest <= size <= largest
        assert size % grid == 0
        assert before <= 2 * size
        assert size <= 2 * before
        assert len(memory) in (0, 4)
        assert all(abs(number) <= NUMBER_MAX for number in memory), "it can be sent"
        before = size


@given(memory=st.lists(ANY, max_size=8).map(tuple), norms=st.tuples(ANY, ANY, ANY))
def test_a_strangers_memory_does_no_harm(memory: BatchMemory, norms: Any) -> None:
    schedule = by_noise()
    assert 16 <= schedule.samples_at(0, memory) <= 4096
    after = schedule.remember(memory, norms_of((8.0, norms[0]), (8.0, norms[1]), squared=norms[2]))
    assert 16 <= schedule.samples_at(0, after) <= 4096
