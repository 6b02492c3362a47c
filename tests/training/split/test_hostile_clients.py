"""Clients that lie, or do not fit: each is told so, and harms nobody but itself."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio

from p2p import (
    RefusedError,
    RemoteError,
    StreamBroken,
)
from p2p.testing import SimNetwork, run_sim
from tests.training.split.raw import (
    LIMIT_BYTES,
    ROWS,
    WIDTH,
    Call,
    activations,
    cross_entropy,
    forward,
    halves,
    honest_hello,
    labels,
    raw_call,
)
from tests.training.split.world import (
    batches,
    make_model,
    open_world,
)
from training.errors import SplitFailed
from training.split import SplitServerConfig, cut
from training.split.schema import (
    AskTurn,
    Bye,
    Evaluate,
    Gradient,
    Output,
    OutputGradient,
    Turn,
)

Attack = Callable[[Call], Awaitable[None]]


def refusal_of(
    attack: Attack, *, at: int | tuple[int, int] = 2, hello: dict[str, Any] | None = None
) -> str:
    """What a liar is told; meanwhile, and afterwards, somebody honest trains."""
    parts, served = halves(at), halves(at)
    told: list[str] = []

    async def main(network: SimNetwork) -> None:
        loss = cross_entropy if parts.is_u_shaped else None
        async with (
            open_world(
                network, served, config=SplitServerConfig(message_bytes_max=LIMIT_BYTES)
            ) as world,
            world.client(parts, loss=loss) as honest,
            world.node_of("liar") as node,
        ):
            await honest.step(*batches(1)[0])
            with pytest.raises((RefusedError, RemoteError)) as caught:
                async with raw_call(world, node, honest_hello(parts, **(hello or {}))) as call:
                    await attack(call)
                    while await call.receive() is not None:
                        pass
            told.append(str(caught.value))
            assert world.service.progress.clients == 1
            for inputs, truth in batches(3):
                await honest.step(inputs, truth)

    run_sim(1, main)
    return told[0]


async def send_twice(call: Call) -> None:
    await call.send(forward(), activations() + labels())
    await call.receive()
    await call.send(forward(), activations() + labels())


async def send_later_one_first(call: Call) -> None:
    await call.send(forward(2), activations() + labels())


async def send_beyond_window(call: Call) -> None:
    # With two cuts each step waits for the client.
    for number in (1, 2):
        message = forward(number, label_dtype="")
        await call.send(message, activations())


async def send_nan(call: Call) -> None:
    await call.send(forward(), activations(float("nan")) + labels())


async def send_infinity(call: Call) -> None:
    await call.send(forward(), activations(float("inf")) + labels())


async def send_infinity_to_evaluate(call: Call) -> None:
    await call.send(Evaluate(1, ROWS), activations(float("-inf")))


async def send_too_little(call: Call) -> None:
    await call.send(forward(values_bytes=ROWS * WIDTH * 8 - 8), activations()[8:] + labels())


async def send_nothing(call: Call) -> None:
    await call.send(forward())


async def send_too_much(call: Call) -> None:
    await call.send(forward(values_bytes=2 * ROWS * WIDTH * 8), 2 * activations() + labels())


async def send_more_than_announced(call: Call) -> None:
    await call.send(forward(), activations() + labels() + b"more")


async def send_too_many_rows(call: Call) -> None:
    await call.send(forward(rows=100_000), activations() + labels())


async def send_huge(call: Call) -> None:
    with contextlib.suppress(StreamBroken):
        await call.send(forward(), bytes(LIMIT_BYTES + 1))


async def send_unknown_class(call: Call) -> None:
    await call.send(forward(), activations() + labels(4))


async def send_no_labels(call: Call) -> None:
    await call.send(forward(label_dtype=""), activations())


async def send_odd_labels(call: Call) -> None:
    await call.send(forward(label_shape=(3,)), activations() + 3 * labels())


async def send_gradient_unasked(call: Call) -> None:
    await call.send(OutputGradient(1), b"")


async def send_hello_again(call: Call) -> None:
    await call.send(honest_hello(halves()))


async def ask_for_a_turn(call: Call) -> None:
    await call.send(AskTurn(1))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (send_twice, "invalid: request 1 was sent before; 2 is due"),
        (send_later_one_first, "invalid: request 2 came where 1 was due"),
        (send_nan, "invalid: activations of party 0: values that are not finite"),
        (send_infinity, "invalid: activations of party 0: values that are not finite"),
        (send_infinity_to_evaluate, "invalid: activations of party 0: values that are not finite"),
        (send_too_little, "invalid: activations of party 0: 152 bytes of values where 160 were"),
        (send_nothing, "invalid: 0 bytes where 176 were due"),
        (send_too_much, "invalid: 320 bytes of activations where at most 160 were due"),
        (send_more_than_announced, "invalid: 180 bytes where 176 were due"),
        (send_too_many_rows, "invalid: 100000 samples where at most 819 are taken"),
        (send_huge, "over the limits"),
        (send_unknown_class, "invalid: a label is not one of the 4 classes"),
        (send_no_labels, "invalid: labels from one who sends none, or none from one who does"),
        (send_odd_labels, "failed: the server's part of the model could not compute this batch"),
        (send_gradient_unasked, "invalid: no gradient of the output of request 1 was due"),
        (send_hello_again, "invalid: Hello within a session"),
        (ask_for_a_turn, "invalid: no turn can begin or end now"),
    ],
)
def test_a_lying_client_is_told_and_the_server_lives_on(attack: Attack, said: str) -> None:
    assert said in refusal_of(attack)


async def answer_with_nan(call: Call) -> None:
    await call.send(forward(label_dtype=""), activations())
    received = await call.receive()
    assert received is not None
    assert isinstance(received[0], Output)
    await call.send(OutputGradient(1), bytes(len(received[1]) - 8) + b"\xff" * 8)


async def answer_twice(call: Call) -> None:
    await call.send(forward(label_dtype=""), activations())
    received = await call.receive()
    assert received is not None
    for _ in range(2):
        await call.send(OutputGradient(1), bytes(len(received[1])))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (send_beyond_window, "invalid: request 2 is beyond the window of 1"),
        (answer_with_nan, "invalid: values that are not finite"),
        (answer_twice, "invalid: no gradient of the output of request 1 was due"),
        (send_nan, "invalid: labels from one who sends none, or none from one who does"),
    ],
)
def test_a_lying_client_with_the_labels_is_told(attack: Attack, said: str) -> None:
    assert said in refusal_of(attack, at=(2, 4))


def test_what_goes_wrong_in_the_servers_own_code_stays_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        said = refusal_of(send_odd_labels)
    assert "split_body_failed" in caplog.text
    assert "target" not in said


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"cut_shape": (11,)}, "cut-differs", r"\(11,\) for each sample, where the server takes"),
        ({"model_hash": bytes(32)}, "model-differs", "has the hash 000000000000, the server's"),
        ({"label_side": "client"}, "labels-differ", "with the client, and here .* the server"),
        ({"output_shape": (4,)}, "cut-differs", r"outputs of \(4,\) for each sample"),
        ({"dtype": "float32"}, "dtype-differs", "in float32, the server in float64"),
        ({"codec": "float32x"}, "codec-unknown", "there is no codec 'float32x'"),
        ({"window": 9}, "window", "wants 9 steps at once where 8 are allowed"),
        ({"party": 1}, "taken", "there are 1 parties"),
        ({"brings_labels": False}, "labels-differ", "a client alone must have the labels"),
        ({"completed": 3}, "invalid", "3 answers cannot be what the client has"),
    ],
)
def test_a_client_that_does_not_fit_is_told_why(
    changes: dict[str, Any], code: str, said: str
) -> None:
    parts = halves()

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts) as world, world.node_of("liar") as node:
            with pytest.raises(RefusedError, match=said) as caught:
                async with raw_call(world, node, honest_hello(parts, **changes)):
                    pass
            assert caught.value.code == code
            assert world.service.progress.clients == 0

    run_sim(1, main)


def test_the_clients_error_says_what_to_do() -> None:
    parts, other = halves(), cut(make_model(), 3, example=batches(1)[0][0])

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts) as world:
            with pytest.raises(
                SplitFailed, match="cut the model at the same layers on both"
            ) as one:
                async with world.client(other):
                    pass
            assert one.value.code == "cut-differs"

    run_sim(1, main)


def test_nobody_else_can_go_on_with_a_session() -> None:
    parts = halves()

    async def main(network: SimNetwork) -> None:
        async with (
            open_world(network, parts) as world,
            world.node_of("alice") as alice,
            world.node_of("mallory") as mallory,
        ):
            hello = honest_hello(parts)
            async with raw_call(world, alice, hello) as call:
                stolen = msgspec.structs.replace(hello, resumes=True)
                with pytest.raises(RefusedError, match="not yours"):
                    async with raw_call(world, mallory, stolen):
                        pass
                await call.send(forward(), activations() + labels())
                received = await call.receive()
                assert received is not None
                assert isinstance(received[0], Gradient)
                await call.send(Bye())

    run_sim(1, main)


def test_places_are_limited() -> None:
    parts = halves()
    config = SplitServerConfig(sessions_max=3, sessions_per_peer_max=2)

    async def main(network: SimNetwork) -> None:
        async with (
            open_world(network, parts, config=config) as world,
            world.node_of("alice") as alice,
            world.node_of("bob") as bob,
            raw_call(world, alice, honest_hello(parts)),
            raw_call(world, alice, honest_hello(parts)),
        ):
            with pytest.raises(RefusedError, match="this peer has 2 sessions"):
                async with raw_call(world, alice, honest_hello(parts)):
                    pass
            async with raw_call(world, bob, honest_hello(parts)):
                with pytest.raises(RefusedError, match="3 clients are here"):
                    async with raw_call(world, bob, honest_hello(parts)):
                        pass

    run_sim(1, main)


def test_a_turn_that_is_not_used_is_taken_away() -> None:
    parts = halves()
    config = SplitServerConfig(client_weights="server", turn_idle_s=20)

    async def main(network: SimNetwork) -> None:
        async with (
            open_world(network, parts, config=config) as world,
            world.node_of("idler") as idler,
            world.node_of("bob") as bob,
            raw_call(world, bob, honest_hello(parts)) as waiting,
        ):
            with pytest.raises(RefusedError, match="nothing was done in this turn for 20 s"):
                async with raw_call(world, idler, honest_hello(parts)) as idle:
                    await idle.send(AskTurn(1))
                    await idle.receive()
                    await waiting.send(AskTurn(1))
                    # As long as something is done, it goes on.
                    for number in (2, 3, 4):
                        await trio.sleep(15)
                        await idle.send(forward(number), activations() + labels())
                        await idle.receive()
                    begun_s = trio.current_time()
                    await idle.receive()
            assert trio.current_time() - begun_s == pytest.approx(20, abs=1)
            received = await waiting.receive()
            assert received is not None
            assert isinstance(received[0], Turn)
            assert received[0].version == 0

    run_sim(1, main)


def test_a_second_turn_cannot_be_asked_for_in_the_first() -> None:
    parts = halves()
    config = SplitServerConfig(client_weights="peers")

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts, config=config) as world, world.node_of("liar") as one:
            with pytest.raises(RefusedError, match="has its turn already"):
                async with raw_call(world, one, honest_hello(parts)) as call:
                    await call.send(AskTurn(1))
                    await call.receive()
                    await call.send(AskTurn(2))
                    await call.receive()
            assert world.service.turns.holder is None

    run_sim(1, main)


def test_the_server_holds_no_more_than_it_may() -> None:
    served = halves((2, 4))
    batch_bytes = ROWS * WIDTH * 8
    config = SplitServerConfig(held_bytes_max=3 * batch_bytes)

    async def main(network: SimNetwork) -> None:
        async with (
            open_world(network, served, config=config) as world,
            world.node_of("liar") as one,
        ):
            with pytest.raises(RefusedError, match="holds as many activations as it may"):
                async with raw_call(world, one, honest_hello(served, window=8)) as call:
                    for number in range(1, 5):
                        await call.send(forward(number, label_dtype=""), activations())
                    while await call.receive():
                        pass
            # They are gone with the session.
            async with world.client(served, loss=cross_entropy) as honest:
                inputs, truth = batches(1)[0]
                await honest.step(inputs[:3], truth[:3])

    run_sim(1, main)
