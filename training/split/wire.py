"""Activations, gradients and labels as bytes, and back, with every check that bytes need.

Shapes: N samples of a batch, … the shape of one sample.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from averaging.codecs.codec import Codec, FrameInvalid
from averaging.codecs.coded import leaves_values_out
from averaging.codecs.floating import ITEM_SIZE_BYTES, FloatingWire, Run
from averaging.codecs.registry import codec_named
from p2p import MessageInvalid
from training.split.schema import LabelDtype

Payload = bytes | bytearray | memoryview
Shape = tuple[int, ...]

_LABEL_DTYPES: dict[torch.dtype, LabelDtype] = {
    torch.int64: "int64",
    torch.float32: "float32",
    torch.float64: "float64",
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
_SEED_MAX = 2**63 - 1


class NotFinite(ValueError):
    """NaN or infinity where numbers were due, by themselves or once they are rounded."""


class TensorWire:
    """One way for batches to travel: as floating-point numbers, or through a codec.

    Args:
        name: float64, float32, float16 or bfloat16, or a codec of averaging.codecs that sends every
            value. Each batch is another one, so what a sparse codec left out would never be sent.
        dtype: float32 or float64, what the model computes in.

    Raises:
        ValueError: there is no such codec, or it is sparse.
    """

    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self.dtype = DTYPES[dtype]
        self._dtype_name = dtype
        self._codec: Codec | None = None if name in ITEM_SIZE_BYTES else codec_named(name)
        if self._codec is not None and leaves_values_out(self._codec):
            raise ValueError(
                f"{name} leaves values out, and in split learning nothing brings them later: "
                "choose a codec that sends all of them, such as int8 or int4-block"
            )

    def size_limit_bytes(self, count: int) -> int:
        """What so many elements take at most."""
        if self._codec is not None:
            return self._codec.size_limit_bytes(count)
        return count * ITEM_SIZE_BYTES[self.name]

    def encode(self, values: torch.Tensor, seed: int) -> Payload:
        """The bytes of a tensor of any shape on any device.

        Args:
            seed: for codecs that draw; the same bytes come of the same values and seed.

        Raises:
            NotFinite: a value is no number, or becomes none where the wire is narrower.
        """
        flat = values.detach().to("cpu", self.dtype).contiguous().view(-1)
        if not bool(torch.isfinite(flat).all()):
            raise NotFinite("are not finite")
        if self._codec is not None:
            frame = self._codec.encode(flat.float(), seed % _SEED_MAX)
            return frame.numpy().tobytes()
        wire = self._floating(flat.numel())
        # A copy, since the caller may go on to change what it gave.
        payload = bytes(wire.encode(flat.numpy(), 0, flat.numel()))
        if ITEM_SIZE_BYTES[self.name] == 2:
            back = wire.decode(payload, 0, flat.numel())
            if not np.isfinite(back).all():
                raise NotFinite(f"are too large for {self.name}")
        return payload

    def decode_untrusted(self, payload: Payload, shape: Shape) -> torch.Tensor:
        """A tensor (N, …) in the model's dtype, on the CPU, that shares no memory with others.

        Raises:
            MessageInvalid: another size than the shape's, or a value that is not finite.
        """
        count = math.prod(shape)
        if self._codec is not None:
            values = torch.empty(count, dtype=torch.float32)
            try:
                frame = torch.from_numpy(np.frombuffer(bytearray(payload), np.uint8))
                self._codec.decode(frame, values)
            except FrameInvalid as exc:
                raise MessageInvalid(f"no frame of {self.name}: {exc}") from exc
            values = values.to(self.dtype)
        else:
            array: np.ndarray[Any, Any] = np.empty(count, self._dtype_name)
            self._floating(count).decode_into(payload, 0, array)
            values = torch.from_numpy(array)
        if not bool(torch.isfinite(values).all()):
            raise MessageInvalid("values that are not finite")
        return values.view(shape)

    def _floating(self, count: int) -> FloatingWire:
        return FloatingWire([Run(0, count, self.name)], np.dtype(self._dtype_name))


def encode_labels(labels: torch.Tensor) -> tuple[Payload, Shape, LabelDtype]:
    """The bytes of labels (N, …), the shape of one label, and how they are stored.

    Raises:
        ValueError: labels of a kind that cannot be sent.
    """
    name = _LABEL_DTYPES.get(labels.dtype)
    if name is None:
        allowed = ", ".join(_LABEL_DTYPES.values())
        raise ValueError(f"labels of {labels.dtype} cannot be sent; convert them to {allowed}")
    array = labels.detach().cpu().contiguous().numpy()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.tobytes(), tuple(labels.shape[1:]), name


def labels_size_bytes(shape: Shape, dtype: str) -> int:
    """What labels of this whole shape (N, …) take; none are sent where the dtype is empty."""
    return math.prod(shape) * np.dtype(dtype).itemsize if dtype else 0


def decode_labels_untrusted(payload: Payload, shape: Shape, dtype: str) -> torch.Tensor:
    """Labels (N, …).

    Raises:
        MessageInvalid: another size than the shape's, or a value that is not finite.
    """
    if len(payload) != labels_size_bytes(shape, dtype):
        raise MessageInvalid(f"{len(payload)} bytes of labels")
    stored = np.frombuffer(payload, np.dtype(dtype).newbyteorder("<"))
    labels = torch.from_numpy(stored.astype(dtype)).view(shape)
    if labels.is_floating_point() and not bool(torch.isfinite(labels).all()):
        raise MessageInvalid("labels that are not finite")
    return labels
