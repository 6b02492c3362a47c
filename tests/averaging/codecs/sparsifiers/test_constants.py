"""Each sparsifier is in the classes that it names, and some vectors take it to their edge."""

import pytest
import torch

from averaging.codecs.classes import Constants
from averaging.codecs.codec import Codec
from averaging.codecs.registry import codec_named
from tests.averaging.codecs.inequalities import (
    check_codec,
    compressor_of,
    families,
    moments,
    worst_missed,
)

COUNT = 96
EDGE = torch.full((COUNT,), 0.75)


@pytest.mark.parametrize(
    "name",
    ["topk:0.1", "topk:0.1:float32", "topk:1", "gaussian-k:0.1", "sparse-loco:0.1", "demo:0.1"],
)
def test_classes_of_codecs_without_chance(name: str) -> None:
    check_codec(codec_named(name), [*families(COUNT), *families(1)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "rand-k:0.25",
        "rand-k:0.6:float16-scaled",
        "rand-k-biased:0.25",
        "adaptive-random",
        "dgc:0.1",
        "topk:0.1:dither:2,7",
        "topk:0.5:dither:3,2,2",
        "rand-k:0.5:natural",
    ],
)
def test_classes_of_codecs_with_chance(name: str) -> None:
    # A power of two, of which positions are drawn at once.
    check_codec(codec_named(name), list(families(64)), seeds=25)


def test_the_constants_are_those_of_the_paper() -> None:
    # k = 24 of d = 96.
    assert codec_named("topk:0.25:float32").constants(COUNT) == Constants(
        b1=(0.25, 1.0), b2=(0.25, 1.0), b3=4.0
    )
    assert codec_named("rand-k:0.25").constants(COUNT) == Constants(
        unbiased=4.0, b1=(4.0, 4.0), b2=(1.0, 4.0)
    )
    assert codec_named("rand-k-biased:0.25:float32").constants(COUNT) == Constants(
        b1=(0.25, 1.0), b2=(0.25, 1.0), b3=4.0
    )
    assert codec_named("adaptive-random").constants(COUNT) == Constants(
        b1=(1 / 96, 1.0), b2=(1 / 96, 1.0), b3=96.0
    )
    # ζ with k for d, base 2 and 7 levels: 9/8 + √24/64 · √24/64.
    variance = 9 / 8 + 24 / 4096
    dithered = codec_named("topk:0.25:dither:2,7,2").constants(COUNT)
    assert dithered.b1 == dithered.b2 == (0.25, pytest.approx(variance))
    # What is chosen by chance and rounded by chance, both unbiased.
    assert codec_named("rand-k:0.25:natural").constants(COUNT).unbiased == pytest.approx(4.5)
    assert codec_named("gaussian-k-paper:0.25").constants(COUNT) == Constants()


def test_float16_counts_as_the_error_that_it_is() -> None:
    exact, rounded = (
        codec_named(name).constants(COUNT) for name in ("topk:0.25:float32", "topk:0.25")
    )
    assert exact.b3 is not None
    assert rounded.b3 is not None
    assert exact.b3 < rounded.b3 < exact.b3 * (1 + 1e-6)
    # Rounding to the nearest is a bias, however small.
    assert codec_named("rand-k:0.25:float16-scaled").constants(COUNT).unbiased is None


def missed_at_worst(codec: Codec, values: torch.Tensor, tries: int = 150) -> float:
    """‖C(x) − x‖² / ‖x‖² of the worst vector that is found from this one."""
    return worst_missed(compressor_of(codec), values, tries)[0]


def test_equal_magnitudes_are_the_worst_of_topk() -> None:
    codec = codec_named("topk:0.25:float32")
    # 24 of 96 equal ones are sent: exactly 1 − k/d is missed, and no vector is worse.
    assert moments(compressor_of(codec), EDGE).missed.mean == 1 - 24 / 96
    assert missed_at_worst(codec, EDGE) == 1 - 24 / 96
    spread = EDGE + 0.1 * torch.randn(COUNT, generator=torch.Generator().manual_seed(1))
    assert 0.6 < missed_at_worst(codec, spread) < 1 - 24 / 96


def test_thresholds_by_a_curve_are_never_worse_than_two_thirds_of_topk() -> None:
    codec = codec_named("gaussian-k:0.25:float32")
    constants = codec.constants(COUNT)
    assert constants.b3 == COUNT / 16
    for values in (EDGE, *families(COUNT)):
        assert missed_at_worst(codec, values, 20) <= 1 - 16 / COUNT


def test_random_ones_reach_their_constants_on_average() -> None:
    found = moments(compressor_of(codec_named("rand-k:0.25")), EDGE, 50)
    # Of equal magnitudes any 24 are a quarter, and four times as large.
    assert found.size.mean == pytest.approx(4.0, rel=1e-6)
    assert found.inner.mean == pytest.approx(1.0, rel=1e-6)
    one_hot = torch.zeros(COUNT)
    one_hot[5] = 3.0
    found = moments(compressor_of(codec_named("adaptive-random")), one_hot, 5)
    assert found.missed.mean == 0.0
    found = moments(compressor_of(codec_named("adaptive-random")), EDGE, 5)
    assert found.missed.mean == pytest.approx(1 - 1 / COUNT)


def test_two_means_lose_most_where_one_element_is_far_above_the_rest() -> None:
    values = torch.cat((torch.tensor([8.0]), torch.ones(7), torch.zeros(COUNT - 8)))
    # All that is not 0 is sent. The mean is 15/8, and only 8 is above.
    assert moments(compressor_of(codec_named("sparse-loco:0.08")), values).missed.mean == 0.0
    values = torch.cat((torch.tensor([8.0]), torch.full((7,), 2.8), torch.zeros(88)))
    # Now the mean is 3.45, and 2.8 is below: no loss. One more step and both are above it.
    values[8:16] = 1e-3
    codec = codec_named("sparse-loco:0.16")
    missed = moments(compressor_of(codec), values).missed.mean
    constants = codec.constants(COUNT)
    assert constants.b3 is not None
    assert 0.15 < missed < 1 - 1 / constants.b3
