"""Label inference: what activations, and the gradients that come back for them, tell of labels.

    N  auxiliary samples    M  victims    L  numbers of an activation or its gradient    K  labels

In vanilla split learning the server has the labels. Where it should not, in the U shape and between
parties with different features, the party without labels sees each sample's gradient, whose length
and direction depend on the label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from training.split.attacks.reconstruction import Scaling

_WEIGHT_PENALTY = 1e-4
"""Keeps the weights finite where classes can be told apart without error."""
_ITERATIONS_MAX = 200


@dataclass(frozen=True)
class Labelled:
    """What an attacker sees of samples, with their labels."""

    seen: torch.Tensor
    """(N, …) floating point: activations, or the gradients of the loss by them."""
    labels: torch.Tensor
    """(N) int64, from 0."""

    def __post_init__(self) -> None:
        if len(self.seen) != len(self.labels) or len(self.labels) == 0:
            raise ValueError(
                f"as many labels as samples are needed, and at least one; "
                f"got {len(self.labels)} and {len(self.seen)}"
            )


Classifier = Callable[[Labelled, torch.Tensor], torch.Tensor]
"""Auxiliary samples and what is seen of the victims (M, …) in, a label (M) of each out."""


@dataclass(frozen=True)
class LabelInference:
    """How many labels an attack found."""

    guesses: torch.Tensor
    """(M) int64."""
    accuracy: float
    """The part of the victims' labels that is guessed rightly."""
    blind_accuracy: float
    """The same of who always guesses the most frequent auxiliary label."""


def infer_labels(classifier: Classifier, auxiliary: Labelled, victims: Labelled) -> LabelInference:
    """Attack the victims; their labels are used to judge the guesses only."""
    guesses_M = classifier(auxiliary, victims.seen)
    most_frequent = auxiliary.labels.bincount().argmax()
    return LabelInference(
        guesses=guesses_M,
        accuracy=(guesses_M == victims.labels).double().mean().item(),
        blind_accuracy=(victims.labels == most_frequent).double().mean().item(),
    )


def softmax_classifier(auxiliary: Labelled, seen: torch.Tensor) -> torch.Tensor:
    """Guess labels by a linear classifier of what is seen, (M)."""
    known_NL = auxiliary.seen.detach().double().flatten(1)
    scaling = Scaling.of(known_NL)
    known_NL = scaling.apply(known_NL)
    label_count = int(auxiliary.labels.max()) + 1
    weights_LK = known_NL.new_zeros(known_NL.shape[1], label_count, requires_grad=True)
    bias_K = known_NL.new_zeros(label_count, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights_LK, bias_K], max_iter=_ITERATIONS_MAX, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scores_NK = known_NL @ weights_LK + bias_K
        loss = nn.functional.cross_entropy(scores_NK, auxiliary.labels)
        loss = loss + _WEIGHT_PENALTY * weights_LK.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        scores_MK = scaling.apply(seen.double().flatten(1)) @ weights_LK + bias_K
    return scores_MK.argmax(dim=1)


def direction_classifier(auxiliary: Labelled, seen: torch.Tensor) -> torch.Tensor:
    """Guess labels by whose mean direction is nearest, (M): few known labels will do.

    Gradients of one label point one way, however certain the model is.

    Source: Li et al., "Label leakage and protection in two-party split learning", 2022, for two
    labels and one known gradient.
    """
    known_NL = nn.functional.normalize(auxiliary.seen.detach().double().flatten(1))
    label_count = int(auxiliary.labels.max()) + 1
    sums_KL = known_NL.new_zeros(label_count, known_NL.shape[1])
    sums_KL.index_add_(0, auxiliary.labels, known_NL)
    directions_KL = nn.functional.normalize(sums_KL)
    cosines_MK = nn.functional.normalize(seen.double().flatten(1)) @ directions_KL.T
    return cosines_MK.argmax(dim=1)


def norm_leak(gradients: torch.Tensor, labels: torch.Tensor) -> float:
    """How well the length of a sample's gradient tells label 1 from label 0, without any auxiliary.

    Where one label is rare, the model is less sure of it, and its gradients are longer.

    Args:
        gradients: (N, …) of the loss by the activations.
        labels: (N) of 0 and 1, both present.

    Returns:
        The area under the ROC curve: 0.5 says nothing, 1 tells all; below 0.5 the shorter ones
        have label 1.

    Source: Li et al., as for `direction_classifier`.
    """
    norms_N = gradients.double().flatten(1).norm(dim=1)
    ones, zeros = norms_N[labels == 1], norms_N[labels == 0].sort().values
    if len(ones) == 0 or len(zeros) == 0 or len(ones) + len(zeros) < len(labels):
        raise ValueError("labels must be 0 and 1, and both must occur")
    below = torch.searchsorted(zeros, ones)
    at_most = torch.searchsorted(zeros, ones, right=True)
    return (below + at_most).double().mean().item() / (2 * len(zeros))
