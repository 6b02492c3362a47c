"""The flat vector as floating-point numbers on the wire: cut in runs of one dtype, rounded."""

from __future__ import annotations

import itertools
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from averaging.memory import MEMORY
from p2p import MessageInvalid

Array = np.ndarray[Any, Any]
Payload = bytes | bytearray | memoryview
Span = tuple[int, int]
"""The elements from the first number on, before the second."""

ITEM_SIZE_BYTES: Final = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""What a tensor may be and what may travel; wide ones first, so that all values lie aligned."""


@dataclass(frozen=True)
class Run:
    """Elements start to stop of the flat vector, which travel as one dtype."""

    start: int
    stop: int
    dtype_name: str


class FloatingWire:
    """Turns parts of one flat vector into bytes, little endian, and back.

    Values are rounded to the nearest, ties to even, to the same bits on every machine. What a dtype
    cannot hold becomes infinite. A NaN stays one, but its sign and its spare bits may change.

    Everything here is pure and may run in a worker thread. 16-bit floats are converted by PyTorch,
    ten times faster than by numpy and to the same bits; so a wire that has any loads it.

    Args:
        runs: without a gap from element 0 to the end of the vector.
        dtype: of the flat vector.
    """

    def __init__(self, runs: Sequence[Run], dtype: np.dtype[Any]) -> None:
        stop = 0
        for run in runs:
            if run.start != stop or run.stop <= run.start:
                raise ValueError(f"a run must begin where the last ended, and not be empty: {run}")
            if run.dtype_name not in ITEM_SIZE_BYTES:
                raise ValueError(f"{run.dtype_name} cannot be sent; {', '.join(ITEM_SIZE_BYTES)}")
            stop = run.stop
        self.runs = tuple(runs)
        self.dtype = np.dtype(dtype)
        # Numpy makes a dtype's name anew each time, which takes as long as reading a small part.
        self._dtype_name = self.dtype.name
        self.element_count = stop
        self._starts = [run.start for run in runs]
        sizes = [_size_bytes(run) for run in runs]
        self._offsets = [0, *itertools.accumulate(sizes)]
        if any(ITEM_SIZE_BYTES[run.dtype_name] == 2 for run in runs):
            # Now, because loading it takes seconds, which a round does not have.
            from averaging import torch_tensors  # noqa: F401

    def size_bytes(self, start: int, stop: int) -> int:
        """What elements start to stop take on the wire."""
        assert 0 <= start <= stop <= self.element_count
        return self._offset_bytes(stop) - self._offset_bytes(start)

    def _offset_bytes(self, element: int) -> int:
        """What all elements before this one take."""
        index = bisect_right(self._starts, element) - 1
        if index < 0:
            return 0
        run = self.runs[index]
        return self._offsets[index] + (element - run.start) * ITEM_SIZE_BYTES[run.dtype_name]

    def size_limit_bytes(self, start: int, stop: int) -> int:
        """What elements start to stop take at most: always as much."""
        return self.size_bytes(start, stop)

    def chunk_limit_bytes(self, count: int) -> int:
        """What any so many elements in a row take at most."""
        widest = max((ITEM_SIZE_BYTES[run.dtype_name] for run in self.runs), default=0)
        return min(count, self.element_count) * widest

    def fits(self, size_bytes: int, start: int, stop: int) -> bool:
        """Whether elements start to stop may take so many bytes."""
        return size_bytes == self.size_bytes(start, stop)

    def check_untrusted(self, payload: Payload, start: int, stop: int) -> None:
        """Raise MessageInvalid unless elements start to stop can be read from the payload."""
        self._check_size(payload, start, stop)

    def encode(self, flat: Array, start: int, stop: int) -> memoryview | bytes:
        """The bytes of flat[start:stop]; they change with the vector where it travels as it is.

        Args:
            flat: the whole vector, 1-D and contiguous.
        """
        assert flat.shape == (self.element_count,)
        return self.encode_values(flat[start:stop], start)

    def encode_values(self, values: Array, start: int) -> memoryview | bytes:
        """The bytes of these values, of which the first is element start of the vector.

        Args:
            values: 1-D and contiguous.
        """
        assert values.dtype == self.dtype
        encoded = [
            _encoded(values[run.start - start : run.stop - start], run.dtype_name)
            for run in self._cut(start, start + values.size)
        ]
        return encoded[0] if len(encoded) == 1 else b"".join(encoded)

    def decode(self, payload: Payload, start: int, stop: int) -> Array:
        """Elements start to stop in the vector's dtype; perhaps a read-only view of the payload.

        Raises:
            MessageInvalid: the payload has another size.
        """
        runs = list(self._cut(start, stop))
        if len(runs) == 1 and runs[0].dtype_name == self._dtype_name:
            self._check_size(payload, start, stop)
            return _stored(payload, self._dtype_name)
        values = MEMORY.empty(stop - start, self.dtype)
        self.decode_into(payload, start, values)
        return values

    def decode_into(self, payload: Payload, start: int, out: Array) -> None:
        """Overwrite out with the elements from start on, as many as it has room for.

        Args:
            out: 1-D, contiguous, writable, of the vector's dtype.

        Raises:
            MessageInvalid: the payload has another size; nothing is written then.
        """
        assert out.ndim == 1
        assert out.dtype == self.dtype
        stop = start + out.size
        self._check_size(payload, start, stop)
        rest = memoryview(payload)
        for run in self._cut(start, stop):
            size_bytes = _size_bytes(run)
            stored = _stored(rest[:size_bytes], run.dtype_name)
            part = out[run.start - start : run.stop - start]
            convert(stored, part, source_dtype=run.dtype_name)
            rest = rest[size_bytes:]

    def stored_in(self, payload: Array) -> Array | None:
        """The whole vector in the bytes that it travels as, if those are how it is stored.

        Args:
            payload: uint8, of all elements.
        """
        plain = all(run.dtype_name == self._dtype_name for run in self.runs)
        return payload.view(self.dtype) if plain and sys.byteorder == "little" else None

    def values_in(self, place: memoryview, start: int, stop: int) -> Array | None:
        """Elements start to stop where they travel, if they do so as they are stored.

        Args:
            place: of their size, writable; what is written to the values is written there.
        """
        runs = list(self._cut(start, stop))
        plain = all(run.dtype_name == self._dtype_name for run in runs)
        if not plain or sys.byteorder != "little":
            return None
        values: Array = np.frombuffer(place, self.dtype)
        return values if values.flags.aligned else None

    def _check_size(self, payload: Payload, start: int, stop: int) -> None:
        expected, size_bytes = self.size_bytes(start, stop), memoryview(payload).nbytes
        if size_bytes != expected:
            raise MessageInvalid(f"{size_bytes} bytes of values where {expected} were due")

    def _cut(self, start: int, stop: int) -> Iterator[Run]:
        """The runs between start and stop, cut off at both."""
        assert 0 <= start <= stop <= self.element_count
        index = bisect_right(self._starts, start) - 1
        while start < stop:
            run = self.runs[index]
            end = min(run.stop, stop)
            yield Run(start, end, run.dtype_name)
            start, index = end, index + 1


def convert(
    source: Array, out: Array, *, source_dtype: str | None = None, out_dtype: str | None = None
) -> None:
    """Overwrite out with the values of source, rounded once, to the nearest, ties to even.

    PyTorch does it where it is loaded, numpy elsewhere, to the same bits.

    Args:
        source, out: 1-D, contiguous, of one size; apart in memory, or one and the same.
        source_dtype, out_dtype: what they hold, if not what numpy calls it: bfloat16 in uint16.
    """
    source_dtype, out_dtype = source_dtype or source.dtype.name, out_dtype or out.dtype.name
    if source_dtype == "float64" and ITEM_SIZE_BYTES[out_dtype] == 2:
        source, source_dtype = rounded_to_odd(source), "float32"
    if source_dtype == out_dtype:
        if source is not out:
            out[...] = source
    elif "bfloat16" in (source_dtype, out_dtype) or "torch" in sys.modules:
        from averaging import torch_tensors

        torch_tensors.convert(source, source_dtype, out, out_dtype)
    else:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            out[...] = source


def rounded_to_odd(values: Array) -> Array:
    """float64 as float32, so that rounding once more, to 16 bits, is as if rounded only once.

    What float32 cannot hold goes to that one of its two neighbors whose last bit is 1; so it is
    never taken for a tie, nor for a number on the other side of one.

    Source: S. Boldo and G. Melquiond, "Emulation of FMA and correctly rounded sums: proved
    algorithms using rounding to odd", 2008.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        nearest = values.astype(np.float32)
        even = (nearest.view(np.uint32) & 1) == 0
        too_large = np.abs(nearest) > np.abs(values)
        too_small = np.abs(nearest) < np.abs(values)
    # Without the sign, floats are in the order of their bits.
    bits = nearest.view(np.uint32)
    bits -= even & too_large
    bits += even & too_small
    return nearest


def _size_bytes(run: Run) -> int:
    return (run.stop - run.start) * ITEM_SIZE_BYTES[run.dtype_name]


def _native(dtype_name: str) -> np.dtype[Any]:
    """How numpy stores it on this machine."""
    return np.dtype("uint16" if dtype_name == "bfloat16" else dtype_name)


def _encoded(values: Array, dtype_name: str) -> memoryview:
    native = _native(dtype_name)
    if values.dtype != native:
        converted = MEMORY.empty(values.size, native)
        convert(values, converted, out_dtype=dtype_name)
        values = converted
    return values.astype(native.newbyteorder("<"), copy=False).view(np.uint8).data


def _stored(payload: Payload, dtype_name: str) -> Array:
    """The payload's values as they are stored, aligned and in this machine's byte order."""
    native = _native(dtype_name)
    values = np.frombuffer(payload, native.newbyteorder("<")).astype(native, copy=False)
    return values if values.flags.aligned else values.copy()
