"""Norms that all members find alike."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging import MemberReport, RoundId, RoundReport
from p2p import Identity
from training.progress.norms import squared_norm, step_norms

PEERS = sorted(Identity.generate(random.Random(seed)).peer_id for seed in range(4))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(sizes=st.lists(st.integers(0, 20_000), max_size=5), seed=st.integers(0, 99))
def test_it_is_the_sum_of_all_squares(dtype: str, sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(size).astype(dtype) for size in sizes]
    expected = math.fsum(float(x) * float(x) for array in arrays for x in array)
    assert squared_norm(arrays) == pytest.approx(expected, rel=1e-13)


def test_the_order_of_additions_is_the_recorded_one() -> None:
    """Bits from another processor would show here."""
    arrays = [
        np.sin(np.arange(30_000, dtype=np.float64)).astype("float32").reshape(100, 300),
        np.float32([0.1, 1e-20, 1e19]),
    ]
    plain = [0.0] * 8192
    for array in arrays:
        for index, value in enumerate(array.reshape(-1).tolist()):
            plain[index % 8192] += value * value
    while len(plain) > 1:
        half = len(plain) // 2
        plain = [a + b for a, b in zip(plain[:half], plain[half:], strict=True)]
    assert squared_norm(arrays) == plain[0]


def test_what_does_not_fit_a_float_is_infinite() -> None:
    assert squared_norm([np.full(3, 1e200)]) == math.inf


def report_of(*members: MemberReport) -> RoundReport:
    return RoundReport(
        group_id=bytes(32),
        round=RoundId(0, bytes(32)),
        # Groups have orders of their own.
        members=dict(reversed(list(zip(PEERS, members, strict=False)))),
        digest=bytes(32),
        succeeded=True,
        outcome="success",
    )


def test_those_count_who_contributed_wholly() -> None:
    report = report_of(
        MemberReport(fraction=1.0, weight=8.0, norm=2.0),
        MemberReport(fraction=0.0, weight=4.0, norm=9.0, reason="lost"),
        MemberReport(fraction=0.0, weight=0.0, reason="weight 0"),
        MemberReport(fraction=1.0, weight=2.0, norm=1.0),
    )
    norms = step_norms(report, [np.ones(3)])
    assert norms.members == ((8.0, 2.0), (2.0, 1.0))
    assert (norms.whole, norms.squared) == (True, 3.0)


def test_a_part_spoils_the_measurement() -> None:
    report = report_of(
        MemberReport(fraction=1.0, weight=8.0, norm=2.0),
        MemberReport(fraction=0.5, weight=4.0, norm=9.0, reason="silent"),
    )
    assert not step_norms(report, []).whole
