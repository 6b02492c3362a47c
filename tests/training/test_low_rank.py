"""Swarms that train with gradients as factors: equal bits, latecomers, delays, refusals."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import trio
from torch import nn

from averaging import AveragerConfig, Manifest, RoundFailed, RoundId, Snapshot, StateTable
from averaging.low_rank import LowRankAverager
from p2p import Node, open_dht
from p2p.testing import SimNetwork, run_sim
from tests.training.recipes.test_together import recipe_with
from training import FixedBatch, NoiseScaleBatch, RecipeError, join
from training.advice import Advice, RoundResult
from training.config import SwarmConfig
from training.delayed import BackgroundRound, BackgroundRounds, open_background_rounds
from training.follow import catch_up
from training.recipe import load_recipe, override
from training.recipes.together import build_config
from training.replica import Replica
from training.rounds import QUERIES
from training.session import Session, open_session
from training.session_plan import SessionPlan, check_norms
from training.strategies import DiLoCo

BATCH, TARGET = 8, 48
SNAPSHOT_S = 0.5
"""A state is so old when it begins to travel: several rounds."""
CONFIG = SwarmConfig(averager=AveragerConfig(codec="powersgd:2", codec_elements_min=1))


def make_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 10))


def backward(model: nn.Module, seed: int) -> float:
    """Leave the gradients of a batch in the parameters; its answers are those of one teacher."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(BATCH, 20, generator=generator)
    teacher = torch.randn(20, 10, generator=torch.Generator().manual_seed(9))
    loss = nn.functional.mse_loss(model(inputs), (inputs @ teacher).tanh())
    loss.backward()
    return float(loss.detach())


@dataclass
class SimPeer:
    """Steps as Stepper does, awaited."""

    number: int
    node: Node
    session: Session
    model: nn.Module
    replica: Replica
    rounds: BackgroundRounds | None
    compute_s: float = 0.05
    batches: int = 0
    replayed: int = 0
    losses: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    caught_up: list[int] = field(default_factory=list)
    held: dict[RoundId, tuple[str, bytes]] = field(default_factory=dict)
    """The parameters' hash and the queries at each position that was reached."""
    under_way: BackgroundRound | None = None
    unapplied: BackgroundRound | None = None

    async def train(self, steps: int) -> None:
        while self.replica.position.step < steps:
            await trio.sleep(self.compute_s)
            self.compute()
            await self.step()

    def compute(self) -> None:
        self.losses.append(backward(self.model, 1000 * self.number + self.batches))
        self.replica.gradients.add(BATCH)
        self.batches += 1

    async def step(self) -> None:
        gradients = self.replica.gradients
        if self.under_way is not None and not await self._hear(self.under_way):
            return
        ask = self.session.advance if self.rounds is None else self.session.advise
        advice = await ask(gradients.samples, BATCH / self.compute_s, self.compute_s)
        if advice is not Advice.ACCUMULATE and self.unapplied is not None:
            round, self.unapplied = self.unapplied, None
            assert round.result is not None
            self._apply(round.means, round.result)
        if advice is Advice.CATCH_UP:
            await self.catch_up()
        elif advice is Advice.ROUND and self.rounds is not None:
            self.under_way = BackgroundRound(gradients.means(), gradients.samples)
            gradients.clear()
            await self.rounds.begin(self.under_way)
        elif advice is Advice.ROUND:
            await self.hold_round()

    async def hold_round(self) -> None:
        means, samples = self.replica.gradients.means(), self.replica.gradients.samples
        try:
            result = await self.session.hold_round(means, samples)
        except RoundFailed as failure:
            await self._on_failure(failure)
            return
        if result.accepted:
            self._apply(means, result)
            self.replica.gradients.clear()
        else:
            self.failures.append("discarded")
            self.replica.move(result.position, equalized=False)
        await self.session.commit(result, self.replica.gradients.samples, self.replica.sketch())

    async def _hear(self, round: BackgroundRound) -> bool:
        """Whether to go on: the round has ended, and with a result."""
        assert self.rounds is not None
        if not await self.rounds.hear(round, self.replica.gradients.samples, False):
            return False
        self.under_way = None
        if round.result is not None and round.result.accepted:
            self.unapplied = round
            return True
        self.replica.gradients.restore(round.means, round.samples)
        if round.failure is not None:
            await self._on_failure(round.failure)
        return False

    async def _on_failure(self, failure: RoundFailed) -> None:
        self.failures.append(str(failure))
        if failure.report.behind is not None:
            await self.catch_up(failure.report.behind)

    def _apply(self, means: Any, result: RoundResult) -> None:
        self.replica.step(means, result.position, result.shared)
        self.keep()

    def keep(self) -> None:
        queries = self.replica.shared[QUERIES].tobytes()
        state = self.replica.state.parameter_hash(), queries
        self.held[self.replica.position.round] = state

    async def catch_up(self, hint: RoundId | None = None) -> None:
        caught = await catch_up(self.session, hint)
        if caught is None:
            return
        self.replica.take_over(caught)
        self.replayed += len(caught.rounds)
        self.caught_up.append(self.replica.position.step)
        self.keep()
        sketch = self.replica.sketch() if self.rounds is None else ()
        shared = self.replica.shared
        await self.session.settle(caught.position, caught.past, sketch, shared)

    @property
    def averager(self) -> LowRankAverager:
        averager = self.session.averager
        assert isinstance(averager, LowRankAverager)
        return averager


@asynccontextmanager
async def open_peer(
    network: SimNetwork, number: int, initial: tuple[str, ...] = (), *, delayed: bool = False
) -> AsyncIterator[SimPeer]:
    async def on_caller(function: Callable[[], Snapshot]) -> Snapshot:
        snapshot = function()
        await trio.sleep(SNAPSHOT_S)
        return snapshot

    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    schedule = FixedBatch(TARGET)
    replica = Replica(optimizer, model, schedule, "constant", CONFIG.averager)
    plan = SessionPlan(
        run="run",
        spec=replica.gradients.spec,
        spec_hash=replica.gradients.spec.hash,
        schedule=schedule,
        position=replica.position,
        sketch=() if delayed else replica.sketch(),
        rounding=replica.state.rounding,
        check_state=replica.complaint,
        take_snapshot=replica.take_snapshot,
    )
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(network.open_node(f"peer{number}"))
        dht = await stack.enter_async_context(open_dht(node, initial_peers=initial))
        opening = open_session(node, dht, plan, CONFIG, on_caller)
        session = await stack.enter_async_context(opening)
        await session.introduce()
        rounds = None
        if delayed:
            rounds = await stack.enter_async_context(open_background_rounds(session))
        yield SimPeer(number, node, session, model, replica, rounds)


@asynccontextmanager
async def open_swarm(
    network: SimNetwork, count: int, *, delayed: bool = False
) -> AsyncIterator[list[SimPeer]]:
    """Peers that know each other."""
    async with AsyncExitStack() as stack:
        peers: list[SimPeer] = []
        for number in range(count):
            initial = peers[0].node.addresses if peers else ()
            opening = open_peer(network, number, initial, delayed=delayed)
            peers.append(await stack.enter_async_context(opening))
        with trio.fail_after(30):
            while any(len(p.session.tracker.view().peers) < count for p in peers):  # noqa: ASYNC110
                await trio.sleep(0.01)
        yield peers
    assert network.handler_errors == []


def assert_same_where_both_were(peer: SimPeer, other: SimPeer, least: int) -> None:
    common = peer.held.keys() & other.held.keys()
    assert len(common) >= least
    assert all(peer.held[where] == other.held[where] for where in common)


@pytest.mark.slow
@pytest.mark.parametrize("delayed", [False, True])
def test_a_swarm_learns_and_a_latecomer_ends_with_the_same_bits(delayed: bool) -> None:
    """The latecomer's download is slow, so that it takes part in rounds before it has a state."""

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.005
        network.default_bytes_per_s = 2e5
        async with open_swarm(network, 3, delayed=delayed) as peers:
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(peer.train, 12)
                while peers[0].replica.position.step < 3:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                addresses = peers[0].node.addresses
                async with open_peer(network, 3, addresses, delayed=delayed) as late:
                    await late.train(12)
            for peer in peers:
                assert peer.failures == []
                assert peer.caught_up == []
                assert np.mean(peer.losses[-4:]) < 0.8 * np.mean(peer.losses[:4])
                assert_same_where_both_were(peer, peers[0], 11)
            assert len(late.caught_up) == 1
            assert late.replayed > 0
            assert_same_where_both_were(late, peers[0], 5)

    run_sim(5, main)


def test_a_round_that_is_discarded_changes_nothing() -> None:
    async def main(network: SimNetwork) -> None:
        async with open_swarm(network, 2) as peers:
            before = peers[0].averager.queries
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    # Eight samples each, of 48 that are wanted.
                    peer.compute()
                    nursery.start_soon(peer.hold_round)
            for peer in peers:
                assert peer.failures == ["discarded"]
                assert peer.replica.gradients.samples == BATCH
                assert np.array_equal(peer.averager.queries, before)
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(peer.train, 2)
            assert_same_where_both_were(*peers, least=2)

    run_sim(3, main)


@pytest.mark.slow
def test_one_that_goes_between_the_rounds_leaves_the_others_to_go_on() -> None:
    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.02
        async with open_swarm(network, 3) as peers:
            async with trio.open_nursery() as nursery:

                async def crash() -> None:
                    while peers[0].averager._basis is None:  # noqa: ASYNC110
                        await trio.sleep(0.001)
                    network.crash(peers[2].node.peer_id)

                nursery.start_soon(crash)
                async with trio.open_nursery() as survivors:
                    nursery.start_soon(peers[2].train, 1)
                    for peer in peers[:2]:
                        survivors.start_soon(peer.train, 4)
                # It is alone in a world of its own.
                nursery.cancel_scope.cancel()
            assert all(peer.failures == [] for peer in peers[:2])
            assert_same_where_both_were(peers[0], peers[1], least=4)

    run_sim(4, main)


def alone(model: nn.Module, *, steps: int = 0, saved: bytes = b"", **options: Any) -> bytes:
    """Train for so many micro-batches, perhaps from a checkpoint on; returns another."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with join("test", config=options.pop("config", CONFIG)) as swarm:
        swarmed = swarm.optimizer(optimizer, model=model, global_batch=BATCH, **options)
        if saved:
            content = torch.load(io.BytesIO(saved), weights_only=True)
            model.load_state_dict(content["model"])
            swarmed.load_state_dict(content["optimizer"])
        for number in range(steps):
            backward(model, number)
            swarmed.step(samples=BATCH)
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": swarmed.state_dict()}, file)
    return file.getvalue()


def queries_of(saved: bytes) -> torch.Tensor | None:
    content = torch.load(io.BytesIO(saved), weights_only=True)
    queries: torch.Tensor | None = content["optimizer"]["swarm"]["shared"].get(QUERIES)
    return queries


def test_checkpoints_hold_the_queries() -> None:
    saved = alone(make_model(), steps=3)
    queries = queries_of(saved)
    assert queries is not None
    again = queries_of(alone(make_model(), saved=saved))
    assert again is not None
    assert torch.equal(again, queries)
    # With another rank they are of no use, and those of a beginning are taken.
    other = SwarmConfig(averager=AveragerConfig(codec="powersgd:3", codec_elements_min=1))
    assert queries_of(alone(make_model(), saved=saved, config=other)) is None
    assert queries_of(alone(make_model(), saved=saved, steps=1, config=other)) is not None


def test_a_state_of_another_rank_is_no_state_of_ours() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)

    def replica(codec: str | None) -> Replica:
        averager = AveragerConfig(codec=codec, codec_elements_min=1)
        return Replica(optimizer, model, FixedBatch(TARGET), "constant", averager)

    ours, other, plain = replica("powersgd:2"), replica("powersgd:3"), replica(None)
    shape = {name: np.ones(shape, np.float32) for name, shape in other._shared_shapes.items()}
    assert other.fitting(shape).keys() == {QUERIES}
    assert ours.fitting(shape) == {}
    assert other.fitting({QUERIES: np.full_like(shape[QUERIES], np.nan)}) == {}
    other.shared = shape
    offered = manifest_of(other.take_snapshot())
    assert other.complaint(offered) is None
    assert ours.complaint(manifest_of(plain.take_snapshot())) is None, "one of the beginning"
    for one in (ours, plain):
        assert "codec/queries" in str(one.complaint(offered))


def manifest_of(snapshot: Snapshot) -> Manifest:
    table = StateTable.of(snapshot.arrays)
    return Manifest(snapshot.version, snapshot.metadata, table, 1 << 20, ())


def test_what_does_not_go_with_factors_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 gradients, and not with float64"):
        alone(make_model().double())
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        join("test", config=CONFIG) as swarm,
        pytest.raises(ValueError, match="a global batch, and not with a strategy"),
    ):
        swarm.optimizer(optimizer, model=model, strategy=DiLoCo(every=4))
    noise = NoiseScaleBatch(first=64, smallest=32, largest=512)
    with pytest.raises(ValueError, match="gradient noise does not go with powersgd:2"):
        check_norms(noise, CONFIG.averager)
    check_norms(FixedBatch(64), CONFIG.averager)


def test_recipes_name_the_rank() -> None:
    plain = load_recipe("digits")
    changed = override(plain, {"codec": "powersgd:2"}, source="options")
    assert build_config(changed).averager.codec == "powersgd:2"
    for changes, complaint in (
        ({"codec": "powersgd:none"}, "codec: the rank of powersgd is a number"),
        ({"codec": "powersgd:2", "downlink_codec": "int8"}, "codec: .* a downlink_codec"),
        ({"codec": "powersgd:2", "error_feedback": "ef21"}, "codec: .* error_feedback ef21"),
    ):
        with pytest.raises(RecipeError, match=complaint):
            build_config(override(plain, changes, source="options"))
    with pytest.raises(RecipeError, match="dtype: must be float32 with the codec powersgd:2"):
        override(plain, {"codec": "powersgd:2", "dtype": "float64"}, source="options")
    with pytest.raises(RecipeError, match="codec: powersgd:2 goes with a global batch"):
        recipe_with('codec = "powersgd:2"\n[strategy]\nname = "diloco"')
