"""Targets of codecs that send every element: each family's decoder, on frames of liars."""

from __future__ import annotations

from collections.abc import Callable

import torch

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.registry import codec_named
from tests.fuzz.target import Target

FAMILIES = {
    "halves": ("float16", "bfloat16", "float16-scaled"),
    "uniform": ("int8", "int8-block:16", "int4-block:16"),
    "quantile": ("quantile8",),
    "geometric": ("natural", "rounding:4", "nearest:1.2", "dither:2,7", "dither:3,3,1"),
    "signs": ("sign", "onebit"),
}
COUNTS = (1, 9, 40)


def seed_of(names: tuple[str, ...], which: int, count: int) -> bytes:
    """Two bytes say which codec and how many elements; then a real frame."""
    values = torch.linspace(-1, 3, count)
    frame = codec_named(names[which]).encode(values, 1)
    return bytes([which, count, *frame.tolist()])


def run_of(names: tuple[str, ...]) -> Callable[[bytes], None]:
    """Decode with one of these codecs."""
    codecs = [codec_named(name) for name in names]

    def run(data: bytes) -> None:
        if len(data) < 2:
            return
        codec, count = codecs[data[0] % len(codecs)], max(1, data[1])
        frame = torch.tensor(list(data[2:]), dtype=torch.uint8)
        out = torch.empty(count)
        try:
            codec.decode(frame, out)
        except FrameInvalid:
            return
        assert frame.numel() <= codec.size_limit_bytes(count)
        assert bool(torch.isfinite(out).all())
        # What was decoded can be sent on.
        codec.encode(out, 0)

    return run


TARGETS = tuple(
    Target(
        name=f"quantizers.{family}",
        run=run_of(names),
        seeds=[seed_of(names, which, count) for which in range(len(names)) for count in COUNTS],
    )
    for family, names in FAMILIES.items()
)
