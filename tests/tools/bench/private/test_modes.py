"""The comparison of all modes: what is counted is what formulae say, and budgets can be missed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from averaging import ExtraMissing
from tools.bench.private import aggregating, modes, splitting
from tools.bench.private.dp import EPSILONS, private_name
from tools.bench.private.frame import CLIENTS, Frame
from tools.bench.private.means import ENCRYPTED, MASKED, PLAIN, RealMeans, Way
from tools.bench.private.nopeek import digits
from tools.bench.report import Row
from training.strategies.simulate import weighted_mean

PARAMETERS, STEPS, PICTURES = 9_066, 6, 1_438
MODEL_KB = PARAMETERS * 4 / 1e3
# A butterfly all-reduce, sent and received.
MEAN_KB = 2 * 2 * (CLIENTS - 1) / CLIENTS * MODEL_KB


@pytest.fixture(scope="module")
def one_pass() -> Frame:
    return Frame(digits(), passes=1, seed=0)


@pytest.mark.slow
def test_what_clients_move_and_compute_is_the_formulae_s(one_pass: Frame) -> None:
    central, model = aggregating.central(one_pass)
    large = aggregating.large_batch(one_pass)
    averaged = aggregating.federated(one_pass, aggregating.FEDAVG)
    assert central["client_kb"] == pytest.approx(PICTURES * (64 * 4 + 8) / CLIENTS / 1e3)
    assert large["client_kb"] == pytest.approx(STEPS * MEAN_KB)
    assert averaged["client_kb"] == pytest.approx(MEAN_KB)
    # As surveys count, with a server: up and down.
    assert averaged["formula_kb"] == pytest.approx(2 * MODEL_KB)
    assert large["formula_kb"] == pytest.approx(2 * STEPS * MODEL_KB)
    assert 0 < averaged["error_per_tolerance"] < 1
    assert 0 < large["error_per_tolerance"] < 1
    # Forward, and back to weights; no gradient goes back to pictures.
    weights = [64 * 64, 64 * 32, 32 * 64, 64 * 10]
    each = 2 * (3 * sum(weights) - weights[0])
    assert averaged["client_mflops"] == pytest.approx(each * PICTURES / CLIENTS / 1e6)
    assert large["client_mflops"] == averaged["client_mflops"]
    assert central["accuracy"] == one_pass.accuracy(model) > 0.3
    for row in (central, large, averaged):
        assert tuple(row)[: len(modes.COLUMNS)] == modes.COLUMNS


@pytest.mark.slow
def test_noise_hides_also_who_is_alone(one_pass: Frame) -> None:
    row = aggregating.noisy(one_pass, 8.0)
    assert 7.9 < row["epsilon"] <= 8.0
    assert row["client_kb"] == pytest.approx(STEPS * MEAN_KB)
    # Worse than the 0.074 of who guesses the mean picture.
    assert row["attack_error"] > 0.1
    assert row["attack_error_alone"] > 0.1


# What a member of three sends and gets in two rounds of 500 numbers of four bytes: of its vector
# and of the means two thirds each. Masks add the weight. Ciphertexts have 62 kB, whatever is in.
BUTTERFLY_KB = 2 * 2 * 2 * 2 / 3 * 4 * 500 / 1e3


@pytest.mark.parametrize(
    ("way", "kilobytes", "off"),
    [
        pytest.param(PLAIN, BUTTERFLY_KB, 1e-9, id="plain"),
        pytest.param(MASKED, BUTTERFLY_KB * 501 / 500, 1e-9, id="masked", marks=pytest.mark.slow),
        pytest.param(ENCRYPTED, 4 * 62, 0.15, id="encrypted"),
    ],
)
def test_means_among_nodes_are_means(way: Way, kilobytes: float, off: float) -> None:
    if way is ENCRYPTED:
        pytest.importorskip("tenseal")
    vectors = [np.linspace(-1, 1, 500, dtype=np.float32) * scale for scale in (1, -3, 2)]
    with RealMeans(way, 3) as means:
        for weights in ([1.0, 1.0, 1.0], [4.0, 1.0, 2.0]):
            got = means(vectors, weights)
            np.testing.assert_allclose(got, weighted_mean(vectors, weights), atol=1e-5)
            # A secure sum takes no vector twice.
            vectors = [vector + np.float32(0.01) for vector in vectors]
    assert 0 < means.worst < 1
    assert means.client_kb == pytest.approx(kilobytes, rel=off)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_split_modes_move_what_the_formula_says(one_pass: Frame) -> None:
    plain = splitting.split(one_pass, splitting.SPLIT)
    back = splitting.split(one_pass, splitting.U_SPLIT)
    hidden = splitting.split(one_pass, splitting.NOPEEK)
    halves = splitting.vertical(one_pass)
    payload = PICTURES * (2 * 32 * 4 + 8)
    assert plain["client_kb"] - plain["weight_kb"] == pytest.approx(payload / CLIENTS / 1e3)
    # The body's output is 64 wide, and labels stay.
    assert back["client_kb"] - back["weight_kb"] == pytest.approx(
        PICTURES * 2 * (32 + 64) * 4 / CLIENTS / 1e3
    )
    # The front is handed on by all but the last.
    assert plain["weight_kb"] == pytest.approx(2 * 3 * 6_304 * 4 / CLIENTS / 1e3)
    assert hidden["client_kb"] == plain["client_kb"]
    # Each half is 16 wide; one party sends labels.
    assert halves["client_kb"] == pytest.approx(payload / 2 / 1e3)
    assert plain["accuracy"] == back["accuracy"] > 0.3
    assert plain["client_mflops"] < back["client_mflops"] < hidden["client_mflops"]


@pytest.mark.slow
def test_private_inference_tells_the_classes_in_the_clear(one_pass: Frame) -> None:
    _, model = aggregating.central(one_pass)
    row = splitting.asked(one_pass, model)
    assert row["same_as_plain"] == 1.0
    assert row["accuracy"] == pytest.approx(one_pass.accuracy(model), abs=0.02)
    assert row["attack_error"] is None


def test_a_mode_whose_extra_is_missing_is_told(
    one_pass: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(ExtraMissing, match="homomorphic"):
        modes.measure(aggregating.ENCRYPTED, one_pass)


def made_up(**changed: float) -> list[Row]:
    rows: dict[str, Row] = {mode: {"mode": mode, "accuracy": 0.97} for mode in modes.MODES}
    rows[aggregating.UNEQUAL]["accuracy"] = 0.93
    for epsilon in EPSILONS:
        rows[private_name(epsilon)]["accuracy"] = 0.9
    for mode in aggregating.WAYS:
        rows[mode]["error_per_tolerance"] = 0.5
    for mode in modes.AVERAGED:
        rows[mode] |= {"client_kb": 150.0, "formula_kb": 100.0}
    rows[splitting.SPLIT]["attack_error"] = 0.01
    rows[splitting.NOPEEK]["attack_error"] = 0.02
    rows[splitting.ASKED]["same_as_plain"] = 1.0
    for key, value in changed.items():
        mode, _, column = key.partition("/")
        rows[mode][column] = value
    return list(rows.values())


@pytest.mark.parametrize(
    ("wrong", "missed"),
    [
        ({}, 0),
        ({f"{aggregating.LARGE_BATCH}/accuracy": 0.94}, 1),
        ({f"{splitting.U_SPLIT}/accuracy": 0.92}, 2),
        ({f"{private_name(8.0)}/accuracy": 0.94}, 1),
        ({f"{aggregating.FEDAVG}/client_kb": 151.0}, 1),
        ({f"{aggregating.UNEQUAL}/formula_kb": 101.0}, 1),
        ({f"{aggregating.FEDAVG}/error_per_tolerance": 1.1}, 1),
        ({f"{aggregating.MASKED}/error_per_tolerance": 1.1}, 1),
        ({f"{aggregating.ENCRYPTED}/error_per_tolerance": 1.1}, 1),
        ({f"{splitting.NOPEEK}/attack_error": 0.011}, 1),
        ({f"{splitting.ASKED}/same_as_plain": 0.99}, 1),
    ],
)
def test_budgets_hold_or_are_missed(wrong: dict[str, float], missed: int) -> None:
    judged = modes.budgets(made_up(**wrong))
    assert len([one for one in judged if not one.holds]) == missed
    assert len(judged) == 10
