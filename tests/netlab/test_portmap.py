"""A port is mapped by a real gateway, so that a public host comes in; and by one that lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from p2p.testing.netlab import NetlabUnavailable
from tests.netlab.home import ROUTER, WAN, Home, open_home, require
from tests.netlab.mapped import HELLO

PORT = 31_337
NOTICED_S_MAX = 60.0
MARGIN_S = 5.0
CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
    print(connection.recv(100).decode())
"""


def _why_not() -> str | None:
    try:
        require()
    except NetlabUnavailable as exc:
        return f"PORT MAPPING BY A REAL GATEWAY IS NOT TESTED HERE: {exc}"
    return None


# In continuous integration its absence is a failure, which open_home() raises.
pytestmark = pytest.mark.skipif(
    os.environ.get("CI") != "true" and (reason := _why_not()) is not None,
    reason=locals().get("reason") or "",
)


class Mapped:
    """The program inside, and what it has said."""

    def __init__(self, home: Home, name: str = "inside", port: int = PORT) -> None:
        self._process: subprocess.Popen[str] = home.start(name, "tests.netlab.mapped", str(port))
        self.next("ready")

    def next(self, event: str) -> dict[str, Any]:
        """The next such event; nothing else may come before it."""
        assert self._process.stdout is not None
        said: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert said["event"] == event, said
        return said

    def changed(self) -> dict[str, Any] | None:
        """The next mapping that it tells of."""
        mapping: dict[str, Any] | None = self.next("changed")["mapping"]
        return mapping

    def say(self, command: str) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def tell(self) -> tuple[dict[str, Any] | None, str]:
        """Its mapping now, and its problem."""
        self.say("tell")
        said = self.next("told")
        return said["mapping"], said["problem"] or ""

    def problem(self, words: str) -> str:
        """Its problem, once it is known and not just that the router is being asked."""
        end_s = time.monotonic() + NOTICED_S_MAX
        while time.monotonic() < end_s:
            mapping, problem = self.tell()
            if words in problem:
                assert mapping is None or mapping["useless_because"]
                return problem
            time.sleep(0.2)
        raise AssertionError(f"not {words!r} but {problem!r}")

    def leave(self) -> None:
        """Let it end well."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.next("left")
        assert self._process.wait() == 0


def outsider(home: Home, host: str, port: str) -> str:
    """What a public host hears that connects, or why it hears nothing."""
    said = subprocess.run(
        home.command("outside", sys.executable, "-c", CONNECT, host, port),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return said.stdout.strip() if said.returncode == 0 else said.stderr


def check_open(home: Home, mapping: dict[str, Any] | None, protocol: str) -> None:
    """The mapping is there, and a public host comes in by it."""
    assert mapping is not None
    assert mapping["protocol"] == protocol
    assert mapping["useless_because"] is None
    _, _, host, _, port = mapping["external"].split("/")
    assert host == WAN
    assert outsider(home, host, port) == HELLO.decode()


@pytest.mark.parametrize(
    "protocol",
    ["upnp", pytest.param("nat-pmp", marks=pytest.mark.netlab), "pcp"],
)
def test_a_public_host_comes_in_by_each_protocol(tmp_path: Path, protocol: str) -> None:
    with open_home(tmp_path, protocol) as home:
        assert "TimeoutError" in outsider(home, WAN, str(PORT))
        mapped = Mapped(home)
        mapping = mapped.changed()
        check_open(home, mapping, protocol)
        assert mapping is not None
        assert mapping["external"] == f"/ip4/{WAN}/tcp/{PORT}"
        assert mapped.tell()[1] == ""
        assert str(PORT) in home.mappings()
        mapped.leave()
        assert str(PORT) not in home.mappings()
        assert "TimeoutError" in outsider(home, WAN, str(PORT))


def test_pcp_is_preferred_where_all_are_spoken(tmp_path: Path) -> None:
    with open_home(tmp_path, "upnp", "nat-pmp", "pcp") as home:
        check_open(home, Mapped(home).changed(), "pcp")


def test_a_router_that_maps_nothing_is_told_of(tmp_path: Path) -> None:
    with open_home(tmp_path) as home:
        problem = Mapped(home).problem("none of PCP, NAT-PMP and UPnP")
        assert ROUTER in problem
        assert f"forward TCP port {PORT} to this machine" in problem


@pytest.mark.netlab
@pytest.mark.parametrize("protocol", ["upnp", "pcp"])
@pytest.mark.parametrize("wan", ["100.64.0.2", "192.168.0.2"])
def test_a_router_behind_another_is_told_of(tmp_path: Path, protocol: str, wan: str) -> None:
    # This daemon maps nothing on an address that is not public.
    with open_home(tmp_path, protocol, wan=wan) as home:
        problem = Mapped(home).problem("double NAT")
        assert ROUTER in problem


@pytest.mark.netlab
def test_double_nat_is_seen_by_what_peers_observe(tmp_path: Path) -> None:
    with open_home(tmp_path, "pcp", wan="100.64.0.2", says="5.6.9.9") as home:
        mapped = Mapped(home)
        mapping = mapped.changed()
        assert mapping is not None
        assert mapping["useless_because"] is None
        mapped.say(f"observed {WAN}")
        mapped.next("told")
        mapping = mapped.changed()
        assert mapping is not None
        assert "double NAT" in mapping["useless_because"]
        assert "relay" in mapped.tell()[1]


@pytest.mark.netlab
@pytest.mark.parametrize("protocol", ["upnp", "nat-pmp", "pcp"])
def test_a_restarted_router_maps_again_within_a_minute(tmp_path: Path, protocol: str) -> None:
    with open_home(tmp_path, protocol) as home:
        mapped = Mapped(home)
        check_open(home, mapped.changed(), protocol)
        home.stop_router()
        home.start_router()
        end_s = time.monotonic() + NOTICED_S_MAX
        while str(PORT) not in home.mappings():
            assert time.monotonic() < end_s
            time.sleep(0.5)
        check_open(home, mapped.tell()[0], protocol)


@pytest.mark.netlab
def test_a_router_that_is_gone_is_noticed_within_a_minute(tmp_path: Path) -> None:
    with open_home(tmp_path, "upnp", "nat-pmp", "pcp") as home:
        mapped = Mapped(home)
        check_open(home, mapped.changed(), "pcp")
        home.stop_router()
        begun_s = time.monotonic()
        assert mapped.changed() is None
        assert time.monotonic() - begun_s < NOTICED_S_MAX
        assert "none of PCP, NAT-PMP and UPnP" in mapped.tell()[1]
        home.start_router()
        mapped.say("changed")
        mapped.next("told")
        # Whichever of its protocols was up first.
        back = mapped.changed()
        assert back is not None
        check_open(home, back, back["protocol"])


@pytest.mark.netlab
@pytest.mark.parametrize("protocol", ["upnp", "nat-pmp", "pcp"])
def test_two_machines_with_one_port_get_two_outer_ports(tmp_path: Path, protocol: str) -> None:
    with open_home(tmp_path, protocol) as home:
        first, second = Mapped(home), Mapped(home, "neighbour")
        mappings = [first.changed(), second.changed()]
        for mapping in mappings:
            check_open(home, mapping, protocol)
        assert len({mapping["external"] for mapping in mappings if mapping}) == 2
        # Leaving takes back one's own only.
        second.leave()
        check_open(home, mappings[0], protocol)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("garbage", "messages that are none"),
        ("nonce", "another nonce"),
        ("elsewhere", "none of PCP, NAT-PMP and UPnP"),
    ],
)
def test_a_lying_router_maps_nothing(tmp_path: Path, lie: str, words: str) -> None:
    with open_home(tmp_path) as home:
        home.open_firewall()
        liar = home.start("router", "tests.netlab.liar", lie)
        assert liar.stdout is not None
        assert liar.stdout.readline() == "ready\n"
        mapped = Mapped(home)
        mapped.problem(words)
        mapped.leave()


@pytest.mark.netlab
@pytest.mark.parametrize("lie", ["huge", "epochs"])
def test_what_a_lying_router_grants_is_believed_within_bounds(tmp_path: Path, lie: str) -> None:
    with open_home(tmp_path) as home:
        home.open_firewall()
        liar = home.start("router", "tests.netlab.liar", lie)
        assert liar.stdout is not None
        assert liar.stdout.readline() == "ready\n"
        mapped = Mapped(home)
        mapping = mapped.changed()
        assert mapping is not None
        assert 3_590 < mapping["expires_in_s"] <= 3_600
        mapped.leave()
