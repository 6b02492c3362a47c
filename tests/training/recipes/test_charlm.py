"""The recipe charlm: small enough, and it learns."""

import math

import numpy as np
import pytest

from tests.training.recipes.learning import learn
from training.data.stdlib_text import standard_library_text
from training.recipe import load_recipe
from training.recipes.build import build_model
from training.tasks.next_character import CHARACTER_COUNT, encode


@pytest.mark.slow
def test_it_learns_more_than_how_frequent_characters_are() -> None:
    before, after = learn(load_recipe("charlm"), steps=40, batch=64)
    counts = np.bincount(encode(standard_library_text().test), minlength=CHARACTER_COUNT)
    shares = counts[counts > 0] / counts.sum()
    frequencies_alone = -float((shares * np.log2(shares)).sum())
    assert before["bits_per_character"] == pytest.approx(math.log2(CHARACTER_COUNT), abs=0.2)
    assert after["bits_per_character"] < frequencies_alone - 0.5


def test_it_is_small() -> None:
    model = build_model(load_recipe("charlm"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 77_825
