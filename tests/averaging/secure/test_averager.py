"""The secure averager over simulated nodes: whole rounds, losses, and what a report says."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import (
    RoundFailed,
    RoundReport,
    SecureAverager,
    SecureConfig,
    TensorSpec,
    UpdateSpent,
    open_secure_averager,
)
from averaging.matchmaking.keys import rank
from averaging.secure import session
from averaging.secure.contributors import Contributors
from averaging.secure.coordinator import Coordinator
from p2p import Node, open_dht, open_node
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import NAMES, connect_all, simulated

Array = np.ndarray[Any, Any]

CONFIG = SecureConfig(value_max=8.0, weight_max=4.0, patience_s=1.0, join_window_s=1.0)
# Steps of 8 · 5 / 2^31 at the largest weight, ours being smaller, and what float32 rounds.
TOLERANCE = 4e-7


class Peers:
    """Nodes with one secure averager each, stepped together."""

    def __init__(self, nodes: Sequence[Node], elements: int = 40_000) -> None:
        self.nodes = nodes
        numbers = np.random.default_rng(7)
        self.vectors = [numbers.standard_normal(elements).astype(np.float32) for _ in nodes]
        self.tensors = [{"w": vector.copy()} for vector in self.vectors]
        self.weights = [1.0 + number / 2 for number in range(len(nodes))]
        self.outcomes: dict[int, RoundReport] = {}
        self.errors: dict[int, Exception] = {}
        self.in_rank = sorted(range(len(nodes)), key=lambda k: rank(bytes(32), nodes[k].peer_id))
        """The first leads the first round, and coordinates."""

    def check_mean_of(self, numbers: Sequence[int], at: Sequence[int] | None = None) -> None:
        """These have the mean of those, with the same bits, and say who is in it."""
        weights = [self.weights[number] for number in numbers]
        mean = np.average([self.vectors[number] for number in numbers], axis=0, weights=weights)
        at = numbers if at is None else at
        for number in at:
            report = self.outcomes[number]
            assert report.outcome == "success", report
            np.testing.assert_allclose(self.tensors[number]["w"], mean, atol=TOLERANCE)
            assert {peer for peer, member in report.members.items() if member.fraction == 1.0} == {
                self.nodes[one].peer_id for one in numbers
            }
        assert len({self.tensors[number]["w"].tobytes() for number in at}) == 1
        assert len({self.outcomes[number].digest for number in at}) == 1

    def check_untouched(self, number: int) -> RoundReport:
        """This one's tensors are as before; returns its report."""
        np.testing.assert_array_equal(self.tensors[number]["w"], self.vectors[number])
        return self.outcomes[number]

    async def run(
        self,
        *,
        during: Callable[[], Awaitable[None]] | None = None,
        step: Callable[[int, SecureAverager], Awaitable[None]] | None = None,
        only: Sequence[int] | None = None,
        deadline_s: float = 20.0,
    ) -> None:
        """Let all take one step, or what is given instead."""
        everyone = [node.peer_id for node in self.nodes]

        async def one_step(number: int, averager: SecureAverager) -> None:
            self.outcomes[number] = await averager.step(
                self.tensors[number],
                weight=self.weights[number],
                deadline_s=deadline_s,
                expected=everyone,
            )

        async def one(number: int) -> None:
            spec = TensorSpec.of(self.tensors[number])
            async with open_secure_averager(self.nodes[number], "s", spec, CONFIG) as averager:
                try:
                    await (step or one_step)(number, averager)
                except RoundFailed as failed:
                    self.outcomes[number] = failed.report

        async with trio.open_nursery() as nursery:
            for number in range(len(self.nodes)) if only is None else only:
                nursery.start_soon(one, number)
            if during is not None:
                await during()


async def open_peers(
    stack: AsyncExitStack,
    network: SimNetwork,
    count: int,
    *,
    elements: int = 40_000,
    clients: int = 0,
) -> Peers:
    nodes = [
        await stack.enter_async_context(
            network.open_node(name, client_mode=number >= count - clients)
        )
        for number, name in enumerate(NAMES[:count])
    ]
    await connect_all(nodes)
    return Peers(nodes, elements)


@simulated
async def test_all_learn_the_mean_with_the_same_bits(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4)
        await peers.run()
    peers.check_mean_of(range(4))
    report = peers.outcomes[1]
    assert report.members[peers.nodes[1].peer_id].weight == 1.5
    # Nobody is told what the others weigh.
    assert math.isnan(report.members[peers.nodes[2].peer_id].weight)
    assert report.spent
    assert report.sent_bytes > 0
    assert str(report).startswith("secure round 0 success, 4 of 4 contributed wholly")


@simulated
async def test_members_that_nobody_can_dial_are_in_it(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4, elements=1000, clients=2)
        await peers.run()
    peers.check_mean_of(range(4))


async def die_mid_way(
    network: SimNetwork, place: int, how: str, *, count: int = 5
) -> tuple[Peers, int]:
    """Some peers on slow links, of whom one dies while parts are under way."""
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, count, elements=80_000)
        network.default_bytes_per_s = 200_000
        victim = peers.in_rank[place]

        async def die() -> None:
            await trio.sleep(0.5)
            getattr(network, how)(peers.nodes[victim].peer_id)

        await peers.run(during=die)
    return peers, victim


@pytest.mark.slow
@pytest.mark.parametrize("how", ["crash", "freeze"])
@simulated
async def test_survivors_of_an_aggregator_learn_their_own_sum(
    network: SimNetwork, how: str
) -> None:
    peers, victim = await die_mid_way(network, 2, how)
    survivors = [number for number in range(5) if number != victim]
    peers.check_mean_of(survivors)
    for number in survivors:
        report = peers.outcomes[number]
        assert report.plans >= 1
        assert report.attempts == 1
        assert report.lost == (peers.nodes[victim].peer_id,)
    assert peers.check_untouched(victim).outcome == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["crash", "freeze"])
@simulated
async def test_survivors_of_the_coordinator_promise_and_try_again(
    network: SimNetwork, how: str
) -> None:
    peers, victim = await die_mid_way(network, 0, how)
    survivors = [number for number in range(5) if number != victim]
    peers.check_mean_of(survivors)
    for number in survivors:
        report = peers.outcomes[number]
        assert report.attempts == 2
        assert report.lost == (peers.nodes[victim].peer_id,)
        assert report.spent


@simulated
async def test_too_few_survivors_of_the_coordinator_must_not_offer_the_same_again(
    network: SimNetwork,
) -> None:
    peers, victim = await die_mid_way(network, 0, "crash", count=3)
    for number in range(3):
        report = peers.check_untouched(number)
        assert report.outcome == "failed"
        assert report.spent
        if number != victim:
            assert "the vector is spent" in str(report)


@simulated
async def test_a_spent_vector_is_refused_and_a_new_one_is_not(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 3, elements=100)
        everyone = [node.peer_id for node in peers.nodes]

        async def step(number: int, averager: SecureAverager) -> None:
            for once_more in (False, True):
                tensors = {"w": peers.vectors[number] + np.float32(once_more)}
                report = await averager.step(tensors, expected=everyone)
                assert report.round.number == once_more
                assert averager.weight_sum == pytest.approx(3.0)
            # Also after a success: the others' vectors are other ones in the next sum.
            with pytest.raises(UpdateSpent, match="drop it, or put new noise on it"):
                await averager.step({"w": peers.vectors[number].copy()}, expected=everyone)

        await peers.run(step=step)


@simulated
async def test_one_of_no_weight_offers_nothing_and_learns_the_mean_of_the_others(
    network: SimNetwork,
) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4, elements=100)
        everyone = [node.peer_id for node in peers.nodes]
        me = peers.nodes[3].peer_id

        async def step(number: int, averager: SecureAverager) -> None:
            # Its vector is never spent, so that it is the same each time.
            for add in (0.0, 1.0):
                mine = np.full(100, 2.0 + number + add * (number < 3), np.float32)
                report = await averager.step(
                    {"w": mine}, weight=float(number < 3), expected=everyone
                )
                np.testing.assert_allclose(mine, 3.0 + add, atol=TOLERANCE)
                assert report.spent == (number < 3)
                assert report.weight_sum == pytest.approx(3.0)
                assert report.members[me].weight == 0.0, "everybody is told"

        await peers.run(step=step)


@simulated
async def test_two_vectors_are_too_few_however_many_members_there_are(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 4, elements=100)
        everyone = [node.peer_id for node in peers.nodes]

        async def step(number: int, averager: SecureAverager) -> None:
            mine = peers.tensors[number]
            with pytest.raises(RoundFailed, match="only 2 of the members bring a vector") as caught:
                await averager.step(mine, weight=(1.0, 1.0, 0.0, 0.0)[number], expected=everyone)
            assert not caught.value.report.spent, "nothing was sent"
            assert caught.value.report.sent_bytes == 0
            # The same round goes on with a third.
            report = await averager.step(mine, weight=float(number < 3), expected=everyone)
            assert report.weight_sum == pytest.approx(3.0)

        await peers.run(step=step)
    assert len({tensors["w"].tobytes() for tensors in peers.tensors}) == 1


@pytest.mark.parametrize("lies", [False, True])
@simulated
async def test_a_sum_is_not_signed_when_too_few_vectors_survive(
    network: SimNetwork, lies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five the four that are left would do, but only two of them brought something."""
    if lies:

        def lying(*, contributors: Contributors, **options: Any) -> Coordinator:
            return Coordinator(contributors=Contributors(contributors.places, 0), **options)

        monkeypatch.setattr(session, "Coordinator", lying)
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 5, elements=80_000)
        network.default_bytes_per_s = 200_000
        *rest, victim = peers.in_rank
        for number in rest[:2]:
            peers.weights[number] = 0.0

        async def die() -> None:
            await trio.sleep(0.5)
            network.crash(peers.nodes[victim].peer_id)

        await peers.run(during=die)
    reports = [peers.check_untouched(number) for number in rest]
    assert {report.outcome for report in reports} == {"failed"}
    said = "broke a rule: among its survivors only 2" if lies else "only 2 of the members bring"
    assert any(said in report.reason for report in reports)


@simulated
async def test_two_peers_are_too_few(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 2, elements=100)
        await peers.run(deadline_s=5.0)
    for number in range(2):
        report = peers.check_untouched(number)
        assert report.group_id == b""
        assert not report.spent


@simulated
async def test_what_is_wrong_with_our_own_vector_is_said_before_anything_is_sent(
    network: SimNetwork,
) -> None:
    spec = TensorSpec.of({"w": np.zeros(3, np.float32)})
    good = {"w": np.ones(3, np.float32)}
    async with (
        network.open_node("alice") as node,
        open_secure_averager(node, "s", spec, CONFIG) as averager,
    ):
        for weight in (-1.0, 4.5, float("nan")):
            with pytest.raises(ValueError, match="weight must be between 0 and 4"):
                await averager.step(good, weight=weight)
        bad = {"w": np.array([1, np.inf, 0], np.float32)}
        with pytest.raises(ValueError, match="not finite; nothing was sent"):
            await averager.step(bad)
        with pytest.raises(ValueError, match="deadline_s must be positive"):
            await averager.step(good, deadline_s=0.0)


@simulated
async def test_values_beyond_the_largest_are_clipped_and_counted(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        peers = await open_peers(stack, network, 3, elements=100)
        peers.tensors[1]["w"][:7] = -1e30
        clipped: dict[int, int] = {}
        everyone = [node.peer_id for node in peers.nodes]

        async def step(number: int, averager: SecureAverager) -> None:
            await averager.step(peers.tensors[number], expected=everyone)
            clipped[number] = averager.clipped

        await peers.run(step=step)
    assert clipped == {0: 0, 1: 7, 2: 0}
    assert (peers.tensors[0]["w"][:7] < -1.0).all()


@simulated
async def test_strangers_find_each_other_and_go_from_round_to_round(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        names = NAMES[:3]
        nodes = [await stack.enter_async_context(network.open_node(name)) for name in names]
        first = await stack.enter_async_context(open_dht(nodes[0]))
        dhts = [first] + [
            await stack.enter_async_context(open_dht(node, initial_peers=nodes[0].addresses))
            for node in nodes[1:]
        ]
        seen: list[tuple[int, int, bytes]] = []

        async def steps(number: int) -> None:
            tensors = {"w": np.zeros(50, np.float32)}
            spec = TensorSpec.of(tensors)
            async with open_secure_averager(
                nodes[number], "s", spec, CONFIG, dht=dhts[number]
            ) as averager:
                await trio.sleep(1)
                for step in range(3):
                    tensors["w"][:] = number + step + 1
                    report = await averager.step(tensors)
                    seen.append((step, report.round.number, report.digest))
                    np.testing.assert_allclose(tensors["w"], 2 + step, atol=TOLERANCE)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(steps, number)
    assert len(seen) == 9
    assert all(step == number for step, number, _ in seen)
    assert len({digest for _, _, digest in seen}) == 3


def test_real_nodes_over_tcp() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(open_node()) for _ in range(4)]
            await connect_all(nodes)
            peers = Peers(nodes, elements=50_000)
            with trio.fail_after(60):
                await peers.run()
        peers.check_mean_of(range(4))

    trio.run(main)
