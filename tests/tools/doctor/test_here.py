"""What the doctor sees of this machine: key files and ports as they really are."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from p2p import Identity
from tests.processes.command import ROOT
from tools.doctor.examine import key_facts
from tools.doctor.ports import on_a_free_port, port_facts


def test_a_key_file_is_read_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "peer.key"
    facts, identity = key_facts(path)
    assert (facts.state, identity, path.exists()) == ("missing", None, False)
    made = Identity.load_or_create(path)
    facts, identity = key_facts(path)
    assert (facts.state, facts.peer_id) == ("good", made.peer_id)
    assert identity is not None
    path.chmod(0o644)
    assert key_facts(path)[0].state == "open"
    path.write_text("no key")
    path.chmod(0o600)
    facts, _ = key_facts(path)
    assert facts.state == "no-key"
    assert str(path) in facts.detail
    assert key_facts(tmp_path)[0].state in ("unreadable", "open")


def test_a_free_port_and_one_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        taken = port_facts(address)
        assert taken.state == "taken"
        if sys.platform == "linux":
            assert f"(process {os.getpid()})" in taken.used_by
    assert port_facts(address).state == "free"
    assert port_facts("/ip4/192.0.2.77/tcp/0").state == "not-here"
    assert on_a_free_port(address) == "/ip4/127.0.0.1/tcp/0"
    six = port_facts("/ip6/::1/tcp/0")
    assert six.state in ("free", "not-here")


@pytest.mark.skipif(sys.platform != "linux", reason="who has a port is seen on Linux only")
def test_our_own_command_is_known(tmp_path: Path) -> None:
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], flush=True); input()"
    )
    program = tmp_path / "manyhands"
    program.write_text(code)
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        facts = port_facts(f"/ip4/127.0.0.1/tcp/{int(process.stdout.readline())}")
        process.kill()
    assert (facts.state, facts.used_by) == ("ours", f"manyhands (process {process.pid})")
