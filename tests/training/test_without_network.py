"""Recipes can be used where the network layer is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

import training

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
import sys

sys.modules["p2p"] = None  # importing it fails from here on

from averaging.codecs.feedback import feedback_named
from averaging.codecs.power_sgd import PowerSgd
from averaging.codecs.registry import codec_named
from training.micro_batch import compute_gradient
from training.recipe import load_recipe
from training.recipes.build import build_model, build_optimizer, build_task
from training.schedule import steer
from training.task import evaluate

for name in ("digits", "albert-tiny"):
    recipe = load_recipe(name)
    task, model = build_task(recipe), build_model(recipe)
    optimizer = build_optimizer(recipe.optimizer, model.parameters())
    steer(optimizer, recipe, lambda: 0)
    batches = task.batches(seed=0, peer_id="alice", drawn=0)
    assert not compute_gradient(task, model, batches.next_batch(4)).complaint
    optimizer.step()
    print(name, *sorted(evaluate(task, model)))
try:
    from training import join
except ImportError as exc:
    print("no join:", exc.name)
"""


@pytest.mark.slow
def test_digits_and_albert_tiny_train_without_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "digits accuracy",
        "albert-tiny loss masked_accuracy",
        "no join: p2p",
    ]


def test_the_names_of_the_layer_are_there_when_asked_for() -> None:
    for name in training.__all__:
        assert getattr(training, name) is not None
    assert set(training.__all__) <= set(dir(training))
    with pytest.raises(AttributeError, match="has no attribute 'joyn'"):
        _ = training.joyn  # type: ignore[attr-defined]
