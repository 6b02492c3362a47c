"""The benchmark of equivalence: its ordinary loop, and budgets that can be missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.bench import equivalence
from tools.bench.equivalence import PLAIN, EquivalenceOptions, compare, run_equivalence
from tools.bench.equivalence_peer import ALONE, run_alone
from tools.bench.progress import Steps
from tools.bench.report import Report
from tools.output import console
from training.recipe import load_recipe, override
from training.recipes.build import build_model, build_task

STEPS = 3


def test_one_process_takes_the_steps_of_an_ordinary_loop(tmp_path: Path) -> None:
    """Each step is AdamW on the mean over the global batch, drawn in order."""
    changes = {"steps": STEPS, "dtype": "float64"}
    recipe = override(load_recipe("digits"), changes, source="test")
    run_alone(recipe, tmp_path / "events")
    said = json.loads((tmp_path / "events").read_text("utf-8"))

    task, model = build_task(recipe), build_model(recipe)
    batches = task.batches(seed=recipe.seed, peer_id=ALONE, drawn=0)
    optimizer = torch.optim.AdamW(model.parameters(), **recipe.optimizer.options)
    for _ in range(STEPS):
        inputs, labels = batches.next_batch(recipe.global_batch)
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert said["figures"] == pytest.approx(task.evaluate(model), abs=1e-6)
    assert said["samples"] == STEPS * recipe.global_batch


def test_the_farthest_mean_is_judged() -> None:
    report = Report("equivalence", equivalence.COLUMNS)
    means = {PLAIN: 0.95, "1 peer": 0.945, "8 peers": 0.96}
    report.rows = [{"recipe": "digits", "setup": setup, "mean": m} for setup, m in means.items()]
    compare(report)
    assert [row.get("difference") for row in report.rows] == [
        None,
        pytest.approx(-0.005),
        pytest.approx(0.01),
    ]
    (budget,) = report.budgets
    assert budget.measured == pytest.approx(0.01)
    assert budget.holds
    report.budgets.clear()
    report.rows[1]["mean"] = 0.9
    compare(report)
    assert not report.budgets[0].holds


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_peers_that_die_and_join_end_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes: the run raises unless all who finish hold the same parameters."""
    churn = next(name for name in equivalence.SETUPS if "churn" in name)
    kept = {PLAIN: (0, False), churn: (3, True)}
    monkeypatch.setattr(equivalence, "SETUPS", kept)
    options = EquivalenceOptions(recipes=("digits",), steps=30, seeds=1)
    with Steps(console(as_json=True)) as steps:
        report = run_equivalence(options, steps)
    assert report.skipped == []
    plain, swarm = report.rows
    assert (plain["joins"], plain["deaths"]) == (0, 0)
    assert swarm["deaths"] >= 1
    assert swarm["joins"] >= 1
    assert swarm["mean"] > 0.5
    assert plain["samples_per_step"] == 256
