"""Rounds of homomorphic sums between nodes: results, losses, refusals, liars."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from averaging.homomorphic import (
    ExtraMissing,
    HomomorphicSpec,
    SumConfig,
    SumFailed,
    SumMember,
    SumReport,
    open_sum_aggregator,
    open_sum_member,
    schema,
)
from averaging.homomorphic.parts import receive_parts, send_parts
from averaging.homomorphic.schema import Contribution, KeyRequest, ModulusAnswer, Part, Sum
from averaging.naming import service_name
from p2p import Node, PeerId, RefusedError, RpcService, open_node, rpc_client
from p2p.testing import SimNetwork, run_sim
from tests.averaging.homomorphic.keys import ckks_ciphertext

pytest.importorskip("tenseal")

GROUP = "run"
SPEC = HomomorphicSpec(elements=40)
NAMES = ("alice", "bob", "carol", "adder")
VECTORS = np.random.default_rng(1).uniform(-1000, 1000, (3, SPEC.elements))


@asynccontextmanager
async def nodes_of(network: SimNetwork) -> AsyncIterator[list[Node]]:
    """Three members and the aggregator, who know each other."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.open_node(name)) for name in NAMES]
        for node in nodes:
            for other in nodes:
                node.add_addresses(other.peer_id, other.addresses)
        yield nodes
    assert network.handler_errors == []


@asynccontextmanager
async def group(
    nodes: Sequence[Node], config: SumConfig | None = None
) -> AsyncIterator[list[SumMember]]:
    """All of them at work."""
    *members, adder = nodes
    ids = [node.peer_id for node in members]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_sum_aggregator(adder, GROUP, ids, SPEC, config))
        opened = []
        for node in members:
            member = open_sum_member(node, GROUP, ids, adder.peer_id, SPEC, config)
            opened.append(await stack.enter_async_context(member))
        yield opened


async def sums(members: Sequence[SumMember], round_number: int) -> list[SumReport | SumFailed]:
    """What each member gets in one round."""
    results: dict[int, SumReport | SumFailed] = {}

    async def one(place: int) -> None:
        try:
            vector = VECTORS[place]
            results[place] = await members[place].sum(vector, round_number=round_number)
        except SumFailed as exc:
            results[place] = exc

    async with trio.open_nursery() as nursery:
        for place in range(len(members)):
            nursery.start_soon(one, place)
    return [results[place] for place in sorted(results)]


def check(report: SumReport | SumFailed, places: Sequence[int], nodes: Sequence[Node]) -> None:
    assert isinstance(report, SumReport), report
    expected = VECTORS[list(places)].sum(0)
    assert np.abs(report.sum - expected).max() <= SPEC.tolerance(len(places))
    assert report.included == tuple(nodes[place].peer_id for place in places)
    assert np.abs(report.mean - expected / len(places)).max() <= SPEC.tolerance(len(places))
    assert 0 < report.sent_bytes <= SPEC.bytes_max
    assert f"sum of {len(places)} members" in str(report)


def test_all_members_get_the_sum_round_after_round() -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes, group(nodes) as members:
            for number in (0, 1, 7):
                for report in await sums(members, number):
                    check(report, (0, 1, 2), nodes)

    run_sim(1, main)


def test_whoever_does_not_come_is_left_out() -> None:
    async def main(network: SimNetwork) -> None:
        config = SumConfig(members_min=2)
        async with nodes_of(network) as nodes, group(nodes, config) as members:
            for report in await sums(members[:2], 0):
                check(report, (0, 1), nodes)
            (failed,) = await sums(members[:1], 1)
            assert "1 of 3 members delivered in time" in str(failed)
            (late,) = await sums(members[:1], 1)
            assert "round 1 is over" in str(late)
            for report in await sums(members, 2):
                check(report, (0, 1, 2), nodes)

    run_sim(1, main)


def test_vectors_that_do_not_fit_are_refused_before_anything_is_sent() -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes, group(nodes) as members:
            for wrong in (np.zeros(39), np.zeros((40, 1)), np.full(40, 1024.5)):
                with pytest.raises(ValueError, match="must"):
                    await members[0].sum(wrong, round_number=0)
            with pytest.raises(ValueError, match="finite"):
                await members[0].sum(np.full(40, np.nan), round_number=0)

    run_sim(1, main)


def test_groups_that_cannot_be_are_refused() -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes:
            alice, bob, _, adder = nodes
            ids = [node.peer_id for node in nodes]
            small = HomomorphicSpec(elements=1, members_max=2)
            cases: list[tuple[Node, list[PeerId], HomomorphicSpec, str]] = [
                (alice, ids, SPEC, "must not be a member"),
                (alice, [ids[0]], SPEC, "2 to 64 members"),
                (alice, [ids[0], ids[0], ids[1]], SPEC, "all different"),
                (alice, ids[:3], small, "2 to 2 members"),
                (bob, [ids[0], ids[2]], SPEC, "not one of the members"),
            ]
            for node, members, spec, cause in cases:
                with pytest.raises(ValueError, match=cause):
                    async with open_sum_member(node, GROUP, members, adder.peer_id, spec):
                        pass

    run_sim(1, main)


def test_the_key_is_for_members_only() -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes:
            alice, bob, carol, adder = nodes
            pair = [alice.peer_id, bob.peer_id]
            async with open_sum_member(alice, GROUP, pair, adder.peer_id, SPEC):
                for stranger in (carol, adder):
                    client = rpc_client(
                        stranger, service_name(schema.KEY_SERVICE, GROUP), schema.MAJOR
                    )
                    request = KeyRequest(SPEC.digest)
                    with pytest.raises(RefusedError, match="only members get the key"):
                        await client.call(alice.peer_id, schema.KEY, request, timeout_s=5)
                with pytest.raises(RefusedError, match="only the aggregator"):
                    client = rpc_client(
                        carol, service_name(schema.KEY_SERVICE, GROUP), schema.MAJOR
                    )
                    await client.call(alice.peer_id, schema.MODULUS, request, timeout_s=5)
                other = HomomorphicSpec(elements=41)
                with pytest.raises(SumFailed, match="another spec than the first member"):
                    async with open_sum_member(bob, GROUP, pair, adder.peer_id, other):
                        pass

    run_sim(1, main)


def test_a_key_that_does_not_come_is_not_waited_for_for_ever() -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes:
            ids = [node.peer_id for node in nodes[:3]]
            opened = open_sum_member(nodes[1], GROUP, ids, nodes[3].peer_id, SPEC, key_timeout_s=5)
            with pytest.raises(SumFailed, match="no key from"):
                async with opened:
                    pass
            assert trio.current_time() < 10

    run_sim(1, main)


async def contribute(
    node: Node, aggregator: PeerId, request: Contribution, data: bytes
) -> str | None:
    """What the aggregator says to this contribution."""
    client = rpc_client(node, service_name(schema.SUM_SERVICE, GROUP), schema.MAJOR)
    try:
        async with client.open(aggregator, schema.SUM, request, timeout_s=5) as call:
            await send_parts(call, data, 5)
            await call.receive()
    except RefusedError as exc:
        return str(exc)
    return None


async def note(told: list[str | None], *arguments: Any) -> None:
    """Write down what the aggregator says."""
    told.append(await contribute(*arguments))


def test_wrong_contributions_are_refused_and_the_others_sum_without_them() -> None:
    async def main(network: SimNetwork) -> None:
        config = SumConfig(members_min=2)
        async with nodes_of(network) as nodes, group(nodes, config) as members:
            key, name = members[2]._key, members[2]._key_id
            good = key.encrypt(np.ones(SPEC.numbers))
            other_spec = HomomorphicSpec(elements=5000)
            other_primes = ckks_ciphertext(4096, [54, 53], 32, 2048)
            honest = Contribution(SPEC.digest, name, 0, len(good))
            replace = msgspec.structs.replace
            cases: list[tuple[Contribution, bytes, str]] = [
                (replace(honest, spec=other_spec.digest), good, "another spec"),
                (replace(honest, key_id=bytes(16)), good, "another key"),
                (replace(honest, size_bytes=SPEC.bytes_max + 1), good, "bytes are due"),
                (honest, bytes(len(good)), "ciphertexts are cut off"),
                (
                    replace(honest, size_bytes=len(other_primes)),
                    other_primes,
                    "not a ciphertext of these parameters",
                ),
                (replace(honest, size_bytes=len(good) - 1), good, "more bytes came"),
                (honest, good[:-1], "nothing was sent for too long"),
            ]
            for number, (request, data, cause) in enumerate(cases):
                told: list[str | None] = []

                request = replace(request, round_number=number)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(note, told, nodes[2], nodes[3].peer_id, request, data)
                    for report in await sums(members[:2], number):
                        check(report, (0, 1), nodes)
                assert [cause in str(one) for one in told] == [True]
            stranger = await network_stranger(network, nodes)
            assert "not a member" in str(stranger)

    async def network_stranger(network: SimNetwork, nodes: Sequence[Node]) -> str | None:
        async with network.open_node("mallory") as mallory:
            mallory.add_addresses(nodes[3].peer_id, nodes[3].addresses)
            request = Contribution(SPEC.digest, bytes(16), 99, 10)
            return await contribute(mallory, nodes[3].peer_id, request, bytes(10))

    run_sim(1, main)


@pytest.mark.parametrize(
    ("included", "size_bytes", "cause"),
    [
        ((0, 1, 2), None, "names 3 members, and its sum holds 1.0"),
        ((1, 2, 0), None, "names members twice"),
        ((0, 0, 1), None, "names members twice"),
        ((1, 2), None, "or not this one"),
        ((0, 1, 3), None, "a member that is none"),
        ((0, 1), None, "2 members are in the sum"),
        ((0, 1, 2), SPEC.bytes_max + 1, "more bytes than a sum takes"),
        ((0, 1, 2), 7, "more bytes came"),
    ],
)
def test_an_aggregator_that_lies_is_found_out(
    included: tuple[int, ...], size_bytes: int | None, cause: str
) -> None:
    """It echoes one member's ciphertexts, and says this of them."""

    async def lie(call: Any) -> None:
        data = await receive_parts(call, call.request.size_bytes, 5)
        await call.send(Sum(included, size_bytes or len(data)))
        await send_parts(call, data, 5)

    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes:
            alice, adder = nodes[0], nodes[3]
            ids = [node.peer_id for node in nodes[:3]]
            service = RpcService(service_name(schema.SUM_SERVICE, GROUP), schema.MAJOR)
            service.stream(schema.SUM, lie)
            async with (
                service.serving(adder),
                open_sum_member(alice, GROUP, ids, adder.peer_id, SPEC) as member,
            ):
                with pytest.raises(SumFailed, match=cause):
                    await member.sum(VECTORS[0], round_number=0)

    run_sim(1, main)


def test_bad_moduli_and_first_messages_end_a_contribution() -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes:
            alice, bob, carol, adder = nodes
            ids = [node.peer_id for node in (alice, bob, carol)]

            async def tell(caller: PeerId, request: KeyRequest) -> ModulusAnswer:
                return ModulusAnswer(bytes(16), b"modulus")

            service = RpcService(service_name(schema.KEY_SERVICE, GROUP), schema.MAJOR)
            service.unary(schema.MODULUS, tell)
            request = Contribution(SPEC.digest, bytes(16), 0, 10)
            async with (
                service.serving(alice),
                open_sum_aggregator(adder, GROUP, ids, SPEC),
            ):
                cause = await contribute(bob, adder.peer_id, request, bytes(10))
                assert "has no modulus" in str(cause)
                cause = await contribute(carol, adder.peer_id, Part(), b"")  # type: ignore[arg-type]
                assert "must begin" in str(cause)

    run_sim(1, main)


async def test_real_nodes_sum() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node()) for _ in NAMES]
        for node in nodes:
            for other in nodes:
                node.add_addresses(other.peer_id, other.addresses)
        members = await stack.enter_async_context(group(nodes))
        with trio.fail_after(30):
            for report in await sums(members, 0):
                check(report, (0, 1, 2), nodes)


def test_a_missing_package_is_told_when_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes:
            *members, adder = nodes
            ids = [node.peer_id for node in members]
            with pytest.raises(ExtraMissing, match="pip install"):
                async with open_sum_aggregator(adder, GROUP, ids, SPEC):
                    pass
            with pytest.raises(ExtraMissing, match="pip install"):
                async with open_sum_member(members[0], GROUP, ids, adder.peer_id, SPEC):
                    pass

    monkeypatch.setitem(sys.modules, "tenseal", None)
    run_sim(1, main)


def test_a_first_member_opened_again_draws_another_key() -> None:
    async def main(network: SimNetwork) -> None:
        async with nodes_of(network) as nodes:
            *members, adder = nodes
            ids = [node.peer_id for node in members]
            config = SumConfig(members_min=2)

            def member(place: int) -> Any:
                return open_sum_member(members[place], GROUP, ids, adder.peer_id, SPEC, config)

            async with open_sum_aggregator(adder, GROUP, ids, SPEC, config):
                async with member(0) as alice, member(1) as bob, member(2) as carol:
                    for report in await sums([alice, bob, carol], 0):
                        check(report, (0, 1, 2), nodes)
                async with member(0) as alice, member(1) as bob:
                    # Carol still has the old key.
                    *reports, refused = await sums([alice, bob, carol], 1)
                    for report in reports:
                        check(report, (0, 1), nodes)
                    assert "another key" in str(refused)

    run_sim(1, main)


@pytest.mark.parametrize("wrong", [{"round_s": 0.0}, {"silence_s": 0.0}, {"members_min": 1}])
def test_impossible_configs_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SumConfig(**wrong)
