"""What Top-k misses of known distributions, exactly."""

from __future__ import annotations

import pytest

from tools.bench.compression.biased import half_missed
from tools.bench.compression.distributions import density_that_misses, drawn, missed_by_topk


@pytest.mark.parametrize(
    ("name", "at_a_tenth", "at_a_half", "for_half"),
    [
        ("uniform", 0.7291, 0.1251, 0.207),
        ("normal", 0.5606, 0.0712, 0.124),
        ("exponential", 0.4054, 0.0335, 0.069),
        ("Student-3", 0.2953, 0.0297, 0.031),
    ],
)
def test_formulas_are_what_was_seen(
    name: str, at_a_tenth: float, at_a_half: float, for_half: float
) -> None:
    """Of finite samples, so that the heaviest tail is off by most."""
    rel = 0.06 if name == "Student-3" else 0.01
    assert missed_by_topk(name, 0.1) == pytest.approx(at_a_tenth, rel=rel)
    assert missed_by_topk(name, 0.5) == pytest.approx(at_a_half, rel=rel)
    assert density_that_misses(name, 0.5) == pytest.approx(for_half, rel=rel)
    assert half_missed(drawn(name, 200_000)) == pytest.approx(for_half, rel=2 * rel)
    assert missed_by_topk(name, 1 - 1e-9) == pytest.approx(0, abs=1e-6)
