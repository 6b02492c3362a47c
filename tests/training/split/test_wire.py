"""Numbers as bytes; messages as they are recorded; where models are cut."""

from __future__ import annotations

import typing

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from averaging.codecs import registry
from averaging.codecs.codec import Codec, FrameInvalid
from p2p import Message, MessageInvalid, decode_untrusted, encode
from training.split import Parts, cut, pair, schema
from training.split.parts import architecture_hash
from training.split.passes import HeldPass, take_step
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


HELLO = schema.Hello(
    session=bytes(16),
    completed=2,
    resumes=True,
    model_hash=bytes(32),
    cut_shape=(16, 4),
    output_shape=(),
    dtype="float32",
    codec="int8",
    label_side="server",
    brings_labels=True,
    party=0,
    window=1,
    task_weight=1.0,
)
RECORDED: list[tuple[Message, str]] = [
    (
        HELLO,
        f"9ea568656c6c6fc410{16 * '00'}02c3c420{32 * '00'}9210049"
        "0a7666c6f61743332a4696e7438a6736572766572c30001cb3ff0000000000000",
    ),
    (
        schema.Forward(1, 2, 8, (), "int64", b"x"),
        "97a7666f727761726401020890a5696e743634c40178",
    ),
    (schema.OutputGradient(3), "92af6f75747075742d6772616469656e7403"),
    (schema.Evaluate(4, 5), "94a86576616c756174650405c400"),
    (schema.AskTurn(6), "92a861736b2d7475726e06"),
    (schema.EndTurn(7, bytes(32)), "94a8656e642d7475726e07c420" + 32 * "00" + "90"),
    (schema.Bye(), "91a3627965"),
    (schema.Welcome(2, 1, "own"), "94a777656c636f6d650201a36f776e"),
    (schema.Output(1, (4,)), "93a66f7574707574019104"),
    (schema.Gradient(1, 0.5), "93a86772616469656e7401cb3fe0000000000000"),
    (schema.Turn(6, 1, "peer", b"d"), "96a47475726e0601a470656572c4016490"),
    (schema.TurnEnded(7, 2), "93aa7475726e2d656e6465640702"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED, ids=lambda one: type(one).__name__)
def test_messages_are_the_bytes_that_were_recorded(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    kinds = typing.cast("type[Message]", schema.FromClient | schema.FromServer)
    assert decode_untrusted(encode(message), kinds, size_bytes_max=8192) == message


def test_all_messages_are_recorded() -> None:
    kinds = {*typing.get_args(schema.FromClient), *typing.get_args(schema.FromServer)}
    assert kinds == {type(message) for message, _ in RECORDED}


@given(st.binary(max_size=80))
def test_noise_is_no_message(noise: bytes) -> None:
    for kinds in (schema.FromClient, schema.FromServer):
        try:
            message = decode_untrusted(
                noise, typing.cast("type[Message]", kinds), size_bytes_max=80
            )
        except MessageInvalid:
            continue
        assert isinstance(message, kinds)


@pytest.mark.parametrize(
    "changes",
    [
        {"session": bytes(15)},
        {"cut_shape": (0,)},
        {"cut_shape": (1,) * 9},
        {"dtype": "int8"},
        {"window": 0},
        {"task_weight": 0.0},
        {"task_weight": 1.5},
        {"task_weight": float("nan")},
        {"party": 64},
    ],
)
def test_senseless_hellos_are_refused(changes: dict[str, object]) -> None:
    wrong = msgspec.structs.replace(HELLO, **changes)
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(wrong), schema.Hello, size_bytes_max=8192)


def test_cuts_and_what_they_are_told_by() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4), nn.Linear(4, 3))
    model.train()
    one, two = (cut(model, at, example=torch.zeros(1, 6)) for at in (2, (1, 3)))
    assert (one.cut_shapes, one.output_shape, one.is_u_shaped) == (((5,),), (), False)
    assert (two.cut_shapes, two.output_shape, two.is_u_shaped) == (((5,),), (4,), True)
    assert one.body is not None
    assert len(list(one.body.children())) == 2
    assert model.training
    assert one.model_hash != two.model_hash
    again = cut(model, 2, example=torch.ones(3, 6))
    assert again.model_hash == one.model_hash
    assert architecture_hash([nn.Dropout(0.5)]) != architecture_hash([nn.Dropout(0.1)])
    for at in (0, 4, (2, 2), (2, 4)):
        with pytest.raises(ValueError, match="leave a part of 4 layers empty"):
            cut(model, at, example=torch.zeros(1, 6))
    with pytest.raises(ValueError, match="2 fronts need as many examples"):
        pair([model, model], model, examples=[torch.zeros(1, 6)])
    for wrong in (
        {"cut_shapes": ()},
        {"cut_shapes": ((),)},
        {"cut_shapes": ((1,),), "fronts": (None, None)},
        {"cut_shapes": ((1,),), "model_hash": b"short"},
        {"cut_shapes": ((1,),), "tail": model},
    ):
        with pytest.raises(ValueError, match=r"must|need|has|says"):
            Parts(**wrong)  # type: ignore[arg-type]


def test_a_held_pass_remembers_its_parameters() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    inputs = torch.randn(4, 3)
    expected = torch.autograd.grad(module(inputs).sum(), list(module.parameters()))
    held = HeldPass(module, inputs, stash=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    module(inputs).pow(2).sum().backward()
    optimizer.step()
    _, gradients = held.gradients([held.output], [torch.ones(4, 1)])
    for (parameter, gradient), right in zip(gradients, expected, strict=True):
        assert gradient is not None
        assert torch.allclose(gradient, right)
        assert parameter.grad is not None
        assert not torch.equal(parameter.grad, gradient)
    take_step(optimizer, gradients)
    assert all(parameter.grad is gradient for parameter, gradient in gradients)


def test_what_has_no_parameters_gives_no_gradients() -> None:
    held = HeldPass(nn.Flatten(), torch.zeros(2, 3), stash=False)
    assert held.gradients([held.output], [torch.ones(2, 3)]) == ([], [])
    take_step(None, [])


def test_a_client_computes_a_small_part() -> None:
    """A small network like VGG, cut after its first block: counted, forward and backward."""

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    layers = [*block(3, 8), *block(8, 48), *block(48, 96), nn.Flatten(), nn.Linear(1536, 10)]
    model = nn.Sequential(*layers)
    inputs = torch.zeros(2, 3, 32, 32)
    counted = []
    for module in (cut(model, 5, example=inputs).fronts[0], model):
        assert module is not None
        with FlopCounterMode(display=False) as counter:
            module(inputs).sum().backward()
        counted.append(counter.get_total_flops())
    assert 0 < counted[0] / counted[1] < 0.1
