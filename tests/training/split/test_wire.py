"""Activations, gradients and labels as bytes."""

from __future__ import annotations

import pytest
import torch

from averaging.codecs import registry
from averaging.codecs.codec import Codec, FrameInvalid
from p2p import MessageInvalid
from training.split.wire import (
    NotFinite,
    TensorWire,
    decode_labels_untrusted,
    encode_labels,
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_floats_travel_as_they_are_named(name: str, dtype: str) -> None:
    torch.manual_seed(0)
    wire = TensorWire(name, dtype)
    values = torch.randn(3, 2, 5, dtype=getattr(torch, dtype))
    payload = wire.encode(values, 1)
    assert len(payload) == wire.size_limit_bytes(30) == 30 * getattr(torch, name).itemsize
    again = wire.decode_untrusted(payload, (3, 2, 5))
    assert again.dtype == values.dtype
    assert torch.equal(again, values.to(getattr(torch, name)).to(values.dtype))
    for wrong in (payload[:-1], bytes(payload) + b"x"):
        with pytest.raises(MessageInvalid):
            wire.decode_untrusted(wrong, (3, 2, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_does_not_travel(value: float) -> None:
    wire = TensorWire("float32", "float32")
    bad = torch.tensor([[1.0, value]])
    with pytest.raises(NotFinite, match="are not finite"):
        wire.encode(bad, 1)
    with pytest.raises(MessageInvalid, match="not finite"):
        wire.decode_untrusted(bad.numpy().tobytes(), (1, 2))
    with pytest.raises(NotFinite, match="too large for float16"):
        TensorWire("float16", "float32").encode(torch.tensor([1e5]), 1)
    with pytest.raises(MessageInvalid, match="not finite"):
        decode_labels_untrusted(bad.numpy().tobytes(), (2,), "float32")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_labels_travel_whole(dtype: torch.dtype) -> None:
    labels = torch.arange(12).reshape(4, 3).to(dtype)
    payload, shape, name = encode_labels(labels)
    assert shape == (3,)
    assert torch.equal(decode_labels_untrusted(payload, (4, *shape), name), labels)
    with pytest.raises(MessageInvalid, match="bytes of labels"):
        decode_labels_untrusted(payload, (5, 3), name)
    with pytest.raises(ValueError, match=r"labels of torch\.int32 cannot be sent"):
        encode_labels(labels.int())


class Halves(Codec):
    """Every second value, for itself and its neighbour; enough to see how codecs are used."""

    name = "halves"
    same_everywhere = True

    def encode(self, values: torch.Tensor, seed: int) -> torch.Tensor:
        return values[::2].contiguous().view(torch.uint8).clone()

    def decode(self, frame: torch.Tensor, out: torch.Tensor) -> None:
        if len(frame) != self.size_limit_bytes(len(out)):
            raise FrameInvalid(f"{len(frame)} bytes")
        out.copy_(frame.view(torch.float32).repeat_interleave(2)[: len(out)])

    def size_limit_bytes(self, count: int) -> int:
        return 4 * ((count + 1) // 2)


def test_codecs_are_used_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MAKERS, "halves", lambda detail: Halves())
    for dtype in ("float32", "float64"):
        wire = TensorWire("halves", dtype)
        values = torch.arange(6, dtype=getattr(torch, dtype)).view(3, 2)
        payload = wire.encode(values, 1)
        assert len(payload) == wire.size_limit_bytes(6) == 12
        again = wire.decode_untrusted(payload, (3, 2))
        assert again.dtype == values.dtype
        assert again.tolist() == [[0, 0], [2, 2], [4, 4]]
        with pytest.raises(MessageInvalid, match="no frame of halves: 8 bytes"):
            wire.decode_untrusted(payload[:8], (3, 2))
        with pytest.raises(MessageInvalid, match="not finite"):
            wire.decode_untrusted(b"\xff" * 12, (3, 2))
    with pytest.raises(ValueError, match="there is no codec 'thirds'"):
        TensorWire("thirds", "float32")


def test_int8_is_off_by_half_a_step_at_most() -> None:
    values = torch.linspace(-1, 1, 8192).view(64, 128)
    wire = TensorWire("int8", "float32")
    again = wire.decode_untrusted(wire.encode(values, 1), (64, 128))
    assert (again - values).abs().max() <= 0.5001 / 127


@pytest.mark.parametrize("name", ["topk:0.01", "adaptive-random", "rand-k:0.1"])
def test_codecs_that_leave_values_out_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} leaves values out"):
        TensorWire(name, "float32")
