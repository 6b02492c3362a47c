"""The benchmark of NoPeek: its claim in small, and budgets that can be missed."""

from __future__ import annotations

import pytest
import torch

from tools.bench.private import nopeek
from tools.bench.private.nopeek import PERCEPTRON, RIDGE, NoPeekOptions, run_nopeek
from tools.bench.report import Row
from training.split.attacks import perceptron_decoder, ridge_decoder


@pytest.mark.slow
def test_hiding_costs_little_and_makes_the_linear_attack_worse() -> None:
    """In small: fewer epochs, one seed, the cheapest attack, and room for what seeds change."""
    cases: list[str] = []
    options = NoPeekOptions(
        alphas=(0.0, 0.2, 0.5), epochs=20, rate=4e-3, seeds=1, attacks={RIDGE: ridge_decoder}
    )
    (plain, some, hidden), _ = run_nopeek(options, cases.append)
    assert len(cases) == 3
    assert plain["dcor"] > some["dcor"] > hidden["dcor"]
    assert hidden["dcor"] < 0.6 * plain["dcor"]
    assert hidden["ridge_error"] > 1.4 * plain["ridge_error"]
    assert hidden["accuracy"] > plain["accuracy"] - 0.05 > 0.9
    # What the server is to learn, it learns: labels are not hidden.
    assert hidden["labels_found"] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hiding_keeps_its_promises() -> None:
    """As in the benchmark, at both ends of α and between, from one seed.

    What is promised of accuracy and of ridge is kept as it stands, and so is that more hiding hides
    more. The perceptron's error and distance correlation may miss theirs by a tenth: another
    machine's rounding makes each run another one, and these two are near their promises.
    """
    attacks = {RIDGE: ridge_decoder, PERCEPTRON: perceptron_decoder}
    options = NoPeekOptions(alphas=(0.0, 0.1, 0.5), seeds=1, attacks=attacks)
    rows, _ = run_nopeek(options, lambda _: None)
    plain, some, hidden = rows
    assert plain["accuracy"] - hidden["accuracy"] < nopeek.ACCURACY_LOST_MAX
    assert hidden["ridge_error"] > nopeek.ERROR_RATIO_MIN * plain["ridge_error"]
    assert hidden["perceptron_error"] > 0.9 * nopeek.ERROR_RATIO_MIN * plain["perceptron_error"]
    assert hidden["dcor"] < 1.1 * nopeek.DCOR_RATIO_MAX * plain["dcor"]
    assert plain["dcor"] > some["dcor"] > hidden["dcor"]
    for name in nopeek.JUDGED_ATTACKS:
        errors = [row[f"{name}_error"] for row in rows]
        assert errors == sorted(errors), name
    assert hidden["dcor"] > hidden["dcor_bias_corrected"] > hidden["dcor_shuffled"]


def made_up(alpha: float, **changed: float) -> Row:
    hidden = alpha / 0.5
    row = {
        "alpha": alpha,
        "accuracy": 0.97,
        "dcor": 0.8 - 0.45 * hidden,
        "ridge_error": 0.02 + 0.02 * hidden,
        "perceptron_error": 0.01 + 0.01 * hidden,
    }
    return row | changed


def test_budgets_hold_or_are_missed() -> None:
    first = [made_up(0.0), made_up(0.1)]
    assert all(one.holds for one in nopeek.budgets([*first, made_up(0.5)]))
    for wrong in (
        {"accuracy": 0.94},
        {"dcor": 0.45},
        {"ridge_error": 0.03},
        {"perceptron_error": 0.015},
    ):
        judged = nopeek.budgets([*first, made_up(0.5, **wrong)])
        assert len([one for one in judged if not one.holds]) == 1, wrong
    rising = [made_up(0.0), made_up(0.1, dcor=0.3), made_up(0.5)]
    assert [one.holds for one in nopeek.budgets(rising)] == [True] * 4 + [False]


def test_misuse_is_told() -> None:
    for alphas in ((0.0,), (0.1, 0.5), (0.0, 0.5, 0.3)):
        with pytest.raises(ValueError, match="rise from 0"):
            NoPeekOptions(alphas=alphas)
    with pytest.raises(ValueError, match="one attack"):
        NoPeekOptions(attacks={})


def test_digits_are_drawn_for_each_alpha() -> None:
    options = NoPeekOptions(alphas=(0.0, 0.5), epochs=1, attacks={RIDGE: ridge_decoder})
    drawn = nopeek.reconstructions(options)
    assert list(drawn) == ["original", "α = 0", "α = 0.5"]
    assert all(pictures.shape == (8, 8, 8) for pictures in drawn.values())
    # One pass does not hide them.
    original, plain, hidden = drawn.values()
    assert (plain - original).square().mean() < 0.05
    assert not torch.equal(plain, hidden)
