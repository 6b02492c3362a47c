"""Codecs whose symbols stand for means: signs and quantiles."""

from __future__ import annotations

import pytest
import torch

from averaging.codecs.registry import codec_named
from tests.averaging.codecs.inequalities import compressor_of, families, moments
from tests.averaging.codecs.quantizers.cases import normal


def test_signs_stand_for_means() -> None:
    values = torch.tensor([1.0, -2.0, 3.0, 0.0, -6.0])
    assert compressor_of(codec_named("sign"))(values, 0).tolist() == pytest.approx(
        [2.4, -2.4, 2.4, 2.4, -2.4]
    )
    assert compressor_of(codec_named("onebit"))(values, 0).tolist() == pytest.approx(
        [4 / 3, -4, 4 / 3, 4 / 3, -4]
    )
    assert compressor_of(codec_named("onebit"))(torch.ones(9), 0).tolist() == [1.0] * 9


@pytest.mark.parametrize("name", ["sign", "onebit"])
def test_signs_are_projections(name: str) -> None:
    """⟨C(x), x⟩ = ‖C(x)‖², so that 1 − ‖C(x)‖² is missed; the paper's δ depends on the data."""
    for values in families(500):
        found = moments(compressor_of(codec_named(name)), values)
        assert found.inner.mean == pytest.approx(found.size.mean, rel=1e-5)
        assert found.missed.mean == pytest.approx(1 - found.size.mean, abs=1e-5)
        exact = values.to(torch.float64)
        delta = 500 * float(exact.square().sum()) / float(exact.abs().sum()) ** 2
        if name == "sign":
            assert found.missed.mean == pytest.approx(1 - 1 / delta, abs=1e-5)
        else:
            assert found.missed.mean <= 1 - 1 / delta + 1e-5


@pytest.mark.parametrize("name", ["sign", "onebit"])
def test_one_element_among_zeros_is_the_worst(name: str) -> None:
    values = torch.zeros(1000)
    values[7] = 3.0
    found = moments(compressor_of(codec_named(name)), values)
    constants = codec_named(name).constants(1000)
    assert constants.b3 is not None
    assert found.missed.mean == pytest.approx(1 - 1 / constants.b3, rel=1e-5)
    assert constants.b1 == constants.b2 == (1 / 1000, 1.0)
    assert found.inner.mean == pytest.approx(1 / 1000, rel=1e-5)


def test_each_bin_of_quantiles_is_a_mean_of_neighbors() -> None:
    values = normal(50_000)
    out = compressor_of(codec_named("quantile8"))(values, 0)
    groups = out.unique()
    assert 200 < groups.numel() <= 256
    end = -float("inf")
    for mean in groups:
        inside = values[out == mean]
        assert float(inside.to(torch.float64).mean()) == pytest.approx(float(mean), rel=1e-5)
        assert float(inside.min()) > end, "bins are intervals"
        end = float(inside.max())
        # A bin is whole cells, each of them smaller than a bin here, but for the widest.
        assert inside.numel() < 3 * 50_000 / 256


def test_few_different_values_come_back_exactly() -> None:
    """Each value has cells, and so a bin, of its own."""
    levels = torch.tensor([-3.0, -0.1, 0.0, 0.5, 2.0, 1e20])
    values = levels[torch.arange(6000) % 6]
    torch.testing.assert_close(
        compressor_of(codec_named("quantile8"))(values, 0), values, rtol=1e-7, atol=0
    )


def test_quantiles_are_closer_than_whole_numbers_where_tails_are_heavy() -> None:
    values = normal(50_000) / normal(50_000, 1).abs().clamp(min=1e-4)
    quantiles, numbers = (
        compressor_of(codec_named(name))(values, 0) for name in ("quantile8", "int8")
    )
    middle = values.abs() < values.abs().quantile(0.9)
    errors = [
        float((out - values)[middle].norm() / values[middle].norm()) for out in (quantiles, numbers)
    ]
    assert errors[0] < 0.1 < 0.3 < errors[1]
