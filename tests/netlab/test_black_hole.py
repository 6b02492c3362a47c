"""Cables are pulled in real networks: losses are noticed in the stated time, or nothing is lost."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from p2p.host.muxer import KEEPALIVE_INTERVAL_S, KEEPALIVE_TICKS_MAX
from tests.netlab.network import ROOT, Network, open_network, require_namespaces
from tests.processes.command import ENVIRONMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

# The last byte came at most an interval before the cable was pulled; two seconds for slow machines.
SOONEST_S = KEEPALIVE_INTERVAL_S * (KEEPALIVE_TICKS_MAX - 1)
LATEST_S = KEEPALIVE_INTERVAL_S * (KEEPALIVE_TICKS_MAX + 1) + 2


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    require_namespaces()


class Peer:
    """A node on a host, and what it has said."""

    def __init__(self, network: Network, host: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            network.command(host, ["tests.netlab.peer", *arguments]),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def next(self, *events: str) -> dict[str, Any]:
        """The next of such events; others in between are passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] in events:
                return said
        raise AssertionError(f"the peer ended before it said {events}")

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def two_peers(network: Network, *works: str, rate: str = "2gbit") -> Iterator[tuple[Peer, Peer]]:
    """A listener on one host and a dialer on another, which is at its works."""
    host = network.add_host("one")
    network.add_host("other")
    network.limit_rate("other", rate)
    listener = Peer(network, "one", "listen", host)
    try:
        address = listener.next("listening")["address"]
        dialer = Peer(network, "other", "dial", address, *works)
        try:
            dialer.next("connected")
            listener.next("connected")
            yield listener, dialer
        finally:
            dialer.end()
    finally:
        listener.end()


def test_a_black_holed_peer_is_lost_in_the_stated_time_whatever_is_under_way() -> None:
    with (
        open_network() as network,
        two_peers(network, "bulk:100000000000", "call", "idle") as (listener, dialer),
    ):
        dialer.next("bulk begun")
        network.unplug("other")
        pulled_s = time.monotonic()
        # The order is chance: all three end with their connection.
        ended = [dialer.next("bulk", "call", "lost") for _ in range(3)]
        assert sorted((said["event"], said.get("error")) for said in ended) == [
            ("bulk", "StreamBroken"),
            ("call", "StreamBroken"),
            ("lost", None),
        ]
        for said in (*ended, listener.next("lost")):
            assert SOONEST_S <= said["at_s"] - pulled_s <= LATEST_S, said


def test_a_cable_that_is_put_back_in_time_has_lost_nothing() -> None:
    with (
        open_network() as network,
        two_peers(network, "bulk:300000000", rate="400mbit") as (_, dialer),
    ):
        dialer.next("bulk begun")
        network.unplug("other")
        time.sleep(5)  # the fault itself, not a wait for something
        network.plug("other")
        assert dialer.next("bulk")["right"] is True
        dialer.next("done")


def test_small_calls_pass_the_bulk_on_a_home_uplink() -> None:
    with (
        open_network() as network,
        two_peers(network, "bulk:12000000", "calls:15", rate="20mbit") as (_, dialer),
    ):
        calls = [dialer.next("call")["seconds"] for _ in range(15)]
        # All of them were answered before the bulk, which takes five seconds, was through.
        assert dialer.next("bulk")["right"] is True
        print(f"calls beside bulk at 20 Mbit/s: {sorted(round(call * 1e3) for call in calls)} ms")
