"""`manyhands simulate` as a user runs it: a home and a public host train together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from p2p.testing.netlab import Netlab, namespaces
from tests.processes.command import ENVIRONMENT, ROOT

SCENE = """
steps = 20
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


def test_peers_train_in_an_internet_from_a_file(lab: Netlab, tmp_path: Path) -> None:
    scene = tmp_path / "scene.toml"
    scene.write_text(SCENE, "utf-8")
    before = namespaces.names("manyhands-")
    command = [sys.executable, "-m", "tools.cli", "simulate", "--netns", str(scene), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    alice, bob = result["peers"]
    assert alice["where"] == "home (port-restricted)"
    assert alice["step"] == bob["step"] == result["steps"] == 20
    assert alice["parameter_hash"] == bob["parameter_hash"]
    # Each has the node and the other one.
    assert len(alice["paths"]) == len(bob["paths"]) == 2
    assert alice["paths"][bob["peer_id"]] == "direct"
    assert "change-address carol" in done.stderr
    ours = {name for name in namespaces.names("manyhands-") if name not in before}
    assert not [name for name in ours if name.endswith(("-alice", "-carol"))]
