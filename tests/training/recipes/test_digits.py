"""The built-in recipe: its data, its model, and that one process learns it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from training.data import LabelledData, ShuffledOrder, stratified_fifth
from training.recipe import load_recipe
from training.recipes import digits as recipe_of_digits
from training.recipes.build import build_model, build_optimizer, build_task
from training.tasks.classification import Classification


def digits() -> LabelledData:
    task = build_task(load_recipe("digits"))
    assert isinstance(task, Classification)
    return task.data


def test_a_fixed_stratified_fifth_is_the_test_set() -> None:
    data = digits()
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert len(data.test_labels) == 359
    shares = np.bincount(data.test_labels) / (
        np.bincount(data.test_labels) + np.bincount(data.train_labels)
    )
    assert shares.min() > 0.19
    assert shares.max() < 0.21
    again = digits()
    assert torch.equal(data.test_inputs, again.test_inputs)
    assert torch.equal(data.train_labels, again.train_labels)


@pytest.mark.parametrize("found", [True, False], ids=["its file", "its function"])
def test_they_are_those_of_scikit_learn(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not found:
        monkeypatch.setattr(recipe_of_digits, "find_spec", lambda name: None)
    data = recipe_of_digits.load_data()
    pixels, labels = load_digits(return_X_y=True)
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[stratified_fifth(labels)] = True
    for inputs, targets, chosen in (
        (data.train_inputs, data.train_labels, ~is_test),
        (data.test_inputs, data.test_labels, is_test),
    ):
        np.testing.assert_array_equal(inputs.flatten(1).numpy() * 16, pixels[chosen])
        np.testing.assert_array_equal(targets.numpy(), labels[chosen])


def test_pixels_are_scaled() -> None:
    data = digits()
    assert data.train_inputs.shape[1:] == (1, 8, 8)
    assert data.train_inputs.dtype == torch.float32
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0.0, 1.0)


@pytest.mark.slow
def test_one_process_learns_it() -> None:
    recipe = load_recipe("digits")
    data, model = digits(), build_model(recipe)
    optimizer = build_optimizer(recipe.optimizer, model.parameters())
    order = ShuffledOrder(example_count=len(data.train_labels), seed=0, peer_id="alice")
    for _ in range(200):
        chosen = torch.from_numpy(order.next_batch(recipe.global_batch))
        optimizer.zero_grad()
        scores = model(data.train_inputs[chosen])
        nn.functional.cross_entropy(scores, data.train_labels[chosen]).backward()
        optimizer.step()
    right = model(data.test_inputs).argmax(dim=1) == data.test_labels
    assert right.double().mean() > 0.97
