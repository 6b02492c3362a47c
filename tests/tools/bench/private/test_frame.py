"""The frame of the comparison: the same examples for all, and attacks that are judged rightly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tools.bench.private import aggregating, frame
from tools.bench.private.frame import Frame, counted_flops
from tools.bench.private.nopeek import digits


@pytest.fixture(scope="module")
def small() -> Frame:
    return Frame(digits(), passes=2, seed=3)


def test_clients_share_all_examples_and_pass_each_of_theirs_as_often(small: Frame) -> None:
    everyone = torch.cat(small.shards)
    assert torch.equal(everyone.sort().values, torch.arange(len(small.data.train_labels)))
    for shard in small.shards:
        passes = small.batches(shard)
        assert len(passes) == 2
        assert sum(len(one) for one in passes) == small.steps
        for batches in passes:
            assert torch.equal(torch.cat(batches).sort().values, shard)
        assert not torch.equal(torch.cat(passes[0]), torch.cat(passes[1]))
    assert small.samples * frame.CLIENTS == 2 * len(everyone)


def test_every_mode_begins_with_the_same_model(small: Frame) -> None:
    first, second = small.model(), small.model()
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert sum(one.numel() for one in first.parameters()) == 9_066
    assert sum(one.numel() for one in first[: frame.FRONT_LAYERS].parameters()) == 6_304


def test_operations_are_those_of_matrix_products() -> None:
    layer, inputs = nn.Linear(7, 5), torch.ones(3, 7)
    assert counted_flops(lambda: layer(inputs)) == 2 * 3 * 7 * 5
    # Back to the weights, but not to inputs that need no gradient.
    assert counted_flops(lambda: layer(inputs).sum().backward()) == 2 * 2 * 3 * 7 * 5


def test_pictures_show_themselves_and_constants_show_nothing(small: Frame) -> None:
    naked = small.ask_activations(nn.Flatten(), frame.RIDGE)
    assert naked["attack_error"] == naked["attack_error_alone"] == naked["ridge_error"] < 1e-12

    class Constant(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(inputs), 3)

    assert small.ask_activations(Constant(), frame.RIDGE)["attack_error"] > 0.07


def test_a_gradient_shows_one_picture_and_not_sixty(small: Frame) -> None:
    found = small.ask_gradients(aggregating.gradient_shower(small.model()), together=60)
    assert found["attack_error_alone"] < 1e-9
    # Guessing the mean picture is off by 0.074.
    assert found["attack_error"] > 0.07


def test_the_change_of_one_step_is_a_gradient(small: Frame) -> None:
    shown = aggregating.gradient_shower(small.model())
    changed = aggregating.change_shower(small)
    inputs, labels = small.data.test_inputs[:5], small.data.test_labels[:5]
    for gradient, change in zip(shown(inputs, labels), changed(inputs, labels), strict=True):
        torch.testing.assert_close(frame.RATE * gradient, change, rtol=1e-3, atol=1e-6)
