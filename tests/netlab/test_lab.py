"""The laboratory itself: cuts are silent, rates hold, and nothing is left behind by anybody."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from p2p.testing.netlab import Host, Netlab, NetlabUnavailable, namespaces, open_netlab
from tests.netlab import programs
from tests.processes.command import ENVIRONMENT, ROOT

SILENCE_S = 5.0


def start(host: Host, program: str, *arguments: object) -> subprocess.Popen[str]:
    """One of the small programs on a host."""
    return host.start([sys.executable, "-c", program, *map(str, arguments)])


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, f"it ended with {process.wait()}"
    return line


def ask(process: subprocess.Popen[str], text: object) -> None:
    """Write a line to a process."""
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def test_hosts_reach_each_other_and_nobody_else(lab: Netlab) -> None:
    alice, bob = lab.add_host("alice"), lab.add_host("bob")
    assert (alice.address, bob.address) == ("5.6.7.2", "5.6.7.3")
    heard = start(alice, programs.TRY_ALL, bob.address, SILENCE_S)
    assert [line_of(heard), line_of(heard)] == ["ConnectionRefusedError"] * 2
    outside = start(alice, programs.TRY_ALL, "192.0.2.1", SILENCE_S)
    assert "ConnectionRefusedError" not in (line_of(outside), line_of(outside))


@pytest.mark.parametrize("cut", ["near", "far"])
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
    link.heal()
    link.heal()
    # What was dropped comes again; the connection has survived.
    assert float(line_of(talker)) >= time.monotonic() - cut_s - 1
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


def test_leaving_removes_everything_whatever_happened(lab: Netlab) -> None:
    before = namespaces.names(namespaces.owner_prefix())
    with pytest.raises(ZeroDivisionError), open_netlab() as inner:
        sleeper = start(inner.add_host("alice"), programs.SLEEP)
        assert line_of(sleeper) == "there"
        assert len(namespaces.names(namespaces.owner_prefix())) == len(before) + 2
        raise ZeroDivisionError
    assert namespaces.names(namespaces.owner_prefix()) == before
    assert sleeper.returncode == -9


def test_what_a_killed_run_left_is_swept_with_its_processes(lab: Netlab) -> None:
    arguments = [sys.executable, "-c", programs.ABANDON, programs.SLEEP]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT
    ) as killed:
        orphan = psutil.Process(int(line_of(killed)))
    assert killed.returncode == -9
    owner = f"manyhands-{_owner_of(orphan)}-"
    assert len(namespaces.names(owner)) == 2
    ours = namespaces.names(namespaces.owner_prefix())
    namespaces.sweep()
    assert namespaces.names(owner) == []
    assert namespaces.names(namespaces.owner_prefix()) == ours
    psutil.wait_procs([orphan], timeout=10)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def _owner_of(process: psutil.Process) -> str:
    """The number of the process whose laboratory this one runs in."""
    inside = Path(f"/proc/{process.pid}/ns/net").stat().st_ino
    for name in namespaces.names("manyhands-"):
        if Path(f"/run/netns/{name}").stat().st_ino == inside:
            return name.split("-")[1]
    raise AssertionError("the process runs in no laboratory")


def test_without_root_or_iproute2_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(namespaces.os, "geteuid", lambda: 1000)
        with pytest.raises(NetlabUnavailable, match=r"needs root|iproute2"), open_netlab():
            pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NetlabUnavailable, match="install the package iproute2"), open_netlab():
        pass
