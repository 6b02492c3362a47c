"""How much a frozen encoder's features tell of the classes that it was never told.

N  known pictures     M  pictures to be judged     F  features
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

IntArray = npt.NDArray[np.int64]

NEIGHBOURS = 20
_VOTE_TEMPERATURE = 0.1
_PROBE_ITERATIONS = 300


def knn_accuracy(
    known_NF: torch.Tensor,
    known_labels: IntArray,
    judged_MF: torch.Tensor,
    judged_labels: IntArray,
    *,
    neighbours: int = NEIGHBOURS,
) -> float:
    """The share whose most similar known pictures vote for the right class.

    Each of the neighbours votes with exp(cosine / 0.1).

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, section 3.4.
    """
    known = nn.functional.normalize(known_NF, dim=1)
    judged = nn.functional.normalize(judged_MF, dim=1)
    cosines, nearest = (judged @ known.T).topk(min(neighbours, len(known)), dim=1)
    classes = int(max(known_labels.max(), judged_labels.max())) + 1
    ballots = nn.functional.one_hot(torch.from_numpy(known_labels)[nearest], classes)
    votes = (ballots * torch.exp(cosines / _VOTE_TEMPERATURE).unsqueeze(2)).sum(dim=1)
    return float((votes.argmax(dim=1) == torch.from_numpy(judged_labels)).double().mean())


def probe_accuracy(
    known_NF: torch.Tensor,
    known_labels: IntArray,
    judged_MF: torch.Tensor,
    judged_labels: IntArray,
) -> float:
    """The share that a linear classifier on the features gets right (logistic regression)."""
    # Imported here: scikit-learn brings scipy along.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(known_labels)) < 2:
        return float((judged_labels == known_labels[0]).mean())
    scaler = StandardScaler().fit(known_NF.numpy())
    probe = LogisticRegression(max_iter=_PROBE_ITERATIONS)
    probe.fit(scaler.transform(known_NF.numpy()), known_labels)
    return float(probe.score(scaler.transform(judged_MF.numpy()), judged_labels))
