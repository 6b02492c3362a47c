"""FloatingWire: its bytes, its rounding against a slow plain version, and wrong sizes."""

import math
import struct
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from averaging.codecs.floating import FloatingWire, Run, convert
from p2p import MessageInvalid

FLAT_DTYPES = ("float16", "float32", "float64")
WIRE_DTYPES = ("float64", "float32", "float16", "bfloat16")
SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

# Bits of a number, the exponent of the smallest step, the largest number.
FORMATS = {
    "float16": (11, -24, 65504.0),
    "bfloat16": (8, -133, float.fromhex("0x1.fep127")),
    "float32": (24, -149, float.fromhex("0x1.fffffep127")),
    "float64": (53, -1074, float.fromhex("0x1.fffffffffffffp1023")),
}

# At and beside ties, also of subnormals, and at the ends of the 16-bit formats.
DELICATE = [
    sign * math.ldexp(kept + spare, exponent)
    for sign in (1, -1)
    for kept in (1024, 1025, 1028, 1036, 2044, 2046, 2047)
    for spare in (0.0, 0.5 - 2**-13, 0.5, 0.5 + 2**-30, 0.5 + 2**-13)
    for exponent in (-159, -149, -143, -136, -35, -34, -24, -10, 5, 6, 117, 118)
]


def nearest(value: float, dtype: str) -> float:
    """The dtype's number nearest to the value, ties to even, one by one."""
    bits, step_min, largest = FORMATS[dtype]
    if value == 0 or not math.isfinite(value):
        return value
    step = max(math.frexp(value)[1] - bits, step_min)
    if abs(value) >= 2 * largest:
        return math.copysign(math.inf, value)
    rounded = math.copysign(math.ldexp(round(math.ldexp(abs(value), -step)), step), value)
    return rounded if abs(rounded) <= largest else math.copysign(math.inf, value)


def packed(value: float, dtype: str) -> bytes:
    """The wire's bytes of a value, by the standard library."""
    rounded = nearest(value, dtype)
    if dtype == "bfloat16":
        return struct.pack("<f", rounded)[2:]
    return struct.pack({"float16": "<e", "float32": "<f", "float64": "<d"}[dtype], rounded)


def unpacked(payload: bytes, dtype: str) -> float:
    """The value of the wire's bytes."""
    if dtype == "bfloat16":
        return float(struct.unpack("<f", bytes(2) + payload)[0])
    code = {"float16": "<e", "float32": "<f", "float64": "<d"}[dtype]
    return float(struct.unpack(code, payload)[0])


def whole(dtype: str, flat: np.ndarray) -> FloatingWire:
    """A wire that has one dtype from beginning to end."""
    return FloatingWire([Run(0, flat.size, dtype)], flat.dtype)


def without_torch(patch: pytest.MonkeyPatch) -> None:
    """Let numpy convert, as in a process that has not loaded PyTorch."""
    patch.delitem(sys.modules, torch.__name__)


@st.composite
def cases(draw: st.DrawFn) -> tuple[FloatingWire, np.ndarray, int, int]:
    """A wire with a few runs, a vector, and a piece of it."""
    runs, stop = [], 0
    for size in draw(st.lists(st.integers(1, 6), max_size=4)):
        runs.append(Run(stop, stop + size, draw(st.sampled_from(WIRE_DTYPES))))
        stop += size
    dtype = draw(st.sampled_from(FLAT_DTYPES))
    width = SIZES[dtype] * 8
    numbers = st.floats(allow_nan=False, width=width) | st.sampled_from(DELICATE)
    with np.errstate(over="ignore"):
        flat = np.array(draw(st.lists(numbers, min_size=stop, max_size=stop)), dtype)
    start = draw(st.integers(0, stop))
    return FloatingWire(runs, np.dtype(dtype)), flat, start, draw(st.integers(start, stop))


def dtypes_of(wire: FloatingWire) -> Sequence[str]:
    """The wire's dtype of each element."""
    return [run.dtype_name for run in wire.runs for _ in range(run.start, run.stop)]


@given(cases())
def test_bytes_are_those_of_the_plain_version(
    case: tuple[FloatingWire, np.ndarray, int, int],
) -> None:
    wire, flat, start, stop = case
    dtypes = dtypes_of(wire)[start:stop]
    values = [float(value) for value in flat[start:stop]]
    plain = b"".join(packed(*pair) for pair in zip(values, dtypes, strict=True))
    encoded = wire.encode(flat, start, stop)
    assert bytes(encoded) == plain
    assert wire.size_bytes(start, stop) == len(plain) == len(encoded)


@given(cases())
def test_decoded_values_are_those_of_the_plain_version(
    case: tuple[FloatingWire, np.ndarray, int, int],
) -> None:
    wire, flat, start, stop = case
    payload = bytes(wire.encode(flat, start, stop))
    sent = [
        nearest(float(value), dtype)
        for value, dtype in zip(flat[start:stop], dtypes_of(wire)[start:stop], strict=True)
    ]
    expected = np.array([nearest(value, flat.dtype.name) for value in sent], flat.dtype)
    decoded = wire.decode(payload, start, stop)
    assert decoded.dtype == flat.dtype
    assert decoded.tobytes() == expected.tobytes()
    out = np.full(stop - start + 2, 7, flat.dtype)
    wire.decode_into(memoryview(payload), start, out[1:-1])
    assert out.tolist() == [7, *expected.tolist(), 7]


def every_tie(dtype: str) -> np.ndarray:
    """float32: each number of a 16-bit dtype, what lies between, and the neighbors of that."""
    patterns = np.arange(2**15, dtype=np.uint32)
    if dtype == "bfloat16":
        numbers = (patterns << 16).view(np.float32)
    else:
        numbers = patterns.astype(np.uint16).view(np.float16).astype(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    # The last is between the largest number and what would come next; from it on all is infinite.
    largest = numbers[-1].astype(np.float64)
    following = np.append(numbers[1:].astype(np.float64), 2 * largest - numbers[-2])
    between = ((numbers + following) / 2).astype(np.float32)
    near = [np.nextafter(between, np.float32(end)) for end in (-np.inf, np.inf)]
    values = np.concatenate([numbers, between, *near])
    return np.concatenate([values, -values, np.array([np.inf, -np.inf], np.float32)])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_tie_goes_to_even(dtype: str) -> None:
    flat = every_tie(dtype)
    plain = b"".join(packed(value, dtype) for value in flat.tolist())
    assert bytes(whole(dtype, flat).encode(flat, 0, flat.size)) == plain
    # From float64 the same, and a hair beside a tie is no tie, though float32 does not see it.
    exact = flat[::5].astype(np.float64)
    with np.errstate(over="ignore"):
        beside = np.concatenate([exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf)])
    plain = b"".join(packed(value, dtype) for value in beside.tolist())
    assert bytes(whole(dtype, beside).encode(beside, 0, beside.size)) == plain


@pytest.mark.parametrize("flat_dtype", ["float32", "float64"])
def test_numpy_and_torch_convert_to_the_same_bits(
    flat_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = every_tie("float16").astype(flat_dtype)
    wire = whole("float16", flat)
    by_torch = bytes(wire.encode(flat, 0, flat.size))
    back_by_torch = wire.decode(by_torch, 0, flat.size).tobytes()
    without_torch(monkeypatch)
    assert bytes(wire.encode(flat, 0, flat.size)) == by_torch
    assert wire.decode(by_torch, 0, flat.size).tobytes() == back_by_torch


@pytest.mark.parametrize("converter", ["torch", "numpy"])
@pytest.mark.parametrize("out_dtype", FLAT_DTYPES)
@pytest.mark.parametrize("source_dtype", FLAT_DTYPES)
def test_any_bits_are_converted_as_numpy_casts_them(
    source_dtype: str, out_dtype: str, converter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if converter == "numpy":
        without_torch(monkeypatch)
    size = SIZES[source_dtype]
    random = np.frombuffer(np.random.default_rng(0).bytes(100_001 * size), source_dtype)
    with np.errstate(all="ignore"):
        source = np.concatenate([random, every_tie("float16").astype(source_dtype)])
        expected = source.astype(out_dtype)
    out = np.empty(source.size, out_dtype)
    convert(source, out)
    numbers = ~np.isnan(expected)
    assert out[numbers].tobytes() == expected[numbers].tobytes()
    assert np.isnan(out[~numbers]).all()


def test_what_is_converted_to_itself_stays() -> None:
    values = np.array([1.5, np.inf, 1e-300])
    convert(values, values)
    assert values.tolist() == [1.5, np.inf, 1e-300]


@pytest.mark.parametrize("flat_dtype", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_number_survives(dtype: str, flat_dtype: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    payload = patterns.astype("<u2").tobytes()
    wire = FloatingWire([Run(0, 2**16, dtype)], np.dtype(flat_dtype))
    decoded = wire.decode(payload, 0, 2**16)
    plain = np.array([unpacked(payload[i : i + 2], dtype) for i in range(0, 2**17, 2)])
    numbers = ~np.isnan(plain)
    assert decoded[numbers].tobytes() == plain[numbers].astype(flat_dtype).tobytes()
    assert np.isnan(decoded[~numbers]).all()
    encoded = np.frombuffer(wire.encode(decoded, 0, 2**16), "<u2")
    assert (encoded[numbers] == patterns[numbers]).all()


@pytest.mark.parametrize("flat_dtype", FLAT_DTYPES)
@pytest.mark.parametrize(
    ("dtype", "converter"),
    [*((dtype, "torch") for dtype in WIRE_DTYPES), ("float16", "numpy"), ("float32", "numpy")],
)
def test_nothing_infinite_or_not_a_number_becomes_a_number(
    dtype: str, flat_dtype: str, converter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if converter == "numpy":
        without_torch(monkeypatch)
    # More than one vector register's worth, and a rest: the two take different ways.
    flat = np.tile(np.array([np.nan, np.inf, -np.inf, -np.nan, 1], flat_dtype), 7)
    # A NaN of which only the last bit says so must not become infinite where bits are cut off.
    patterns = flat.view(f"u{flat.itemsize}")
    patterns[[0, 30]] = patterns[1] + 1
    wire = whole(dtype, flat)
    np.testing.assert_array_equal(wire.decode(wire.encode(flat, 0, 35), 0, 35), flat)


@pytest.mark.parametrize("converter", ["torch", "numpy"])
def test_what_is_too_large_becomes_infinite(
    converter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if converter == "numpy":
        without_torch(monkeypatch)
    flat = np.array([1e300, -1e300, 65519.99, 65520, 1e39], np.float64)
    wire = whole("float16", flat)
    assert wire.decode(wire.encode(flat, 0, 5), 0, 5).tolist() == [
        *(math.inf, -math.inf, 65504, math.inf, math.inf)
    ]
    # Wide numbers on the wire that the vector cannot hold are as bad.
    wide = FloatingWire([Run(0, 2, "float64")], np.dtype("float32"))
    assert wide.decode(struct.pack("<2d", 1e300, 1.5), 0, 2).tolist() == [math.inf, 1.5]


def test_recorded_bytes() -> None:
    runs = [Run(2 * i, 2 * i + 2, dtype) for i, dtype in enumerate(WIRE_DTYPES)]
    wire = FloatingWire(runs, np.dtype("float64"))
    flat = np.array([1 / 3, -2, 1 / 3, -2, 1 / 3, -2, 1 / 3, -2])
    assert bytes(wire.encode(flat, 0, 8)).hex() == (
        "555555555555d53f00000000000000c0"  # float64
        "abaaaa3e000000c0"  # float32
        "553500c0"  # float16
        "ab3e00c0"  # bfloat16
    )
    assert bytes(wire.encode(flat, 3, 7)).hex() == "000000c0553500c0ab3e"


def test_what_travels_as_it_is_is_not_copied() -> None:
    flat = np.arange(8, dtype=np.float32)
    wire = FloatingWire([Run(0, 6, "float32"), Run(6, 8, "float16")], flat.dtype)
    encoded = wire.encode(flat, 2, 5)
    assert isinstance(encoded, memoryview)
    assert encoded.format == "B"
    assert np.shares_memory(np.frombuffer(encoded, np.uint8), flat)
    payload = bytes(encoded)
    decoded = wire.decode(payload, 2, 5)
    assert np.shares_memory(decoded, np.frombuffer(payload, np.uint8))
    assert not np.shares_memory(np.frombuffer(wire.encode(flat, 5, 8), np.uint8), flat)


def test_what_travels_as_it_is_may_be_made_in_its_place() -> None:
    runs = [Run(0, 4, "float32"), Run(4, 6, "float16"), Run(6, 8, "float32")]
    wire = FloatingWire(runs, np.dtype("float32"))
    payload = bytearray(wire.size_bytes(1, 4))
    values = wire.values_in(memoryview(payload), 1, 4)
    assert values is not None
    values[:] = [1, 2, 3]
    np.testing.assert_array_equal(wire.decode(payload, 1, 4), [1, 2, 3])
    assert wire.values_in(memoryview(bytearray(wire.size_bytes(3, 5))), 3, 5) is None


@pytest.mark.parametrize("dtype", WIRE_DTYPES)
def test_payloads_at_odd_addresses(dtype: str) -> None:
    flat = np.array([1.5, -2, 0.25], np.float32)
    wire = whole(dtype, flat)
    payload = memoryview(b"x" + wire.encode(flat, 0, 3))[1:]
    assert wire.decode(payload, 0, 3).tolist() == [1.5, -2, 0.25]
    assert wire.decode(payload, 0, 3).flags.aligned


def test_an_empty_piece_has_no_bytes() -> None:
    flat = np.ones(3, np.float32)
    for wire, vector in (
        (whole("float32", flat), flat),
        (whole("float16", flat), flat),
        (FloatingWire([], np.dtype("float32")), flat[:0]),
    ):
        for at in range(vector.size + 1):
            assert wire.size_bytes(at, at) == 0
            assert bytes(wire.encode(vector, at, at)) == b""
            assert wire.decode(b"", at, at).shape == (0,)


@pytest.mark.parametrize("dtype", WIRE_DTYPES)
@pytest.mark.parametrize("change", [-1, 1, 2, 8])
def test_payloads_of_a_wrong_size_are_refused(dtype: str, change: int) -> None:
    wire = FloatingWire([Run(0, 4, dtype), Run(4, 8, "float16")], np.dtype("float32"))
    for start, stop in ((1, 4), (1, 6)):
        payload = bytes(wire.size_bytes(start, stop) + change)
        with pytest.raises(MessageInvalid, match="were due"):
            wire.decode(payload, start, stop)
        out = np.full(stop - start, 7, np.float32)
        with pytest.raises(MessageInvalid, match="were due"):
            wire.decode_into(payload, start, out)
        assert set(out.tolist()) == {7}


@pytest.mark.parametrize(
    "runs",
    [
        [Run(1, 2, "float32")],
        [Run(0, 2, "float32"), Run(3, 4, "float32")],
        [Run(0, 2, "float32"), Run(1, 4, "float32")],
        [Run(0, 0, "float32")],
        [Run(0, 2, "int8")],
    ],
)
def test_runs_that_do_not_make_a_vector_are_refused(runs: list[Run]) -> None:
    with pytest.raises(ValueError, match=r"must begin where|cannot be sent"):
        FloatingWire(runs, np.dtype("float32"))
