"""Private swarms from the command line: keys, tokens, and the file that says who may connect."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p import Identity, NodeConfig, read_deny_list
from tools.access import app, private_config
from tools.failures import MISUSED, CommandError

MEMBER = Identity.generate().peer_id


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_what_is_issued_can_be_shown_and_used(tmp_path: Path) -> None:
    authority = tmp_path / "authority.key"
    Identity.load_or_create(authority)
    run("new-swarm-key", str(tmp_path / "swarm.key"))
    issued = json.loads(
        run("issue", "--peer", MEMBER, "--run", "digits", "--authority", str(authority), "--json")
    )
    assert issued["authority"] == Identity.load_or_create(authority).peer_id
    (tmp_path / "my.token").write_text(issued["token"])
    shown = json.loads(run("show", str(tmp_path / "my.token"), "--json"))
    assert (shown["peer_id"], shown["run"]) == (MEMBER, "digits")
    assert 29 * 86_400 < shown["expires_at_s"] - time.time() <= 30 * 86_400
    assert MEMBER in run("show", str(tmp_path / "my.token"))
    (tmp_path / "deny.list").write_text(
        run("deny", "--number", "3", "--authority", str(authority), MEMBER)
    )
    (tmp_path / "private.toml").write_text(
        'swarm_key = "swarm.key"\n'
        f'authority = "{issued["authority"]}"\n'
        'run = "digits"\ntoken = "my.token"\ndeny_list = "deny.list"\n'
        f'allow = ["{MEMBER}"]\ndeny = ["{issued["authority"]}"]\n'
    )
    config = private_config(tmp_path / "private.toml")
    assert config.swarm_key_path == tmp_path / "swarm.key"
    assert config.access is not None
    assert config.access.token_path == tmp_path / "my.token"
    assert config.allow_peers == (MEMBER,)
    assert config.deny_peers == (issued["authority"],)


def test_no_file_is_an_open_swarm() -> None:
    assert private_config(None) == NodeConfig()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("colour = 1", "colour is not known"),
        ('run = "digits"', "belong together"),
        ("= 5", "line 1"),
        ('allow = ["nobody"]', "not an Ed25519 peer id"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "private.toml"
    path.write_text(text)
    with pytest.raises(CommandError, match=reason):
        private_config(path)
    with pytest.raises(CommandError, match="No such file"):
        private_config(tmp_path / "none.toml")


@pytest.mark.parametrize("command", ["new-swarm-key", "issue", "deny", "show"])
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    said = " ".join(run(command, "--help").split())
    assert f"Example: manyhands access {command}" in said
    assert "--json" in said


def test_each_command_can_print_one_object(tmp_path: Path) -> None:
    key, authority = tmp_path / "swarm.key", tmp_path / "authority.key"
    identity = Identity.load_or_create(authority)
    assert json.loads(run("new-swarm-key", str(key), "--json")) == {"path": str(key)}
    denied = json.loads(
        run("deny", "--number", "1", "--authority", str(authority), MEMBER, "--json")
    )
    assert denied["authority"] == identity.peer_id
    (tmp_path / "deny.list").write_text(denied["deny_list"])
    assert read_deny_list(tmp_path / "deny.list").peers == [MEMBER]


@pytest.mark.parametrize("command", ["issue", "deny"])
def test_a_mistyped_authority_is_not_made_and_a_mistyped_peer_not_let_in(
    command: str, tmp_path: Path
) -> None:
    path = tmp_path / "authority.key"
    arguments = {
        "issue": ["issue", "--run", "digits", "--authority", str(path), "--peer"],
        "deny": ["deny", "--number", "1", "--authority", str(path)],
    }[command]
    with pytest.raises(CommandError, match="no key file") as caught:
        run(*arguments, MEMBER)
    assert caught.value.exit_code == MISUSED
    assert not path.exists()
    Identity.load_or_create(path)
    with pytest.raises(CommandError, match="not an Ed25519 peer id") as caught:
        run(*arguments, "nobody")
    assert caught.value.exit_code == MISUSED
