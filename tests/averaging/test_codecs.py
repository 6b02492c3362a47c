"""Codecs as users of an averager meet them: what they choose, what it costs, what comes of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import Averager, AveragerConfig, RoundFailed, RoundReport, TensorSpec, open_averager
from averaging.codecs.codec import Codec
from averaging.codecs.pair import codec_pair
from averaging.codecs.registry import CODEC_NAMES
from p2p import NodeConfig, open_node
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import Array, connect_all, simulated
from tests.averaging.codecs.samples import Bytes, Largest
from tests.averaging.swarm import Swarm, open_swarm

ROWS, COLUMNS = 100, 50
needs_registry = pytest.mark.skipif(
    "int8-block" not in CODEC_NAMES, reason="needs the codecs that this package ships"
)


def config_of(up: Codec, down: Codec | str = "floats", **options: Any) -> AveragerConfig:
    least = {"codec_elements_min": 1_000}
    return AveragerConfig(codec=up, downlink_codec=down, **(least | options))


async def open_random(stack: AsyncExitStack, network: SimNetwork, count: int) -> Swarm:
    """A swarm whose tensors differ from peer to peer: a matrix and a bias."""
    swarm = await open_swarm(stack, network, count)
    rng = np.random.default_rng(3)
    swarm.tensors = [
        {
            "weight": rng.standard_normal((ROWS, COLUMNS)).astype("float32"),
            "bias": rng.standard_normal(COLUMNS).astype("float32"),
        }
        for _ in range(count)
    ]
    return swarm


def mean_tensor(tensors: list[dict[str, Array]], name: str) -> Array:
    return np.mean([peer[name].astype(np.float64) for peer in tensors], axis=0)


@simulated
async def test_matrices_are_compressed_and_biases_are_not(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_random(stack, network, 3)
        given = [{name: tensor.copy() for name, tensor in peer.items()} for peer in swarm.tensors]
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids),
            config=config_of(Bytes(), Bytes()),
        )
    for name in ("weight", "bias"):
        assert len({peer[name].tobytes() for peer in swarm.tensors}) == 1
    error = np.abs(swarm.tensors[0]["weight"] - mean_tensor(given, "weight"))
    assert 0.001 < error.max() < 0.05
    np.testing.assert_allclose(swarm.tensors[0]["bias"], mean_tensor(given, "bias"), atol=1e-6)
    report = swarm.report(1)
    assert report.codec == "bytes up, bytes down"
    assert "bytes up, bytes down" in str(report)
    assert report.dropped_elements == 0
    # Two thirds of the vector to others, and a third to two of them: a byte for each element.
    assert report.sent_bytes < 2 * ROWS * COLUMNS < report.sent_bytes * 1.5


@pytest.mark.parametrize(
    ("up", "down"),
    [
        (Bytes(), None),
        pytest.param("int8-block", None, marks=needs_registry),
        pytest.param("topk:0.05", None, marks=needs_registry),
        pytest.param("auto", None, marks=needs_registry),
    ],
)
def test_a_round_over_real_connections(up: str | Codec, down: str | None) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(open_node(NodeConfig())) for _ in range(3)]
            await connect_all(nodes)
            swarm = Swarm(nodes)
            rng = np.random.default_rng(1)
            for tensors in swarm.tensors:
                tensors["weight"][...] = rng.standard_normal(tensors["weight"].shape)
            given = [tensors["weight"].astype(np.float64) for tensors in swarm.tensors]
            await swarm.run(
                lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids),
                config=AveragerConfig(codec=up, downlink_codec=down, codec_elements_min=1_000),
            )
            results = [tensors["weight"] for tensors in swarm.tensors]
            assert len({result.tobytes() for result in results}) == 1
            report = swarm.report(0)
            assert report.codec == f"{report.codec.split(' up')[0]} up, {usual_down(up)} down"
            error = np.abs(results[0] - np.mean(given, axis=0))
            assert 0 < error.max() < (2.0 if up == "topk:0.05" else 0.05)

    trio.run(main)


def usual_down(up: str | Codec) -> str:
    return "bytes" if isinstance(up, Bytes) else "int8-block:4096"


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


@simulated
async def test_members_with_other_codecs_are_told_in_what_they_differ(network: SimNetwork) -> None:
    configs = [
        config_of(Bytes(), group_size_min=2, join_window_s=1.0),
        AveragerConfig(group_size_min=2, join_window_s=1.0),
    ]
    said: list[str] = []
    async with AsyncExitStack() as stack:
        swarm = await open_random(stack, network, 2)

        async def one(number: int) -> None:
            node, tensors = swarm.nodes[number], swarm.tensors[number]
            spec = TensorSpec.of(tensors)
            async with open_averager(node, "swarm", spec, configs[number]) as averager:
                with pytest.raises(RoundFailed) as failed:
                    await averager.step(tensors, expected=swarm.ids, deadline_s=4)
                said.extend([str(failed.value), *failed.value.report.refusals.values()])

        async with trio.open_nursery() as nursery:
            for number in range(2):
                nursery.start_soon(one, number)
    terms = "mean, norms up to 10 medians, bytes up, floats down from 1000 elements"
    assert any(terms in reason for reason in said), said


# --- what goes together -----------------------------------------------------------------------


class Inexact(Bytes):
    """Not the same everywhere."""

    name = "inexact"
    same_everywhere = False


class Wide(Bytes):
    """With frames that may be larger than a message."""

    name = "wide"

    def size_limit_bytes(self, count: int) -> int:
        return 9 * count


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"codec": "no-such"}, "there is no codec 'no-such'"),
        ({"codec": Inexact(), "downlink_codec": Inexact()}, "cannot be the downlink codec"),
        ({"codec": Wide(), "downlink_codec": "floats"}, "wide may be larger than a message"),
        ({"codec": None, "downlink_codec": "floats"}, "goes with a codec"),
        ({"codec_elements_min": 0}, "at least 1"),
        ({"codec_elements_min": {"weight": 0}}, "at least 1"),
        ({"codec": Bytes(), "error_feedback": "more"}, "error feedback is one of"),
        ({"codec": Bytes(), "error_feedback": "ef21", "grid": True}, "same members from round"),
        (
            {"codec": Bytes(), "error_feedback": "ef21", "downlink_codec": Bytes()},
            "would be missing in all that come; its downlink codec is floats",
        ),
        ({"codec": Bytes(), "rule": "median"}, "does not go with the rule median"),
        (
            {
                "codec": Largest(0.1),
                "downlink_codec": "floats",
                "rule": "median",
                "error_feedback": "none",
            },
            "most of them would be left out",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AveragerConfig(**options)


def test_robust_rules_go_with_codecs_that_send_every_value() -> None:
    config = AveragerConfig(codec=Bytes(), rule="trimmed_mean(0.2)", error_feedback="none")
    pair = config.codecs()
    assert pair is not None
    assert pair.name == "bytes up, bytes down"


def test_terms_tell_which_tensors_are_compressed() -> None:
    def terms_of(least: Any) -> str:
        return config_of(Bytes(), codec_elements_min=least).matchmaking().terms

    tables = [terms_of(least) for least in (1, 2, {"a": 1}, {"a": None}, {"a": 1, "b": 1})]
    assert len(set(tables)) == 5
    assert terms_of({"a": 1, "b": 2}) == terms_of({"b": 2, "a": 1})


def test_results_travel_by_the_same_codec_where_that_is_fit_for_them() -> None:
    def down_of(codec: Codec) -> Codec | None:
        return codec_pair(codec, None, feedback="ef", rule="mean", grid=False).down

    assert isinstance(down_of(Bytes()), Bytes)
    assert codec_pair(Bytes(), None, feedback="ef21", rule="mean", grid=False).down is None


@needs_registry
@pytest.mark.parametrize("codec", [Largest(0.5), Inexact(), "sign", "topk:0.01", "int4-block"])
def test_else_they_travel_by_bytes(codec: str | Codec) -> None:
    down = codec_pair(codec, None, feedback="ef", rule="mean", grid=False).down
    assert down is not None
    assert down.name == "int8-block:4096"


def test_which_tensors_are_coded() -> None:
    arrays: dict[str, Array] = {
        "a.norm": np.ones(2_000, "float32"),
        "b.weight": np.ones((40, 50), "float32"),
        "c.table": np.ones(32_000, "float32"),
        "d.weight": np.ones((40, 49), "float32"),
        "e.weight": np.ones((2_000, 1), "float16"),
    }
    spec = TensorSpec.of(arrays, wire={"b.*": "float16"})
    by_name = spec.with_coded({"c.*": None, "a.norm": 2_000, "e.weight": 2_001, "b.*": 1})
    assert by_name.coded_names == ("a.norm", "b.weight")
    with pytest.raises(ValueError, match="no tensor has the names"):
        spec.with_coded({"f.weight": 1})
    coded = spec.with_coded(2_000)
    assert coded.coded_names == ("c.table", "b.weight", "e.weight")
    assert coded.coded_count == 36_000
    assert spec.coded_count == 0
    assert coded.names[3:] == ("a.norm", "d.weight")
    # Who codes is a matter of terms, which say it better.
    assert coded.hash == spec.hash
    assert coded.wire.element_count == spec.wire.element_count
    flat = coded.flatten(arrays)
    coded.write_back(flat * 2, arrays)
    assert all((tensor == 2).all() for tensor in arrays.values())
    with pytest.raises(ValueError, match="must be the first"):
        TensorSpec(spec.names, spec.shapes, spec.dtypes, coded_names=("b.weight",))


@simulated
async def test_where_nothing_is_large_enough_all_is_floats(network: SimNetwork) -> None:
    async with AsyncExitStack() as stack:
        swarm = await open_swarm(stack, network, 2)
        await swarm.run(
            lambda number, averager, tensors: averager.step(tensors, expected=swarm.ids),
            config=AveragerConfig(codec=Largest(0.1), downlink_codec="floats"),
        )
    swarm.check_mean(range(2), 0.5)
    assert swarm.report(0).codec == ""
