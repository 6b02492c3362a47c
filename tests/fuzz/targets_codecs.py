"""Targets of codecs: each family's decoder, on frames of liars."""

from __future__ import annotations

from collections.abc import Callable

import torch

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.registry import codec_named
from tests.fuzz.target import Target

FAMILIES = {
    "plain": ("float32",),
    "halves": ("float16", "bfloat16", "float16-scaled"),
    "uniform": ("int8", "int8-block:16", "int4-block:16"),
    "quantile": ("quantile8",),
    "geometric": ("natural", "rounding:4", "nearest:1.2", "dither:2,7", "dither:3,3,1"),
    "signs": ("sign", "onebit"),
    "positions": ("topk:0.3", "gaussian-k:0.3", "topk:1:float32", "topk:0.5:dither:2,7"),
    "two-bits": ("sparse-loco:0.2",),
    "waves": ("demo:0.2",),
    "chance": ("rand-k:0.3", "rand-k-biased:0.3", "adaptive-random"),
}
COUNTS = (1, 9, 40, 200)


def seed_input(names: tuple[str, ...], which: int, count: int) -> bytes:
    """Two bytes say which codec and how many elements; then a real frame."""
    values = torch.linspace(-1, 3, count)
    frame = codec_named(names[which]).encode(values, 1)
    return bytes([which, count, *frame.tolist()])


def accepts(read: Callable[[], None]) -> bool:
    """Whether a frame can be read."""
    try:
        read()
    except FrameInvalid:
        return False
    return True


def run_of(names: tuple[str, ...]) -> Callable[[bytes], None]:
    """Decode with one of these codecs."""
    codecs = [codec_named(name) for name in names]

    def run(data: bytes) -> None:
        if len(data) < 2:
            return
        codec, count = codecs[data[0] % len(codecs)], max(1, data[1])
        frame = torch.tensor(list(data[2:]), dtype=torch.uint8)
        out = torch.empty(count)
        accepted = accepts(lambda: codec.decode(frame, out))
        assert accepts(lambda: codec.check(frame, count)) == accepted
        if not accepted:
            return
        assert frame.numel() <= codec.size_limit_bytes(count)
        assert bool(torch.isfinite(out).all())
        # What was decoded can be sent on.
        codec.encode(out, 0)

    return run


TARGETS = tuple(
    Target(
        name=f"codecs.{family}",
        run=run_of(names),
        seeds=[seed_input(names, which, count) for which in range(len(names)) for count in COUNTS],
    )
    for family, names in FAMILIES.items()
)
