"""What codecs lose, in rounds: it comes later, with who is there, and goes with who is not."""

from __future__ import annotations

from contextlib import AsyncExitStack

import numpy as np
import pytest
import trio

from averaging import Averager, AveragerConfig, RoundReport, TensorSpec, open_averager
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import Array, simulated
from tests.averaging.codecs.samples import Bytes, Largest
from tests.averaging.coded_swarm import COLUMNS, ROWS, config_of, mean_tensor, open_random


async def mean_result(
    network: SimNetwork, config: AveragerConfig, rounds: int
) -> tuple[Array, Array]:
    """The mean of the results of so many rounds on the same input, and that of the inputs."""
    total = np.zeros((ROWS, COLUMNS))
    async with AsyncExitStack() as stack:
        swarm = await open_random(stack, network, 2)
        given = [{name: tensor.copy() for name, tensor in peer.items()} for peer in swarm.tensors]

        async def step(number: int, averager: Averager, tensors: dict[str, Array]) -> RoundReport:
            for _ in range(rounds):
                for name, tensor in tensors.items():
                    tensor[...] = given[number][name]
                report = await averager.step(tensors, expected=swarm.ids)
                if number == 0:
                    total[...] += tensors["weight"] / rounds
            return report

        await swarm.run(step, config=config)
    return total, mean_tensor(given, "weight")


@pytest.mark.slow
@simulated
async def test_with_error_feedback_a_sparse_codec_comes_to_the_mean(network: SimNetwork) -> None:
    """On the same input again and again: without feedback most values would never come."""
    rounds = 40
    total, expected = await mean_result(network, config_of(Largest(0.1), Bytes()), rounds)
    # What is owed at the end, some ten rounds' worth, is spread over all rounds.
    assert np.abs(total - expected).max() < 0.25
    assert np.sqrt(np.mean((total - expected) ** 2)) < 0.1


@simulated
async def test_without_error_feedback_it_never_does(network: SimNetwork) -> None:
    config = config_of(Largest(0.1), Bytes(), error_feedback="none")
    total, expected = await mean_result(network, config, 4)
    again, _ = await mean_result(network, config, 2)
    np.testing.assert_allclose(total, again, atol=1e-12, err_msg="more rounds change nothing")
    assert np.sqrt(np.mean((total - expected) ** 2)) > 0.4


@pytest.mark.slow
@simulated
async def test_ef21_comes_to_the_very_mean(network: SimNetwork) -> None:
    """Not only on average: each result is nearer to it than the one before."""
    config = config_of(Largest(0.1), error_feedback="ef21")
    errors: list[float] = []
    async with AsyncExitStack() as stack:
        swarm = await open_random(stack, network, 3)
        given = [{name: tensor.copy() for name, tensor in peer.items()} for peer in swarm.tensors]
        expected = np.average([peer["weight"] for peer in given], axis=0, weights=[1, 2, 3])

        async def step(number: int, averager: Averager, tensors: dict[str, Array]) -> RoundReport:
            for round in range(16):
                for name, tensor in tensors.items():
                    tensor[...] = given[number][name]
                if number == 2 and round == 13:
                    # What it knows is lost, so all begin anew.
                    averager.feedback.reset()
                report = await averager.step(tensors, weight=number + 1.0, expected=swarm.ids)
                if number == 0:
                    errors.append(float(np.abs(tensors["weight"] - expected).max()))
            return report

        await swarm.run(step, config=config)
    assert len({peer["weight"].tobytes() for peer in swarm.tensors}) == 1
    assert errors[12] < 1e-5 < errors[4] < errors[0]
    assert errors[13] == pytest.approx(errors[0])
    assert errors[15] < errors[14] < errors[13]
    assert swarm.report(0).codec == "largest:0.1 up, floats down, ef21"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ef21", "ef21-momentum"])
@simulated
async def test_ef21_begins_anew_without_who_was_lost(network: SimNetwork, kind: str) -> None:
    config = config_of(Largest(0.1), error_feedback=kind)
    errors: list[float] = []
    async with AsyncExitStack() as stack:
        swarm = await open_random(stack, network, 3)
        given = [{name: tensor.copy() for name, tensor in peer.items()} for peer in swarm.tensors]

        async def step(number: int, averager: Averager, tensors: dict[str, Array]) -> RoundReport:
            expected = swarm.ids
            for round in range(14):
                for name, tensor in tensors.items():
                    tensor[...] = given[number][name]
                if round == 4:
                    if number == 2:
                        network.crash(swarm.ids[2])
                    expected = swarm.ids[:2]
                report = await averager.step(tensors, expected=expected)
                if number == 0:
                    there = given[: len(report.members)]
                    mean = mean_tensor(there, "weight")
                    errors.append(float(np.abs(tensors["weight"] - mean).max()))
            return report

        await swarm.run(step, config=config)
    assert len(swarm.report(0).members) == 2
    assert len({peer["weight"].tobytes() for peer in swarm.tensors[:2]}) == 1
    assert errors[3] < errors[0]
    assert errors[13] < 0.1 * errors[4]


@simulated
async def test_what_is_owed_is_kept_given_and_forgotten(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_random(stack, network, 2)

        async def step(number: int, averager: Averager, tensors: dict[str, Array]) -> RoundReport:
            feedback = averager.feedback
            assert feedback.snapshot() == {}
            await averager.step(tensors, expected=swarm.ids, weight=2.0)
            kept = feedback.snapshot()
            assert set(kept) == {"0/owed"}
            assert kept["0/owed"].abs().max() > 0
            # A result that will not be used changes nothing, nor is another vector concerned.
            await averager.step(tensors, expected=swarm.ids, used=lambda members: len(members) > 2)
            assert feedback.snapshot()["0/owed"].equal(kept["0/owed"])
            report = await averager.step(
                tensors, expected=swarm.ids, vector=3, used=lambda members: len(members) == 2
            )
            both = feedback.snapshot()
            assert set(both) == {"0/owed", "3/owed"}
            assert both["0/owed"].equal(kept["0/owed"])
            feedback.reset()
            assert feedback.snapshot() == {}
            feedback.restore(both)
            assert feedback.snapshot()["3/owed"].equal(both["3/owed"])
            with pytest.raises(ValueError, match="does not fit"):
                feedback.restore({"0/owed": kept["0/owed"][1:]})
            with pytest.raises(ValueError, match="no name of a snapshot"):
                feedback.restore({"owed": kept["0/owed"]})
            with pytest.raises(ValueError, match="from 0 to 65535"):
                await averager.step(tensors, expected=swarm.ids, vector=65_536)
            return report

        await swarm.run(step, config=config_of(Largest(0.1)))
        swarm.report(0)
        spec = TensorSpec.of(swarm.tensors[0])
        async with open_averager(swarm.nodes[0], "plain", spec) as plain:
            assert plain.feedback.snapshot() == {}
            plain.feedback.restore({})
            with pytest.raises(ValueError, match="nothing is compressed"):
                plain.feedback.restore({"0/owed": None})  # type: ignore[dict-item]


@simulated
async def test_what_an_aggregator_owes_is_dropped_when_others_average_it(
    network: SimNetwork,
) -> None:
    """With a third member each of the first two has a smaller span."""
    async with AsyncExitStack() as stack:
        swarm = await open_random(stack, network, 3)
        reports: dict[int, list[RoundReport]] = {0: [], 1: []}
        first_over = trio.Event()

        async def step(number: int, averager: Averager, tensors: dict[str, Array]) -> RoundReport:
            if number < 2:
                report = await averager.step(tensors, expected=swarm.ids[:2])
                reports[number].append(report)
                first_over.set()
            await first_over.wait()
            report = await averager.step(tensors, expected=swarm.ids)
            if number < 2:
                reports[number].append(report)
            return report

        await swarm.run(step, config=config_of(Bytes(), Bytes(), join_window_s=2.0))
    firsts, seconds = [reports[n][0] for n in (0, 1)], [reports[n][1] for n in (0, 1)]
    assert all(len(report.members) == 2 for report in firsts)
    assert all(len(report.members) == 3 for report in seconds)
    assert [report.dropped_elements for report in firsts] == [0, 0]
    dropped = sum(report.dropped_elements for report in seconds)
    assert dropped > ROWS * COLUMNS / 4
    assert any("was dropped" in str(report) for report in seconds)
