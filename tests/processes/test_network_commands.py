"""doctor, ping, peers and bandwidth as a user runs them, against a node on this machine."""

from pathlib import Path
from typing import Any

import pytest

from p2p import Identity
from tests.processes.command import LOOPBACK, TEST_S_MAX, running, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]


def said(folder: Path, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
    """The object that a command prints."""
    with running(*arguments, "--json", folder=folder / "command") as command:
        assert command.finish() == exit_code, command.stderr
        return command.json()


def verdicts(diagnosis: dict[str, Any]) -> dict[str, str]:
    """The verdict of each check."""
    return {check["name"]: check["verdict"] for check in diagnosis["checks"]}


def test_a_node_is_seen_from_all_sides(tmp_path: Path) -> None:
    with running_node(tmp_path, "--relay") as (node, address):
        peer_id = address.rpartition("/")[2]
        by_address = said(tmp_path, "ping", address, "--count", "3", "--interval", "0")
        assert (by_address["peer_id"], by_address["sent"], by_address["lost"]) == (peer_id, 3, 0)
        direct = by_address["paths"]["direct"]
        assert direct["count"] == 3
        assert 0 < direct["least_s"] <= direct["median_s"] <= direct["p95_s"]
        rates = said(tmp_path, "bandwidth", peer_id, "--initial-peers", address, "--seconds", "0.2")
        assert {rates[way]["path"] for way in ("down", "up")} == {"direct"}
        assert rates["down"]["size_bytes"] > 0
        (row,) = said(tmp_path, "peers", "--initial-peers", address)["peers"]
        assert (row["peer_id"], row["path"], row["role"]) == (peer_id, "direct", "relay")
        assert row["agent"].startswith("manyhands ")
        assert row["addresses"] == [address]
        # The node's own words go beside the object that it printed.
        assert "Only this computer can reach it" in node.stderr


def test_the_doctor_finds_a_swarm_on_this_machine_well(tmp_path: Path) -> None:
    key = tmp_path / "mine.key"
    Identity.load_or_create(key)
    with running_node(tmp_path) as (_, address):
        here = ("--listen", LOOPBACK, "--initial-peers", address)
        diagnosis = said(tmp_path, "doctor", *here, "--identity", str(key), "--no-bandwidth")
        assert diagnosis["can_take_part"]
        found = verdicts(diagnosis)
        for name in ("identity", "listen ports", "entry", "clock", "versions"):
            assert found[name] == "well", diagnosis
        assert address in diagnosis["next"]
        # The node's own key and port: in use, by a manyhands, behind the same address.
        own = ("--identity", str(tmp_path / "node.key"), "--listen", address.partition("/p2p/")[0])
        diagnosis = said(tmp_path, "doctor", *own, "--initial-peers", address, "--no-bandwidth")
        evidence = {check["name"]: check["evidence"] for check in diagnosis["checks"]}
        assert "runs already" in evidence["identity"]
        assert "A manyhands listens there already" in evidence["listen ports"]
        assert verdicts(diagnosis)["listen ports"] == "warn"


def test_the_doctor_says_why_a_peer_cannot_take_part(tmp_path: Path) -> None:
    key = tmp_path / "open.key"
    Identity.load_or_create(key)
    key.chmod(0o644)
    with running("doctor", "--identity", str(key), "--listen", LOOPBACK, folder=tmp_path) as doctor:
        assert doctor.finish() == 1, doctor.stderr
    assert "Looking at this computer" in doctor.stdout
    assert f"chmod 600 {key}" in doctor.stdout.splitlines()[-1]
    diagnosis = said(
        tmp_path,
        *("doctor", "--identity", str(tmp_path / "none.key"), "--listen", LOOPBACK),
        *("--initial-peers", f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"),
        exit_code=1,
    )
    assert verdicts(diagnosis)["entry"] == "ill"
    assert "nothing listens at that port" in str(diagnosis)
    assert not (tmp_path / "none.key").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("doctor", "--initial-peers", "nonsense"), "not a TCP multiaddress"),
        (("ping", "nonsense"), "neither an address nor a peer id"),
        (("ping", Identity.generate().peer_id), "--initial-peers"),
        (("peers",), "--initial-peers"),
    ],
)
def test_what_was_mistyped_is_told(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    failure = said(tmp_path, *arguments, exit_code=2)
    assert sorted(failure) == ["error", "next"]
    assert words in failure["error"] + failure["next"]


def test_who_is_not_there_is_told(tmp_path: Path) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    failure = said(tmp_path, "ping", nobody, exit_code=1)
    assert "refused" in failure["error"]
    assert "manyhands node" in failure["next"]
