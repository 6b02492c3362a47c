"""Private inference between two real nodes, from plain synchronous code."""

import pytest
import torch
from torch import nn

from tests.training.privacy.inference.digits import digits, trained_network
from training.privacy.inference import PrivateInferenceFailed, ask_private, serve_private


@pytest.mark.slow
def test_fifty_digits_from_synchronous_code() -> None:
    pictures = digits()[0][:50]
    with (
        serve_private(trained_network()) as server,
        ask_private(server.addresses[0]) as client,
    ):
        classes = client.classify(pictures)
        assert torch.equal(classes, trained_network()(pictures).argmax(1))
        with pytest.raises(ValueError, match="of shape"):
            client.classify(pictures[:, :3])
        server.close()
        with pytest.raises(PrivateInferenceFailed):
            client.classify(pictures[:1])


def test_a_model_that_cannot_be_asked_opens_nothing() -> None:
    with pytest.raises(ValueError, match="Linear layers"):
        serve_private(nn.Sequential(nn.Tanh()))
