"""How long chunks may be: as long as messages carry them."""

from __future__ import annotations

import numpy as np
import pytest

from averaging.allreduce.partition import CHUNK_ELEMENTS, CHUNK_ELEMENTS_MAX
from averaging.allreduce.schema import PAYLOAD_BYTES_MAX
from averaging.codecs.coded import CodedWire
from averaging.codecs.coding import Coding, Wire
from averaging.codecs.floating import FloatingWire, Run
from averaging.codecs.registry import codec_named

COUNT = 1_000_000


def floats(*names: str, dtype: str = "float32") -> FloatingWire:
    """Equal runs of these dtypes."""
    size = COUNT // len(names)
    runs = [Run(size * i, size * (i + 1), name) for i, name in enumerate(names)]
    return FloatingWire(runs, np.dtype(dtype))


def coded(codec: str, coded_count: int, rest: FloatingWire) -> CodedWire:
    return CodedWire(codec_named(codec), coded_count, rest)


@pytest.mark.parametrize(
    ("wire", "longest"),
    [
        (floats("float16"), CHUNK_ELEMENTS_MAX),
        (floats("float32"), CHUNK_ELEMENTS_MAX // 2),
        (floats("bfloat16", "float32"), CHUNK_ELEMENTS_MAX // 2),
        (floats("float32", "float64", dtype="float64"), CHUNK_ELEMENTS),
        (coded("int8-block", COUNT, floats("float32")), CHUNK_ELEMENTS_MAX),
        (coded("topk:0.01", COUNT, floats("float32")), CHUNK_ELEMENTS_MAX),
        (coded("int8-block", COUNT - 10_000, floats("float32")), CHUNK_ELEMENTS_MAX),
        # A chunk of the rest alone would be larger than a message.
        (coded("int8-block", COUNT - 400_000, floats("float64", dtype="float64")), CHUNK_ELEMENTS),
    ],
)
def test_the_longest_chunk_fits_into_a_message(wire: Wire, longest: int) -> None:
    coding = Coding(up=wire, down=wire)
    assert coding.chunk_elements_max == longest
    assert coding.carries(longest)
    assert wire.chunk_limit_bytes(longest) <= PAYLOAD_BYTES_MAX


@pytest.mark.parametrize("coded_count", [0, 3, 100_000, COUNT])
def test_no_chunk_takes_more_than_the_limit(coded_count: int) -> None:
    wire = coded("int8-block", coded_count, floats("float16", "float32"))
    for length in (1, 4_096, CHUNK_ELEMENTS, CHUNK_ELEMENTS_MAX):
        limit = wire.chunk_limit_bytes(length)
        starts = {0, coded_count - length // 2, coded_count, COUNT - length}
        for start in starts:
            if 0 <= start <= COUNT - length:
                assert wire.size_limit_bytes(start, start + length) <= limit


def test_both_ways_must_carry_a_chunk() -> None:
    narrow = coded("int8-block", COUNT, floats("float32"))
    assert Coding(up=narrow, down=narrow).chunk_elements_max == CHUNK_ELEMENTS_MAX
    assert (
        Coding(up=narrow, down=floats("float64", dtype="float64")).chunk_elements_max
        == CHUNK_ELEMENTS
    )
