"""Donors that limit what newcomers take of their uplink, in a simulated network."""

from collections.abc import Mapping

import pytest
import trio

from averaging.errors import StateUnavailable
from averaging.state import (
    DonorConfig,
    FetchConfig,
    Snapshot,
    fetch_state,
    open_state_donor,
    schema,
)
from p2p import Node
from p2p.testing import SimNetwork, run_sim
from tests.averaging.state.test_download import (
    GROUP,
    anything,
    assert_same,
    donors_and_newcomer,
    ids,
    lying_donor,
    snapshot,
)

SIZE_BYTES = 20_008  # of snapshot()


def capped(bytes_per_s: float, *, chunk_size_bytes: int = 1000) -> DonorConfig:
    return DonorConfig(chunk_size_bytes=chunk_size_bytes, bandwidth_bytes_per_s=bytes_per_s)


def test_a_download_takes_as_long_as_the_cap_says() -> None:
    async def main(network: SimNetwork) -> None:
        content = snapshot(1)
        async with donors_and_newcomer(network, {"alice": content}, capped(4000)) as (n, _, me):
            started_s = trio.current_time()
            got = await fetch_state(me, GROUP, ids(n), check=anything, timeout_s=5)
            assert_same(got, content)
            # A quarter of a second is for nothing; the manifest's 21 hashes count, too.
            expected_s = (SIZE_BYTES + 21 * 32) / 4000 - 0.25
            assert trio.current_time() - started_s == pytest.approx(expected_s, abs=0.5)

    run_sim(1, main)


def test_two_newcomers_share_the_cap() -> None:
    async def main(network: SimNetwork) -> None:
        content, ended_s = snapshot(1), []
        async with (
            donors_and_newcomer(network, {"alice": content}, capped(4000)) as (nodes, _, me),
            network.open_node("other") as other,
        ):
            other.add_addresses(nodes["alice"].peer_id, nodes["alice"].addresses)

            async def fetch(node: Node) -> None:
                got = await fetch_state(node, GROUP, ids(nodes), check=anything, timeout_s=5)
                assert_same(got, content)
                ended_s.append(trio.current_time() - started_s)

            started_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch, me)
                nursery.start_soon(fetch, other)
            # Both end together, in twice the time of one.
            assert ended_s == pytest.approx([2 * SIZE_BYTES / 4000] * 2, abs=0.6)

    run_sim(1, main)


def test_a_donor_whose_chunks_wait_for_long_is_not_taken_for_a_dead_one() -> None:
    async def main(network: SimNetwork) -> None:
        content = snapshot(1)
        config = capped(500, chunk_size_bytes=10_000)  # 20 s each
        async with donors_and_newcomer(network, {"alice": content}, config) as (nodes, _, me):
            started_s = trio.current_time()
            got = await fetch_state(
                me,
                GROUP,
                ids(nodes),
                check=anything,
                timeout_s=25,
                config=FetchConfig(silence_s=3),
            )
            assert_same(got, content)
            assert trio.current_time() - started_s > 35

    run_sim(1, main)


def test_a_newcomer_that_leaves_while_it_waits_holds_up_nobody() -> None:
    async def main(network: SimNetwork) -> None:
        config = capped(500, chunk_size_bytes=10_000)
        async with donors_and_newcomer(network, {"alice": snapshot(1)}, config) as (n, donors, me):
            with trio.move_on_after(5):
                await fetch_state(me, GROUP, ids(n), check=anything, timeout_s=25)
            await trio.sleep(3)
            assert donors["alice"].downloads == 0

    run_sim(1, main)


def test_one_that_only_says_that_its_chunk_waits_is_left() -> None:
    answer = schema.ManifestAnswer(1, b"", ("a",), ((1000,),), ("uint8",), 1000, bytes(32))
    told = [(0, b"")] * (schema.WAITS_TOLD_MAX + 1)

    async def main(network: SimNetwork) -> None:
        async with network.open_node("liar") as liar, network.open_node("me") as me:
            me.add_addresses(liar.peer_id, liar.addresses)
            async with lying_donor(liar, answer, told):
                with pytest.raises(StateUnavailable, match="sent 0 bytes as chunk 0"):
                    await fetch_state(me, GROUP, [liar.peer_id], check=anything, timeout_s=30)

    run_sim(1, main)


def test_a_round_of_the_donor_leaves_newcomers_a_share_of_its_uplink() -> None:
    async def main(network: SimNetwork) -> None:
        content, in_use = snapshot(1), trio.Event()

        async def source(minimum_version: int) -> Snapshot:
            return content

        async with network.open_node("alice") as alice, network.open_node("me") as me:
            me.add_addresses(alice.peer_id, alice.addresses)
            config = DonorConfig(chunk_size_bytes=1000, uplink_share=0.25)

            def uplink() -> float | None:
                return 8000.0 if in_use.is_set() else None

            async with open_state_donor(alice, GROUP, source=source, config=config, uplink=uplink):

                async def seconds() -> float:
                    started_s = trio.current_time()
                    got = await fetch_state(me, GROUP, [alice.peer_id], check=anything, timeout_s=5)
                    assert_same(got, content)
                    return trio.current_time() - started_s

                assert await seconds() < 2
                in_use.set()
                assert await seconds() == pytest.approx(SIZE_BYTES / 2000, abs=0.7)

    run_sim(1, main)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bandwidth_bytes_per_s": 0.0},
        {"bandwidth_bytes_per_s": float("inf")},
        {"uplink_share": 0.0},
        {"uplink_share": 1.1},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: Mapping[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DonorConfig(**wrong)
