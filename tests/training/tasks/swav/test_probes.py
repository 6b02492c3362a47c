"""Probes of frozen features, against slow plain versions and on features that tell everything."""

import math

import numpy as np
import torch

from training.tasks.swav.probes import knn_accuracy, probe_accuracy


def clusters(count: int, seed: int, spread: float) -> tuple[torch.Tensor, np.ndarray]:
    """Features around one place for each of three classes."""
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    middles = np.eye(3, 5)[labels]
    return torch.from_numpy(middles + spread * chance.standard_normal((count, 5))), labels


def test_neighbours_equal_a_plain_vote() -> None:
    known, known_labels = clusters(40, 0, 0.8)
    judged, judged_labels = clusters(25, 1, 0.8)
    right = 0
    for feature, label in zip(judged.numpy(), judged_labels, strict=True):
        cosines = [
            float(feature @ other) / math.sqrt((feature @ feature) * (other @ other))
            for other in known.numpy()
        ]
        nearest = sorted(range(40), key=lambda index: -cosines[index])[:7]
        votes = [0.0, 0.0, 0.0]
        for index in nearest:
            votes[known_labels[index]] += math.exp(cosines[index] / 0.1)
        right += votes.index(max(votes)) == label
    ours = knn_accuracy(known, known_labels, judged, judged_labels, neighbours=7)
    assert ours == right / 25
    assert 0.4 < ours < 1


def test_clear_features_are_told_apart_and_empty_ones_are_not() -> None:
    known, known_labels = clusters(60, 0, 0.1)
    judged, judged_labels = clusters(30, 1, 0.1)
    assert knn_accuracy(known, known_labels, judged, judged_labels) == 1.0
    assert probe_accuracy(known, known_labels, judged, judged_labels) == 1.0
    nothing = torch.zeros(30, 5, dtype=torch.float64)
    assert probe_accuracy(torch.zeros_like(known), known_labels, nothing, judged_labels) < 0.5


def test_one_class_alone_is_known_already() -> None:
    features, _ = clusters(6, 0, 0.1)
    labels = np.zeros(6, dtype=np.int64)
    assert probe_accuracy(features, labels, features, labels) == 1.0
    assert knn_accuracy(features, labels, features, labels) == 1.0
