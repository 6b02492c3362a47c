"""What workers learn with few elements: in part each time, whole where slow tests run.

Source: Shi, Chu, Cheung and See, "Understanding Top-k Sparsification in Distributed Deep Learning",
2019.
"""

from __future__ import annotations

import pytest

from tools.bench.compression import training
from tools.bench.compression.digits import Learning, gradients
from tools.bench.compression.language import learn_language
from tools.bench.compression.training import EXACT, LEARNING, PUBLISHED, TrainingOptions
from tools.bench.compression.uplinks import DENSE
from tools.bench.report import Row


def accuracy(codec: str, feedback: str, steps: int) -> float:
    learning = Learning(codec, feedback, 0)
    learning.run(steps)
    return learning.accuracy


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_one_percent_is_enough_and_a_thousandth_by_chance_is_not() -> None:
    """200 steps: within two points of dense; by chance at least twenty worse than the largest."""
    dense = accuracy(DENSE, "none", 200)
    assert dense > 0.94
    assert dense - accuracy("topk:0.01", "ef", 200) <= 0.02
    assert dense - accuracy("gaussian-k:0.01", "ef", 200) <= 0.02
    largest, random = accuracy("topk:0.001", "ef", 200), accuracy("rand-k-biased:0.001", "ef", 200)
    assert largest - random >= 0.2


@pytest.mark.slow
def test_few_elements_learn_and_what_the_published_loop_finds_does_not() -> None:
    """80 steps with a thousandth of the elements."""
    mended, published = accuracy("gaussian-k:0.001", "ef", 80), accuracy(PUBLISHED, "ef", 80)
    assert mended > 0.75
    assert published < mended - 0.2


def test_gradients_are_of_all_parameters_and_with_what_is_owed() -> None:
    first, second = gradients("topk:0.01", 2, 2)
    assert len(first) == 17_226
    assert float(second.norm()) > float(first.norm())


@pytest.mark.slow
def test_characters_are_learned_with_few_elements() -> None:
    learned = learn_language("topk:0.01", "ef", 12)
    assert learned.workers == 8
    assert learned.figures["bits_per_character"] < 6.3
    assert learned.sent_bytes < 12 * 8 * 4 * 78_000 / 50


def rows(**changed: float) -> list[Row]:
    accuracies = {
        (DENSE, "none"): 0.96,
        ("rand-k-biased:0.001", "ef"): 0.5,
        ("topk:0.001", "none"): 0.8,
    }
    found: list[Row] = [
        {
            "part": LEARNING,
            "codec": codec,
            "error_feedback": how,
            "accuracy": accuracies.get((codec, how), 0.95 if how == "ef" else 0.9),
            "times_fewer_bytes": 60.0 if codec == EXACT else 120.0,
        }
        for codec, how in training.METHODS
    ]
    for row in found:
        if row["codec"] == "topk:0.01" and row["error_feedback"] == "ef":
            row |= changed
    return found


def test_budgets_hold_or_are_missed() -> None:
    assert all(one.holds for one in training.training_budgets(rows()))
    for wrong, missed in (({"accuracy": 0.93}, 1), ({"accuracy": 0.89}, 2)):
        budgets = training.training_budgets(rows(**wrong))
        assert sum(not one.holds for one in budgets) == missed
    assert not all(one.holds for one in training.training_budgets(rows(times_fewer_bytes=99.0)))


def test_rows_are_compared_with_dense() -> None:
    row = training.learn_digits("topk:0.01", "ef", TrainingOptions(steps=2, seeds=2))
    assert row["accuracy_min"] <= row["accuracy"] <= row["accuracy_max"]
    assert 0.5 < row["sent_kb_per_worker"] < 2
