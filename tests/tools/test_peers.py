"""`manyhands peers --run` against trainers in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from p2p import encode, owned_subkey
from tools.peers import show_peers
from training import Swarm, join
from training.loop import TrainOptions, run_recipe
from training.metrics import metrics_key
from training.metrics.schema import metrics_of, own_version
from training.recipe import load_recipe, override

RUN = "listed"


def train(swarm: Swarm) -> None:
    """One micro-batch of a peer."""
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = swarm.optimizer(
        torch.optim.SGD(model.parameters(), lr=0.1), model=model, global_batch=10**6
    )
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step(samples=4)


def rows(
    swarm: Swarm, capsys: pytest.CaptureFixture[str], *, told: int
) -> dict[str, dict[str, Any]]:
    """All rows, once both trainers are there and so many of them have told their part."""
    while True:
        capsys.readouterr()
        assert show_peers(RUN, swarm.addresses, as_json=True) == 0
        found = json.loads(capsys.readouterr().out)["peers"]
        telling = [row for row in found if row["version"] is not None]
        if (len(found), len(telling)) == (2, told):
            return {row["peer_id"]: row for row in found}


def test_contributions_and_their_shares_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with join(RUN) as alice, join(RUN, initial_peers=alice.addresses) as bob:
        train(alice)
        train(bob)
        alice.tell(samples=300, loss=0.5)
        bob.tell(samples=100, loss=float("nan"))
        found = rows(alice, capsys, told=2)
        of_alice, of_bob = found[alice.peer_id], found[bob.peer_id]
        assert (of_alice["contributed_samples"], of_alice["contributed_share"]) == (300, 0.75)
        assert (of_bob["contributed_samples"], of_bob["contributed_share"]) == (100, 0.25)
        assert (of_alice["loss"], of_bob["loss"]) == (0.5, None)
        assert of_bob["version"] == of_alice["version"] == own_version()
        assert show_peers(RUN, alice.addresses, as_json=False) == 0
        assert "75%" in capsys.readouterr().out


def test_metrics_that_are_none_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with join(RUN) as alice, join(RUN, initial_peers=alice.addresses) as bob:
        train(alice)
        train(bob)
        bobs = bob._network[1]
        forged = encode(metrics_of(step=0, samples=10**9, samples_per_s=0.0, loss=None))

        async def lie() -> None:
            own = owned_subkey(bob.peer_id)
            await bobs.put(metrics_key(RUN), b"\x1b[2J", subkey=own, ttl_s=60)
            # In no peer's own subkey, so anybody may have written it.
            await bobs.put(metrics_key(RUN), forged, subkey="x", ttl_s=60)

        bob._portal.call(lie)
        alice.tell(samples=300, loss=0.5)
        found = rows(alice, capsys, told=1)
        assert found[alice.peer_id]["contributed_share"] == 1.0
        assert found[bob.peer_id]["contributed_samples"] is None
        assert show_peers(RUN, alice.addresses, as_json=False) == 0
        assert "?" in capsys.readouterr().out


def test_a_swarm_without_an_optimizer_tells_nothing() -> None:
    with join(RUN) as alice:
        alice.tell(samples=3)
        assert alice._publisher is None
        assert alice.global_batch == 0


def test_a_recipe_tells_its_part_while_it_trains(capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"run": RUN, "steps": 12, "global_batch": 64}
    recipe = override(load_recipe("digits"), changes, source="test")
    addresses: list[str] = []
    found: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "started":
            addresses.extend(event["addresses"])
        if event["event"] == "step" and event["step"] == 10:
            while not found or found[0]["loss"] is None:
                capsys.readouterr()
                assert show_peers(RUN, tuple(addresses), as_json=True) == 0
                found[:] = json.loads(capsys.readouterr().out)["peers"]

    result = run_recipe(recipe, TrainOptions(), on_event)
    (row,) = found
    assert row["peer_id"] == result.peer_id
    assert row["contributed_samples"] <= result.samples
    assert row["loss"] > 0
