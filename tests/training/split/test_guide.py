"""The code in docs/guides/split-learning.md runs."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.training.split.world import batches, make_model
from training.split import SplitClientConfig, SplitServerConfig

GUIDE = Path(__file__).parent.parent.parent.parent / "docs/guides/split-learning.md"


def test_the_three_lines_of_the_guide() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)
    both, server_side, client_side = blocks[:3]
    loader = batches(5)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "model": make_model(), "x": loader[0][0]}
    exec(both, names)
    opened = threading.Event()
    at_server, at_client = dict(names, opened=opened), dict(names, loader=loader)
    assert "    server.run()\n" in server_side
    once = server_side.replace("server.run()", "opened.set(); server.run(clients=1)")
    thread = threading.Thread(target=exec, args=(once, at_server))
    thread.start()
    try:
        assert opened.wait(40)
        at_client["address"] = at_server["server"].addresses[0]
        exec(client_side, at_client)
    finally:
        thread.join()
    assert at_client["loss"] > 0
    assert at_client["scores"].shape == (6, 4)


def test_the_words_of_the_guide_are_those_of_the_code() -> None:
    text = GUIDE.read_text("utf-8")
    kinds = {"SplitClientConfig": SplitClientConfig, "SplitServerConfig": SplitServerConfig}
    named = re.findall(r"`(Split\w+Config)\((\w+)=", text)
    assert len(named) >= 3
    for kind, option in named:
        assert option in kinds[kind].__dataclass_fields__
