"""Private sessions in a simulated network: results, limits, and peers that break the rules."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
import trio
from torch import nn

from p2p import Message, Node, RefusedError, RpcService, rpc_client
from p2p.testing import SimNetwork, run_sim
from training.privacy.inference import (
    InferenceConfig,
    PrivateInferenceFailed,
    classify_privately,
    compare_privately,
    fix_network,
    open_comparison_service,
    open_inference_service,
    schema,
)
from training.privacy.inference.schema import Ask, Offer, Part

torch.manual_seed(0)
NETWORK = fix_network(nn.Linear(4, 3))
FEATURES = np.array([[0.5, -1.0, 1.5, 0.0], [-0.25, 0.75, -2.0, 1.0]])
NONCE = bytes(schema.NONCE_SIZE_BYTES)
POINTS = bytes.fromhex("5866666666666666666666666666666666666666666666666666666666666666") * 2


@asynccontextmanager
async def two_nodes(network: SimNetwork) -> AsyncIterator[tuple[Node, Node]]:
    async with network.open_node("server") as server, network.open_node("client") as client:
        client.add_addresses(server.peer_id, server.addresses)
        yield server, client
    assert network.handler_errors == []


def test_a_client_learns_its_classes() -> None:
    async def main(network: SimNetwork) -> None:
        async with two_nodes(network) as (server, client):
            async with open_inference_service(server, NETWORK):
                for _ in range(2):
                    classes = await classify_privately(client, server.peer_id, FEATURES)
                    expected = NETWORK.classes(NETWORK.shape.fix_features(FEATURES))
                    assert classes.tolist() == expected.tolist()
            with pytest.raises(PrivateInferenceFailed):
                await classify_privately(client, server.peer_id, FEATURES)

    run_sim(1, main)


def test_two_numbers_are_compared() -> None:
    async def main(network: SimNetwork) -> None:
        async with two_nodes(network) as (server, client), open_comparison_service(server, 1000):
            for number, expected in ((999, -1), (1000, 0), (1001, 1)):
                assert await compare_privately(client, server.peer_id, number) == expected
            with pytest.raises(ValueError, match="64 bits"):
                await compare_privately(client, server.peer_id, 2**63)

    run_sim(1, main)


def test_limits_are_kept() -> None:
    async def main(network: SimNetwork) -> None:
        one = InferenceConfig(samples_max=1)
        small = InferenceConfig(bytes_max=1000)
        async with two_nodes(network) as (server, client):
            async with open_inference_service(server, NETWORK, one):
                with pytest.raises(PrivateInferenceFailed, match="too-many: at most 1 samples"):
                    await classify_privately(client, server.peer_id, FEATURES)
                with pytest.raises(PrivateInferenceFailed, match="would take"):
                    await classify_privately(client, server.peer_id, FEATURES[:1], small)
                with pytest.raises(ValueError, match="features must be from -2"):
                    await classify_privately(client, server.peer_id, 10 * FEATURES[:1])
                with pytest.raises(ValueError, match="of shape"):
                    await classify_privately(client, server.peer_id, FEATURES[:1, :2])
            async with open_inference_service(server, NETWORK, small):
                with pytest.raises(PrivateInferenceFailed, match="may take 1000 bytes"):
                    await classify_privately(client, server.peer_id, FEATURES[:1])
            large = fix_network(nn.Linear(2, schema.CLASSES_MAX + 1))
            with pytest.raises(ValueError, match="classes"):
                async with open_inference_service(server, large):
                    pass

    run_sim(1, main)


Steps = Callable[[Any], Awaitable[None]]


async def begun(client: Node, server: Node, steps: Steps, ask: Message) -> str:
    """What a server says to a client that does these steps after its first message."""
    rpc = rpc_client(client, schema.INFERENCE_SERVICE, schema.MAJOR)
    opened = rpc.open(server.peer_id, schema.CLASSIFY, ask, timeout_s=5)
    with pytest.raises(RefusedError) as refused:
        async with opened as call:
            await steps(call)
            while await call.receive() is not None:
                pass
    return str(refused.value)


async def nothing(call: Any) -> None:
    return None


def sending(*messages: tuple[Message, bytes]) -> Steps:
    async def steps(call: Any) -> None:
        for message, data in messages:
            await call.send(message, data)

    return steps


async def finish(call: Any) -> None:
    await call.finish_sending()


# A client's first part is two points.
CLIENTS: Sequence[tuple[Message, Steps, str]] = (
    (Part(0), nothing, "must begin"),
    (Ask(NONCE, 1), finish, "ended the session"),
    (Ask(NONCE, 1), sending((Part(0), bytes(64))), "a point is not"),
    (Ask(NONCE, 1), sending((Part(0), POINTS + b"x")), "a part of 65 bytes where 64 were due"),
    (Ask(NONCE, 1), sending((Part(0), POINTS[:9]), (Part(1), POINTS)), "where 55 were due"),
    (Ask(NONCE, 1), sending((Part(1), POINTS)), "something else than the next part"),
    (Ask(NONCE, 1), sending((Part(0), b"")), "something else than the next part"),
    (Ask(NONCE, 1), sending((Ask(NONCE, 1), b"")), "something else than the next part"),
    (Ask(NONCE, 1), nothing, "idle"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("ask", "steps", "cause"), CLIENTS)
def test_a_client_that_breaks_the_rules_is_told_so(ask: Message, steps: Steps, cause: str) -> None:
    async def main(network: SimNetwork) -> None:
        config = InferenceConfig(sessions_max=1)
        async with (
            two_nodes(network) as (server, client),
            open_inference_service(server, NETWORK, config),
        ):
            assert cause in await begun(client, server, steps, ask)
            # The one place for a session is free again.
            await classify_privately(client, server.peer_id, FEATURES)

    run_sim(1, main)


def test_a_client_that_goes_in_the_middle_leaves_its_place() -> None:
    async def main(network: SimNetwork) -> None:
        config = InferenceConfig(sessions_max=1)
        async with (
            two_nodes(network) as (server, client),
            open_inference_service(server, NETWORK, config),
        ):
            network.set_link(server.peer_id, client.peer_id, latency_s=1.0)
            for gone_after_s in (2.5, 4.5, 6.5):
                with trio.move_on_after(gone_after_s) as going:
                    await classify_privately(client, server.peer_id, FEATURES)
                assert going.cancelled_caught
                await trio.sleep(5)
            await classify_privately(client, server.peer_id, FEATURES)

    run_sim(1, main)


def test_more_sessions_than_allowed_are_refused() -> None:
    async def main(network: SimNetwork) -> None:
        config = InferenceConfig(sessions_max=1)
        async with (
            two_nodes(network) as (server, client),
            open_inference_service(server, NETWORK, config),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(begun, client, server, nothing, Ask(NONCE, 1))
            await trio.sleep(1)
            with pytest.raises(PrivateInferenceFailed, match="busy: 1 sessions"):
                await classify_privately(client, server.peer_id, FEATURES)

    run_sim(1, main)


OFFER = schema.offer_of(NONCE, NETWORK.shape)


async def silent(call: Any) -> None:
    await trio.sleep(1000)


SERVERS: Sequence[tuple[Steps, str]] = (
    (nothing, "did not say what it offers"),
    (sending((Part(0), b"")), "did not say what it offers"),
    (silent, "nothing for 30 s"),
    (sending((Offer(NONCE), b"")), "no layers"),
    (sending((schema.offer_of(NONCE, fix_network(nn.Linear(4, 3)).shape), b"")), "ended"),
    (sending((OFFER, b""), (Part(0), bytes(32 * 128))), "a point is not"),
    (sending((OFFER, b""), (Part(0), bytes(32 * 128 + 1))), "were due"),
    (sending((OFFER, b""), (Part(0), POINTS), (Part(2), POINTS)), "the next part"),
)


@pytest.mark.parametrize(("steps", "cause"), SERVERS)
def test_a_server_that_breaks_the_rules_is_named(steps: Steps, cause: str) -> None:
    async def main(network: SimNetwork) -> None:
        async with two_nodes(network) as (server, client):
            service = RpcService(schema.INFERENCE_SERVICE, schema.MAJOR)
            service.stream(schema.CLASSIFY, steps)
            async with service.serving(server):
                with pytest.raises(PrivateInferenceFailed, match=cause) as failed:
                    await classify_privately(client, server.peer_id, FEATURES)
                assert server.peer_id[-8:] in str(failed.value)

    run_sim(1, main)


@pytest.mark.parametrize(
    "config",
    [
        {"samples_max": 0},
        {"samples_max": schema.SAMPLES_MAX + 1},
        {"sessions_max": 0},
        {"bytes_max": 0},
        {"silence_s": 0.0},
    ],
)
def test_impossible_configs_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        InferenceConfig(**config)
