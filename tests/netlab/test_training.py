"""Six peers in six situations train together to the end, on lines such as people have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2p.testing.netlab import Netlab
from tests.netlab.table import NOTES
from tests.processes.command import ENVIRONMENT, ROOT

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(900)]

# From one to another 20 to 80 ms, at 20 to 100 Mbit/s.
SCENE = """
steps = 30
[hosts.boot]
runs = "node"
options = ["--relay"]
delay_ms = 10
[hosts.relay]
runs = "node"
options = ["--relay"]
delay_ms = 10
[hosts.alice]
runs = "train"
up_mbit_per_s = 100
down_mbit_per_s = 100
delay_ms = 10
[hosts.bob]
runs = "train"
up_mbit_per_s = 50
down_mbit_per_s = 100
delay_ms = 20
[routers.cone]
nat = "full-cone"
up_mbit_per_s = 20
down_mbit_per_s = 100
delay_ms = 25
[hosts.carol]
behind = "cone"
runs = "train"
[routers.home]
up_mbit_per_s = 20
down_mbit_per_s = 50
delay_ms = 30
[hosts.dave]
behind = "home"
runs = "train"
[routers.office]
nat = "firewall"
up_mbit_per_s = 50
down_mbit_per_s = 50
delay_ms = 15
[hosts.erin]
behind = "office"
runs = "train"
[routers.mobile]
nat = "symmetric"
up_mbit_per_s = 20
down_mbit_per_s = 50
delay_ms = 40
[hosts.frank]
behind = "mobile"
runs = "train"
"""
EXPECTED = {
    ("carol", "dave"): {"direct"},
    # Two that happen to dial each other at the same moment need not arrange a punch.
    ("dave", "erin"): {"punched", "direct"},
    ("dave", "frank"): {"relayed"},
    ("erin", "frank"): {"relayed"},
}


def test_six_peers_train_to_the_end(lab: Netlab, tmp_path: Path) -> None:
    scene = tmp_path / "scene.toml"
    scene.write_text(SCENE, "utf-8")
    command = [sys.executable, "-m", "tools.cli", "simulate", "--netns", str(scene), "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    peers = {one["name"]: one for one in result["peers"]}
    assert len(peers) == 6
    assert {one["step"] for one in peers.values()} == {result["steps"]} == {30}
    assert len({one["parameter_hash"] for one in peers.values()}) == 1
    NOTES.append(("six peers train 30 steps", result["seconds"]))
    for (one, other), ways in EXPECTED.items():
        paths = peers[one]["paths"]
        assert paths.get(peers[other]["peer_id"]) in ways, (one, other, paths)
