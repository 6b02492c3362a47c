"""The code on the page about private inference runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from tests.training.privacy.inference.digits import digits, trained_network

PAGE = Path(__file__).parents[4] / "docs" / "protocols" / "private-inference.md"


def test_both_sides() -> None:
    serving, asking = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    features = digits()[0][:3]
    there: dict[str, Any] = {"model": trained_network()}
    exec(serving, there)
    with there["server"] as server:
        here: dict[str, Any] = {"address": server.addresses[0], "features": features}
        exec(asking, here)
    assert torch.equal(here["classes"], trained_network()(features).argmax(1))
