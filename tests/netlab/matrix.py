"""The matrix: two peers, each in one of seven situations, and what comes of it."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from p2p.testing.netlab import Host, Link, Netlab, Router, Situation, open_netlab
from tests.processes.command import ENVIRONMENT, ROOT

LINK = Link(delay_ms=12.5)
"""Of each host or router in the internet: 25 ms from one to another, 50 ms through a relay."""
PORT = 4001
PATIENCE_S = 110.0
SITUATIONS: tuple[Situation, ...] = (
    "public", "full-cone", "port-restricted", "symmetric", "carrier-grade", "firewall", "upnp",
)  # fmt: skip
PAIRS = tuple(itertools.combinations_with_replacement(SITUATIONS, 2))
Way = Literal["direct", "mapped", "punched", "relayed"]
Facts = dict[str, Any]

_OPEN = {"public", "full-cone", "upnp"}
_SYMMETRIC = "symmetric"


def expected(one: Situation, other: Situation) -> set[Way]:
    """How two peers should reach each other."""
    if {one, other} & _OPEN:
        return {"direct", "mapped"} if "upnp" in (one, other) else {"direct"}
    return {"relayed"} if _SYMMETRIC in (one, other) else {"punched"}


class Peer:
    """A program on a host that obeys and tells, and what it has told last."""

    def __init__(self, host: Host, *publics: str) -> None:
        self.host = host
        self.report: Facts = {}
        self._process: subprocess.Popen[str] = host.start(
            [sys.executable, "-m", "tests.netlab.matrix_peer", *publics],
            folder=ROOT,
            environment=ENVIRONMENT,
        )
        self._rest = b""
        self._said: list[Facts] = []

    @property
    def peer_id(self) -> str:
        """Of its present life."""
        return str(self.report["peer_id"])

    def do(self, *words: object) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)

    def hear(self, event: str, *, patience_s: float = PATIENCE_S) -> Facts:
        """The next time that it says this; reports in between are noted."""
        until_s = time.monotonic() + patience_s
        while True:
            for place, said in enumerate(self._said):
                if said["event"] == event:
                    del self._said[place]
                    assert "error" not in said, said
                    return said
            self._listen(until_s, event)

    def forget(self) -> None:
        """Forget what it said and nobody heard, as after a cell that failed."""
        self._said.clear()

    def wait_for(self, *, patience_s: float = PATIENCE_S, **facts: object) -> Facts:
        """The first report in which these hold; a callable says whether a value does."""
        until_s = time.monotonic() + patience_s

        def holds(name: str, wanted: object) -> bool:
            value = self.report.get(name)
            return bool(wanted(value)) if callable(wanted) else value == wanted

        while not all(self.report and holds(*fact) for fact in facts.items()):
            self._listen(until_s, f"a report with {sorted(facts)}")
        return self.report

    def _listen(self, until_s: float, what: str) -> None:
        """Note all that it says next, by lines."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        ready, _, _ = select.select([pipe], [], [], max(until_s - time.monotonic(), 0.0))
        assert ready, f"{self.host.name} never said {what}; its last report is {self.report}"
        data = os.read(pipe, 65_536)
        assert data, f"{self.host.name} ended with {self._process.wait()} before {what}"
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            said: Facts = json.loads(line)
            if said["event"] == "report":
                self.report = said
            else:
                self._said.append(said)

    def open(self, port: int = PORT, mode: str = "auto") -> None:
        """Begin a life; returns at once."""
        self.report = {}
        self.do("open", port, mode)

    def close(self) -> None:
        """End this life."""
        self.do("close")
        self.hear("closed")
        self.report = {}

    def is_settled_here(self) -> None:
        """Return when it knows how others reach it, and they can, through relays if not else."""
        situation = self.host.name.split("-", 1)[1]
        if situation in _OPEN:
            self.wait_for(reachability="public")
        else:
            self.wait_for(reachability="private", relays=lambda held: len(held) >= 2)
        if situation == "upnp":
            self.wait_for(mapped=lambda external: external is not None)


@dataclass
class Relay:
    """A public node that relays, or only tells how it sees others."""

    host: Host
    folder: Path
    options: tuple[str, ...] = ("--relay",)
    address: str = ""
    """Where it is dialed, with its peer id, once it has listened."""
    _process: subprocess.Popen[str] | None = None

    @property
    def peer_id(self) -> str:
        """Its identity."""
        return self.address.rsplit("/", 1)[1]

    def start(self) -> None:
        """Run it; the same identity each time."""
        key = self.folder / "key"
        command = [
            sys.executable, "-m", "tools.cli", "node", "--identity", str(key), "--json",
            "--listen", f"/ip4/{self.host.address}/tcp/{PORT}", *self.options,
        ]  # fmt: skip
        self._process = self.host.start(command, folder=ROOT, environment=ENVIRONMENT)

    def wait_ready(self) -> None:
        """Return when it listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "peer_id" in line:
                self.address = json.loads(line)["addresses"][0]
                return
        raise AssertionError(f"{self.host.name} ended with {self._process.wait()}")

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@dataclass
class World:
    """An internet with two relays and a bootstrap node, to which peers are added."""

    lab: Netlab
    relays: list[Relay] = field(default_factory=list)
    peers: dict[str, Peer] = field(default_factory=dict)

    def peer(
        self, name: str, situation: Situation, *, mode: str = "auto", port: int = PORT
    ) -> Peer:
        """A peer in a situation, started when it is first asked for."""
        full = f"{name}-{situation}"
        if full not in self.peers:
            host = self.lab.add_host_in(situation, full, LINK)
            self.peers[full] = Peer(host, *(one.address for one in self.relays))
            self.peers[full].open(port, mode)
        return self.peers[full]

    def router(self, peer: Peer) -> Router:
        """The outermost router before a peer."""
        return self.lab.routers[f"{peer.host.name}-router"]


@contextmanager
def open_world(*, seed: int = 0) -> Iterator[World]:
    """Public nodes that run: two relays, and one that is none."""
    with open_netlab(seed=seed) as lab:
        world = World(lab)
        for name, options in (("first", ("--relay",)), ("second", ("--relay",)), ("boot", ())):
            world.relays.append(Relay(lab.add_host(name, LINK), lab.new_folder(name), options))
        for one in world.relays:
            one.start()
        for one in world.relays:
            one.wait_ready()
        yield world


@dataclass(frozen=True)
class Meeting:
    """How two peers met."""

    way: Way
    first_byte_s: float
    final_s: float
    address: str


def meet(alice: Peer, bob: Peer) -> Meeting:
    """Alice connects to bob at what he tells others."""
    begin_to_meet(alice, bob)
    return how_they_met(alice, bob)


def begin_to_meet(alice: Peer, bob: Peer) -> None:
    """Have alice connect to bob; returns at once. What they said before is forgotten."""
    alice.forget()
    bob.forget()
    alice.do("meet", ",".join(bob.report["addresses"]))


def how_they_met(alice: Peer, bob: Peer) -> Meeting:
    """What came of it, when that is settled."""
    first, final = alice.hear("meet"), alice.hear("settled")
    way: Way = final["path"]
    if way == "direct":
        # Who came in had dialed what alice tells, and so a mapped port if she has one.
        dialed = final["address"]
        mapped = alice.report["mapped"] if dialed == "came in" else bob.report["mapped"]
        if mapped is not None and (dialed == "came in" or dialed == _host_and_port(mapped)):
            way = "mapped"
    return Meeting(way, first["seconds"], final["seconds"], final["address"])


def average(alice: Peer, bob: Peer, name: str) -> tuple[Facts, Facts]:
    """Both average 8 MiB with each other, and say what came of it."""
    alice.do("average", name, bob.peer_id, 1, 2)
    bob.do("average", name, alice.peer_id, 2, 1)
    return alice.hear("average"), bob.hear("average")


def _host_and_port(address: str) -> str:
    _, _, host, _, port, *_ = address.split("/")
    return f"{host}:{port}"
