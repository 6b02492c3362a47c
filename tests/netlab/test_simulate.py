"""`manyhands simulate` as a user runs it: a home and a public host train together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2p.testing.netlab import Netlab, namespaces
from tests.processes.command import ENVIRONMENT, ROOT

SCENE = """
steps = 10
[hosts.boot]
runs = "node"
[routers.home]
up_mbit_per_s = 50
delay_ms = 5
[hosts.alice]
behind = "home"
runs = "train"
[hosts.bob]
runs = "train"
[hosts.carol]
[[faults]]
at_step = 5
deed = "change-address"
to = "carol"
"""


# Three processes load PyTorch, on a machine that may be busy.
@pytest.mark.netlab
@pytest.mark.timeout(300)
def test_peers_train_in_an_internet_from_a_file(lab: Netlab, tmp_path: Path) -> None:
    scene = tmp_path / "scene.toml"
    scene.write_text(SCENE, "utf-8")
    command = [sys.executable, "-m", "tools.cli", "simulate", "--netns", str(scene), "--json"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    result = json.loads(stdout)
    alice, bob = result["peers"]
    assert alice["where"] == "home (port-restricted)"
    assert alice["step"] == bob["step"] == result["steps"] == 10
    assert alice["parameter_hash"] == bob["parameter_hash"]
    # Each has the node and the other one.
    assert len(alice["paths"]) == len(bob["paths"]) == 2
    assert alice["paths"][bob["peer_id"]] == "direct"
    assert "change-address carol" in stderr
    assert namespaces.names(f"manyhands-{process.pid}-") == []
