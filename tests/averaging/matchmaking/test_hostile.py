"""Leaders and members that break the rules harm nobody but themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from averaging.matchmaking import Join, schema
from averaging.matchmaking.group import (
    Group,
    form_group,
    join_on_wire,
    parse_group_untrusted,
    parse_join_untrusted,
    sign_join,
)
from averaging.matchmaking.keys import rank
from averaging.naming import service_name
from averaging.round_id import RoundId
from p2p import Node, PeerId, RefusedError, RpcCall, RpcService, rpc_client
from p2p.testing import SimNetwork
from tests.averaging.matchmaking.meeting import (
    GROUP_NAME,
    ROUND,
    SPEC_HASH,
    Member,
    check_one_group,
    find_all,
    ids,
    introduce,
    open_members,
)

Handler = Callable[[RpcCall[Any, Any]], Awaitable[None]]
SERVICE = service_name(schema.SERVICE, GROUP_NAME)
LEADERS: dict[PeerId, Node] = {}
"""The hostile node that each member of the running test meets."""


@asynccontextmanager
async def open_hostile_leader(
    network: SimNetwork, members: list[Member], handler: Handler
) -> AsyncIterator[tuple[Node, RoundId]]:
    """A node that answers JOINs as it likes, and a round in which it ranks first."""
    async with network.open_node("mallory") as node:
        introduce([node, *(member.node for member in members)])
        service = RpcService(SERVICE)
        service.stream(schema.JOIN, handler)
        rounds = (RoundId(3, bytes([number]) * 32) for number in range(256))
        everyone = [node.peer_id, *ids(members)]
        round_id = next(
            round_id
            for round_id in rounds
            if min(everyone, key=lambda peer: rank(round_id.parent, peer)) == node.peer_id
        )
        async with service.serving(node):
            yield node, round_id


def group_of(joins: Sequence[Join], span_elements: Sequence[int]) -> tuple[Group, bytes]:
    return form_group(
        joins,
        chunk_elements=1,
        span_elements=span_elements,
        deadline_s=1.0,
        attempt=0,
        previous=b"",
    )


async def answer_with_another_nonce(call: RpcCall[Any, Any]) -> None:
    join = parse_join_untrusted(call.request.join)
    altered = dataclasses.replace(join, nonce=b"other nonce 1234")
    _, body = group_of([altered], (1_000,))
    await call.send(schema.GroupFormed(body))


async def answer_with_its_group_without_us(call: RpcCall[Any, Any]) -> None:
    # Its own JOIN alone would be well signed; it leaves out ours.
    node = LEADERS[call.peer_id]
    join = parse_join_untrusted(call.request.join)
    own = sign_join(dataclasses.replace(join, peer_id=node.peer_id), node.identity.sign)
    _, body = group_of([own], (1_000,))
    parse_group_untrusted(body)
    await call.send(schema.GroupFormed(body))


async def _answer_with_spans(call: RpcCall[Any, Any], *span_elements: int) -> None:
    node = LEADERS[call.peer_id]
    join = parse_join_untrusted(call.request.join)
    own = dataclasses.replace(join, peer_id=node.peer_id, role="node", addresses=node.addresses)
    _, body = group_of([sign_join(own, node.identity.sign), join], span_elements)
    await call.send(schema.GroupFormed(body))


async def answer_with_spans_of_another_vector(call: RpcCall[Any, Any]) -> None:
    await _answer_with_spans(call, 500, 501)


async def answer_with_a_span_too_few(call: RpcCall[Any, Any]) -> None:
    await _answer_with_spans(call, 1_000)


async def answer_with_noise(call: RpcCall[Any, Any]) -> None:
    await call.send(schema.GroupFormed(b"noise"))


async def answer_with_the_wrong_message(call: RpcCall[Any, Any]) -> None:
    await call.send(schema.JoinRequest(call.request.join))


async def redirect_to_nonsense(call: RpcCall[Any, Any]) -> None:
    await call.send(schema.Redirect("nonsense"))


async def redirect_to_the_caller(call: RpcCall[Any, Any]) -> None:
    await call.send(schema.Redirect(call.peer_id))


async def refuse_with_a_wild_round(call: RpcCall[Any, Any]) -> None:
    wild = schema.round_on_wire(RoundId(2**50))
    await call.send(schema.Refuse("other-round", "ha", wild))


async def refuse_with_another_bucket(call: RpcCall[Any, Any]) -> None:
    await call.send(schema.Refuse("other-bucket", "ha", None, "0101"))


async def refuse_with_no_bucket(call: RpcCall[Any, Any]) -> None:
    await call.send(schema.Refuse("other-bucket", "ha", None, "0b"))


async def hang_up(call: RpcCall[Any, Any]) -> None:
    return


async def say_nothing(call: RpcCall[Any, Any]) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "handler",
    [
        answer_with_another_nonce,
        answer_with_its_group_without_us,
        answer_with_spans_of_another_vector,
        answer_with_a_span_too_few,
        answer_with_noise,
        answer_with_the_wrong_message,
        redirect_to_nonsense,
        redirect_to_the_caller,
        refuse_with_a_wild_round,
        refuse_with_another_bucket,
        refuse_with_no_bucket,
        hang_up,
        say_nothing,
    ],
)
async def test_members_do_without_a_hostile_leader(
    autojump_clock: MockClock, handler: Handler
) -> None:
    network = SimNetwork(6)
    async with (
        open_members(network, "alice", "bob", "carol") as members,
        open_hostile_leader(network, members, handler) as (mallory, round_id),
    ):
        for member in members:
            LEADERS[member.peer_id] = mallory
        await find_all(members, round=round_id, expected=[mallory.peer_id, *ids(members)])
        check_one_group(members)
        assert max(member.seconds for member in members) <= 1.5 + 5.0 + 1.0


async def test_a_join_of_somebody_else_is_refused(autojump_clock: MockClock) -> None:
    network = SimNetwork(7)
    async with open_members(network, "alice", "bob") as members:
        alice, bob = members
        stolen: list[schema.SignedJoin] = []

        async def steal(call: RpcCall[Any, Any]) -> None:
            stolen.append(call.request.join)

        async with open_hostile_leader(network, members, steal) as (mallory, round_id):
            await alice.find(round=round_id, expected=[mallory.peer_id], deadline_s=5.0)
            client = rpc_client(mallory, SERVICE)
            request = schema.JoinRequest(stolen[0])
            async with client.open(bob.peer_id, schema.JOIN, request, timeout_s=5.0) as call:
                with pytest.raises(RefusedError, match="somebody else"):
                    await call.receive()


async def test_noise_leaves_a_node_serving(autojump_clock: MockClock) -> None:
    network = SimNetwork(8)
    async with open_members(network, "alice", "bob") as members:
        alice, bob = members
        for size in (0, 1, 9, 1_000, 100_000):
            stream = await alice.node.open_stream(bob.peer_id, f"/manyhands/{SERVICE}/1")
            with trio.move_on_after(1.0):
                await stream.send_all(alice.node.rng.randbytes(size))
            stream.reset()
        bad_join = schema.JoinRequest(schema.SignedJoin(b"noise", b"x" * 64))
        client = rpc_client(alice.node, SERVICE)
        async with client.open(bob.peer_id, schema.JOIN, bad_join, timeout_s=5.0) as call:
            with pytest.raises(RefusedError, match="invalid"):
                await call.receive()
        await find_all(members)
        check_one_group(members)


async def test_members_that_hang_up_are_not_in_the_group(autojump_clock: MockClock) -> None:
    network = SimNetwork(9)
    async with (
        open_members(network, "alice", "bob") as members,
        network.open_node("mallory") as mallory,
    ):
        introduce([mallory, *(member.node for member in members)])
        alice, bob = members
        async with trio.open_nursery() as nursery:
            wishes = {"expected": [*ids(members), mallory.peer_id]}
            for member in members:
                nursery.start_soon(lambda member=member: member.find(**wishes))
            await trio.sleep(0.5)
            # Mallory serves nothing: it refuses invitations, and joins for a moment only.
            own = await _join_of(mallory)
            client = rpc_client(mallory, SERVICE)
            for member in members:
                with trio.move_on_after(0.3):
                    request = schema.JoinRequest(own)
                    peer_id = member.peer_id
                    async with client.open(peer_id, schema.JOIN, request, timeout_s=5.0) as call:
                        await call.receive()
        assert alice.group == bob.group


async def _join_of(node: Node) -> schema.SignedJoin:
    join = Join(
        peer_id=node.peer_id,
        group_name=GROUP_NAME,
        round=ROUND,
        spec_hash=SPEC_HASH,
        terms="",
        role="node",
        weight_cap=1.0,
        up_bytes_per_s=0,
        down_bytes_per_s=0,
        nonce=bytes(16),
        addresses=(),
        previous=b"",
        abandoned=False,
    )
    return join_on_wire(sign_join(join, node.identity.sign))
