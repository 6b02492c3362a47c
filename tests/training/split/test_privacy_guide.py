"""The code in the guide to privacy runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.split.nopeek import nopeek_loss

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "privacy.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), flags=re.DOTALL)


def names() -> dict[str, object]:
    """What the guide takes for given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {
            "inputs": torch.randn(300, 6),
            "other_inputs": torch.randn(300, 6),
            "client": nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)),
        }


def test_leakage_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks()[0], names())
    biased, corrected, shuffled, error, fraction = map(float, capsys.readouterr().out.split())
    assert biased > corrected > shuffled > 0
    assert error < 1
    assert 0 < fraction < 0.9


def test_a_client_hides() -> None:
    def send(activations: Tensor) -> Tensor:
        return 2 * activations.detach()

    space = names() | {"send": send}
    exec(blocks()[1], space)
    client, inputs = space["client"], space["inputs"]
    assert isinstance(client, nn.Sequential)
    assert isinstance(inputs, Tensor)
    got = [parameter.grad for parameter in client.parameters()]
    client.zero_grad()
    activations = client(inputs)
    nopeek_loss(activations.square().sum(), inputs, activations, alpha=0.3).backward()
    for gradient, parameter in zip(got, client.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4)


def test_these_are_all() -> None:
    assert len(blocks()) == 2
