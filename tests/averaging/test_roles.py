"""Peers behind routers: who averages what follows from who reaches whom, round by round."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack

import numpy as np
import pytest
import trio

from averaging import Averager, AveragerConfig, RoundFailed, RoundReport, TensorSpec, open_averager
from p2p import Node, PeerId
from p2p.testing import SimNetwork, run_sim
from tests.averaging.allreduce.peers import simulated

PAIR = AveragerConfig(group_size_min=2)


class Home:
    """Peers with an averager each, some of them behind routers, and what came of their steps."""

    def __init__(self, network: SimNetwork) -> None:
        self.network = network
        self.nodes: list[Node] = []
        self.averagers: list[Averager] = []
        self.tensors: list[dict[str, np.ndarray]] = []

    async def open(
        self,
        stack: AsyncExitStack,
        *,
        public: int,
        private: int,
        elements: int = 20_000,
        config: AveragerConfig | None = None,
    ) -> None:
        """Public peers first; all know each other's addresses."""
        for number in range(public + private):
            node = await stack.enter_async_context(
                self.network.open_node(f"peer-{number}", private=number >= public)
            )
            self.nodes.append(node)
            self.tensors.append({"w": np.zeros(elements, np.float32)})
        self.introduce()
        for node, tensors in zip(self.nodes, self.tensors, strict=True):
            self.averagers.append(
                await stack.enter_async_context(
                    open_averager(node, "home", TensorSpec.of(tensors), config)
                )
            )

    def introduce(self) -> None:
        for node, other in itertools.permutations(self.nodes, 2):
            node.add_addresses(other.peer_id, other.addresses)

    @property
    def ids(self) -> list[PeerId]:
        return [node.peer_id for node in self.nodes]

    async def step(self, deadline_s: float = 30.0) -> list[RoundReport | RoundFailed]:
        """All take one step; peer k brings a vector full of k."""
        outcomes: dict[int, RoundReport | RoundFailed] = {}
        for number, tensors in enumerate(self.tensors):
            tensors["w"][:] = number

        async def one(number: int) -> None:
            try:
                outcomes[number] = await self.averagers[number].step(
                    self.tensors[number], expected=self.ids, deadline_s=deadline_s
                )
            except RoundFailed as failed:
                outcomes[number] = failed

        async with trio.open_nursery() as nursery:
            for number in range(len(self.nodes)):
                nursery.start_soon(one, number)
        return [outcomes[number] for number in range(len(self.nodes))]

    async def average(self) -> list[RoundReport]:
        """A step that must succeed, with everybody in it wholly."""
        reports = []
        for outcome in await self.step():
            assert isinstance(outcome, RoundReport), outcome
            assert [member.fraction for member in outcome.members.values()] == [1.0] * len(
                self.nodes
            ), outcome
            reports.append(outcome)
        assert len({report.digest for report in reports}) == 1
        mean = (len(self.nodes) - 1) / 2
        for tensors in self.tensors:
            np.testing.assert_allclose(tensors["w"], mean, rtol=1e-6)
        return reports


def paths_of(reports: Sequence[RoundReport]) -> set[str]:
    """How the bulk of a round travelled."""
    return {path for report in reports for path, count in report.bytes_by_path.items() if count}


@simulated
async def test_two_private_peers_average_through_a_public_one(network: SimNetwork) -> None:
    """As behind symmetric NATs: no path of their own, ever."""
    async with AsyncExitStack() as stack:
        home = Home(network)
        relay = await stack.enter_async_context(network.open_node("relay"))
        network.set_relay(relay.peer_id, bytes_each_way=200_000)
        await home.open(stack, public=1, private=2)
        for _ in range(3):
            reports = await home.average()
            assert paths_of(reports) == {"direct"}
            # All of the vector goes to the public peer and comes back.
            assert reports[1].sent_bytes == reports[2].sent_bytes == 80_000
            await trio.sleep(5)


@simulated
async def test_punched_paths_make_aggregators_of_private_peers(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        home = Home(network)
        relay = await stack.enter_async_context(network.open_node("relay"))
        network.set_relay(relay.peer_id)
        await home.open(stack, public=1, private=2)
        network.let_punch(*home.ids[1:])
        assert paths_of(await home.average()) == {"direct"}
        await trio.sleep(5)
        reports = await home.average()
        # Each owns a third.
        assert "punched" in paths_of(reports)
        assert "relayed" not in paths_of(reports)
        assert all(90_000 < report.sent_bytes < 120_000 for report in reports)
        assert any("bytes punched" in str(report) for report in reports)


@simulated
async def test_two_private_peers_alone_use_their_relay_if_it_carries_that(
    network: SimNetwork,
) -> None:
    async with AsyncExitStack() as stack:
        home = Home(network)
        relay = await stack.enter_async_context(network.open_node("relay"))
        network.set_relay(relay.peer_id, bytes_each_way=200_000)
        await home.open(stack, public=0, private=2, config=PAIR)
        # Three rounds need more than one circuit carries, so new ones are opened in between.
        for _ in range(3):
            reports = await home.average()
            assert paths_of(reports) == {"relayed"}
            assert all("bytes relayed" in str(report) for report in reports)
            assert all(report.attempts == 1 for report in reports)


@simulated
async def test_two_private_peers_alone_are_told_why_they_cannot_take_part(
    network: SimNetwork,
) -> None:
    async with AsyncExitStack() as stack:
        home = Home(network)
        relay = await stack.enter_async_context(network.open_node("relay"))
        network.set_relay(relay.peer_id, bytes_each_way=140_000)
        await home.open(stack, public=0, private=2, config=PAIR)
        for number, outcome in enumerate(await home.step(deadline_s=10.0)):
            assert isinstance(outcome, RoundFailed)
            reason = outcome.report.reason
            assert "no member can be reached by all without a relay" in reason
            assert "carries 140000 bytes each way, and the round needs 150536" in reason
            np.testing.assert_array_equal(home.tensors[number]["w"], number)
        # Nothing of it was sent.
        infos = home.nodes[0].connections
        assert any(info.path == "relayed" for info in infos)


@simulated
async def test_roles_follow_the_verdict_at_the_next_round(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        home = Home(network)
        relay = await stack.enter_async_context(network.open_node("relay"))
        network.set_relay(relay.peer_id)
        # Two private ones: a single one is connected to all others, perhaps, and may own a span.
        await home.open(stack, public=1, private=2)
        vector = 80_000
        assert [report.sent_bytes for report in await home.average()][1:] == [vector] * 2
        network.set_private(home.ids[2], False)
        home.introduce()
        assert (await home.average())[2].sent_bytes > vector
        network.set_private(home.ids[0])
        for a, b in itertools.combinations(home.nodes, 2):
            network.drop_connection(a.peer_id, b.peer_id)
        home.introduce()
        assert (await home.average())[0].sent_bytes == vector


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_mixed_groups_average_over_the_paths_that_there_are(seed: int) -> None:
    async def main(network: SimNetwork) -> None:
        rng = random.Random(seed)
        # From 2 to 16, and seldom so many, since all of them average several times.
        count = (2, 3, 4, 6, 9, 16)[seed]
        private = rng.randint(0, count - 1)
        async with AsyncExitStack() as stack:
            relay = await stack.enter_async_context(network.open_node("relay"))
            network.set_relay(relay.peer_id, bytes_each_way=100_000)
            home = Home(network)
            await home.open(stack, public=count - private, private=private)
            behind, may_own = home.ids[count - private :], set(home.ids)
            for a, b in itertools.combinations(behind, 2):
                possible = rng.random() < 0.8
                network.let_punch(a, b, possible)
                may_own -= set() if possible else {a, b}
            for _ in range(2 if count > 9 else 3):
                reports = await home.average()
                assert "relayed" not in paths_of(reports)
                for peer, report in zip(home.ids, reports, strict=True):
                    # Who owns a span sends results of it, beside parts of the others'.
                    assert peer in may_own or report.sent_bytes == 80_000
                await trio.sleep(rng.choice([0, 3]))
            assert network.circuits_cut == 0

    run_sim(seed, main)
