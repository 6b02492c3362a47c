"""The recipes albert-tiny, which learns here, and albert, which is put together and fed text."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.training.recipes.learning import learn
from training.errors import RecipeError
from training.recipe import OptimizerRecipe, Recipe, ScheduleRecipe, load_recipe
from training.recipes.build import build_model, build_optimizer, build_task
from training.task import evaluate

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 400


def recipe(name: str, **changes: Any) -> Recipe:
    return msgspec.structs.replace(load_recipe(name), **changes)


@pytest.mark.slow
def test_the_tiny_one_learns() -> None:
    tiny = load_recipe("albert-tiny")
    assert sum(parameter.numel() for parameter in build_model(tiny).parameters()) == 72_904
    # A higher rate than the recipe's, as for the few steps that a test may take.
    eager = OptimizerRecipe(name="lamb", options={"lr": 0.1})
    schedule = ScheduleRecipe(name="linear", warmup=5)
    short = recipe("albert-tiny", steps=25, optimizer=eager, schedule=schedule)
    before, after = learn(short, steps=25, batch=32)
    assert after["loss"] < before["loss"] - 0.6
    assert after["masked_accuracy"] > before["masked_accuracy"] + 0.005


@pytest.mark.slow
def test_the_full_size_is_that_of_the_publication() -> None:
    full = load_recipe("albert")
    model = build_model(full)
    embeddings = (30_000 + 512 + 2) * 128 + 2 * 128 + 128 * 1024 + 1024
    layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    guessing = 1024 * 128 + 128 + 2 * 128 + 30_000
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert sum(sizes) == embeddings + layer + guessing == 16_795_824
    assert not any(isinstance(part, torch.nn.Dropout) and part.p for part in model.modules())
    (group,) = build_optimizer(full.optimizer, model.parameters()).param_groups
    assert (group["lr"], group["weight_decay"], group["clamp_value"]) == (0.00176, 0.01, 10_000.0)
    assert (full.global_batch, full.clip_norm, full.schedule.warmup) == (4096, 1.0, 5000)


@pytest.mark.slow
def test_text_of_ones_own_is_read_while_training(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(TEXT, "utf-8")
    sizes = {"vocabulary": 400, "length": 32}
    model_options = sizes | {"embedding": 16, "hidden": 32, "inner": 32, "heads": 2, "layers": 1}
    own = recipe(
        "albert", data_options=sizes | {"text": str(tmp_path)}, model_options=model_options
    )
    task, model = build_task(own), build_model(own)
    batches = task.batches(seed=0, peer_id="alice", drawn=0)
    loss = task.loss(model, batches.next_batch(4))
    loss.backward()
    assert 5 < float(loss.detach()) < 7
    assert evaluate(task, model)["loss"] == pytest.approx(6, abs=1)
    words = build_task(own)
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(words.vocabulary.tokenizer.to_str(), "utf-8")  # type: ignore[attr-defined]
    given = sizes | {"text": str(tmp_path / "a.txt"), "tokenizer": str(tokenizer)}
    again = build_task(recipe("albert", data_options=given))
    assert again.vocabulary.encode("clocks") == words.vocabulary.encode("clocks")  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=r"more than the vocabulary of 270"):
        build_task(recipe("albert", data_options=given | {"vocabulary": 270}))
    (tmp_path / "a.txt").unlink()
    with pytest.raises(RecipeError, match=r"a\.txt: cannot be read any more"):
        again.batches(seed=0, peer_id="alice", drawn=0).next_batch(1)


def test_text_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="data_options: text: is missing; give either"):
        build_task(load_recipe("albert"))
    with pytest.raises(RecipeError, match="holds no text"):
        build_task(recipe("albert", data_options={"text": str(tmp_path)}))
    (tmp_path / "short.txt").write_text("x")
    with pytest.raises(RecipeError, match="holds too little text"):
        build_task(recipe("albert", data_options={"text": str(tmp_path)}))


@pytest.mark.parametrize(
    ("package", "build"), [("transformers", build_model), ("tokenizers", build_task)]
)
def test_what_must_be_installed_is_told(
    package: str, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecipeError, match=rf"needs the package {package}.*manyhands\[recipes\]"):
        build(load_recipe("albert-tiny"))
