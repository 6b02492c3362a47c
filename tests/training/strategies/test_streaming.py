"""Streaming DiLoCo: with one fragment and no delay it is DiLoCo, and fragments take turns."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.strategies.quadratic import Quadratic
from training.strategies import DiLoCo, Exchange, OuterStep, Strategy, StreamingDiLoCo
from training.strategies.simulate import Simulation

RATE = 0.05


def simulation(strategy: Strategy) -> Simulation:
    return Simulation(strategy, Quadratic((8, 8, 8)), [np.ones(7)] * 3, RATE)


def test_one_fragment_without_delay_is_diloco() -> None:
    streaming = simulation(StreamingDiLoCo(every=5, fragments=1, delay=0, mixing=0.0))
    plain = simulation(DiLoCo(every=5))
    for _ in range(6):
        streaming.run(5)
        plain.run(5)
        assert [p.tobytes() for p in streaming.parameters] == [
            p.tobytes() for p in plain.parameters
        ]


def test_fragments_take_turns_and_each_element_has_one() -> None:
    swarm = simulation(StreamingDiLoCo(every=6, fragments=3, delay=0, mixing=0.0))
    for first in (0, 1, 2, 0):
        before = swarm.tactics[0].shared()["anchor"]
        swarm.run(2)
        moved = np.flatnonzero(swarm.tactics[0].shared()["anchor"] != before)
        assert list(moved) == list(range(first, 7, 3))
        same = [len({parameters[at] for parameters in swarm.parameters}) == 1 for at in range(7)]
        assert [at for at in range(7) if same[at]] == list(moved), "only these are equal now"
    assert swarm.traffic.exchanges == 4
    assert swarm.traffic.peak_bytes == 2 * 3 * 8 * 2 / 3, (
        "a fragment of three elements of eight bytes"
    )


def test_a_fragment_is_merged_after_the_delay() -> None:
    plain_outer = OuterStep(rate=1.0, momentum=0.0)
    strategy = StreamingDiLoCo(every=4, fragments=1, delay=2, mixing=0.25, outer=plain_outer)
    tactic = strategy.begin(np.zeros(2), me="alice")
    tactic.on_peers(["alice"])
    tactic.on_interval(0)
    for _ in range(4):
        tactic.on_local_step(samples=8)
    assert tactic.due(3) == ()
    assert tactic.due(4) == (Exchange.MEAN,)
    offer = tactic.offer(Exchange.MEAN, np.array([1.0, 2.0]))
    assert (offer.vector_O.tolist(), offer.weight) == ([-1.0, -2.0], 32.0)
    kept = tactic.apply(Exchange.MEAN, np.array([-3.0, -3.0]), np.array([1.0, 2.0]))
    assert kept.tolist() == [1.0, 2.0], "training goes on as if nothing had been"
    tactic.on_peers(["alice"])
    tactic.on_interval(1)
    tactic.on_local_step(samples=8)
    assert not tactic.adjusts
    tactic.on_local_step(samples=8)
    assert tactic.adjusts
    assert tactic.adjust(np.array([5.0, 7.0])).tolist() == [3.5, 4.0], (
        "a quarter of 5, the rest of 3"
    )
    assert not tactic.adjusts


@pytest.mark.parametrize(
    "wrong",
    [{"every": 10, "fragments": 4}, {"delay": 48}, {"mixing": 1.0}, {"every": 0, "fragments": 1}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        StreamingDiLoCo(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many parameters"):
        StreamingDiLoCo(every=8, fragments=4).begin(np.ones(3), me="alice")
