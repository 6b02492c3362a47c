"""Files of `manyhands simulate`: what they mean, and which are refused with a word on why."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.cli import app
from tools.failures import MISUSED, CommandError
from tools.simulate.command import HELP
from tools.simulate.scene import Fault, parse_scene, read_scene

GOOD = """
recipe = "digits"
steps = 50
[hosts.boot]
runs = "node"
[routers.isp]
nat = "carrier-grade"
[routers.home]
behind = "isp"
up_mbit_per_s = 20
delay_ms = 25
[hosts.alice]
behind = "home"
runs = "train"
options = ["--threads", "1"]
[[faults]]
at_step = 10
deed = "forget-mappings"
to = "isp"
"""


def test_a_scene_says_who_runs_what_where() -> None:
    scene = parse_scene(tomllib.loads(GOOD))
    assert scene.node == "boot"
    assert scene.trainers == ("alice",)
    assert scene.options["alice"] == ("--threads", "1")
    assert scene.where("alice") == "home (port-restricted), isp (carrier-grade)"
    assert scene.where("boot") == "public"
    assert scene.internet.routers["home"].link().up_mbit_per_s == 20
    assert scene.faults == (Fault(at_step=10, deed="forget-mappings", to="isp"),)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('runs = "node"', "", 'no host has runs = "node"'),
        ('runs = "train"', "", 'no host has runs = "train"'),
        ('runs = "node"', 'runs = "node"\nbehind = "isp"', "behind no router"),
        ('behind = "home"', 'behind = "hoem"', 'no router "hoem"'),
        ('behind = "isp"', 'behind = "home"', '"home" is behind itself'),
        ("delay_ms", "delay_s", "unknown field `delay_s`"),
        ("delay_ms = 25", "delay_ms = -1", "home: a delay"),
        ("up_mbit_per_s = 20", "up_mbit_per_s = 0", "home: a rate must be positive"),
        ('"carrier-grade"', '"conical"', "$.routers[...].nat"),
        ('to = "isp"', 'to = "nobody"', "no such host or router"),
        ('to = "isp"', 'to = "alice"', "cannot be done"),
        ("at_step = 10", "at_step = 51", "after the last one"),
        ('deed = "forget-mappings"', 'deed = "sing"', "faults[0].deed"),
        ("steps = 50", "steps = 0", "$.steps"),
        ("steps = 50", "setps = 50", "setps"),
        ("steps = 50", "steps =", "Invalid value"),
        ("[hosts.boot]", "[hosts]\nodd = 1\n[hosts.boot]", "hosts are tables"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    path = tmp_path / "scene.toml"
    path.write_text(GOOD.replace(old, new, 1), "utf-8")
    with pytest.raises(CommandError, match=re.escape(complaint)) as caught:
        read_scene(path)
    assert caught.value.exit_code == MISUSED


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read"):
        read_scene(tmp_path / "missing.toml")
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(CommandError, match="larger than 1 MiB"):
        read_scene(large)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="utf-8"):
        read_scene(binary)


def test_the_file_in_the_help_is_a_scene() -> None:
    text = re.search(r"```toml\n(.*?)```", HELP, flags=re.DOTALL)
    assert text is not None
    scene = parse_scene(tomllib.loads(text[1]))
    assert scene.trainers == ("alice", "bob")
    assert CliRunner().invoke(app, ["simulate"]).exit_code == MISUSED
