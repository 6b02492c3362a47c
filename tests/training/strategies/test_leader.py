"""Leader SGD: whom a peer follows, what it does not believe, and where it comes to rest."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.training.strategies.quadratic import Quadratic
from training.strategies import ElasticAveraging, Exchange, LeaderSGD
from training.strategies.landscapes import DoubleWell, MatrixCompletion
from training.strategies.simulate import Simulation


def test_the_best_of_the_group_then_of_all() -> None:
    tactic = LeaderSGD(every=8, every_of_swarm=16, groups=2).begin(np.ones(2), me="b")
    tactic.on_peers(["a", "b", "c", "d", "e"])
    tactic.on_interval(0)
    assert tactic.members(Exchange.GROUP_LEADER) == ("a", "b", "c")
    assert tactic.members(Exchange.SWARM_LEADER) == ("a", "b", "c", "d", "e")
    assert tactic.due(7) == ()
    assert tactic.due(8) == (Exchange.GROUP_LEADER,)
    tactic.on_peers(["a", "b", "c", "d", "e"])
    tactic.on_interval(1)
    assert tactic.due(8) == (Exchange.GROUP_LEADER, Exchange.SWARM_LEADER)


def test_every_peer_is_in_one_group() -> None:
    for count in range(1, 9):
        peers = [f"peer{index}" for index in range(count)]
        groups = set()
        for me in peers:
            tactic = LeaderSGD(groups=3).begin(np.ones(1), me=me)
            tactic.on_peers(peers)
            tactic.on_interval(0)
            groups.add(tactic.members(Exchange.GROUP_LEADER))
        assert sorted(peer for group in groups for peer in group) == peers
        assert len(groups) == min(3, count)


def test_candidates_are_better_and_the_best_comes_first() -> None:
    tactic = LeaderSGD(losses=2).begin(np.ones(2), me="me")
    tactic.on_peers(["me"])
    tactic.on_interval(0)
    assert tactic.claim == math.inf
    for loss in (9.0, 1.0, 2.0):
        tactic.on_local_step(samples=8, loss=loss)
    assert tactic.claim == 1.5, "of the last two"
    claims = {"me": 0.0, "a": 1.4, "b": 0.5, "c": 1.6, "d": math.nan, "e": -math.inf}
    assert tactic.candidates(claims) == ("b", "a")
    with pytest.raises(ValueError, match="needs the loss"):
        tactic.on_local_step(samples=8)


def test_a_leader_is_credible_that_is_not_much_worse_than_it_claims_or_than_we_are() -> None:
    tactic = LeaderSGD(tolerance=0.5).begin(np.ones(2), me="me")
    assert tactic.is_credible(1.0, measured=1.5, own=0.1)
    assert not tactic.is_credible(1.0, measured=1.6, own=0.1)
    assert tactic.is_credible(0.0, measured=1.5, own=1.0)
    assert not tactic.is_credible(0.0, measured=1.6, own=1.0)
    assert not tactic.is_credible(0.0, measured=math.nan, own=math.inf)


def test_the_pull_has_a_rate_and_a_bound() -> None:
    tactic = LeaderSGD(pull=0.1, pull_of_swarm=0.2, pull_norm_max=0.5).begin(np.ones(2), me="me")
    ours, near, far = np.array([3.0, 4.0]), np.array([4.0, 4.0]), np.array([3e9, 4.0])
    group, swarm = Exchange.GROUP_LEADER, Exchange.SWARM_LEADER
    np.testing.assert_allclose(tactic.apply(group, near, ours), [3.1, 4.0])
    np.testing.assert_allclose(tactic.apply(swarm, near, ours), [3.2, 4.0])
    np.testing.assert_allclose(tactic.apply(swarm, far, ours), [3.0 + 0.5 * 5, 4.0])


def test_local_steps_may_be_pulled_too() -> None:
    tactic = LeaderSGD(every=4, every_of_swarm=8, proximal=0.4).begin(np.ones(1), me="me")
    assert not tactic.adjusts
    tactic.apply(Exchange.GROUP_LEADER, np.array([2.0]), np.array([1.0]))
    assert tactic.adjusts
    np.testing.assert_allclose(tactic.adjust(np.array([1.0])), [1.0 + 0.4 / 4 * (2.0 - 1.0)])


def test_a_liar_is_not_followed() -> None:
    starts = [np.full(7, 0.5), np.full(7, 0.5), np.full(7, 30.0)]
    strategy = LeaderSGD(every=2, every_of_swarm=4)
    swarm = Simulation(strategy, Quadratic((8, 8, 8)), starts, rate=0.001, claims={2: 0.0})
    swarm.run(20)
    assert swarm.refusals > 0
    assert swarm.leaders[2] == 0
    assert max(np.abs(parameters).max() for parameters in swarm.parameters[:2]) < 1.0


@pytest.mark.slow
def test_the_leader_rests_where_the_loss_does_and_the_other_need_not() -> None:
    rate, elasticity = 0.01, 1.0
    # After a step of the gradient, this pull has its resting points where f' = −λ (x − leader).
    pull = rate * elasticity / (1 + rate * elasticity)
    strategy = LeaderSGD(
        every=1, every_of_swarm=1, pull=0.0, pull_of_swarm=pull, losses=1, pull_norm_max=10.0
    )
    task = DoubleWell()
    swarm = Simulation(strategy, task, [np.array([1.2]), np.array([-1.1])], rate)
    swarm.run(5000)
    follower, leader = sorted(swarm.parameters, key=lambda x: float(abs(x[0])))
    assert abs(leader[0]) == pytest.approx(1.0, abs=1e-6)
    assert abs(task.slope(leader)[0]) < 1e-10
    # 4x (x² − 1) + (x − 1) has 1 and twice −½ as roots; double roots are approached slowly.
    assert follower[0] * leader[0] == pytest.approx(-0.5, abs=0.01)
    assert abs(task.slope(follower)[0]) == pytest.approx(1.50, abs=0.02)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_symmetric_matrix_completion(seed: int) -> None:
    """Equally good factors differ by a rotation, so their mean is bad; the best one is not."""
    task = MatrixCompletion(seed)
    starts = [task.start(1000 * seed + worker) for worker in range(8)]
    worst = {}
    leading = LeaderSGD(
        every=1, every_of_swarm=1, pull=0.0, pull_of_swarm=0.1, losses=1, pull_norm_max=10.0
    )
    for strategy in (leading, ElasticAveraging(every=1)):
        swarm = Simulation(strategy, task, starts, rate=0.01)
        swarm.run(50)
        worst[type(strategy)] = max(task.loss(x, 0, 0) for x in swarm.parameters)
    assert 100 * worst[LeaderSGD] <= worst[ElasticAveraging]


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"every": 8, "every_of_swarm": 12},
        {"groups": 0},
        {"pull": 1.5},
        {"tolerance": -1.0},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        LeaderSGD(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share no state"):
        LeaderSGD().begin(np.ones(2), me="me").load({})
