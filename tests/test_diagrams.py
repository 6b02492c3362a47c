"""Diagrams, messages and numbers on the protocol pages are those of the code."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from averaging import second_look
from averaging.allreduce import (
    aggregator,
    balance,
    contacts,
    pace,
    partition,
    promptness,
    reduction,
    schema,
    service,
)
from averaging.allreduce.ballot import BallotTimes
from averaging.allreduce.config import AllreduceConfig
from averaging.config import AveragerConfig
from averaging.matchmaking import MatchmakingConfig, group, seek

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "protocols" / "averaging.md"
OWNERS: dict[str, Any] = {
    "AllreduceConfig": AllreduceConfig,
    "AveragerConfig": AveragerConfig,
    "BallotTimes": BallotTimes,
    "MatchmakingConfig": MatchmakingConfig,
    **{
        module.__name__.rpartition(".")[2]: module
        for module in (
            *(
                aggregator,
                balance,
                contacts,
                group,
                pace,
                partition,
                promptness,
                reduction,
                schema,
                second_look,
                seek,
            ),
            service,
        )
    },
}
# | `owner.name` | 2.5 s | why |
NUMBER_ROW = re.compile(r"^\| `(\w+)\.(\w+)` \| ([\d. ]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def diagrams() -> ModuleType:
    """The program that draws; not a package, since some library has one named docs."""
    spec = importlib.util.spec_from_file_location("diagrams", ROOT / "docs" / "diagrams.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules["diagrams"] = module
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_the_machines_of_the_code(diagrams: ModuleType) -> None:
    for name in diagrams.PAGES:
        page = (ROOT / name).read_text("utf-8")
        assert diagrams.rendered(page) == page, "run `python docs/diagrams.py`"


def test_every_machine_is_shown(diagrams: ModuleType) -> None:
    pages = "".join((ROOT / name).read_text("utf-8") for name in diagrams.PAGES)
    shown = re.findall(r"<!-- machine: (\w+) -->", pages)
    assert sorted(shown) == sorted(diagrams.MACHINES)


TABLE = """A door.

    state    event       then
    shut     a push      open: until it falls shut
    open     a while     shut
    open     a knock     say so; nothing else
    any      fire        burnt
"""


def test_a_table_becomes_a_diagram(diagrams: ModuleType) -> None:
    table = diagrams.parse(TABLE, ("burnt",))
    assert table.states == ("shut", "open")
    assert "| shut | a push | **open**: until it falls shut |" in diagrams.markdown(table)
    assert diagrams.mermaid(table).splitlines() == [
        "stateDiagram-v2",
        "    state any {",
        "        [*] --> shut",
        "        shut --> open : a push",
        "        open --> shut : a while",
        "    }",
        "    any --> burnt : fire",
        "    burnt --> [*]",
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("state    event", "stage    event", "no table"),
        ("a push      open: until", "a push      ajar until", "nothing leads to open"),
        ("any      fire        burnt", "any      fire", "lacks a cell"),
        ("burnt", "BURNT", "no such state"),
    ],
)
def test_a_bad_table_is_refused(diagrams: ModuleType, old: str, new: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        diagrams.parse(TABLE.replace(old, new), ("burnt",))


def test_every_message_is_named() -> None:
    page = PAGE.read_text("utf-8")
    messages = [
        name
        for name, value in vars(schema).items()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == schema.__name__
    ]
    assert len(messages) > 15
    assert [name for name in messages if f"`{name}`" not in page] == []


def test_the_flow_shows_messages_that_exist() -> None:
    page = PAGE.read_text("utf-8")
    (flow,) = re.findall(r"```mermaid\nsequenceDiagram\n(.*?)```", page, re.DOTALL)
    words = re.findall(r"->>\+?\w+: (\w+)", flow)
    assert words
    known = {*vars(schema), "JoinRequest", "GroupFormed"}
    assert [word for word in words if word not in known] == []


def named_numbers() -> list[tuple[str, str, float]]:
    found = NUMBER_ROW.findall(PAGE.read_text("utf-8"))
    return [(owner, name, float(number.replace(" ", ""))) for owner, name, number in found]


def value_of(owner: str, name: str) -> float:
    """What the code has; of a config its default."""
    value = vars(OWNERS[owner])[name]
    assert isinstance(value, int | float)
    return float(value)


def test_numbers_are_those_of_the_code() -> None:
    numbers = named_numbers()
    assert len(numbers) > 25
    wrong = [
        f"{owner}.{name} is {value_of(owner, name):g}, not {number:g}"
        for owner, name, number in numbers
        if value_of(owner, name) != number
    ]
    assert wrong == []


@pytest.mark.parametrize("options", [AllreduceConfig, BallotTimes])
def test_every_number_of_the_options_is_there(options: type) -> None:
    named = {name for owner, name, _ in named_numbers() if owner == options.__name__}
    numbers = {
        field.name
        for field in dataclasses.fields(options)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert sorted(numbers - named) == []
