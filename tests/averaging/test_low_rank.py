"""Gradients averaged as factors by several peers: bits, who is lost between rounds, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
import trio

from averaging import (
    AveragerConfig,
    LowRankAverager,
    MemberReport,
    RoundFailed,
    RoundId,
    RoundReport,
    TensorSpec,
    open_averager,
    open_low_rank_averager,
)
from averaging.codecs.power_sgd import PowerSgd, PowerSgdConfig, orthonormal
from averaging.low_rank import _Basis
from p2p import Node, PeerId
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import NAMES, Array, connect_all, simulated

SHAPES = {"bias": (30,), "table": (3, 4), "weight": (40, 30)}
CODEC = "powersgd:2"
LEAST = {"codec_elements_min": 100}
FIRST = RoundId(0)


class Peers:
    """Peers with an averager of factors each; what each of them brings follows from a number."""

    def __init__(self, nodes: list[Node], averagers: list[LowRankAverager]) -> None:
        self.nodes, self.averagers = nodes, averagers

    @property
    def ids(self) -> list[PeerId]:
        return [node.peer_id for node in self.nodes]

    async def step(
        self,
        numbers: Mapping[int, int],
        round: RoundId,
        *,
        weights: Mapping[int, float] | None = None,
        **options: Any,
    ) -> dict[int, tuple[dict[str, Array], RoundReport | RoundFailed]]:
        """One step of some peers, by the numbers of what they bring: gradients and outcomes."""
        outcomes: dict[int, tuple[dict[str, Array], RoundReport | RoundFailed]] = {}
        options = {"expected": [self.ids[peer] for peer in numbers]} | options

        async def one(peer: int, number: int) -> None:
            tensors = gradients(number)
            weight = (weights or {}).get(peer, 1.0)
            outcome: RoundReport | RoundFailed
            try:
                outcome = await self.averagers[peer].step(
                    tensors, round=round, weight=weight, **options
                )
            except RoundFailed as failed:
                outcome = failed
            outcomes[peer] = (tensors, outcome)

        async with trio.open_nursery() as nursery:
            for peer, number in numbers.items():
                nursery.start_soon(one, peer, number)
        return outcomes


@asynccontextmanager
async def open_peers(network: SimNetwork, count: int, **options: Any) -> AsyncIterator[Peers]:
    config = AveragerConfig(**({"codec": CODEC} | LEAST | options))
    spec = TensorSpec.of(gradients(0))
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.open_node(n)) for n in NAMES[:count]]
        await connect_all(nodes)
        opening = [open_low_rank_averager(node, "swarm", spec, config) for node in nodes]
        yield Peers(nodes, [await stack.enter_async_context(one) for one in opening])


def gradients(number: int) -> dict[str, Array]:
    rng = np.random.default_rng(number)
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}


def same_bits(results: Mapping[int, tuple[dict[str, Array], Any]]) -> dict[str, Array]:
    """What all of them got, which is the same."""
    (first, _), *others = results.values()
    for tensors, _ in others:
        assert all(tensors[name].tobytes() == first[name].tobytes() for name in SHAPES)
    return first


def success(result: tuple[dict[str, Array], RoundReport | RoundFailed]) -> RoundReport:
    assert isinstance(result[1], RoundReport), result[1]
    return result[1]


def failure(result: tuple[dict[str, Array], RoundReport | RoundFailed], number: int) -> RoundReport:
    """Of a step that failed, and changed nothing."""
    tensors, outcome = result
    assert isinstance(outcome, RoundFailed), outcome
    assert all(np.array_equal(tensors[name], gradients(number)[name]) for name in SHAPES)
    return outcome.report


def after(report: RoundReport) -> RoundId:
    return RoundId(report.round.number + 1, report.digest)


class Alone:
    """The same steps without any network, in one process: the core, and exact means."""

    def __init__(self, count: int) -> None:
        shapes = [SHAPES["bias"], (12,), SHAPES["weight"]]
        self.cores = [PowerSgd(shapes, PowerSgdConfig(rank=2)) for _ in range(count)]

    def step(self, numbers: Mapping[int, int], weights: Mapping[int, float]) -> list[torch.Tensor]:
        def mean(vectors: list[torch.Tensor]) -> torch.Tensor:
            each = zip(numbers, vectors, strict=True)
            total = torch.stack([weights[peer] * vector.double() for peer, vector in each]).sum(0)
            return (total / sum(weights[peer] for peer in numbers)).float()

        cores = [self.cores[peer] for peer in numbers]
        first = []
        for peer, number in numbers.items():
            given = gradients(number)
            tensors = [torch.from_numpy(given[name]) for name in SHAPES]
            tensors[1] = tensors[1].flatten()
            first.append(self.cores[peer].first(tensors, weights[peer]))
        basis = mean(first)
        values = mean([core.second(basis) for core in cores])
        results = [core.finish(values) for core in cores]
        return results[0]


@simulated
async def test_peers_get_the_same_bits_and_what_the_algorithm_says(network: SimNetwork) -> None:
    alone, round, weights = Alone(3), FIRST, {0: 1.0, 1: 3.0, 2: 0.5}
    async with open_peers(network, 3) as peers:
        for number in range(3):
            numbers = {peer: 10 * number + peer for peer in range(3)}
            results = await peers.step(numbers, round, weights=weights)
            got = same_bits(results)
            for name, expected in zip(SHAPES, alone.step(numbers, weights), strict=True):
                np.testing.assert_allclose(
                    got[name].ravel(), expected.numpy().ravel(), atol=2e-5, err_msg=name
                )
            report = success(results[0])
            assert {m.fraction for m in report.members.values()} == {1.0}
            assert [m.weight for m in report.members.values()].count(3.0) == 1
            assert (report.codec, report.attempts, report.round) == (CODEC, 1, round)
            assert success(results[1]).digest == report.digest
            round = after(report)
        queries = [averager.queries.tobytes() for averager in peers.averagers]
        assert len(set(queries)) == 1
        # 2 × 40 and 2 × 30 numbers for the weight, and 42 as they are; 1 242 without factors.
        assert 0 < report.sent_bytes < 2 * 4 * (80 + 60 + 42)


@simulated
async def test_one_that_counts_nothing_gets_the_same(network: SimNetwork) -> None:
    """With queries of its own, as one that has no state yet."""
    async with open_peers(network, 3) as peers:
        peers.averagers[2].take_over(np.ones(60, np.float32))
        results = await peers.step({0: 1, 1: 2, 2: 3}, FIRST, weights={2: 0.0})
        got = same_bits(results)
        alone = Alone(2).step({0: 1, 1: 2}, {0: 1.0, 1: 1.0})
        np.testing.assert_allclose(got["weight"], alone[2].numpy(), atol=1e-5)
        queries = [averager.queries.tobytes() for averager in peers.averagers]
        assert len(set(queries)) == 1


@simulated
async def test_a_result_that_is_not_used_changes_nothing(network: SimNetwork) -> None:
    async with open_peers(network, 2) as peers:
        before = peers.averagers[0].queries

        def too_little(members: Mapping[PeerId, MemberReport]) -> bool:
            assert sum(member.weight * member.fraction for member in members.values()) == 2.0
            return False

        results = await peers.step({0: 1, 1: 2}, FIRST, used=too_little)
        for peer in (0, 1):
            assert np.array_equal(results[peer][0]["weight"], gradients(peer + 1)["weight"])
            assert np.array_equal(peers.averagers[peer].queries, before)
        # The round is over nevertheless; nothing was owed, so the next step is as the first.
        results = await peers.step({0: 1, 1: 2}, after(success(results[0])))
        expected = Alone(2).step({0: 1, 1: 2}, {0: 1.0, 1: 1.0})
        np.testing.assert_allclose(same_bits(results)["weight"], expected[2].numpy(), atol=1e-5)


@simulated
async def test_a_mean_that_is_not_finite_fails_the_step(network: SimNetwork) -> None:
    async with open_peers(network, 1) as peers:
        results = await peers.step({0: 1}, FIRST)
        report, averager = success(results[0]), peers.averagers[0]
        basis = _Basis(after(report), report, np.full(80, np.inf, "float32"))
        averager._begin(tensors := gradients(2), 1.0, after(report))
        with pytest.raises(RoundFailed, match="failed: the average is not finite"):
            await averager._hold_second(tensors, 1.0, 9.0, basis, None, peers.ids, None)
        averager._factors.core.abandon()
        success((await peers.step({0: 2}, after(report)))[0])


async def between_rounds(averager: LowRankAverager, then: Callable[[], None]) -> None:
    """Do something as soon as a peer has the result of a first round."""
    while averager._basis is None:  # noqa: ASYNC110
        await trio.sleep(0.001)
    then()


@simulated
async def test_one_lost_between_the_rounds_costs_no_step(network: SimNetwork) -> None:
    """What it brought shaped the basis only; the gradients are those of the others."""
    network.default_latency_s = 0.02
    async with open_peers(network, 3) as peers:
        crash = (peers.averagers[2], lambda: network.crash(peers.ids[2]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(between_rounds, *crash)
            results = await peers.step({0: 1, 1: 2, 2: 3}, FIRST)
        survivors = {peer: results[peer] for peer in (0, 1)}
        got, report = same_bits(survivors), success(results[0])
        assert set(report.members) == set(peers.ids[:2])
        np.testing.assert_allclose(
            got["bias"], (gradients(1)["bias"] + gradients(2)["bias"]) / 2, atol=1e-6
        )
        # Nothing of theirs is lost: what the gradients lack is owed, and comes with full rank.
        given = gradients(1)["weight"] + gradients(2)["weight"]
        kept = [
            a._factors.core.first([torch.zeros(s) for s in a._factors.core.shapes])
            for a in peers.averagers
        ]
        query = peers.averagers[0].queries.reshape(30, 2)
        owed = (kept[0] + kept[1]).numpy().reshape(40, 2)
        np.testing.assert_allclose((given - 2 * got["weight"]) @ query, owed, atol=1e-3)


@simulated
async def test_a_second_round_that_fails_leaves_everything_as_it_was(network: SimNetwork) -> None:
    """Too few are left that have the basis; with others they agree on a new one."""
    network.default_latency_s = 0.02
    async with open_peers(network, 4, group_size_min=3, partition_patience_s=5.0) as peers:
        before = peers.averagers[0].queries
        crash = (peers.averagers[2], lambda: network.crash(peers.ids[2]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(between_rounds, *crash)
            results = await peers.step({0: 1, 1: 2, 2: 3}, FIRST)
        for peer in (0, 1):
            report = failure(results[peer], peer + 1)
            assert report.reason.startswith("the second of its two rounds: ")
            assert (report.round, report.behind) == (FIRST, None)
            assert np.array_equal(peers.averagers[peer].queries, before)
        numbers = {0: 1, 1: 2, 3: 4}
        # Should they have voted, they wait until nobody can have succeeded out of sight.
        await trio.sleep(5)
        results = await peers.step(numbers, FIRST)
        expected = Alone(4).step(numbers, {0: 1.0, 1: 1.0, 3: 1.0})
        np.testing.assert_allclose(same_bits(results)["weight"], expected[2].numpy(), atol=1e-5)


@simulated
async def test_a_basis_is_kept_while_somebody_may_have_succeeded_with_it(
    network: SimNetwork,
) -> None:
    """All lose sight of each other in the second round; later they go on where they were."""
    network.default_latency_s = 0.02
    async with open_peers(network, 3, group_size_min=2) as peers:

        async def part() -> None:
            while not all(a._second._allreduce._sessions for a in peers.averagers):  # noqa: ASYNC110
                await trio.sleep(0.001)
            network.partition(*([peer] for peer in peers.ids))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(part)
            results = await peers.step({0: 1, 1: 2, 2: 3}, FIRST, deadline_s=4.0)
        for peer in range(3):
            assert failure(results[peer], peer + 1).round == FIRST
        kept = [averager._basis for averager in peers.averagers]
        assert len({basis.mean_F.tobytes() for basis in kept if basis is not None}) == 1
        network.heal()
        # With gradients of now, on the basis of then.
        results = await peers.step({0: 4, 1: 5, 2: 6}, FIRST)
        got = same_bits(results)
        assert kept[0] is not None
        basis = orthonormal(torch.from_numpy(kept[0].mean_F).reshape(40, 2)).numpy()
        mean = sum(gradients(number)["weight"] for number in (4, 5, 6)) / 3
        np.testing.assert_allclose(got["weight"], basis @ (basis.T @ mean), atol=1e-5)
        assert [averager._basis for averager in peers.averagers] == [None] * 3


@simulated
async def test_a_peer_too_late_for_the_first_round_is_told_of_the_next(
    network: SimNetwork,
) -> None:
    network.default_latency_s = 0.05
    async with open_peers(network, 3, group_size_min=2) as peers:
        late: list[Any] = []

        async def come_late() -> None:
            late.append(await peers.step({2: 3}, FIRST, expected=peers.ids))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                between_rounds, peers.averagers[0], lambda: nursery.start_soon(come_late)
            )
            results = await peers.step({0: 1, 1: 2}, FIRST)
        report = failure(late[0][2], 3)
        assert report.behind is not None
        assert report.behind.number == 1
        same_bits(results)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"downlink_codec": "int8-block"}, "does not go with a downlink_codec"),
        ({"error_feedback": "none"}, "error_feedback none: it adds what the factors lack"),
        ({"rule": "median"}, "does not go with the rule median"),
        ({"grid": True}, "does not go with a grid"),
        ({"auxiliary": True}, "does not go with an auxiliary peer"),
        ({"wire_dtype": {"weight": "float16"}}, "does not go with wire dtypes by name"),
        ({"codec": "powersgd:many"}, "the rank of powersgd is a number"),
    ],
)
def test_options_that_make_no_sense_with_factors(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AveragerConfig(**({"codec": CODEC} | options))


@simulated
async def test_what_has_no_factors_is_refused(network: SimNetwork) -> None:
    config = AveragerConfig(codec=CODEC, **LEAST)  # type: ignore[arg-type]
    async with network.open_node("alice") as node:
        small, wide = {"a": np.zeros((9, 9), "float32")}, {"a": np.zeros((99, 99))}
        for tensors, complaint in ((small, "no tensor is worth"), (wide, "not with float64")):
            with pytest.raises(ValueError, match=complaint):
                async with open_low_rank_averager(node, "run", TensorSpec.of(tensors), config):
                    pass
        with pytest.raises(ValueError, match="takes two rounds"):
            async with open_averager(node, "run", TensorSpec.of(gradients(0)), config):
                pass
        spec = TensorSpec.of(gradients(0))
        with pytest.raises(ValueError, match="makes no factors"):
            async with open_low_rank_averager(node, "run", spec, AveragerConfig(codec="int8")):
                pass


@simulated
async def test_peers_of_another_rank_do_not_meet(network: SimNetwork) -> None:
    spec, outcomes = TensorSpec.of(gradients(0)), []
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(network.open_node(n)) for n in NAMES[:2]]
        await connect_all(nodes)

        async def step(node: Node, codec: str) -> None:
            config = AveragerConfig(codec=codec, group_size_min=2, codec_elements_min=100)
            async with open_low_rank_averager(node, "swarm", spec, config) as averager:
                with pytest.raises(RoundFailed) as failed:
                    await averager.step(
                        gradients(1),
                        round=FIRST,
                        expected=[node.peer_id for node in nodes],
                        deadline_s=4.0,
                    )
                outcomes.append(str(failed.value))

        async with trio.open_nursery() as nursery:
            for node, codec in zip(nodes, ("powersgd:2", "powersgd:4"), strict=True):
                nursery.start_soon(step, node, codec)
    assert all("names" in outcome and "differ" in outcome for outcome in outcomes), outcomes
