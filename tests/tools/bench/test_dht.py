"""What `bench dht` makes of the answers of its processes, and that a worker says what is true."""

from __future__ import annotations

import random

import pytest

from p2p import Dht, NodeConfig, open_dht, open_node
from tools.bench import dht, dht_worker
from tools.bench.progress import Steps
from tools.bench.report import Row
from tools.output import console


def row(operation: str, *, nodes: int = 16, rival: str = "ours", **figures: float) -> Row:
    said = {"times": 10, "median_ms": 5.0, "p99_ms": 9.0, "success": 1.0} | figures
    return {"rival": rival, "nodes": nodes, "operation": operation, **said}


def test_a_row_has_median_and_percentile() -> None:
    one = dht.Measured()
    one.add({"seconds": [0.001] * 98 + [0.2], "succeeded": 99})
    one.add({"seconds": [0.3], "succeeded": 0, "received_bytes": 2048.0})
    assert one.figures() == {
        "times": 100,
        "median_ms": pytest.approx(1.0),
        "p99_ms": pytest.approx(200.0),
        "max_ms": pytest.approx(300.0),
        "success": 0.99,
        "received_kib": 2.0,
    }


def test_of_few_the_slowest_is_the_percentile() -> None:
    one = dht.Measured(seconds=[0.1, 0.3], succeeded=2)
    assert one.figures()["p99_ms"] == one.figures()["max_ms"] == pytest.approx(300.0)


def test_times_are_promised_for_one_size_and_success_for_all() -> None:
    rows = [
        row(dht.PUT, median_ms=10.0),
        row(dht.COLD, median_ms=10.1),
        row(dht.WARM),
        row(dht.AFTER, success=0.98),
        row(dht.PUT, nodes=64, median_ms=99.0, success=0.9),
        row(dht.AFTER, nodes=64, success=0.97),
        row(dht.PUT, rival="hivemind", median_ms=99.0, success=0.1),
    ]
    judged = dht.budgets(rows)
    assert [(one.measured, one.holds) for one in judged] == [
        (10.0, True),
        (10.1, False),
        (1.0, True),
        (0.98, True),
        (0.9, False),
        (0.97, False),
    ]


def test_a_run_that_was_cut_short_is_judged_by_what_it_has() -> None:
    assert dht.budgets([]) == []
    assert [one.name for one in dht.budgets([row(dht.AFTER, nodes=64)])] == [
        "ours, 64 nodes: keys read after SIGKILL of 30%"
    ]


@pytest.mark.parametrize("nodes", [5, 16, 17, 64])
def test_every_node_has_a_process(nodes: int) -> None:
    swarm = dht.Swarm("ours", nodes, random.Random(0))
    assert sum(swarm._share(process) for process in range(swarm.processes)) == nodes
    assert min(swarm._share(process) for process in range(swarm.processes)) >= 1
    someone = swarm._someone()
    assert all(swarm._someone(but=someone) != someone for _ in range(50))


async def test_a_worker_measures_and_checks() -> None:
    config = NodeConfig(listen=("/ip4/127.0.0.1/tcp/0",), port_mapping=False)
    async with (
        open_node(config) as node,
        open_node(config) as other_node,
        open_dht(node) as alice,
        open_dht(other_node, initial_peers=node.addresses) as bob,
    ):
        await check(alice, bob)


async def check(alice: Dht, bob: Dht) -> None:
    """Each order is done, and says how much of it went well."""
    keys = ["one", "two"]
    answer = await dht_worker.obey(alice, {"do": "put", "keys": keys})
    assert (len(answer["seconds"]), answer["succeeded"]) == (2, 2)
    assert min(answer["seconds"]) > 0
    wanted = {"do": "get", "keys": [*keys, "never put"], "warm": False}
    assert (await dht_worker.obey(bob, wanted))["succeeded"] == 2
    assert (await dht_worker.obey(bob, wanted | {"warm": True}))["succeeded"] == 2
    many = [f"key {number}" for number in range(20)]
    assert (await dht_worker.obey(alice, {"do": "put_many", "keys": many}))["succeeded"] == 1
    assert (await dht_worker.obey(bob, {"do": "bulk", "keys": many}))["succeeded"] == 1
    lacking = await dht_worker.obey(bob, {"do": "bulk", "keys": [*many, "never put"]})
    assert lacking["succeeded"] == 0
    fill = {"do": "fill", "key": "names", "entries": [0, 1, 2], "version": 0}
    assert (await dht_worker.obey(alice, fill))["succeeded"] == 1
    poll = {"do": "poll", "key": "names", "versions": [0, 0, 0]}
    read = await dht_worker.obey(bob, poll)
    assert read["succeeded"] == 1
    assert read["received_bytes"] > 3 * 128
    # What it says is wrong when a version is another than was put.
    assert (await dht_worker.obey(bob, poll | {"versions": [0, 0, 1]}))["succeeded"] == 0
    await dht_worker.obey(alice, fill | {"entries": [2], "version": 1})
    assert (await dht_worker.obey(bob, poll | {"versions": [0, 0, 1]}))["succeeded"] == 1


@pytest.mark.slow
def test_a_small_swarm_is_measured_from_end_to_end() -> None:
    options = dht.DhtOptions(nodes=(5,), rounds=2, keys=2)
    with Steps(console(as_json=True)) as steps:
        report = dht.run_dht(options, steps)
    assert [one["operation"] for one in report.rows] == list(dht.OPERATIONS)
    assert [one["processes"] for one in report.rows] == [5] * len(dht.OPERATIONS)
    assert all(one["success"] == 1.0 for one in report.rows if one["operation"] != dht.AFTER)
    assert [one["name"] for one in report.skipped] == ["hivemind"]
    assert report.budgets
