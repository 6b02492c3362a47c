"""A process group as one peer: the steps of one process on all its samples, and shared failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.plugins.group_member import PASS, SIZE, STEPS
from tests.training.plugins.lines import Line, Points, momentum
from training.plugins.ddp import ProcessGroupOptimizer, weigh_and_reduce

ROOT = Path(__file__).parents[3]
TEST_S_MAX = 180

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process of a group wrote at its end."""
    folder = tmp_path_factory.mktemp("group")
    module = "tests.training.plugins.group_member"
    processes = [
        subprocess.Popen([sys.executable, "-m", module, str(rank), str(folder)], cwd=ROOT)
        for rank in range(SIZE)
    ]
    try:
        codes = [process.wait(TEST_S_MAX) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * SIZE
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(SIZE)]


def test_a_group_steps_as_one_process_with_all_its_samples(said: list[dict[str, Any]]) -> None:
    model, points = Line(), Points()
    optimizer = momentum(model)
    size = 2 * sum(PASS)
    for step in range(STEPS):
        chosen = torch.arange(step * size, (step + 1) * size)
        optimizer.zero_grad()
        model(points.inputs[chosen], points.wanted[chosen])["loss"].backward()
        optimizer.step()
    first, second = (process["parameters"] for process in said)
    assert first == second
    for ours, theirs in zip(first, model.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(ours), theirs.detach(), rtol=0, atol=1e-5)


def test_all_hear_of_a_failure_of_the_first(said: list[dict[str, Any]]) -> None:
    assert [process["failure"] for process in said] == ["ValueError", "FirstProcessFailed"]


def test_the_hook_needs_to_know_the_samples() -> None:
    class Unsaid:
        samples = 0

    state: Any = Unsaid()
    bucket: Any = None
    with pytest.raises(ValueError, match="micro_batch"):
        weigh_and_reduce(state, bucket)


def test_a_micro_batch_has_samples() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        ProcessGroupOptimizer.micro_batch(object.__new__(ProcessGroupOptimizer), 0)
