"""The flat vector with its first elements in a codec's frames and the rest as floats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.floating import Array, FloatingWire, Payload, convert
from averaging.memory import MEMORY
from averaging.robust.norms import rough_square_sum
from p2p import MessageInvalid

_PROBE_ELEMENTS: Final = 4_096


class CodedWire:
    """Turns parts of one flat vector into bytes and back: frames of a codec first, then floats.

    A part has one frame at most, of the elements before `coded_count`; what is behind has a known
    size, so the frame needs no length. Everything here is pure and may run in a worker thread.

    Args:
        codec: of the elements before coded_count.
        coded_count: at most what the vector has.
        floating: how the elements from coded_count on travel; it covers the whole vector.
    """

    def __init__(self, codec: Codec, coded_count: int, floating: FloatingWire) -> None:
        if not 0 <= coded_count <= floating.element_count:
            raise ValueError(f"{coded_count} of {floating.element_count} elements cannot be coded")
        self.codec = codec
        self.coded_count = coded_count
        self.floating = floating
        self.dtype = floating.dtype
        self.element_count = floating.element_count

    def coded_in(self, start: int, stop: int) -> int:
        """How many of these elements are in a frame; they are the first ones."""
        return max(min(stop, self.coded_count) - start, 0)

    def size_limit_bytes(self, start: int, stop: int) -> int:
        """What elements start to stop take at most."""
        count = self.coded_in(start, stop)
        limit = self.codec.size_limit_bytes(count) if count else 0
        return limit + self.floating.size_bytes(start + count, stop)

    def chunk_limit_bytes(self, count: int) -> int:
        """What any so many elements in a row take at most."""
        floats = min(count, self.element_count - self.coded_count)
        if not self.coded_count:
            return self.floating.chunk_limit_bytes(floats)
        # The one or the other takes more: as many of it as there may be, and a frame has a head.
        return max(
            self.codec.size_limit_bytes(coded) + self.floating.chunk_limit_bytes(count - coded)
            for coded in (max(count - floats, 1), min(count, self.coded_count))
        )

    def fits(self, size_bytes: int, start: int, stop: int) -> bool:
        """Whether elements start to stop may take so many bytes."""
        count = self.coded_in(start, stop)
        least = self.floating.size_bytes(start + count, stop)
        if not count:
            return size_bytes == least
        return least < size_bytes <= self.size_limit_bytes(start, stop)

    def encode_values(self, values: Array, start: int, seed: int = 0) -> Payload:
        """The bytes of these values, of which the first is element start of the vector.

        Args:
            values: 1-D and contiguous, of the vector's dtype, finite as float32.
        """
        count = self.coded_in(start, start + len(values))
        return self.encode(as_float32(values[:count]), values[count:], start, seed)

    def encode(self, head: torch.Tensor, rest: Array, start: int, seed: int) -> Payload:
        """The same, of values whose coded part is float32 already.

        Args:
            head: what goes into the frame, 1-D, as many as coded_in() says.
            rest: the values behind it, of the vector's dtype.
        """
        if not len(head):
            return self.floating.encode_values(rest, start)
        return self._joined(self.codec.encode(head, seed), rest, start + len(head))

    def encode_measured(
        self, head: torch.Tensor, rest: Array, start: int, seed: int
    ) -> tuple[Payload, float] | None:
        """As encode(), with the sum of squares of what the bytes say, to four digits.

        None where a value is not finite, or what is said of one.
        """
        stop = start + len(head) + len(rest)
        squares = 0.0
        if len(head):
            measured = self.codec.encode_measured(head, seed)
            if measured is None:
                return None
            frame, squares = measured
            payload = self._joined(frame, rest, start + len(head))
        else:
            payload = self.floating.encode_values(rest, start)
        said = self.floating.decode(self.rest_of(payload, start, stop), start + len(head), stop)
        squares += rough_square_sum(said)
        return (payload, squares) if math.isfinite(squares) else None

    def encode_keeping_rest(
        self, head: torch.Tensor, rest: Array, start: int, seed: int
    ) -> Payload:
        """As encode(); what the frame does not say of the head is left there."""
        if not len(head):
            return self.floating.encode_values(rest, start)
        frame = self.codec.encode_keeping_rest(head, seed)
        return self._joined(frame, rest, start + len(head))

    def _joined(self, frame: torch.Tensor, rest: Array, start: int) -> Payload:
        """A frame, and the floats behind it, of which the first is element start."""
        if not len(rest):
            return frame.numpy().data
        # Writable, since PyTorch warns where memory is not.
        floats = self.floating.encode_values(rest, start)
        return bytearray().join([frame.numpy().data, floats])

    def decode(self, payload: Payload, start: int, stop: int) -> Array:
        """Elements start to stop in float32, or in the vector's dtype where that is wider.

        Raises:
            MessageInvalid: the payload is not what the codec and the floats make of so many.
        """
        values = MEMORY.empty(stop - start, np.result_type(self.dtype, np.float32))
        self.decode_into(payload, start, values)
        return values

    def decode_into(self, payload: Payload, start: int, out: Array) -> None:
        """Overwrite out with the elements from start on, as many as it has room for.

        Args:
            out: 1-D, contiguous, writable, of any dtype that can be averaged.

        Raises:
            MessageInvalid: the payload is not what the codec and the floats make of so many; out
                may be partly written.
        """
        stop = start + len(out)
        if not self.fits(memoryview(payload).nbytes, start, stop):
            raise MessageInvalid("a part of a wrong size")
        count = self.coded_in(start, stop)
        if count and out.dtype == np.float32:
            self.decode_head(payload, start, stop, torch.from_numpy(out[:count]))
        elif count:
            head = torch.empty(count, dtype=torch.float32)
            self.decode_head(payload, start, stop, head)
            convert(head.numpy(), out[:count])
        if count < len(out):
            rest = self.floating.decode(self.rest_of(payload, start, stop), start + count, stop)
            convert(rest, out[count:])

    def decode_head(self, payload: Payload, start: int, stop: int, out: torch.Tensor) -> None:
        """Overwrite out with what the frame of these elements says.

        Args:
            out: float32, 1-D, contiguous, of as many elements as coded_in() says, at least one.

        Raises:
            MessageInvalid: it is no frame of the codec.
        """
        with self._reading():
            self.codec.decode(self._frame_of(payload, start, stop), out)

    def rest_of(self, payload: Payload, start: int, stop: int) -> memoryview:
        """The floats behind the frame of these elements."""
        behind = self.floating.size_bytes(start + self.coded_in(start, stop), stop)
        whole = memoryview(payload)
        return whole[len(whole) - behind :]

    def _frame_of(self, payload: Payload, start: int, stop: int) -> torch.Tensor:
        whole = np.frombuffer(payload, np.uint8)
        return torch.from_numpy(whole[: len(whole) - len(self.rest_of(payload, start, stop))])

    def check_untrusted(self, payload: Payload, start: int, stop: int) -> None:
        """Raise MessageInvalid unless elements start to stop can be read from the payload.

        A result is agreed on by its bytes, so all must know beforehand that they can be read.
        """
        if not self.fits(memoryview(payload).nbytes, start, stop):
            raise MessageInvalid("a part of a wrong size")
        count = self.coded_in(start, stop)
        if count:
            with self._reading():
                self.codec.check(self._frame_of(payload, start, stop), count)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FrameInvalid as exc:
            raise MessageInvalid(f"no frame of {self.codec.name}: {exc}") from exc


def as_float32(values: Array) -> torch.Tensor:
    """The values as a tensor of float32; they share their memory where they are float32."""
    if values.dtype != np.float32:
        narrow = MEMORY.empty(len(values), np.float32)
        convert(values, narrow)
        values = narrow
    return torch.from_numpy(values)


def leaves_values_out(codec: Codec) -> bool:
    """Whether some values that are as large as the others come out as 0, as of sparse codecs."""
    values = torch.linspace(0.5, 1.0, _PROBE_ELEMENTS, dtype=torch.float32, device="cpu")
    decoded = torch.empty_like(values)
    codec.decode(codec.encode(values, 0), decoded)
    return bool((decoded == 0).any())
