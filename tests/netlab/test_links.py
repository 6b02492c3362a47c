"""Links are cut in real networks: losses are noticed in the stated time, or nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest

from p2p.host.keepalive import BEAT_S, LOST_BEATS, PING_BEATS, WATCHED_LOST_BEATS
from p2p.testing.netlab import Host, Netlab
from tests.processes.command import ENVIRONMENT, ROOT

# Three seconds for slow machines; half a one because a tick and the cut are not of one clock.
MARGIN_S = 3.0
EARLY_S = 0.5
# TCP repeats what got no answer after twice the time each: a link that heals after seven seconds
# may stay silent for seven more. That is still within what a connection bears.
OUTAGE_S = 7.0
MBIT_PER_S = 125_000


class Peer:
    """A node on a host, and what it has said."""

    def __init__(self, host: Host, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.netlab.peer", *arguments]
        self._process: subprocess.Popen[str] = host.start(
            command, folder=ROOT, environment=ENVIRONMENT
        )

    def next(self, *events: str) -> dict[str, Any]:
        """The next of such events; others in between are passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] in events:
                return said
        raise AssertionError(f"the peer ended before it said {events}")


@dataclass
class Two:
    """A listener on one host and a dialer on another, which is at its works."""

    alice: Host
    bob: Host
    dialer: Peer
    listener: Peer


def two_peers(lab: Netlab, *works: str, upload_bytes_per_s: int = 250_000_000) -> Two:
    """Alice dials bob and does her works; what she sends is limited in rate."""
    alice, bob = lab.add_host("alice"), lab.add_host("bob")
    alice.limit_rate(upload_bytes_per_s=upload_bytes_per_s)
    listener = Peer(bob, "listen", bob.address)
    dialer = Peer(alice, "dial", listener.next("listening")["address"], *works)
    dialer.next("connected")
    listener.next("connected")
    return Two(alice, bob, dialer, listener)


def check_noticed(said: dict[str, Any], cut_s: float, ping_beats: int, lost_beats: int) -> None:
    """The first ping without an answer was due within ping_beats; lost_beats later it is over."""
    silent_s = said["at_s"] - cut_s
    earliest_s, latest_s = BEAT_S * lost_beats, BEAT_S * (ping_beats + lost_beats)
    assert earliest_s - EARLY_S <= silent_s <= latest_s + MARGIN_S, said


@pytest.mark.parametrize("cut", ["near", pytest.param("far", marks=pytest.mark.netlab)])
def test_a_black_holed_idle_peer_is_lost_in_the_stated_time(lab: Netlab, cut: str) -> None:
    two = two_peers(lab, "idle")
    (two.alice if cut == "near" else two.bob).cut()
    cut_s = time.monotonic()
    for peer in (two.dialer, two.listener):
        check_noticed(peer.next("lost"), cut_s, PING_BEATS, LOST_BEATS)


def test_bulk_and_calls_under_way_learn_of_the_loss_in_the_stated_time(lab: Netlab) -> None:
    two = two_peers(lab, "bulk:100000000000", "call:100", "idle")
    two.dialer.next("bulk begun")
    two.alice.cut()
    cut_s = time.monotonic()
    # The order is chance: all three end with their connection.
    ended = [two.dialer.next("bulk", "call", "lost") for _ in range(3)]
    assert sorted((said["event"], said.get("error")) for said in ended) == [
        ("bulk", "StreamBroken"),
        ("call", "StreamBroken"),
        ("lost", None),
    ]
    for said in (*ended, two.listener.next("lost")):
        check_noticed(said, cut_s, PING_BEATS, LOST_BEATS)


def test_a_call_into_a_black_hole_ends_at_its_own_timeout(lab: Netlab) -> None:
    two = two_peers(lab, "call:4")
    two.alice.cut()
    assert two.dialer.next("call", "done")["error"] == "CallTimeout"


@pytest.mark.netlab
def test_a_watched_peer_is_lost_soon(lab: Netlab) -> None:
    two = two_peers(lab, "watched")
    two.dialer.next("watching")
    two.bob.cut()
    cut_s = time.monotonic()
    check_noticed(two.dialer.next("lost"), cut_s, 1, WATCHED_LOST_BEATS)
    # Who does not watch notices like everybody.
    check_noticed(two.listener.next("lost"), cut_s, PING_BEATS, LOST_BEATS)


@pytest.mark.netlab
def test_a_link_that_heals_in_time_has_lost_nothing(lab: Netlab) -> None:
    works = ("bulk:300000000", "idle")
    two = two_peers(lab, *works, upload_bytes_per_s=400 * MBIT_PER_S)
    two.dialer.next("bulk begun")
    two.alice.cut()
    time.sleep(OUTAGE_S)  # the fault itself, not a wait for something
    two.alice.heal()
    # The loss of the connection would come first.
    assert two.dialer.next("bulk", "lost").get("right") is True


def test_small_calls_pass_the_bulk_on_a_home_uplink(lab: Netlab) -> None:
    works = ("bulk:12000000", "calls:15")
    two = two_peers(lab, *works, upload_bytes_per_s=20 * MBIT_PER_S)
    # All of them are answered before the bulk, which takes five seconds, is through.
    calls = []
    for _ in range(15):
        said = two.dialer.next("call", "bulk")
        assert said["event"] == "call"
        calls.append(round(said["seconds"] * 1e3))
    assert two.dialer.next("bulk")["right"] is True
    print(f"calls beside bulk at 20 Mbit/s: {sorted(calls)} ms")
