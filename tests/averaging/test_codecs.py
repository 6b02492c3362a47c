"""Codecs as users of an averager meet them: what they choose, what it costs, what comes of it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import trio

from averaging import AveragerConfig, RoundFailed, TensorSpec, open_averager
from averaging.codecs.codec import Codec
from averaging.codecs.pair import codec_pair
from averaging.codecs.registry import CODEC_NAMES
from p2p import NodeConfig, open_node
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import Array, connect_all, simulated
from tests.averaging.codecs.samples import Bytes, Largest
from tests.averaging.coded_swarm import COLUMNS, ROWS, config_of, mean_tensor, open_random
from tests.averaging.swarm import Swarm, open_swarm

needs_registry = pytest.mark.skipif(
    "int8-block" not in CODEC_NAMES, reason="needs the codecs that this package ships"
)


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
