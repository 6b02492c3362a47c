"""Classification: its loss, its figure, and batches that resume."""

import pytest
import torch
from torch import nn

from training.data import LabelledData
from training.task import Task, evaluate
from training.tasks.classification import Classification


def task() -> Classification:
    return Classification(
        LabelledData(
            train_inputs=torch.arange(10.0).view(10, 1),
            train_labels=torch.arange(10) % 2,
            test_inputs=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]),
            test_labels=torch.tensor([0, 1, 0]),
        )
    )


def test_it_is_a_task_whose_figure_is_the_share_that_is_right() -> None:
    assert isinstance(task(), Task)
    assert evaluate(task(), nn.Identity()) == {"accuracy": pytest.approx(2 / 3, abs=1e-6)}


def test_the_loss_is_cross_entropy() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    loss = task().loss(nn.Identity(), (scores, torch.tensor([0, 1])))
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log(torch.tensor(2.0))) / 2
    torch.testing.assert_close(loss, expected)


def test_a_resumed_peer_draws_what_it_would_have_drawn() -> None:
    whole = task().batches(seed=0, peer_id="alice", drawn=0)
    whole.next_batch(7)
    resumed = task().batches(seed=0, peer_id="alice", drawn=7)
    inputs, labels = whole.next_batch(6)
    again, labels_again = resumed.next_batch(6)
    assert torch.equal(inputs, again)
    assert torch.equal(labels, labels_again)
    assert (inputs[:, 0].long() % 2 == labels).all()
    assert whole.drawn == resumed.drawn == 13
