"""Bad input to the real command: a clear sentence, a next step, exit code 1 or 2, no traceback."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2p import Identity
from tests.processes.command import LOOPBACK, TEST_S_MAX, running, running_node
from training.recipe import RECIPES

RECIPE = (RECIPES / "digits.toml").read_text("utf-8")
STRANGER = Identity.generate().peer_id
pytestmark = pytest.mark.timeout(TEST_S_MAX)


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port of loopback that somebody else listens on, who says nothing."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def fails(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run a command that must fail; returns its exit code and what it said, on one line."""
    with running(*arguments, folder=folder / "failing") as command:
        exit_code = command.finish()
        said = command.stderr
    assert "Traceback" not in said
    assert "error" in said.casefold()
    assert command.stdout == ""
    return exit_code, " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "digits", "--initial-peers", "10.0.0.1:31337"), "10.0.0.1:31337"),
        (("node", "--listen", LOOPBACK, "--initial-peers", "/ip4/127.0.0.1/tcp/1"), "/p2p/"),
        (("train", "digits", "--resume"), "--resume needs --checkpoint-dir"),
        (("train", "digits", "--steps", "0"), "steps: must be a whole number from 1"),
        (("train", "digist"), "digist: there is no such recipe; built in: albert, albert-tiny, c"),
        (("demo", "--peers", "1"), "none to spare"),
        (("dance",), "No such command 'dance'"),
        (("node", "--dance"), "No such option: --dance"),
    ],
)
def test_misuse_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    if arguments[0] == "node":
        arguments += ("--identity", str(tmp_path / "node.key"))
    exit_code, text = fails(tmp_path, *arguments)
    assert (exit_code, said in text) == (2, True), text


def test_a_broken_recipe_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE.replace("steps = 300", "stpes = 300"), "utf-8")
    exit_code, text = fails(tmp_path, "train", str(path))
    assert exit_code == 2
    assert f"{path}: stpes: is not a key of a recipe (did you mean steps?)" in text


@pytest.mark.parametrize("command", [("train", "digits"), ("node",)])
def test_an_unreachable_peer_is_named_with_each_path(
    tmp_path: Path, command: tuple[str, ...], closed_port: int
) -> None:
    address = f"/ip4/127.0.0.1/tcp/{closed_port}/p2p/{STRANGER}"
    if command[0] == "node":
        command += ("--identity", str(tmp_path / "node.key"), "--listen", LOOPBACK)
    exit_code, text = fails(tmp_path, *command, "--initial-peers", address)
    assert exit_code == 1
    assert f"/ip4/127.0.0.1/tcp/{closed_port}" in text
    assert "refused" in text
    assert "Check that the node runs" in text


def test_an_impostor_is_not_taken_for_the_peer(tmp_path: Path) -> None:
    with running_node(tmp_path) as (_, address):
        wrong = address.rpartition("/")[0] + f"/{STRANGER}"
        exit_code, text = fails(tmp_path, "peers", "--run", "digits", "--initial-peers", wrong)
    assert exit_code == 1
    assert STRANGER in text
    assert "ask its owner for the line" in text


def test_a_port_in_use_is_named(tmp_path: Path, used_port: int) -> None:
    listen = f"/ip4/127.0.0.1/tcp/{used_port}"
    key = str(tmp_path / "node.key")
    exit_code, text = fails(tmp_path, "node", "--listen", listen, "--identity", key)
    assert exit_code == 1
    assert str(used_port) in text
    assert "in use" in text
    exit_code, text = fails(
        tmp_path, "node", "--listen", LOOPBACK, "--identity", key, "--metrics-port", str(used_port)
    )
    assert exit_code == 1
    assert f"127.0.0.1:{used_port}" in text


def write_open_key(path: Path) -> None:
    """A key file that others may read."""
    Identity.load_or_create(path)
    path.chmod(0o644)


def write_no_key(path: Path) -> None:
    """A private file with something else in it."""
    path.write_text("not a key")
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("command", "prepare", "said"),
    [
        (("train", "digits", "--identity"), write_open_key, "chmod 600"),
        (("node", "--identity"), write_open_key, "chmod 600"),
        (("identity",), Path.mkdir, "cannot read the key file"),
        (("identity",), write_no_key, "not an Ed25519 key file"),
    ],
)
def test_key_files_that_cannot_be_used(
    tmp_path: Path, command: tuple[str, ...], prepare: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "peer.key"
    prepare(path)
    exit_code, text = fails(tmp_path, *command, str(path))
    assert exit_code == 1
    assert said in text
    assert str(path) in text


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step-000000050.pt"
    path.parent.mkdir()
    path.write_bytes(b"no checkpoint")
    folder = str(path.parent)
    exit_code, text = fails(tmp_path, "train", "digits", "--checkpoint-dir", folder, "--resume")
    assert exit_code == 1
    assert f"{path}: is damaged" in text


def test_another_model_under_the_same_run_name(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace('"float32"', '"float64"'), "utf-8")
    with running_node(tmp_path) as (_, address):
        where = ("--initial-peers", address, "--listen", LOOPBACK)
        endless = ("--steps", "1000000")
        with running("train", "digits", *where, *endless, folder=tmp_path / "first") as first:
            first.read_until("step 50")
            exit_code, text = fails(tmp_path, "train", str(other), *where)
    assert exit_code == 1
    assert "different model" in text
    assert "another run name" in text


def test_failure_is_an_object_with_json(tmp_path: Path) -> None:
    with running("train", "digist", "--json", folder=tmp_path) as command:
        assert command.finish() == 2
        content = command.json()
    assert sorted(content) == ["error", "next"]
    assert "no such recipe" in content["error"]
    assert json.dumps(content, ensure_ascii=False) == command.stdout
