"""Workers that send through a codec: what arrives, what is owed, and what is counted."""

from __future__ import annotations

import pytest
import torch

from averaging.codecs.registry import codec_named
from tools.bench.compression.uplinks import DENSE, Uplinks, missed, through

COUNT = 17_226
"""Parameters of the network whose training the paper on Gaussian_k is repeated with."""


def vectors(workers: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(COUNT, generator=generator) for _ in range(workers)]


def test_dense_is_the_mean_and_costs_four_bytes_each() -> None:
    sent = vectors(3)
    uplinks = Uplinks(DENSE, "none", 3, COUNT)
    torch.testing.assert_close(uplinks.mean(sent), torch.stack(sent).mean(0))
    assert uplinks.sent_bytes == 3 * 4 * COUNT
    assert uplinks.sent_bits_per_worker == 32 * COUNT


def test_frames_are_counted_as_they_are() -> None:
    values = vectors(1)[0]
    uplinks = Uplinks("topk:0.01", "ef", 1, COUNT, seed=5)
    uplinks.mean([values])
    frame = codec_named("topk:0.01").encode(values, 0)
    assert uplinks.sent_bytes == frame.numel()


def test_one_percent_takes_a_fiftieth_and_less() -> None:
    """Four bytes for a value and four for its place are a fiftieth; float16 halves it again."""
    values = vectors(1)[0]
    for name, times in (("topk:0.01:float32", 50), ("topk:0.01", 100)):
        frame = codec_named(name).encode(values, 0)
        assert 4 * COUNT / frame.numel() > times


def test_what_did_not_arrive_comes_later() -> None:
    first, second = vectors(2)
    uplinks = Uplinks("topk:0.01:float32", "ef", 1, COUNT)
    arrived = uplinks.mean([first])
    assert int(arrived.count_nonzero()) == 173
    torch.testing.assert_close(uplinks.compensated(0, second), second + first - arrived)
    lossy = Uplinks("topk:0.01:float32", "none", 1, COUNT)
    lossy.mean([first])
    assert torch.equal(lossy.compensated(0, second), second)


def test_ef21_comes_to_the_mean_of_what_stays() -> None:
    sent = vectors(3)
    uplinks = Uplinks("topk:0.2", "ef21", 3, COUNT)
    for _ in range(40):
        arrived = uplinks.mean(sent)
    torch.testing.assert_close(arrived, torch.stack(sent).mean(0), rtol=0, atol=1e-4)


def test_missed_is_what_the_codec_leaves() -> None:
    values = torch.tensor([3.0, -4.0, 0.0, 1.0])
    decoded = torch.empty(4)
    through(codec_named("topk:0.5:float32"), values, 0, decoded)
    assert missed(decoded, values) == pytest.approx(1 / 26)
