"""Codecs chosen by the lines of a group: slow ones compress, fast ones do not, within a budget."""

from __future__ import annotations

import numpy as np
import pytest

from averaging import AveragerConfig
from averaging.allreduce.balance import Capacity, planned_seconds
from averaging.codecs.auto import AutomaticPair
from averaging.codecs.choice import CANDIDATES, Candidate, choose, within
from averaging.codecs.coding import Coding
from averaging.codecs.floating import FloatingWire, Run
from averaging.codecs.pair import CodecPair
from averaging.codecs.registry import CODEC_NAMES, codec_named
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import group_of, open_peers, run_group, simulated, vectors_for
from tests.averaging.allreduce.test_faults import same_bits
from tests.averaging.codecs.samples import Bytes, Largest

COUNT = 1_000_000
SIZES = {
    "": 4.0,
    "float16-scaled": 2.0,
    "int8-block": 1.0,
    "int4-block": 0.78,
    "topk:0.05": 0.57,
    "topk:0.01": 0.52,
}


def chosen(rates: list[float | None], error_max: float) -> str:
    """What members with these rates, up and down, choose for four megabytes."""
    capacities = [
        Capacity(contributes=True, aggregates=True, up_bytes_per_s=rate, down_bytes_per_s=rate)
        for rate in rates
    ]
    spans = [COUNT // len(rates)] * len(rates)
    candidates = within(error_max)
    number = choose(
        candidates,
        [SIZES[candidate.codec] for candidate in candidates],
        COUNT,
        lambda size: max(planned_seconds(capacities, spans, size)),
    )
    return candidates[number].codec


def test_the_slowest_line_and_the_budget_decide() -> None:
    assert chosen([10e9] * 4, 1.0) == ""
    assert chosen([1e9] * 4, 0.02) == ""
    assert chosen([125e6] * 4, 0.02) == "int8-block"
    assert chosen([125e6] * 4, 0.001) == "float16-scaled"
    assert chosen([125e6] * 4, 0.0001) == ""
    assert chosen([1e6] * 4, 0.2) == "int4-block"
    assert chosen([1e6] * 4, 1.0) == "topk:0.01"
    assert chosen([10e9, 10e9, 10e9, 1e6], 0.02) == "int8-block"
    # Who has not measured anything is taken for a slow one.
    assert chosen([None] * 3, 0.02) == "int8-block"


def test_candidates_are_in_order_of_what_they_lose() -> None:
    errors = [candidate.error for candidate in CANDIDATES]
    assert errors == sorted(errors)
    assert [candidate.codec for candidate in within(1.0)] == list(SIZES)
    assert within(0.0) == CANDIDATES[:1]


@pytest.mark.skipif(
    "int8-block" not in CODEC_NAMES, reason="needs the codecs that this package ships"
)
def test_what_candidates_lose_is_as_written() -> None:
    torch = pytest.importorskip("torch")
    values = torch.randn(131_072, generator=torch.Generator().manual_seed(0))
    for candidate in CANDIDATES[1:]:
        pair = AveragerConfig(codec=candidate.codec).codecs()
        assert isinstance(pair, CodecPair)
        assert pair.down is not None
        squares = 0.0
        for codec in (codec_named(candidate.codec), pair.down):
            decoded = torch.empty_like(values)
            codec.decode(codec.encode(values, 1), decoded)
            squares += float(((decoded - values).norm() / values.norm()) ** 2)
        assert candidate.error == pytest.approx(squares**0.5, rel=0.1)
    automatic = AveragerConfig(codec="auto", codec_error_max=0.2)
    assert automatic.matchmaking().terms.endswith(" within 0.2 from 4096 elements")
    with pytest.raises(ValueError, match="most of them would be left out"):
        AveragerConfig(codec="auto", codec_error_max=1.0, rule="median", error_feedback="none")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"codec_error_max": 0.0}, "above 0"),
        ({"codec_error_max": 1.5}, "at most 1"),
        ({"codec": "auto", "downlink_codec": "floats"}, "goes with a codec"),
    ],
)
def test_impossible_budgets(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AveragerConfig(**options)  # type: ignore[arg-type]


ELEMENTS = 20_000
PAIRS = AutomaticPair(
    1.0,
    "ef",
    (
        (Candidate("", 0.0, 0.0), None),
        (Candidate("bytes", 0.01, 1e-6), CodecPair(Bytes(), Bytes(), "ef")),
        (Candidate("largest:0.1", 0.9, 1e-3), CodecPair(Largest(0.1), Bytes(), "ef")),
    ),
)


def automatic() -> Coding:
    floating = FloatingWire([Run(0, ELEMENTS, "float32")], np.dtype("float32"))
    return PAIRS.coding(floating, ELEMENTS)


def test_other_candidates_have_another_name() -> None:
    fewer = AutomaticPair(1.0, "ef", PAIRS.pairs[:2])
    assert PAIRS.name.startswith("auto ")
    assert PAIRS.name != fewer.name
    assert PAIRS.sparse
    assert not fewer.sparse


def test_what_is_owed_goes_from_codec_to_codec() -> None:
    coding = automatic()
    assert coding.size_limit_bytes == 4 * ELEMENTS

    def begun(seconds_per_byte: float) -> Coding:
        return coding.begun("ab", [b"", b""], lambda size: size * ELEMENTS * seconds_per_byte)

    fast, medium, slow = begun(1e-9), begun(1e-5), begun(1.0)
    assert [one.name for one in (fast, medium, slow)] == [
        *("", "bytes up, bytes down"),
        "largest:0.1 up, bytes down",
    ]
    assert fast.feedback is None
    assert fast.residual is None
    assert medium.feedback is slow.feedback is coding.feedback is not None
    assert medium.residual is slow.residual is coding.residual is not None
    floating = FloatingWire([Run(0, 3, "float32")], np.dtype("float32"))
    assert PAIRS.coding(floating, 0) == Coding.floats(floating)


@simulated
async def test_one_slow_line_decides_for_all(network: SimNetwork) -> None:
    said = []
    for slowest in (1e9, 1e5):
        async with open_peers(network, 3) as peers:
            nodes = [peer.node for peer in peers]
            group = group_of(nodes, ELEMENTS, rates_bytes_per_s=(1e9, slowest, 1e9))
            codings = [automatic() for _ in peers]
            results = await run_group(peers, group, vectors_for(3, ELEMENTS), codings=codings)
        same_bits(results)
        said.append({result.codec for result in results})
    assert said == [{""}, {"bytes up, bytes down"}]


@simulated
async def test_all_of_a_group_choose_alike(network: SimNetwork) -> None:
    """No JOIN tells a rate here, so lines are taken for slow."""
    async with open_peers(network, 3) as peers:
        group = group_of([peer.node for peer in peers], ELEMENTS)
        codings = [automatic() for _ in peers]
        results = await run_group(peers, group, vectors_for(3, ELEMENTS), codings=codings)
    same_bits(results)
    assert {result.codec for result in results} == {"bytes up, bytes down"}
    for coding in codings:
        assert coding.feedback is not None
        assert coding.feedback.snapshot()["owed"].any()
