"""Nodes in real networks find out what stands between them and the internet, and who gets in."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from p2p.testing.netlab import Host, Netlab, Situation
from tests.processes.command import ENVIRONMENT, ROOT

PORT = 4001
Facts = dict[str, Any]


class Peer:
    """A node on a host, and what it has said."""

    def __init__(self, host: Host, *peers: str, mapping: bool = False) -> None:
        option = "mapping" if mapping else "no-mapping"
        command = [sys.executable, "-m", "tests.netlab.reach_peer", option, str(PORT), *peers]
        self._process: subprocess.Popen[str] = host.start(
            command, folder=ROOT, environment=ENVIRONMENT
        )
        self.last: Facts = {}
        said = self._next()
        self.address: str = said["addresses"][0]

    def _next(self) -> Facts:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the peer ended; last it said {self.last}"
        self.last = json.loads(line)
        return self.last

    def wait_for(self, **facts: object) -> Facts:
        """The first report that says so; the test's time limit bounds the wait."""
        while any(self.last.get(name) != value for name, value in facts.items()):
            self._next()
        return self.last


def two_public(lab: Netlab) -> tuple[Peer, Peer]:
    """Two public peers that know each other."""
    first = Peer(lab.add_host("first"))
    return first, Peer(lab.add_host("second"), first.address)


@pytest.mark.parametrize(
    ("situation", "facts"),
    [
        ("public", {"reachability": "public", "behind": "nothing", "mapping": "none"}),
        ("firewall", {"reachability": "private", "behind": "firewall", "mapping": "none"}),
        (
            "port-restricted",
            {"reachability": "private", "behind": "nat", "mapping": "endpoint-independent"},
        ),
        (
            "symmetric",
            {"reachability": "private", "behind": "nat", "mapping": "endpoint-dependent"},
        ),
        (
            "full-cone",
            {"reachability": "public", "behind": "nat", "mapping": "endpoint-independent"},
        ),
    ],
)
def test_each_situation_is_told_apart(lab: Netlab, situation: Situation, facts: Facts) -> None:
    first, second = two_public(lab)
    host = lab.add_host_in(situation, "alice")
    alice = Peer(host, first.address, second.address)
    began_at_s = time.monotonic()
    said = alice.wait_for(**facts)
    print(situation, f"{time.monotonic() - began_at_s:.1f} s", said["line"])
    outside = [one for one in said["addresses"] if "/192.168." not in one]
    if facts["reachability"] == "public" or situation == "firewall":
        assert outside
    if situation == "symmetric":
        # Nobody is told of a port that only one peer can use.
        assert not outside
