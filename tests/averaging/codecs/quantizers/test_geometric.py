"""Rounding to geometric grids: points, chances, the paper's constants, and the worst vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.quantizers.geometric import Geometric, Grid
from averaging.codecs.registry import codec_named
from tests.averaging.codecs.inequalities import (
    check_codec,
    compressor_of,
    families,
    moments,
    worst_missed,
)
from tests.averaging.codecs.quantizers.cases import normal

BASES = (1.05, 1.2, 2.0, 3.0, 5.5, 256.0)


def grid_of(base: float, levels: int, top: float) -> list[float]:
    """Zero and the levels, rising, as float32."""
    points = [top / base**down for down in range(levels - 1, -1, -1)]
    return [0.0, *np.array(points, np.float32).tolist()]


@pytest.mark.parametrize("base", BASES)
def test_elements_go_to_a_neighbor_on_the_grid(base: float) -> None:
    values = torch.cat([normal(300), 1e-3 * normal(100, 1)])
    top = float(values.abs().max())
    for nearest in (False, True):
        codec = Geometric("tried", Grid(base=base, levels=9, nearest=nearest))
        points = np.array(grid_of(base, 9, top))
        out = compressor_of(codec)(values, 4)
        assert bool((out * values >= 0).all())
        for value, got in zip(values.abs().tolist(), out.abs().tolist(), strict=True):
            above = min(int(np.searchsorted(points, value)), 9)
            low, high = points[max(above - 1, 0)], points[above]
            near = low if value - low < high - value else high
            close = abs(value - (low + high) / 2) < 1e-6 * value  # float32 may take either
            wanted = [near] if nearest and not close else [low, high]
            assert min(abs(got - one) for one in wanted) <= 2e-7 * got, (value, got)


@pytest.mark.parametrize("base", BASES)
def test_chances_are_what_the_mean_needs(base: float) -> None:
    """An element at each fraction between two levels, very often; the first one is the top."""
    for between in (0.02, 0.5, 0.9):
        value = 1 / base + between * (1 - 1 / base)
        for element in (value, 0.3 * base**-3):  # and one below the last of three levels
            values = torch.full((60_000,), element)
            values[0] = 1.0
            codec = Geometric("tried", Grid(base=base, levels=3))
            out = compressor_of(codec)(values, 11)[1:].to(torch.float64)
            spread = float(out.std()) / math.sqrt(out.numel())
            assert abs(float(out.mean()) - element) <= 5 * spread + 1e-6 * element
            assert out.unique().numel() == 2


def test_both_ways_to_find_levels_of_base_two_agree() -> None:
    """Lookups and carries do not take the same draws; to the nearest they take none."""
    values = normal(5000)
    carries = Geometric("carries", Grid(base=2.0, levels=20, nearest=True))
    # Nearly two: the same neighbor but for elements at the very edge.
    lookups = Geometric("lookups", Grid(base=2.0 + 1e-12, levels=20, nearest=True))
    assert torch.equal(carries.encode(values, 0), lookups.encode(values, 0))


def test_natural_compression_gives_powers_of_two() -> None:
    values = torch.cat([normal(1000), torch.tensor([0.0, 1.0, -4.0, 1e-38, 3.0])])
    out = compressor_of(codec_named("natural"))(values, 1)
    fractions = np.frexp(out.numpy())[0]
    assert set(np.abs(fractions).tolist()) <= {0.0, 0.5}
    assert out[1001] == 1.0
    assert out[1002] == -4.0
    assert out[1004] in (2.0, 4.0)
    # There is no 2**128.
    assert compressor_of(codec_named("natural"))(torch.tensor([3e38]), 1) == 2.0**127


def test_natural_compression_of_a_normal_vector() -> None:
    """E‖C(x)‖² is 1.082 ‖x‖², below 9/8; at x = 4/3 it is 9/8."""
    compress = compressor_of(codec_named("natural"))
    # Of what is unbiased, ‖x‖² + E‖C(x) − x‖² is E‖C(x)‖², and varies less.
    found = moments(compress, normal(100_000, scale=1.0), 2)
    assert 1 + found.missed.mean == pytest.approx(1.082, abs=2e-3)
    found = moments(compress, torch.full((100_000,), 4 / 3), 2)
    assert 1 + found.missed.mean == pytest.approx(9 / 8, abs=2e-3)


@pytest.mark.parametrize("base", [1.2, 2.0, 4.0])
def test_unbiased_rounding_is_as_bad_as_the_paper_says(base: float) -> None:
    """(b + 1/b + 2) / 4 is reached by 2b / (b + 1), which is between the levels 1 and b."""
    codec = codec_named(f"rounding:{base:g}")
    values = torch.full((100_000,), 2 / (base + 1))
    values[0] = 1.0
    zeta = codec.constants(values.numel()).unbiased
    assert zeta == pytest.approx((base + 1 / base + 2) / 4, rel=1e-4)
    found = moments(compressor_of(codec), values, 2)
    assert zeta is not None
    assert found.missed.mean == pytest.approx(zeta - 1, rel=0.02)


@pytest.mark.parametrize("base", [1.2, 2.0, 5.0])
def test_nearest_rounding_is_as_bad_as_the_paper_says(base: float) -> None:
    """Half way between two levels; for base 2 the error is 1/9."""
    codec = codec_named(f"nearest:{base:g}")
    constants = codec.constants(100_000)
    assert constants.b2 is not None
    assert constants.b3 is not None
    assert constants.b2 == pytest.approx((2 / (base + 1), 2 * base / (base + 1)), rel=1e-4)
    assert constants.b3 == pytest.approx((base + 1) ** 2 / (4 * base), rel=1e-4)
    if base == 2:
        assert 1 - 1 / constants.b3 == pytest.approx(1 / 9, rel=1e-6)
    middle = (1 + 1 / base) / 2
    for nudge, inner, size in (
        (1 - 1e-6, 2 / (base + 1), 0.0),
        (1 + 1e-6, 0.0, 2 * base / (base + 1)),
    ):
        values = torch.full((100_000,), middle * nudge)
        values[0] = 1.0
        found = moments(compressor_of(codec), values)
        assert found.missed.mean == pytest.approx(1 - 1 / constants.b3, rel=1e-3)
        if inner:
            assert found.inner.mean == pytest.approx(inner, rel=1e-3)
        else:
            assert found.size.mean / found.inner.mean == pytest.approx(size, rel=1e-3)


def test_no_search_finds_a_worse_vector() -> None:
    codec = codec_named("nearest:2")
    delta = codec.constants(8).b3
    assert delta is not None
    worst, _ = worst_missed(compressor_of(codec), normal(8), 400)
    assert 0.07 < worst <= 1 - 1 / delta + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("base", "levels"), [(2.0, 1), (2.0, 2), (3.0, 2), (1.2, 4)])
def test_the_end_of_a_short_grid_is_in_the_constants(base: float, levels: int) -> None:
    """Where most elements lie below the last level, and what becomes of them counts."""
    for nearest in (False, True):
        codec = Geometric("tried", Grid(base=base, levels=levels, nearest=nearest))
        check_codec(codec, list(families(40)), seeds=1 if nearest else 20)
    delta = codec.constants(12).b3
    assert delta is not None
    worst, values = worst_missed(compressor_of(codec), 0.3 * normal(12, scale=1.0), 100)
    assert worst <= 1 - 1 / delta + 1e-6
    check_codec(codec, [values])


@pytest.mark.parametrize(
    ("levels", "measured", "bound"), [(4, 9.95, 13.6), (8, 1.134, 1.735), (12, 1.083, 1.127)]
)
def test_exponential_dithering_of_ten_thousand_elements(
    levels: int, measured: float, bound: float
) -> None:
    codec, values = codec_named(f"dither:2,{levels},2"), normal(10_000)
    assert codec.constants(10_000).unbiased == pytest.approx(bound, rel=3e-3)
    found = moments(compressor_of(codec), values, 40)
    assert found.size.mean == pytest.approx(measured, rel=0.01)


def test_the_largest_element_as_top_does_better_than_the_norm() -> None:
    values = normal(10_000)
    errors = [
        moments(compressor_of(codec_named(f"dither:2,7,{norm}")), values, 4).missed.mean
        for norm in ("inf", "2", "1")
    ]
    assert errors[0] < 0.15 < 0.3 < errors[1] < 1 < errors[2]


def test_levels_beyond_the_last_are_refused() -> None:
    for name, count in (("natural", 5), ("dither:2,2", 8), ("dither:3,5", 8)):
        codec, out = codec_named(name), torch.empty(count)
        frame = codec.encode(torch.ones(count), 0)
        frame[4:] = 255
        with pytest.raises(FrameInvalid, match="beyond"):
            codec.decode(frame, out)


def test_norms_beyond_float32_are_cut_off() -> None:
    values = torch.full((9,), 3e38)
    for norm in ("inf", "2", "1"):
        out = compressor_of(codec_named(f"dither:2,7,{norm}"))(values, 0)
        assert bool(torch.isfinite(out).all())
        assert bool((out > 0).all())
