"""The program in the README runs, and the commands that it names exist."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parent.parent / "README.md"


def code_blocks(language: str) -> list[str]:
    """The README's code in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_program_trains() -> None:
    import torch
    from torch import nn

    import training

    (program,) = code_blocks("python")
    model = nn.Linear(4, 3)
    before = model.weight.detach().clone()
    with training.join("my-run") as somebody:
        names: dict[str, Any] = {
            "torch": torch,
            "model": model,
            "loss_fn": nn.functional.cross_entropy,
            "loader": [(torch.randn(64, 4), torch.randint(3, (64,))) for _ in range(8)],
        }
        address = re.compile(r'"/ip4/[^"]*"')
        assert address.search(program)
        exec(address.sub(f'"{somebody.addresses[0]}"', textwrap.dedent(program)), names)
    assert names["report"].global_step == 2
    assert not torch.equal(model.weight, before)


def test_the_commands_exist() -> None:
    from typer.main import get_command

    from tools.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = [line for block in code_blocks("") for line in block.splitlines()]
    inline = re.findall(r"`(manyhands [^`]*)`", README.read_text("utf-8"))
    used = [line.split() for line in (*lines, *inline) if line.startswith("manyhands ")]
    assert used
    for _, command, *words in used:
        options = {name for parameter in commands[command].params for name in parameter.opts}
        given = {word for word in words if word.startswith("--")}
        assert given <= options, f"manyhands {command} has no {given - options}"


def test_the_make_targets_exist() -> None:
    makefile = README.with_name("Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    named = set(re.findall(r"\bmake ([a-z]+)\s*(?:#|`|$)", README.read_text("utf-8"), re.M))
    assert {"demo", "test"} <= named <= targets
