"""The recipes swav-tiny, which learns here, and swav, which is put together and fed pictures."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.recipes.learning import learn
from training.errors import RecipeError
from training.recipe import Recipe, load_recipe
from training.recipes.build import build_model, build_task
from training.task import evaluate


def recipe(name: str, **changes: Any) -> Recipe:
    return msgspec.structs.replace(load_recipe(name), **changes)


@pytest.mark.slow
def test_features_become_better_than_those_of_a_random_encoder() -> None:
    before, after = learn(recipe("swav-tiny", steps=70), steps=70, batch=128)
    assert 0.8 < before["knn_accuracy"] < 0.9
    assert after["knn_accuracy"] > before["knn_accuracy"] + 0.02
    assert after["linear_probe"] > 0.94


@pytest.mark.slow
def test_the_loss_falls() -> None:
    small = recipe("swav-tiny", steps=30)
    task, model = build_task(small), build_model(small)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    batches = task.batches(seed=0, peer_id="alice", drawn=0)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = task.loss(model, batches.next_batch(64))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def fill(folder: Path, part: str, count: int) -> None:
    chance = np.random.default_rng(0)
    for name in ("bright", "dark"):
        (folder / part / name).mkdir(parents=True)
        for number in range(count):
            pixels = chance.integers(0, 100, (40, 48, 3), dtype=np.uint8)
            if name == "bright":
                pixels += 150
            Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


@pytest.mark.slow
def test_the_full_size_is_put_together_and_takes_pictures(tmp_path: Path) -> None:
    fill(tmp_path, "train", 4)
    fill(tmp_path, "val", 2)
    model = build_model(load_recipe("swav"))
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert sum(sizes) == pytest.approx(28.4e6, rel=0.01)
    data = {"images": str(tmp_path), "side": 40, "large_side": 32, "small_side": 24}
    small = recipe("swav", data_options=data, model_options={"layers": [1, 1, 1, 1]})
    task, model = build_task(small), build_model(small)
    loss = task.loss(model, task.batches(seed=0, peer_id="alice", drawn=0).next_batch(3))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert evaluate(task, model)["linear_probe"] == 1.0


def test_a_folder_that_is_missing_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="data_options: images: is missing; it must be the path"):
        build_task(load_recipe("swav"))
    with pytest.raises(RecipeError, match="there is no such folder of pictures"):
        build_task(recipe("swav", data_options={"images": str(tmp_path)}))
    with pytest.raises(RecipeError, match="swav-tiny does not take data_options"):
        build_task(recipe("swav-tiny", data_options={"images": "somewhere"}))
    with pytest.raises(RecipeError, match=r"swav-tiny does not take data_options: temperature"):
        build_task(recipe("swav-tiny", data_options={"temperature": 0.0}))
