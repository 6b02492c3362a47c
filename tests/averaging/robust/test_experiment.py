"""One liar among eight: how far each rule lets it pull the gradient of a small classifier."""

import math
from typing import Any

import numpy as np
import pytest

from averaging.allreduce.mean import all_finite
from averaging.robust.aggregate import aggregate
from averaging.robust.norms import refused_norms, square_sum
from averaging.robust.rule import Rule

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.slow

MEMBERS = 8
SPANS = 8
FLOAT = np.dtype("float32")
MEAN, TRIMMED, MEDIAN, CLIPPING = map(
    Rule.parse, ("mean", "trimmed_mean(0.2)", "median", "centered_clipping(1, 3)")
)


def gradients(seed: int) -> list[Array]:
    """Each member's softmax gradient on 32 samples of its own: 8 × 8 pictures of 10 classes."""
    rng = np.random.default_rng(seed)
    pictures = rng.random((10, 64)) * (rng.random((10, 64)) < 0.5)
    parameters = rng.standard_normal((64, 10)) / 10
    result = []
    for _ in range(MEMBERS):
        labels = rng.integers(0, 10, 32)
        inputs = pictures[labels] + rng.standard_normal((32, 64)) * 0.3
        scores = np.exp(inputs @ parameters)
        errors = scores / scores.sum(axis=1, keepdims=True) - np.eye(10)[labels]
        result.append((inputs.T @ errors / 32).ravel().astype(FLOAT))
    return result


def a_round(vectors: list[Array], declared: list[float], rule: Rule) -> tuple[Array, list[int]]:
    """What aggregators do: refuse by declared norms, then each its own span; and who was refused.

    As in a round, a chunk with bad values or too many squares counts no more than one not sent.
    """
    weights = [32.0] * MEMBERS
    refused = list(refused_norms(dict(enumerate(declared)), dict(enumerate(weights))))
    spans = []
    for places in np.array_split(np.arange(len(vectors[0])), SPANS):
        parts = [vector[places] for vector in vectors]
        for member, part in enumerate(parts):
            limit = (declared[member] * 1.01) ** 2
            if member not in refused and not (all_finite(part) and square_sum(part) <= limit):
                refused.append(member)
        kept = [member for member in range(MEMBERS) if member not in refused]
        span = aggregate([parts[m] for m in kept], [weights[m] for m in kept], rule, FLOAT)
        assert span is not None
        spans.append(span)
    return np.concatenate(spans), refused


def pull(
    lie: float | None, rule: Rule, *, declares: float | None = None
) -> tuple[float, list[int]]:
    """Mean distance from the honest mean, in its own lengths, over ten rounds; and the refused.

    The last member is the liar: it sends `lie` × the honest mean (or all `lie` when that is huge
    or no number), and declares its true norm or another.
    """
    distances, refused = [], []
    for seed in range(10):
        vectors = gradients(seed)
        honest = vectors if lie is None else vectors[:-1]
        truth = np.mean(honest, axis=0)
        if lie is not None:
            vectors[-1] = truth * lie if abs(lie) < 1e6 else np.full_like(truth, lie)
        norms = [math.sqrt(square_sum(vector)) for vector in vectors]
        if declares is not None:
            norms[-1] = declares
        result, refused = a_round(vectors, norms, rule)
        assert np.isfinite(result).all()
        # In float64: what the mean makes of 1e30 has a square over the largest float32.
        distances.append(np.linalg.norm(result.astype("float64") - truth) / np.linalg.norm(truth))
    return float(np.mean(distances)), refused


LIAR = [MEMBERS - 1]


@pytest.mark.parametrize("rule", [MEAN, TRIMMED, MEDIAN, CLIPPING], ids=str)
@pytest.mark.parametrize("lie", [1e30, math.nan], ids=["1e30", "nan"])
@pytest.mark.parametrize("declares", [None, 1.0])
def test_absurd_values_are_refused_under_any_rule(
    rule: Rule, lie: float, declares: float | None
) -> None:
    """By the norm it declared, or by the first chunk when it declared a usual one."""
    distance, refused = pull(lie, rule, declares=declares)
    assert refused == LIAR
    # What remains is the rule's own distance from the mean of the honest.
    assert distance < (1e-6 if rule == MEAN else 0.3)


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    # The mean of 7 × 1 and 1 × (−10) is −3/8: it points the wrong way, 11/8 off.
    [(MEAN, 1.37, 1.38), (TRIMMED, 0.1, 0.3), (MEDIAN, 0.1, 0.35), (CLIPPING, 0.05, 0.2)],
    ids=str,
)
def test_a_gradient_turned_round_passes_the_norm_rule_and_only_robust_rules_bear_it(
    rule: Rule, least: float, most: float
) -> None:
    # Ten times the mean gradient is only some eight times as long as a member's noisy one.
    distance, refused = pull(-10.0, rule)
    assert refused == []
    assert least < distance < most


@pytest.mark.parametrize("lie", [-10.0, -2.0, -1.0])
def test_clipping_bears_a_liar_best(lie: float) -> None:
    distances = {rule: pull(lie, rule)[0] for rule in (TRIMMED, MEDIAN, CLIPPING)}
    assert distances[CLIPPING] < distances[TRIMMED] < distances[MEDIAN]


@pytest.mark.parametrize(
    ("rule", "most"), [(MEAN, 1e-6), (CLIPPING, 0.06), (TRIMMED, 0.15), (MEDIAN, 0.3)], ids=str
)
def test_without_a_liar_every_rule_is_near_the_mean(rule: Rule, most: float) -> None:
    distance, refused = pull(None, rule)
    assert refused == []
    assert distance < most
