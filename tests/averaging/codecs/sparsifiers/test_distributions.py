"""How much of vectors from known distributions Top-k misses.

Source: Beznosikov et al., "On Biased Compression for Distributed Learning", the study of what is
lost by distribution; the figures of uniform and exponential ones are exact.
"""

import numpy as np
import pytest
import torch

from averaging.codecs.registry import codec_named
from tests.averaging.codecs.sparsifiers.vectors import drawn, relative_error

COUNT = 400_000


def missed(name: str, values: torch.Tensor) -> float:
    """‖C(x) − x‖² / ‖x‖² of the codec of this name."""
    codec = codec_named(name)
    out = torch.empty_like(values)
    codec.decode(codec.encode(values, 3), out)
    return relative_error(out, values)


@pytest.mark.parametrize(
    ("distribution", "at_a_tenth", "at_a_half"),
    [
        ("uniform", 0.7291, 0.1251),
        ("normal", 0.5606, 0.0712),
        ("exponential", 0.4054, 0.0335),
        ("student-3", 0.2953, 0.0297),
    ],
)
def test_what_topk_misses(distribution: str, at_a_tenth: float, at_a_half: float) -> None:
    values = drawn(distribution, COUNT)
    # Of Student's, which has no fourth moment, few elements decide about the norm.
    rel = 0.06 if distribution == "student-3" else 0.025
    assert missed("topk:0.1:float32", values) == pytest.approx(at_a_tenth, rel=rel)
    assert missed("topk:0.5:float32", values) == pytest.approx(at_a_half, rel=rel)
    # By chance, it is the share of what is not sent, whatever the distribution.
    assert missed("rand-k-biased:0.1:float32", values) == pytest.approx(0.9, abs=0.02)
    assert missed("rand-k-biased:0.5:float32", values) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("distribution", "share"),
    [("uniform", 0.207), ("normal", 0.124), ("exponential", 0.069), ("student-3", 0.031)],
)
def test_how_few_elements_hold_half_of_it(distribution: str, share: float) -> None:
    values = drawn(distribution, COUNT)
    assert missed(f"topk:{share}:float32", values) == pytest.approx(0.5, abs=0.012)


def test_uniform_order_statistics() -> None:
    count, kept = 50, 10
    # The expected ratio is that of the expectations, up to 1/d.
    errors = [missed("topk:0.2:float32", drawn("uniform", count, seed)) for seed in range(400)]
    share = kept / count
    rest = 1 - share
    exact = rest * (1 - kept / (count + 1)) * (1 - kept / (count + 2))
    assert float(np.mean(errors)) == pytest.approx(exact, rel=0.02)


def test_exponential_order_statistics() -> None:
    count, kept = 1000, 100
    # The i-th smallest of d has the mean S1 and the variance S2: sums over 1 / (d − j + 1).
    steps = 1 / np.arange(count, 0, -1)
    squares = np.cumsum(steps) ** 2 + np.cumsum(steps**2)
    exact = squares[:-kept].sum() / squares.sum()
    errors = [missed("topk:0.1:float32", drawn("exponential", count, seed)) for seed in range(200)]
    assert float(np.mean(errors)) == pytest.approx(exact, rel=0.02)
