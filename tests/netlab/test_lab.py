"""The laboratory itself: cuts are silent, rates hold, and nothing is left behind by anybody."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from p2p.testing.netlab import Link, Netlab, NetlabUnavailable, namespaces, open_netlab
from tests.netlab import programs
from tests.netlab.programs import ask, line_of, start
from tests.processes.command import ENVIRONMENT, ROOT

SILENCE_S = 5.0


def test_hosts_reach_each_other_and_nobody_else(lab: Netlab) -> None:
    alice, bob = lab.add_host("alice"), lab.add_host("bob")
    assert (alice.address, bob.address) == ("5.6.7.2", "5.6.7.3")
    heard = start(alice, programs.TRY_ALL, bob.address, SILENCE_S)
    assert [line_of(heard), line_of(heard)] == ["ConnectionRefusedError"] * 2
    outside = start(alice, programs.TRY_ALL, "192.0.2.1", SILENCE_S)
    assert "ConnectionRefusedError" not in (line_of(outside), line_of(outside))


@pytest.mark.parametrize("cut", ["near", pytest.param("far", marks=pytest.mark.netlab)])
def test_a_cut_says_nothing_to_sockets_that_are_open_or_opened(lab: Netlab, cut: str) -> None:
    alice, bob = lab.add_host("alice"), lab.add_host("bob")
    answerer = start(bob, programs.ANSWER, bob.address)
    talker = start(alice, programs.TALK, bob.address, line_of(answerer))
    ask(talker, 100_000)
    assert float(line_of(talker)) > 0
    link = alice if cut == "near" else bob
    link.cut()
    link.cut()  # harmless when repeated
    cut_s = time.monotonic()
    ask(talker, 100_000)
    # Nothing tells a socket why: neither who connects nor who sends gets more than silence, for
    # longer than the kernel takes to give up a neighbour that does not answer.
    tries = [
        start(host, programs.TRY_ALL, other.address, SILENCE_S)
        for host, other in ((alice, bob), (bob, alice))
    ]
    for heard in tries:
        assert [line_of(heard), line_of(heard)] == ["TimeoutError"] * 2
    assert talker.poll() is answerer.poll() is None
    healed_s = time.monotonic()
    link.heal()
    link.heal()
    # What was dropped comes again; the connection has survived.
    assert float(line_of(talker)) >= healed_s - cut_s - 1
    heard = start(alice, programs.TRY_ALL, bob.address, SILENCE_S)
    assert [line_of(heard), line_of(heard)] == ["ConnectionRefusedError"] * 2


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_rate_holds_until_it_is_lifted(lab: Netlab, direction: str) -> None:
    alice, bob = lab.add_host("alice"), lab.add_host("bob")
    answerer = start(bob, programs.ANSWER, bob.address)
    talker = start(alice, programs.TALK, bob.address, line_of(answerer))
    rate = 1_000_000
    if direction == "upload":
        alice.limit_rate(upload_bytes_per_s=rate)
    else:
        alice.limit_rate(download_bytes_per_s=rate)
    ask(talker, 2 * rate)
    # At least the time that the bytes take; half a burst and what the queue gives are forgiven.
    assert float(line_of(talker)) > 1.5
    alice.limit_rate()
    ask(talker, 2 * rate)
    assert float(line_of(talker)) > 0
    with pytest.raises(ValueError, match="positive"):
        alice.limit_rate(upload_bytes_per_s=0)


def test_names_of_hosts_are_checked(lab: Netlab) -> None:
    lab.add_host("alice")
    for name in ("alice", "internet", "", "-x", "Ä", "a" * 40, "../x"):
        with pytest.raises(ValueError, match="no new name"):
            lab.add_host(name)


def test_laboratories_are_apart_though_their_names_are_the_same(lab: Netlab) -> None:
    with open_netlab() as other:
        here, there = lab.add_host("alice"), other.add_host("alice")
        assert here.address == there.address
        assert here.namespace != there.namespace
        mirror = start(there, programs.MIRROR, 4001)
        assert line_of(mirror) == "there"
        there_too = start(other.add_host("bob"), programs.DIAL, there.address, 4001, 0, 10)
        assert line_of(there_too).split()[0] == "5.6.7.3"
        heard = start(lab.add_host("bob"), programs.TRY_ALL, here.address, SILENCE_S)
        assert [line_of(heard), line_of(heard)] == ["ConnectionRefusedError"] * 2


def processes_in(names: list[str]) -> list[psutil.Process]:
    """What runs in namespaces."""
    pids = [pid for name in names for pid in namespaces.run("ip", "netns", "pids", name).split()]
    return [psutil.Process(int(pid)) for pid in pids]


def folders_of(owner: str) -> list[Path]:
    """What an owner's laboratories have among the temporary files."""
    return list(Path(tempfile.gettempdir()).glob(f"{owner}*"))


def test_leaving_removes_everything_whatever_happened(lab: Netlab) -> None:
    owner = namespaces.owner_prefix()
    before, folders = namespaces.names(owner), folders_of(owner)
    with pytest.raises(ZeroDivisionError), open_netlab() as inner:
        home = inner.add_router("home", nat="upnp", link=Link(delay_ms=5))
        sleeper = start(home.add_host("alice"), programs.SLEEP)
        assert line_of(sleeper) == "there"
        ours = [name for name in namespaces.names(owner) if name not in before]
        assert len(ours) == 3
        processes = processes_in(ours)
        # The sleeper, the emulator of links, and the gateway daemon.
        assert len(processes) == 3
        assert len(folders_of(owner)) == len(folders) + 1
        raise ZeroDivisionError
    assert namespaces.names(owner) == before
    assert folders_of(owner) == folders
    assert sleeper.returncode == -9
    assert not any(process.is_running() for process in processes)


def test_what_a_killed_run_left_is_swept_with_its_processes(lab: Netlab) -> None:
    arguments = [sys.executable, "-c", programs.ABANDON, programs.SLEEP]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT
    ) as killed:
        orphan = psutil.Process(int(line_of(killed)))
    assert killed.returncode == -9
    owner = f"manyhands-{_owner_of(orphan)}-"
    assert len(namespaces.names(owner)) == 3
    assert len(folders_of(owner)) == 1
    orphans = processes_in(namespaces.names(owner))
    assert orphan in orphans
    ours = namespaces.names(namespaces.owner_prefix())
    namespaces.sweep()
    assert namespaces.names(owner) == []
    assert folders_of(owner) == []
    assert namespaces.names(namespaces.owner_prefix()) == ours
    psutil.wait_procs(orphans, timeout=10)
    for process in orphans:
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _owner_of(process: psutil.Process) -> str:
    """The number of the process whose laboratory this one runs in."""
    inside = Path(f"/proc/{process.pid}/ns/net").stat().st_ino
    for name in namespaces.names("manyhands-"):
        if Path(f"/run/netns/{name}").stat().st_ino == inside:
            return name.split("-")[1]
    raise AssertionError("the process runs in no laboratory")


def test_without_root_or_iproute2_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(NetlabUnavailable, match=r"needs root|iproute2"), open_netlab():
            pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NetlabUnavailable, match="install the package iproute2"), open_netlab():
        pass
