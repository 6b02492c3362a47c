"""Servers that lie, and messages that are too large: nothing changes, and it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from torch import nn

from p2p import (
    MessageInvalid,
    RefusedError,
    RpcService,
)
from p2p.testing import SimNetwork, run_sim
from tests.training.split.raw import (
    LIMIT_BYTES,
    WIDTH,
    Call,
    halves,
    honest_hello,
)
from tests.training.split.world import (
    RUN,
    batches,
    copies,
    gap,
    open_world,
    optimizer_of,
)
from training.errors import SplitFailed
from training.split import Parts, SplitClientConfig, SplitServerConfig
from training.split.front import FrontOptions, FrontTrainer
from training.split.schema import (
    MAJOR,
    PAYLOAD_BYTES_MAX,
    Gradient,
    Output,
    Welcome,
    session_method,
    split_service_name,
)
from training.split.session import open_split_session
from training.split.wire import TensorWire

Lie = Callable[[Call], Awaitable[None]]
GRADIENT = 6 * WIDTH * 8


async def say_nan(call: Call) -> None:
    await call.send(Gradient(1, 0.5), bytes(GRADIENT - 8) + b"\xff" * 8)


async def say_too_much(call: Call) -> None:
    await call.send(Gradient(1, 0.5), bytes(GRADIENT + 8))


async def say_too_little(call: Call) -> None:
    await call.send(Gradient(1, 0.5), bytes(GRADIENT - 8))


async def say_something_else(call: Call) -> None:
    await call.send(Gradient(2, 0.5), bytes(GRADIENT))


async def say_an_output(call: Call) -> None:
    await call.send(Output(1, (4,)), bytes(6 * 4 * 8))


async def say_welcome_again(call: Call) -> None:
    await call.send(Welcome(0, 0, "own"))


async def refuse(call: Call) -> None:
    raise RefusedError("busy", "no room")


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (say_nan, "invalid"),
        (say_too_much, "order"),
        (say_too_little, "invalid"),
        (say_something_else, "order"),
        (say_an_output, "order"),
        (say_welcome_again, "order"),
        (refuse, "busy"),
    ],
)
def test_a_lying_server_is_noticed_and_changes_nothing(lie: Lie, code: str) -> None:
    parts = halves()
    before = copies(*parts.fronts)
    told: list[SplitFailed] = []

    async def pretend(call: Call) -> None:
        await call.send(Welcome(0, 0, "own"))
        await call.receive()
        await lie(call)
        await trio.sleep(1)

    async def main(network: SimNetwork) -> None:
        service = RpcService(split_service_name(RUN), MAJOR)
        service.stream(session_method(PAYLOAD_BYTES_MAX), pretend)
        options, config = FrontOptions(), SplitClientConfig(resume_s=5)
        wire = TensorWire("float64", "float64")
        front = parts.fronts[0]
        trainer = FrontTrainer(parts, optimizer_of(front), wire, options, stash=False)
        async with (
            network.open_node("liar") as liar,
            network.open_node("client") as node,
            service.serving(liar),
        ):
            node.add_addresses(liar.peer_id, liar.addresses)
            opening = open_split_session(
                node, RUN, liar.peer_id, honest_hello(parts), config, trainer.traffic
            )
            async with opening as session:
                with pytest.raises(SplitFailed) as caught:
                    frame = trainer.forward(1, *batches(1)[0], None)
                    event = await session.advance(frame, open_max=0)
                    assert event is not None
                    assert isinstance(event.message, Gradient)
                    trainer.gradient(1, event.payload, event.message.loss)
                told.append(caught.value)

    run_sim(1, main)
    assert told[0].code == code
    assert gap(copies(*parts.fronts), before) == 0


def test_batches_too_large_for_a_message_are_told_before_they_are_sent() -> None:
    parts = halves()

    async def main(network: SimNetwork) -> None:
        config = SplitClientConfig(message_bytes_max=WIDTH * 8 * 3 + 24)
        async with (
            open_world(network, parts) as world,
            world.client(parts, config=config) as client,
        ):
            inputs, truth = batches(1)[0]
            with pytest.raises(ValueError, match=r"over message_bytes_max.*smaller batch"):
                await client.step(inputs, truth)
            await client.step(inputs[:3], truth[:3])

    run_sim(1, main)


def test_outputs_too_large_for_a_message_are_told() -> None:
    parts = halves()
    wide = Parts(cut_shapes=parts.cut_shapes, body=nn.Linear(WIDTH, 5_000).double())

    async def main(network: SimNetwork) -> None:
        config = SplitServerConfig(message_bytes_max=LIMIT_BYTES)
        fitting = Parts(cut_shapes=parts.cut_shapes, fronts=parts.fronts)
        async with (
            open_world(network, wide, config=config) as world,
            world.client(fitting) as client,
        ):
            with pytest.raises(SplitFailed, match="output is larger than a message may be"):
                await client.predict(batches(1)[0][0])

    run_sim(1, main)


def test_bytes_of_another_size_are_no_values() -> None:
    with pytest.raises(MessageInvalid):
        TensorWire("float32", "float32").decode_untrusted(b"123", (1,))
