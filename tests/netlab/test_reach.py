"""Nodes in real networks find out what stands between them and the internet, and who gets in."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio

from p2p.testing.netlab import Host, Netlab, Situation
from tests.interop.go_peer import GoPeer
from tests.interop.processes import GO, P2PD, require
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
        said = self.next()
        self.address: str = said["addresses"][0]

    def next(self) -> Facts:
        """The next report."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the peer ended; last it said {self.last}"
        self.last = json.loads(line)
        return self.last

    def wait_for(self, **facts: object) -> Facts:
        """The first report that says so; the test's time limit bounds the wait."""
        while any(self.last.get(name) != value for name, value in facts.items()):
            self.next()
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
        pytest.param(
            "symmetric",
            {"reachability": "private", "behind": "nat", "mapping": "endpoint-dependent"},
            marks=pytest.mark.netlab,
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
    said = alice.wait_for(**facts)
    outside = [one for one in said["addresses"] if "/192.168." not in one]
    if facts["reachability"] == "public" or situation == "firewall":
        assert outside
    if situation == "symmetric":
        # Nobody is told of a port that only one peer can use.
        assert not outside


@pytest.mark.netlab
@pytest.mark.parametrize("forwarded", [True, False])
def test_a_port_forwarded_by_hand_is_found_and_told(lab: Netlab, forwarded: bool) -> None:
    first, second = two_public(lab)
    home = lab.add_router("home")
    host = home.add_host("alice")
    if forwarded:
        home.forward_port(PORT, host)
    alice = Peer(host, first.address, second.address)
    said = alice.wait_for(reachability="public" if forwarded else "private", behind="nat")
    outside = [one for one in said["addresses"] if one.startswith(f"/ip4/{home.address}/")]
    assert bool(outside) == forwarded


@pytest.mark.netlab
def test_the_outside_address_changes(lab: Netlab) -> None:
    first, second = two_public(lab)
    home = lab.add_router("home", nat="full-cone")
    alice = Peer(home.add_host("alice"), first.address, second.address)
    before = f"/ip4/{home.address}/"
    said = alice.wait_for(reachability="public")
    while not any(one.startswith(before) for one in said["addresses"]):
        said = alice.next()
    after = f"/ip4/{home.change_address()}/"
    changed_at_s = time.monotonic()
    # The old connections die unheard; the keepalive takes up to 20 s to notice. Until both peers
    # have seen the new address, the old one may be right.
    while any(one.startswith(before) for one in said["addresses"]) or not any(
        address.startswith(after) and verdict == "public"
        for address, _, verdict, _ in said["details"]
    ):
        said = alice.next()
    assert time.monotonic() - changed_at_s < 60


@pytest.mark.netlab
def test_go_libp2p_dials_us_back(lab: Netlab) -> None:
    require(*GO)
    with TemporaryDirectory(prefix="manyhands-go-") as name:
        outside = lab.add_host("outside")
        outside.start(
            [
                P2PD,
                f"-listen=/unix{name}/control",
                f"-hostAddrs=/ip4/{outside.address}/tcp/{PORT}",
                "-tls=false",
                "-quic=false",
                "-q",
                "-autonat",
            ]
        )

        async def learn() -> str:
            async with trio.open_nursery() as nursery:
                go = GoPeer(Path(name), nursery)
                await go.learn()
                return next(one for one in go.addresses if outside.address in one)

        address = trio.run(learn)
        public = Peer(lab.add_host("alice"), address)
        said = public.wait_for(reachability="public")
        assert "1 peer dialed it back" in said["details"][0][3]
        private = Peer(lab.add_host_in("firewall", "bob"), address)
        private.wait_for(reachability="private", behind="firewall")
