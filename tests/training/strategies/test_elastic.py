"""Elastic averaging: both sides move from old values, and where it comes to rest."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.strategies.quadratic import Quadratic
from training.strategies import ElasticAveraging, Exchange
from training.strategies.landscapes import DoubleWell
from training.strategies.simulate import Simulation


def test_peer_and_centre_move_from_the_old_values() -> None:
    tactic = ElasticAveraging(every=1, centre_rate=0.5, pull=0.25).begin(
        np.array([4.0]), me="alice"
    )
    tactic.on_peers(["alice", "bob"])
    tactic.on_interval(0)
    tactic.on_local_step(samples=1)
    # The centre is at 4, alice at 8, bob at 16.
    ours, bobs = tactic.offer(Exchange.MEAN, np.array([8.0])).vector_O, np.array([4.0 - 16.0])
    pulled = tactic.apply(Exchange.MEAN, (ours + bobs) / 2, np.array([8.0]))
    assert pulled.tolist() == [8 - 0.25 * (8 - 4)]
    assert tactic.shared()["anchor"].tolist() == [0.5 * 4 + 0.5 * 12]


def test_by_default_all_peers_together_pull_as_much_as_the_centre_moves() -> None:
    tactic = ElasticAveraging(centre_rate=0.4).begin(np.zeros(1), me="alice")
    tactic.on_peers(["alice", "bob", "carol", "dave"])
    tactic.on_interval(0)
    assert tactic.apply(Exchange.MEAN, np.zeros(1), np.array([10.0])).tolist() == [9.0]


def test_workers_at_the_centre_and_the_minimum_stay() -> None:
    """The fixed point: no gradient, no difference."""
    swarm = Simulation(ElasticAveraging(every=1), DoubleWell(), [np.array([1.0])] * 3, rate=0.1)
    swarm.run(20)
    assert [parameters.tolist() for parameters in swarm.parameters] == [[1.0]] * 3


def test_all_hold_the_same_centre() -> None:
    starts = [np.full(7, float(worker)) for worker in range(3)]
    swarm = Simulation(ElasticAveraging(every=4), Quadratic((4, 8, 8)), starts, rate=0.05)
    swarm.run(40)
    assert len({tactic.shared()["anchor"].tobytes() for tactic in swarm.tactics}) == 1
    assert len({parameters.tobytes() for parameters in swarm.parameters}) == 3


def test_its_resting_points_are_not_those_of_the_loss() -> None:
    """Two workers in two wells hold each other off the minima, the centre on the maximum."""
    rate, elasticity = 0.01, 1.0
    # After a step of the gradient, this pull has its resting points where f' = −ρ (x − centre).
    pull = rate * elasticity / (1 + rate * elasticity)
    swarm = Simulation(
        ElasticAveraging(every=1, pull=pull),
        DoubleWell(),
        [np.array([1.2]), np.array([-1.2])],
        rate,
    )
    for tactic in swarm.tactics:
        tactic.load({"anchor": np.zeros(1)})
    swarm.run(3000)
    before_pull = [x / (1 - pull) for x in swarm.parameters]
    expected = np.sqrt(1 - elasticity / 4)
    assert swarm.parameters[0][0] == pytest.approx(expected, abs=1e-10)
    assert swarm.parameters[1][0] == pytest.approx(-expected, abs=1e-10)
    assert before_pull[0][0] > expected
    assert swarm.tactics[0].shared()["anchor"][0] == pytest.approx(0, abs=1e-10)
    assert DoubleWell().slope(swarm.parameters[0])[0] == pytest.approx(-0.866, abs=1e-3)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"centre_rate": 0.0}, {"pull": 1.5}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ElasticAveraging(**wrong)  # type: ignore[arg-type]
