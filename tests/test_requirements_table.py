"""The table of requirements in tests/README.md names tests that exist, and leaves none out."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| R(\d+) \|", re.MULTILINE)


def names_in(path: Path) -> set[str]:
    """The names of functions in a file; none of one that is not there."""
    if not path.exists():
        return set()
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_all_named_tests_exist() -> None:
    named = NAMED.findall(README.read_text("utf-8"))
    assert named
    assert [f"{file}::{test}" for file, test in named if test not in names_in(FOLDER / file)] == []


def test_every_requirement_has_its_row() -> None:
    rows = [int(number) for number in ROW.findall(README.read_text("utf-8"))]
    assert rows == list(range(1, 24))
