"""Lost connections, peers that vanish, and what the others notice of it."""

from __future__ import annotations

import pytest
import torch
import trio
from torch import nn

from p2p.testing import SimNetwork, run_sim
from tests.training.split.world import (
    FEATURES,
    World,
    batches,
    copies,
    gap,
    make_model,
    open_world,
)
from training.errors import SplitFailed
from training.split import Parts, SplitClientConfig, SplitServerConfig, cut, pair

STEPS = 30
cross_entropy = nn.functional.cross_entropy


def halves(*, seed: int = 0) -> Parts:
    return cut(make_model(seed=seed), 2, example=batches(1)[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("at", [2, (2, 4)])
def test_a_connection_lost_again_and_again_costs_no_step_and_repeats_none(
    at: int | tuple[int, int], window: int
) -> None:
    def train(lossy: bool) -> tuple[Parts, int]:
        parts = cut(make_model(), at, example=batches(1)[0][0])
        lost = 0

        async def main(network: SimNetwork) -> None:
            nonlocal lost
            network.default_latency_s = 0.05
            loss = cross_entropy if parts.is_u_shaped else None
            config = SplitClientConfig(window=window)
            async with (
                open_world(network, parts) as world,
                world.node_of("client") as node,
                trio.open_nursery() as nursery,
            ):

                async def lose() -> None:
                    nonlocal lost
                    while True:
                        await trio.sleep(0.7)
                        network.drop_connection(node.peer_id, world.node.peer_id)
                        lost += 1

                async with world.client(parts, node=node, loss=loss, config=config) as client:
                    if lossy:
                        nursery.start_soon(lose)
                    for inputs, labels in batches(STEPS):
                        await client.step(inputs, labels)
                    await client.go_on(None, 0)
                    nursery.cancel_scope.cancel()
                    assert len(client.losses) == STEPS
                assert world.service.progress.batches == STEPS

        run_sim(3, main)
        return parts, lost

    (one, lost), (other, _) = train(lossy=True), train(lossy=False)
    assert lost >= 3
    if window == 1:
        modules = [copies(*parts.fronts, parts.body, parts.tail) for parts in (one, other)]
        assert gap(*modules) == 0


def test_a_server_that_is_gone_is_told() -> None:
    parts = halves()

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts) as world, world.client(parts) as client:
            inputs, labels = batches(1)[0]
            await client.step(inputs, labels)
            network.crash(world.node.peer_id)
            begun_s = trio.current_time()
            with pytest.raises(SplitFailed, match="the connection to the server was lost") as one:
                await client.step(inputs, labels)
            assert one.value.code == "lost"
            assert 60 <= trio.current_time() - begun_s < 120

    run_sim(1, main)


def test_a_server_that_does_not_answer_is_told() -> None:
    parts = halves()

    async def main(network: SimNetwork) -> None:
        config = SplitClientConfig(answer_s=5)
        async with (
            open_world(network, parts) as world,
            world.client(parts, config=config) as client,
        ):
            network.silence_s_max = 1e9
            network.freeze(world.node.peer_id)
            with pytest.raises(SplitFailed, match="no answer for 5 s"):
                await client.step(*batches(1)[0])

    run_sim(1, main)


def test_a_client_that_vanishes_leaves_the_others_alone() -> None:
    parts, other = halves(), halves(seed=1)

    async def main(network: SimNetwork) -> None:
        async with (
            open_world(network, parts) as world,
            world.client(parts) as client,
            world.node_of("goner") as goner,
        ):
            async with trio.open_nursery() as nursery:

                async def go() -> None:
                    async with world.client(other, node=goner) as lost:
                        await lost.step(*batches(1)[0])
                        network.crash(goner.peer_id)
                        await trio.sleep_forever()

                nursery.start_soon(go)
                for inputs, labels in batches(5):
                    await client.step(inputs, labels)
                nursery.cancel_scope.cancel()
            assert world.service.progress.clients == 2
            await trio.sleep(SplitServerConfig().resume_s + 30)
            assert world.service.progress.clients == 1
            await client.step(*batches(1)[0])
            assert world.service.progress.batches == 7

    run_sim(1, main)


def two_parties() -> Parts:
    torch.manual_seed(0)
    half = FEATURES // 2
    fronts = [nn.Linear(half, 3).double() for _ in range(2)]
    example = torch.zeros(1, half, dtype=torch.float64)
    return pair(fronts, nn.Linear(6, 4).double(), examples=[example, example])


@pytest.mark.parametrize("says_bye", [True, False])
def test_a_party_that_leaves_is_told_to_the_other(says_bye: bool) -> None:
    parts = two_parties()
    ((inputs, labels),) = batches(1)
    told: list[SplitFailed] = []
    heard = trio.Event()

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts) as world, trio.open_nursery() as nursery:

            async def stay() -> None:
                async with world.client(parts, party=1) as client:
                    await client.step(inputs[:, 4:], labels)
                    with pytest.raises(SplitFailed) as caught:
                        await client.step(inputs[:, 4:], labels)
                    told.append(caught.value)
                    heard.set()

            nursery.start_soon(stay)
            async with (
                world.node_of("leaver") as node,
                world.client(parts, node=node, party=0, brings_labels=False) as client,
            ):
                await client.step(inputs[:, :4])
                assert client.losses[0] is not None
                if not says_bye:
                    network.crash(node.peer_id)
                    await heard.wait()
            await heard.wait()
            # A new group can begin.
            nursery.start_soon(join_again, world)
            async with world.client(parts, party=0, brings_labels=False) as client:
                await client.step(inputs[:, :4])

    async def join_again(world: World) -> None:
        async with world.client(parts, party=1) as client:
            await client.step(inputs[:, 4:], labels)

    run_sim(1, main)
    assert told[0].code == "party-lost"
    assert "party 0" in str(told[0])


def test_parties_must_speak_of_the_same_entities() -> None:
    parts = two_parties()
    ((inputs, labels),) = batches(1)
    codes: list[str] = []

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts) as world, trio.open_nursery() as nursery:

            async def take_part(party: int, rows: slice) -> None:
                columns = slice(4 * party, 4 * party + 4)
                mine = labels[rows] if party else None
                async with world.client(parts, party=party, brings_labels=party == 1) as client:
                    entities = torch.arange(6)[rows]
                    await client.step(inputs[:4, columns], mine, entities=torch.arange(4))
                    with pytest.raises(SplitFailed, match="are about different entities") as one:
                        await client.step(inputs[rows, columns], mine, entities=entities)
                    codes.append(one.value.code)

            nursery.start_soon(take_part, 0, slice(0, 4))
            nursery.start_soon(take_part, 1, slice(2, 6))

    run_sim(1, main)
    assert codes == ["order", "order"]


def test_two_clients_at_once_train_one_body() -> None:
    parts = halves()
    fronts = copies(*parts.fronts, *parts.fronts)
    both = [Parts(cut_shapes=parts.cut_shapes, fronts=(one,)) for one in fronts]
    served = Parts(cut_shapes=parts.cut_shapes, body=parts.body)
    losses: dict[int, list[float]] = {}

    async def main(network: SimNetwork) -> None:
        async with open_world(network, served) as world, trio.open_nursery() as nursery:

            async def take_part(index: int) -> None:
                async with world.client(both[index]) as client:
                    for inputs, labels in batches(40):
                        await client.step(inputs, labels)
                    losses[index] = [one for one in client.losses if one is not None]

            nursery.start_soon(take_part, 0)
            nursery.start_soon(take_part, 1)

    run_sim(1, main)
    for index in (0, 1):
        assert sum(losses[index][-10:]) < 0.8 * sum(losses[index][:10])


def test_what_is_not_finite_is_not_sent() -> None:
    parts = halves()
    before = copies(*parts.fronts)

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts) as world, world.client(parts) as client:
            inputs, labels = batches(1)[0]
            with pytest.raises(SplitFailed, match="activations of step 1 are not finite"):
                await client.step(inputs * float("nan"), labels)
            # The session goes on.
            await client.step(inputs, labels)
            assert world.service.progress.batches == 1

    run_sim(1, main)
    assert gap(copies(*parts.fronts), before) > 0


def test_values_too_large_for_float16_are_told() -> None:
    parts = cut(make_model(), 1, example=batches(1)[0][0])

    async def main(network: SimNetwork) -> None:
        config = SplitClientConfig(codec="float16")
        async with (
            open_world(network, parts) as world,
            world.client(parts, config=config) as client,
        ):
            inputs, labels = batches(1)[0]
            with pytest.raises(SplitFailed, match="too large for float16"):
                await client.step(inputs * 1e6, labels)

    run_sim(1, main)


def test_the_servers_own_overflow_ends_the_session_and_changes_nothing() -> None:
    parts = halves()
    body = copies(parts.body)

    def explosive(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(output, labels) * float("inf")

    async def main(network: SimNetwork) -> None:
        async with (
            open_world(network, parts, loss=explosive) as world,
            world.client(parts) as client,
        ):
            with pytest.raises(SplitFailed, match="server's loss or gradient is not finite"):
                await client.step(*batches(1)[0])

    run_sim(1, main)
    assert gap(copies(parts.body), body) == 0
