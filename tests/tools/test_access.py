"""Private swarms from the command line: keys, tokens, and the file that says who may connect."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p import Identity, NodeConfig
from tools.access import app, private_config
from tools.failures import CommandError

MEMBER = Identity.generate().peer_id


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_what_is_issued_can_be_shown_and_used(tmp_path: Path) -> None:
    authority = tmp_path / "authority.key"
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
