"""Donors and newcomers in a simulated network: agreement, losses, lies, limits."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
import trio

from averaging.errors import StateUnavailable
from averaging.naming import service_name
from averaging.state import (
    DonorConfig,
    FetchConfig,
    Manifest,
    Snapshot,
    StateDonor,
    fetch_state,
    open_state_donor,
    schema,
)
from averaging.tensors import Array
from p2p import Node, PeerId, RefusedError, RpcCall, RpcService, rpc_client
from p2p.testing import SimNetwork, run_sim

GROUP = "run"
SMALL_CHUNKS = DonorConfig(chunk_size_bytes=1000)
NAMES = ("alice", "bob", "carol")


def snapshot(version: int, *, value: float = 1.0, elements: int = 5000) -> Snapshot:
    ramp = np.arange(elements, dtype=np.float32) * value
    return Snapshot(
        version, b"step %d" % version, {"ramp": ramp, "count": np.array(7, dtype=np.int64)}
    )


def anything(manifest: Manifest) -> str | None:
    return None


def assert_same(left: Snapshot, right: Snapshot) -> None:
    assert (left.version, left.metadata) == (right.version, right.metadata)
    assert left.arrays.keys() == right.arrays.keys()
    for name, array in left.arrays.items():
        np.testing.assert_array_equal(array, right.arrays[name])


@asynccontextmanager
async def donors_and_newcomer(
    network: SimNetwork,
    snapshots: Mapping[str, Snapshot | None],
    config: DonorConfig = SMALL_CHUNKS,
) -> AsyncIterator[tuple[dict[str, Node], dict[str, StateDonor], Node]]:
    async with AsyncExitStack() as stack:
        newcomer = await stack.enter_async_context(network.open_node("newcomer"))
        nodes: dict[str, Node] = {}
        donors: dict[str, StateDonor] = {}
        for name, content in snapshots.items():
            nodes[name] = await stack.enter_async_context(network.open_node(name))
            newcomer.add_addresses(nodes[name].peer_id, nodes[name].addresses)
            donors[name] = await stack.enter_async_context(
                open_state_donor(nodes[name], GROUP, config=config)
            )
            if content is not None:
                donors[name].publish(content)
        yield nodes, donors, newcomer
    assert network.handler_errors == []


def ids(nodes: Mapping[str, Node]) -> list[PeerId]:
    return [node.peer_id for node in nodes.values()]


def test_a_state_comes_from_several_donors() -> None:
    async def main(network: SimNetwork) -> None:
        same = snapshot(3)
        async with donors_and_newcomer(network, dict.fromkeys(NAMES, same)) as (nodes, _, me):
            for node in nodes.values():
                network.set_link(me.peer_id, node.peer_id, latency_s=0.05, bytes_per_s=10_000)
            started_s = trio.current_time()
            got = await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=30)
            assert_same(got, same)
            # 20 kB at 10 kB/s would take one donor 2 s.
            assert trio.current_time() - started_s < 1.5
            assert not any(array is same.arrays[name] for name, array in got.arrays.items())

    run_sim(1, main)


def test_an_empty_state_can_be_had() -> None:
    async def main(network: SimNetwork) -> None:
        nothing = Snapshot(1, b"", {"none": np.zeros((0, 4))})
        async with donors_and_newcomer(network, {"alice": nothing}) as (nodes, _, me):
            got = await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=5)
            assert_same(got, nothing)

    run_sim(1, main)


def test_the_state_of_most_donors_is_taken() -> None:
    async def main(network: SimNetwork) -> None:
        right, wrong = snapshot(3), snapshot(3, value=9.0)
        states = {"alice": wrong, "bob": right, "carol": right}
        async with donors_and_newcomer(network, states) as (nodes, _, me):
            got = await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=5)
            assert_same(got, right)

    run_sim(1, main)


@pytest.mark.parametrize("fault", ["crash", "freeze"])
def test_a_lost_donor_is_replaced(fault: str) -> None:
    async def main(network: SimNetwork) -> None:
        same = snapshot(3, elements=50_000)
        async with donors_and_newcomer(network, dict.fromkeys(NAMES, same)) as (nodes, _, me):
            network.default_bytes_per_s = 50_000

            async def break_alice() -> None:
                await trio.sleep(1)
                getattr(network, fault)(nodes["alice"].peer_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(break_alice)
                got = await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=60)
            assert_same(got, same)

    run_sim(2, main)


def test_when_all_holders_of_one_state_are_lost_another_is_taken() -> None:
    async def main(network: SimNetwork) -> None:
        popular, rare = snapshot(3, elements=50_000), snapshot(4, value=2.0)
        states = {"alice": popular, "bob": popular, "carol": rare}
        async with donors_and_newcomer(network, states) as (nodes, _, me):
            network.default_bytes_per_s = 20_000

            async def crash() -> None:
                await trio.sleep(1)
                network.crash(nodes["alice"].peer_id)
                network.crash(nodes["bob"].peer_id)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(crash)
                got = await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=60)
            assert_same(got, rare)

    run_sim(3, main)


def test_a_donor_may_wait_for_a_newer_state() -> None:
    async def main(network: SimNetwork) -> None:
        async with donors_and_newcomer(network, {"alice": snapshot(3)}) as (nodes, donors, me):

            async def step() -> None:
                await trio.sleep(2)
                donors["alice"].publish(snapshot(4, value=2.0))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(step)
                got = await fetch_state(
                    me, GROUP, ids(nodes), check=anything, minimum_version=4, timeout_s=10
                )
            assert got.version == 4

    run_sim(1, main)


def test_a_source_is_asked_only_when_somebody_wants_a_state() -> None:
    async def main(network: SimNetwork) -> None:
        wanted: list[int] = []
        content = snapshot(9)

        async def source(minimum_version: int) -> Snapshot:
            wanted.append(minimum_version)
            return content

        async with network.open_node("alice") as alice, network.open_node("me") as me:
            me.add_addresses(alice.peer_id, alice.addresses)
            async with open_state_donor(alice, GROUP, source=source):
                await trio.sleep(60)
                assert wanted == []
                got = await fetch_state(
                    me, GROUP, [alice.peer_id], check=anything, minimum_version=5, timeout_s=5
                )
        assert wanted == [5]
        assert_same(got, content)

    run_sim(1, main)


def test_the_reason_is_told_for_each_donor() -> None:
    async def main(network: SimNetwork) -> None:
        states = {"alice": snapshot(1), "bob": None, "carol": snapshot(5)}
        async with donors_and_newcomer(network, states) as (nodes, _, me):
            nobody = PeerId("12D3KooWnobody")

            def check(manifest: Manifest) -> str | None:
                return "is of another model"

            with pytest.raises(StateUnavailable) as caught:
                await fetch_state(
                    me, GROUP, [*ids(nodes), nobody], check=check, minimum_version=2, timeout_s=3
                )
        reasons = {name: caught.value.reasons[node.peer_id] for name, node in nodes.items()}
        assert "no state of version 2" in reasons["alice"] or "not answer" in reasons["alice"]
        assert reasons["carol"] == "is of another model"
        assert "unreachable" in caught.value.reasons[nobody]

    run_sim(1, main)


def test_without_donors_it_fails_at_once() -> None:
    async def main(network: SimNetwork) -> None:
        async with network.open_node("me") as me:
            with pytest.raises(StateUnavailable):
                await fetch_state(me, GROUP, [], check=anything, timeout_s=5)
            assert trio.current_time() < 1

    run_sim(1, main)


@asynccontextmanager
async def lying_donor(
    node: Node, answer: schema.ManifestAnswer, payloads: Sequence[tuple[int, bytes]]
) -> AsyncIterator[None]:
    """Offers a manifest and sends what it likes."""

    async def on_manifest(caller: PeerId, request: Any) -> schema.ManifestAnswer:
        return answer

    async def on_chunks(call: RpcCall[schema.ChunkAnswer, schema.ChunkRequest]) -> None:
        for index, payload in payloads:
            await call.send(schema.ChunkAnswer(index), payload)
        await trio.sleep_forever()

    service = RpcService(service_name(schema.SERVICE, GROUP))
    service.unary(schema.MANIFEST, on_manifest)
    service.stream(schema.CHUNKS, on_chunks)
    async with service.serving(node):
        yield


HONEST = schema.ManifestAnswer(1, b"", ("a",), ((1000,),), ("uint8",), 1000, bytes(32))


@pytest.mark.parametrize(
    ("answer", "payloads", "reason"),
    [
        (HONEST, [(0, bytes(1000))], "do not match its manifest"),
        (HONEST, [(0, bytes(999))], "sent 999 bytes"),
        (HONEST, [(7, bytes(1000))], "chunk 7"),
        (HONEST, [], "sent nothing"),
        (
            schema.ManifestAnswer(0, b"", ("a",), ((1,),), ("uint8",), 1000, bytes(32)),
            [],
            "too old",
        ),
        (
            schema.ManifestAnswer(1, b"", ("a",), ((9,),), ("uint8",), 1, bytes(32)),
            [],
            "one hash for each chunk",
        ),
    ],
)
def test_a_liar_is_left_and_named(
    answer: schema.ManifestAnswer, payloads: list[tuple[int, bytes]], reason: str
) -> None:
    async def main(network: SimNetwork) -> None:
        async with network.open_node("liar") as liar, network.open_node("me") as me:
            me.add_addresses(liar.peer_id, liar.addresses)
            async with lying_donor(liar, answer, payloads):
                with pytest.raises(StateUnavailable) as caught:
                    await fetch_state(
                        me,
                        GROUP,
                        [liar.peer_id],
                        check=anything,
                        minimum_version=1,
                        timeout_s=30,
                        config=FetchConfig(silence_s=2),
                    )
        assert reason in caught.value.reasons[liar.peer_id]

    run_sim(1, main)


def test_nothing_is_allocated_for_a_state_that_the_check_refuses() -> None:
    async def main(network: SimNetwork) -> None:
        chunk = schema.CHUNK_SIZE_BYTES_MAX
        huge = schema.ManifestAnswer(1, b"", ("a",), ((2**38,),), ("uint8",), chunk, bytes(2**21))

        def check(manifest: Manifest) -> str | None:
            return None if manifest.table.size_bytes < 10_000 else "is too large"

        async with network.open_node("liar") as liar, network.open_node("me") as me:
            me.add_addresses(liar.peer_id, liar.addresses)
            async with lying_donor(liar, huge, []):
                with pytest.raises(StateUnavailable, match="is too large"):
                    await fetch_state(me, GROUP, [liar.peer_id], check=check, timeout_s=5)

    run_sim(1, main)


def test_a_donor_refuses_what_it_does_not_have() -> None:
    async def main(network: SimNetwork) -> None:
        async with donors_and_newcomer(network, {"alice": snapshot(1)}) as (nodes, _, me):
            client = rpc_client(me, service_name(schema.SERVICE, GROUP))
            alice = nodes["alice"].peer_id
            answer = await client.call(
                alice, schema.MANIFEST, schema.ManifestRequest(0, 1.0), timeout_s=5
            )
            assert answer.version == 1

            async def first_answer(request: schema.ChunkRequest) -> None:
                async with client.open(alice, schema.CHUNKS, request, timeout_s=5) as call:
                    await call.receive()

            with pytest.raises(RefusedError, match="no longer kept"):
                await first_answer(schema.ChunkRequest(bytes(32), 0))
            got = await fetch_state(me, GROUP, [alice], check=anything, timeout_s=5)
            assert got.version == 1

    run_sim(1, main)


def test_snapshots_are_freed_when_nobody_uses_them() -> None:
    async def main(network: SimNetwork) -> None:
        async with donors_and_newcomer(network, {"alice": snapshot(1)}) as (nodes, donors, me):
            alice = donors["alice"]
            for version in range(2, 7):
                await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=5)
                alice.publish(snapshot(version, value=float(version)))
            assert len(alice._serving) == 2
            await trio.sleep(60)
            assert alice._serving == {}
            again: Mapping[str, Array] = (
                await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=5)
            ).arrays
            assert again["ramp"][1] == 6.0

    run_sim(1, main)


def test_too_many_downloads_are_refused_as_busy() -> None:
    async def main(network: SimNetwork) -> None:
        config = DonorConfig(chunk_size_bytes=1000, downloads_max=1)
        async with donors_and_newcomer(network, {"alice": snapshot(1)}, config) as (nodes, _, me):
            network.default_bytes_per_s = 5_000
            reasons: list[str] = []

            async def fetch() -> None:
                try:
                    await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=60)
                except StateUnavailable as exc:
                    reasons.append(str(exc))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch)
                nursery.start_soon(fetch)
        assert len(reasons) == 1
        assert "busy" in reasons[0]

    run_sim(1, main)
