"""A private swarm with the real commands: who has key and token is let in, others are told why."""

from pathlib import Path

import pytest

from p2p import Identity
from tests.processes.command import TEST_S_MAX, running, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]


def made(folder: Path, *arguments: str) -> str:
    """What `manyhands access` prints."""
    with running("access", *arguments, folder=folder / "access") as command:
        assert command.finish() == 0, command.stderr
        return command.stdout


def private(folder: Path, name: str) -> Path:
    """The file that says who may connect, with a key and a token for this peer in it."""
    authority = folder / "authority.key"
    peer_id = Identity.load_or_create(folder / f"{name}.key").peer_id
    issue = ("issue", "--run", "digits", "--authority", str(authority), "--peer", peer_id)
    (folder / f"{name}.token").write_text(made(folder, *issue))
    path = folder / f"{name}.toml"
    path.write_text(
        f'swarm_key = "swarm.key"\nauthority = "{Identity.load_or_create(authority).peer_id}"\n'
        f'run = "digits"\ntoken = "{name}.token"\n'
    )
    return path


def test_a_private_swarm_is_seen_by_its_members_only(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path / "authority.key")
    made(tmp_path, "new-swarm-key", str(tmp_path / "swarm.key"))
    rules = {name: str(private(tmp_path, name)) for name in ("node", "alice")}
    with running_node(tmp_path, "--private", rules["node"]) as (_, address):
        look = ("peers", "--run", "digits", "--initial-peers", address, "--json")
        member = ("--private", rules["alice"], "--identity", str(tmp_path / "alice.key"))
        with running(*look, *member, folder=tmp_path / "member") as command:
            assert command.finish() == 0, command.stderr
            assert command.json() == {"run": "digits", "peers": []}
        with running(*look, folder=tmp_path / "stranger") as command:
            assert command.finish() == 1
            assert "--private" in command.stderr
