"""Secure sums with strangers and liars on the network: refused, or left out, and the rest go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import TensorSpec, open_secure_sum
from averaging.matchmaking import Group, open_matchmaking
from averaging.naming import service_name
from averaging.round_id import RoundId
from averaging.secure import schema
from averaging.secure.schema import LINK, SERVICE
from averaging.secure.session import Session
from p2p import Node, P2PError, PeerId, RefusedError, RpcCall, RpcClient, RpcService, rpc_client
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import group_of, simulated
from tests.averaging.secure.test_averager import CONFIG, Peers, open_peers

Lie = Callable[[RpcCall[Any, Any], Group], Awaitable[None]]
ELEMENTS = 1000


def client_of(node: Node) -> RpcClient:
    return rpc_client(node, service_name(SERVICE, "s"), schema.MAJOR)


async def send_parts_of_a_wrong_size(call: RpcCall[Any, Any], group: Group) -> None:
    await call.send(schema.Part(0, 0), bytes(6))


async def send_keys_of_somebody_else(call: RpcCall[Any, Any], group: Group) -> None:
    await call.send(schema.Keys(0, b"k" * 32, b"k" * 32, bytes(32), bytes(64)))


async def send_what_is_no_message(call: RpcCall[Any, Any], group: Group) -> None:
    await call._stream.send_all(b"\x00" * 64)


async def say_nothing(call: RpcCall[Any, Any], group: Group) -> None:
    return


async def send_a_sum_of_nothing(call: RpcCall[Any, Any], group: Group) -> None:
    await call.send(schema.SumPart(0, 0, 0))


async def send_an_end_without_its_sum(call: RpcCall[Any, Any], group: Group) -> None:
    await call.send(schema.SumEnd(0, 2, 2, bytes(32), bytes(32), bytes(64)))


async def send_orders(call: RpcCall[Any, Any], group: Group) -> None:
    await call.send(schema.SignNow(0))


async def lie_as_aggregator(node: Node, peers: Peers, what: Lie) -> None:
    """Join as the others do, and then do this with each member that brings its parts."""

    async def serve(call: RpcCall[Any, Any]) -> None:
        await what(call, None)  # type: ignore[arg-type]  # none of these looks at the group
        while await call.receive() is not None:
            pass

    service = RpcService(service_name(SERVICE, "s"), schema.MAJOR)
    service.stream(LINK, serve)
    async with service.serving(node):
        await lie(node, peers, say_nothing)


async def lie(node: Node, peers: Peers, what: Lie) -> None:
    """Join as the others do, and then do this with each aggregator."""
    spec = TensorSpec.of(peers.tensors[0])
    everyone = [one.peer_id for one in peers.nodes]
    async with open_matchmaking(
        node, "s", spec.hash, CONFIG.matchmaking(), element_count=spec.element_count + 1
    ) as matchmaking:
        group = await matchmaking.find_group(
            RoundId(0), weight_cap=1.0, expected=everyone, deadline_s=20.0
        )

        async def one(peer: PeerId) -> None:
            hello = schema.Hello(group.group_id)
            try:
                async with client_of(node).open(peer, LINK, hello, timeout_s=5.0) as call:
                    await what(call, group)
                    while await call.receive() is not None:
                        pass
            except P2PError:
                return

        async with trio.open_nursery() as nursery:
            for peer in group.aggregators:
                if peer != node.peer_id:
                    nursery.start_soon(one, peer)


@pytest.mark.parametrize(
    "what",
    [
        send_parts_of_a_wrong_size,
        send_keys_of_somebody_else,
        send_what_is_no_message,
        say_nothing,
    ],
)
@simulated
async def test_a_member_that_breaks_the_protocol_is_left_out(
    network: SimNetwork, what: Lie
) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4, elements=ELEMENTS)
        liar = peers.in_rank[2]
        honest = [number for number in range(4) if number != liar]

        async def do_lie() -> None:
            await lie(peers.nodes[liar], peers, what)

        await peers.run(during=do_lie, only=honest)
    peers.check_mean_of(honest)
    for number in honest:
        assert peers.outcomes[number].lost == (peers.nodes[liar].peer_id,)


@pytest.mark.parametrize("what", [send_a_sum_of_nothing, send_an_end_without_its_sum, send_orders])
@simulated
async def test_an_aggregator_that_breaks_the_protocol_is_left_out(
    network: SimNetwork, what: Lie
) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4, elements=ELEMENTS)
        liar = peers.in_rank[2]
        honest = [number for number in range(4) if number != liar]

        async def do_lie() -> None:
            await lie_as_aggregator(peers.nodes[liar], peers, what)

        await peers.run(during=do_lie, only=honest)
    peers.check_mean_of(honest)


@simulated
async def test_an_aggregator_whose_sums_are_not_what_it_signs_is_left_out(
    network: SimNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_up = Session._add_up_and_hash
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4, elements=ELEMENTS)
        liar = peers.in_rank[1]

        def add_up_wrongly(session: Session, span: int, survivors: Any) -> tuple[Any, bytes]:
            total, digest = add_up(session, span, survivors)
            if session.node is peers.nodes[liar]:
                total[0] += 1
            return total, digest

        monkeypatch.setattr(Session, "_add_up_and_hash", add_up_wrongly)
        await peers.run()
    honest = [number for number in range(4) if number != liar]
    peers.check_mean_of(honest)
    assert all(peers.outcomes[number].plans == 1 for number in honest)
    assert "left out by the coordinator" in peers.check_untouched(liar).reason


@simulated
async def test_strangers_and_second_streams_are_refused(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4, elements=ELEMENTS)
        *members, stranger = peers.nodes
        group = group_of(members, ELEMENTS + 1)
        refusals: dict[str, str] = {}

        async def ask(name: str, node: Node, hello: Any) -> None:
            client = client_of(node)
            with pytest.raises(RefusedError) as refused:
                async with client.open(members[0].peer_id, LINK, hello, timeout_s=5.0) as call:
                    await call.receive()
            refusals[name] = refused.value.code

        async def run(number: int) -> None:
            async with open_secure_sum(members[number], "s", CONFIG) as secure:
                if number == 2:
                    # The others wait for us meanwhile.
                    await trio.sleep(0.3)
                    await ask("stranger", stranger, schema.Hello(group.group_id))
                    await ask("second", members[1], schema.Hello(group.group_id))
                    await ask("no hello", members[1], schema.SignNow(0))
                vector = peers.vectors[number]
                result = await secure.run(group, vector, 1.0, trio.current_time() + 20)
                assert result.outcome == "success", result.reason
                np.testing.assert_allclose(
                    result.mean, np.mean(peers.vectors[:3], axis=0), atol=4e-7
                )
                with pytest.raises(ValueError, match="a group is run once"):
                    await secure.run(group, vector, 1.0, trio.current_time() + 20)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(run, number)
        async with open_secure_sum(members[0], "s", CONFIG):
            await ask("unknown", stranger, schema.Hello(bytes(32)))
    assert refusals == {
        "stranger": "not-found",
        "unknown": "not-found",
        "second": "busy",
        "no hello": "invalid",
    }


@simulated
async def test_groups_that_do_not_fit_are_refused(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 3, elements=ELEMENTS)
        vector = peers.vectors[0]
        secure = await stack.enter_async_context(open_secure_sum(peers.nodes[0], "s", CONFIG))
        auxiliary = [peers.nodes[2].peer_id]
        for group, given, reason in (
            (group_of(peers.nodes[:2], ELEMENTS + 1), vector, "3 to 64 members, not 2"),
            (group_of(peers.nodes, ELEMENTS), vector, "do not cover"),
            (group_of(peers.nodes, ELEMENTS + 1, auxiliary=auxiliary), vector, "no auxiliary"),
            (group_of(peers.nodes, ELEMENTS + 1), vector.astype(np.int32), "of floats"),
            (group_of(peers.nodes, ELEMENTS + 1), vector.reshape(2, -1), "flat vector"),
        ):
            with pytest.raises(ValueError, match=reason):
                await secure.run(group, given, 1.0, trio.current_time() + 5)


@simulated
async def test_too_few_before_anything_is_masked_try_again_without_the_lost(
    network: SimNetwork,
) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 5, elements=ELEMENTS)
        network.default_latency_s = 0.05
        victims = peers.in_rank[3:]
        survivors = sorted(peers.in_rank[:3])

        async def die() -> None:
            # Right after the group was formed, of which four are needed.
            await trio.sleep(0.15)
            for victim in victims:
                network.crash(peers.nodes[victim].peer_id)

        await peers.run(during=die)
    for number in survivors:
        report = peers.outcomes[number]
        assert report.outcome == "success", report
        assert report.attempts == 2
        assert set(report.lost) == {peers.nodes[victim].peer_id for victim in victims}
    peers.check_mean_of(survivors)
