"""The simulated DHT: one seed has one outcome, and each fault has the effect that it should."""

import gc
from dataclasses import replace

import pytest

from p2p.testing import Partition, SwarmFigures, SwarmPlan, run_dht_world
from p2p.testing.dht_world import DhtWorld

CALM = SwarmPlan(
    nodes=50,
    minutes=2,
    churn_per_h=0,
    loss=0,
    liars=0,
    gets_per_node_h=60,
    growth_s=60,
    settling_s=90,
    seed=1,
)


def outcome(figures: SwarmFigures) -> tuple[object, ...]:
    """What must not differ between runs of one seed."""
    whole = figures.whole
    return figures.events, whole.gets, whole.found, whole.hops, whole.seconds


def test_a_calm_swarm_finds_everything() -> None:
    figures = run_dht_world(CALM)
    assert figures.whole.gets > 50
    assert figures.whole.success == 1
    assert 1 <= figures.whole.hops_median <= 2
    assert figures.nodes_at_end == 50
    assert figures.departures == figures.failed_joins == 0


def test_one_seed_has_one_outcome() -> None:
    rough = replace(CALM, nodes=30, churn_per_h=2.0, loss=0.05, liars=0.2)
    first = outcome(run_dht_world(rough))
    assert first == outcome(run_dht_world(rough))
    assert first != outcome(run_dht_world(replace(rough, seed=2)))


@pytest.mark.slow
def test_nothing_is_left_for_the_collector() -> None:
    world = DhtWorld(replace(CALM, nodes=30, churn_per_h=6.0, loss=0.05, liars=0.2))
    gc.collect()
    gc.disable()
    try:
        world.heap.run_until(world.plan.ends_s)
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert world.figures(0).departures > 2


@pytest.mark.slow
def test_loss_costs_time() -> None:
    calm, lossy = run_dht_world(CALM), run_dht_world(replace(CALM, loss=0.2))
    assert sum(lossy.whole.seconds) / lossy.whole.gets > sum(calm.whole.seconds) / calm.whole.gets


def test_churn_replaces_nodes() -> None:
    figures = run_dht_world(replace(CALM, churn_per_h=6.0))
    assert figures.departures > 2
    assert figures.nodes_at_end == 50


def test_liars_are_not_believed() -> None:
    calm, lied_to = run_dht_world(CALM), run_dht_world(replace(CALM, liars=0.3))
    assert lied_to.whole.forged == 0
    assert lied_to.whole.success > 0.9
    asked = [sum(q * n for q, n in f.whole.queries.items()) for f in (calm, lied_to)]
    assert asked[1] / lied_to.whole.gets > asked[0] / calm.whole.gets


def test_a_partition_hides_records_and_heals() -> None:
    cut = Partition(at_minute=0.5, minutes=1, share=0.5)
    plan = replace(CALM, minutes=5, partition=cut)
    phases = {one.name: one for one in run_dht_world(plan).phases}
    assert list(phases) == ["steady", "partition", "healing", "healed"]
    assert phases["healed"].success > 0.98
    calm_s = sum(phases["steady"].seconds) / phases["steady"].gets
    assert sum(phases["partition"].seconds) / phases["partition"].gets > calm_s


@pytest.mark.parametrize(
    "wrong",
    [{"nodes": 1}, {"minutes": 0.0}, {"liars": 1.0}, {"loss": -0.1}, {"growth_s": 0.0}],
)
def test_impossible_plans_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"swarm|shares|times"):
        replace(CALM, **wrong)  # type: ignore[arg-type]
