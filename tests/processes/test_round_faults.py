"""Rounds in real processes that are killed, stopped and fed nonsense: a short run of the driver.

`make soak` runs many more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.soak.round_checks import value_complaints
from tests.soak.round_plan import PEERS, Plan, vector_of
from tests.soak.rounds import Driver, open_driver

pytestmark = pytest.mark.timeout(180)

SEED = 7
ROUNDS = 2
ELEMENTS = 2_000_000


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """Four processes that have averaged a few times, for all tests here in turn."""
    with open_driver(SEED, ELEMENTS, print) as ready:
        yield ready


def check(driver: Driver, probe: str) -> None:
    """A few rounds of a probe break no promise."""
    known = len(driver.wrong)
    for number in range(ROUNDS):
        driver.run_round(probe, number)
    assert driver.wrong[known:] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "probe", ["kill", "stop", "stop-continue", "cancel", "nan", "zero-weight", "nobody"]
)
def test_no_fault_breaks_the_promises(driver: Driver, probe: str) -> None:
    check(driver, probe)


@pytest.mark.slow
def test_an_outlier_is_refused_and_named(driver: Driver) -> None:
    check(driver, "outlier")


def test_wrong_means_are_found() -> None:
    """The driver's own check: it accepts what a report allows, and nothing else."""
    plan = Plan(text="check", probe="none", victim=PEERS, weights=(1.0, 2.0, 0.0, 7.0))
    count = 40_000
    vectors = [vector_of(plan, rank, count) for rank in range(PEERS)]

    def mean(ranks: list[int]) -> np.ndarray:
        weights = [plan.weights[rank] for rank in ranks]
        values = np.average([vectors[rank].astype(float) for rank in ranks], 0, weights)
        return values.astype(np.float32)

    def said(result: np.ndarray, *fractions: float) -> list[str]:
        return value_complaints(result, vectors, plan.weights, fractions)

    whole, without_last = mean([0, 1, 3]), mean([0, 1])
    assert said(whole, 1.0, 1.0, 0.0, 1.0) == []
    assert said(without_last, 1.0, 1.0, 0.0, 0.0) == []
    assert "are no mean" in said(whole, 1.0, 1.0, 0.0, 0.0)[0]
    assert "are no mean" in said(whole * np.float32(1.00001), 1.0, 1.0, 0.0, 1.0)[0]
    partly = np.concatenate([whole[:10_000], without_last[10_000:]])
    assert said(partly, 1.0, 1.0, 0.0, 0.25) == []
    assert "the report says 20000" in said(partly, 1.0, 1.0, 0.0, 0.5)[0]
    scattered = np.where(np.arange(count) // 2048 % 2, whole, without_last)
    assert any("scattered" in text for text in said(scattered, 1.0, 1.0, 0.0, 0.5))
    whole[5] = np.nan
    assert said(whole, 1.0, 1.0, 0.0, 1.0) == ["a result that is not finite"]
