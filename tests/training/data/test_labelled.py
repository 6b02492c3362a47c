"""Labelled data refuses what cannot be trained on."""

import pytest
import torch

from training.data import LabelledData


@pytest.mark.parametrize(("inputs", "labels"), [(3, 2), (0, 0)])
def test_as_many_labels_as_inputs(inputs: int, labels: int) -> None:
    with pytest.raises(ValueError, match="as many inputs as labels"):
        LabelledData(
            train_inputs=torch.zeros(inputs, 4),
            train_labels=torch.zeros(labels, dtype=torch.int64),
            test_inputs=torch.zeros(1, 4),
            test_labels=torch.zeros(1, dtype=torch.int64),
        )
