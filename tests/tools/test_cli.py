"""The command line itself: its help, and what it does not load."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.bench.command import app as bench
from tools.cli import app
from tools.dht.command import app as dht
from tools.simulate.command import app as simulate

ROOT = Path(__file__).parent.parent.parent
BENCHES = [f"bench {one.callback.__name__}" for one in bench.registered_commands if one.callback]
DHT = [f"dht {one.callback.__name__}" for one in dht.registered_commands if one.callback]
COMMANDS = [
    *(command.callback.__name__ for command in app.registered_commands if command.callback),
    *BENCHES,
    *DHT,
    "simulate",
    *(f"simulate {one.callback.__name__}" for one in simulate.registered_commands if one.callback),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example: manyhands {command}" in " ".join(result.stdout.split())
    assert "--json" in result.stdout
    assert "stop-with-stdin" not in result.stdout


def loaded(*modules: str) -> set[str]:
    """The top-level modules that are loaded after importing these in a fresh process."""
    code = (
        f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.slow
def test_help_loads_no_network_and_a_node_loads_no_numbers() -> None:
    assert loaded("tools.cli").isdisjoint({"torch", "numpy", "scipy", "sklearn", "trio", "p2p"})
    heavy = {"torch", "numpy", "scipy", "sklearn", "training", "averaging"}
    assert loaded("tools.node", "p2p.host.host", "p2p.dht").isdisjoint(heavy)
