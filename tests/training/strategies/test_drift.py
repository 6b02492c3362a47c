"""FedProx and SCAFFOLD where clients' data differ: fixed points with a formula, and the optimum.

Client i has f_i(x) = a_i (x − b_i)² / 2, the simplest losses on which federated averaging drifts.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.strategies.quadratic import Quadratic
from training.strategies import FederatedAveraging, FedProx, OuterStep, Scaffold, Strategy
from training.strategies.simulate import Simulation
from training.strategies.strategy import Exchange, Vector

SLOPES = np.array([0.5, 1.0, 2.0, 4.0])
CENTRES = np.array([3.0, -1.0, 2.0, 0.0])
OPTIMUM = float(SLOPES @ CENTRES / SLOPES.sum())
RATE, EVERY = 0.05, 10


class Parabolas:
    """One number to learn, another optimum at each client."""

    def gradient(self, parameters_E: Vector, worker: int, step: int) -> tuple[float, Vector]:
        """Exact, without noise."""
        distance = parameters_E - CENTRES[worker]
        return self.loss(parameters_E, worker, step), SLOPES[worker] * distance

    def loss(self, parameters_E: Vector, worker: int, step: int) -> float:
        """f_i"""
        return float(SLOPES[worker] * np.square(parameters_E - CENTRES[worker]).sum() / 2)

    def samples(self, worker: int, step: int) -> int:
        """All count the same."""
        return 1


def rests_at(strategy: Strategy, rounds: int = 400) -> float:
    swarm = Simulation(strategy, Parabolas(), [np.array([5.0])] * 4, RATE)
    swarm.run(rounds * EVERY)
    assert len({parameters.tobytes() for parameters in swarm.parameters}) == 1
    return float(swarm.parameters[0][0])


def fixed_point(proximal: float) -> float:
    """Where federated averaging rests, with a proximal term or without.

    In K steps a client goes from x to m + r^K (x − m), where r = 1 − η (a + μ) and m is the optimum
    of f_i with the term, which is (b − x) a / (a + μ) away from x. So the changes cancel where the
    b_i have this weighted mean.
    """
    weights = SLOPES / (SLOPES + proximal) * (1 - (1 - RATE * (SLOPES + proximal)) ** EVERY)
    return float(weights @ CENTRES / weights.sum())


@pytest.mark.slow
@pytest.mark.parametrize("proximal", [0.0, 0.5, 5.0])
def test_fedavg_and_fedprox_rest_where_the_formula_says(proximal: float) -> None:
    strategy = FedProx(every=EVERY, fraction=1.0, proximal=proximal)
    assert rests_at(strategy) == pytest.approx(fixed_point(proximal), abs=1e-10)


def test_a_larger_proximal_term_drifts_less_and_none_is_without_drift() -> None:
    drifts = [abs(fixed_point(proximal) - OPTIMUM) for proximal in (0.0, 0.5, 5.0)]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[0] > 0.1
    assert drifts[-1] > 0.01


def test_without_a_proximal_term_fedprox_is_federated_averaging() -> None:
    swarms = [
        Simulation(strategy, Quadratic((4, 8, 12, 16)), [np.ones(7)] * 4, RATE)
        for strategy in (
            FederatedAveraging(every=3, fraction=0.5, seed=2),
            FedProx(every=3, fraction=0.5, seed=2, proximal=0.0),
        )
    ]
    for swarm in swarms:
        swarm.run(12)
    assert swarms[0].parameters[1].tobytes() == swarms[1].parameters[1].tobytes()


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25])
def test_scaffold_rests_at_the_optimum_of_all_though_only_some_are_drawn(fraction: float) -> None:
    strategy = Scaffold(every=EVERY, fraction=fraction, seed=3)
    assert rests_at(strategy) == pytest.approx(OPTIMUM, abs=1e-9)


def test_the_control_variates_are_those_of_the_paper() -> None:
    """Algorithm 1 with option II, written down as in a book; two of four drawn, η_g = 0.8."""
    strategy = Scaffold(every=5, fraction=0.5, seed=7, outer=OuterStep(rate=0.8))
    task = Quadratic((8, 8, 8, 8))
    swarm = Simulation(strategy, task, [np.ones(7)] * 4, RATE)
    x, c, own = np.ones(7), np.zeros(7), np.zeros((4, 7))
    for number in range(6):
        drawn = [int(name) for name in strategy.lottery.drawn(number, swarm.names)]
        changes, control_changes = [], []
        for worker in drawn:
            y = x.copy()
            for step in range(5 * number, 5 * number + 5):
                y = y - RATE * (task.gradient(y, worker, step)[1] - own[worker] + c)
            updated = own[worker] - c + (x - y) / (5 * RATE)
            changes.append(y - x)
            control_changes.append(updated - own[worker])
            own[worker] = updated
        x = x + 0.8 * np.mean(changes, axis=0)
        c = c + np.sum(control_changes, axis=0) / 4
        swarm.run(5)
        np.testing.assert_allclose(swarm.parameters[0], x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(swarm.tactics[2].shared()["control"], c, rtol=0, atol=1e-12)


def test_scaffold_is_right_again_after_a_client_has_left() -> None:
    """The three who are left come to their own optimum, not to one that remembers the fourth."""
    strategy = Scaffold(every=EVERY, fraction=1.0)
    swarm = Simulation(strategy, Parabolas(), [np.array([5.0])] * 4, RATE)
    swarm.run(20 * EVERY)
    for one in (swarm.names, swarm.parameters, swarm.tactics):
        one.pop()  # type: ignore[attr-defined]
    for tactic in swarm.tactics:
        tactic.on_peers(swarm.names)
    swarm.run(400 * EVERY)
    expected = float(SLOPES[:3] @ CENTRES[:3] / SLOPES[:3].sum())
    assert float(swarm.parameters[0][0]) == pytest.approx(expected, abs=1e-9)


def test_a_newcomer_to_scaffold_shares_and_begins_uncorrected() -> None:
    strategy = Scaffold(every=EVERY, fraction=1.0)
    swarm = Simulation(strategy, Parabolas(), [np.array([5.0])] * 4, RATE)
    swarm.run(3 * EVERY)
    late = strategy.begin(np.array([9.0]), me="late")
    shared = swarm.tactics[0].shared()
    assert sorted(shared) == ["anchor", "control"]
    started = late.load(shared)
    assert started.tobytes() == swarm.parameters[0].tobytes()
    gradient = np.array([2.5])
    assert late.on_gradient(gradient, started) == gradient
    # Who was there before and missed a round keeps what its own data want.
    old = swarm.tactics[1]
    before = old.on_gradient(gradient, started)
    assert before != gradient
    old.load(shared)
    assert old.on_gradient(gradient, started) == before
    # Who begins anew forgets it.
    old.load(strategy.begin(started, me="new").shared())
    assert old.on_gradient(gradient, started) == gradient


def test_who_was_not_drawn_offers_its_control_variate_and_no_change() -> None:
    tactic = Scaffold(every=2, fraction=1.0).begin(np.zeros(3), me="a")
    tactic.on_gradient(np.full(3, 4.0), np.zeros(3))
    tactic.on_gradient(np.full(3, 6.0), np.zeros(3))
    offer = tactic.offer(Exchange.MEAN, np.full(3, -1.0))
    assert offer.vector_O.tolist() == [1, 1, 1, 5, 5, 5, 1]
    tactic.apply(Exchange.MEAN, offer.vector_O, np.full(3, -1.0))
    tactic.on_interval(1)
    idle = tactic.offer(Exchange.MEAN, np.full(3, -1.0))
    assert idle.vector_O.tolist() == [0, 0, 0, 5, 5, 5, 0]
    # If nobody trained at all, the anchor stays.
    moved = tactic.apply(Exchange.MEAN, idle.vector_O, np.full(3, -1.0))
    assert moved.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: FedProx(proximal=-0.1),
        lambda: FedProx(fraction=0.0),
        lambda: FedProx(every=0),
        lambda: Scaffold(fraction=1.5),
        lambda: Scaffold(every=0),
    ],
)
def test_options_out_of_range_are_refused(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match="must be"):
        wrong()
