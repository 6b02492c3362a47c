"""Write the state tables and diagrams of the protocol pages from the docstrings of the cores.

A core has its table of transitions in the docstring of its module:

    state       event                       then
    OPEN        all pieces held             VOTED: one vote, for ever
    any         certificate, pieces held    success

The first word of `then` is the next state if a comma, a colon or the end follows it; otherwise
the state stays, and `then` says what is done. `any` stands for every state that is not an end.
What a page has between `<!-- machine: NAME -->` and `<!-- end -->` is made by this program:

    python docs/diagrams.py            writes the pages
    python docs/diagrams.py --check    fails if one is not as it would be written
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ("docs/protocols/averaging.md", "docs/protocols/secure-aggregation.md")

_ANY: Final = "any"
_HEADER: Final = re.compile(r"^( *)(state|sender|piece|aggregator)( +)event( +)then$", re.MULTILINE)
_NEXT: Final = re.compile(r"(\w+)(?:[:;,]|$)")
_BLOCK: Final = re.compile(r"(<!-- machine: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Machine:
    """Where a state machine is written down."""

    module: str
    ends: tuple[str, ...]
    """States that nothing leads out of."""


MACHINES: Final = {
    "ballot": Machine("averaging/allreduce/ballot.py", ("success", "failed", "undecided")),
    "holdings": Machine("averaging/allreduce/holdings.py", ()),
    "planning": Machine("averaging/allreduce/planning.py", ("hopeless",)),
    "reduction": Machine("averaging/allreduce/reduction.py", ("excluded",)),
    "pace": Machine("averaging/allreduce/pace.py", ("excluded",)),
    "promptness": Machine("averaging/allreduce/promptness.py", ("done", "late")),
    "secure_member": Machine("averaging/secure/member.py", ("DONE", "ABANDONED")),
    "secure_coordinator": Machine("averaging/secure/coordinator.py", ("DONE", "FAILED")),
}


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    state: str
    event: str
    then: str


@dataclass(frozen=True)
class Table:
    """A state machine."""

    subject: str
    """What has the states; heads the first column."""
    rows: tuple[Row, ...]
    ends: tuple[str, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """Those that something leads out of; the machine begins in the first."""
        return tuple(dict.fromkeys(row.state for row in self.rows if row.state != _ANY))

    def next_of(self, row: Row) -> str | None:
        """Where a line leads; None where the state stays."""
        found = _NEXT.match(row.then)
        return found[1] if found and found[1] in (*self.states, *self.ends) else None


def parse(docstring: str, ends: Sequence[str]) -> Table:
    """The table in a docstring.

    Raises:
        ValueError: there is none, a cell is empty, or a state is unknown or cannot be reached.
    """
    header = _HEADER.search(docstring)
    if header is None:
        raise ValueError("the docstring has no table of states")
    second, third = header.start(3) + len(header[3]), header.start(4) + len(header[4])
    columns = [0, second - header.start(), third - header.start()]
    rows = []
    for line in docstring[header.end() + 1 :].split("\n\n")[0].rstrip().splitlines():
        cells = [line[columns[0] : columns[1]], line[columns[1] : columns[2]], line[columns[2] :]]
        rows.append(Row(*(cell.strip() for cell in cells)))
    table = Table(header[2], tuple(rows), tuple(ends))
    if any(not (row.state and row.event and row.then) for row in rows):
        raise ValueError("a line of the table lacks a cell; cells begin below their heading")
    reached = {table.next_of(row) for row in rows}
    lost = [state for state in (*table.states[1:], *ends) if state not in reached]
    strange = [row.then for row in rows if row.then[:2].isupper() and not table.next_of(row)]
    if strange:
        raise ValueError(f"no such state: {', '.join(strange)}")
    if lost:
        raise ValueError(f"nothing leads to {', '.join(lost)}")
    return table


def markdown(table: Table) -> str:
    """The table for a page; the next state is set in bold."""
    lines = [f"| {table.subject} | event | then |", "| --- | --- | --- |"]
    for row in table.rows:
        state = table.next_of(row)
        then = row.then if state is None else f"**{state}**{row.then[len(state) :]}"
        lines.append(f"| {row.state} | {row.event} | {then} |")
    return "\n".join(lines)


def mermaid(table: Table) -> str:
    """The diagram: an arrow for each change of state; what is done without one is left out."""
    inner = [f"[*] --> {table.states[0]}"]
    outer: list[str] = []
    for row in table.rows:
        state = table.next_of(row)
        if state is None:
            continue
        # A colon or a semicolon would end the label.
        label = row.event.replace(";", ",").replace(":", ",")
        sources = [row.state]
        if row.state == _ANY and state not in table.ends:
            sources = [source for source in table.states if source != state]
        arrows = [f"{source} --> {state} : {label}" for source in sources]
        (outer if state in table.ends else inner).extend(arrows)
    lines = [*inner, *outer]
    if any(line.startswith(f"{_ANY} -->") for line in outer):
        group = [f"state {_ANY} {{", *(f"    {line}" for line in inner), "}"]
        lines = [*group, *outer]
    lines += [f"{state} --> [*]" for state in table.ends]
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in lines)])


def table_of(machine: Machine) -> Table:
    """The table of a module of ours."""
    docstring = ast.get_docstring(ast.parse((ROOT / machine.module).read_text("utf-8"))) or ""
    try:
        return parse(docstring, machine.ends)
    except ValueError as exc:
        raise ValueError(f"{machine.module}: {exc}") from exc


def rendered(page: str) -> str:
    """The page with all its machines drawn anew."""

    def draw(block: re.Match[str]) -> str:
        table = table_of(MACHINES[block[2]])
        drawn = f"{markdown(table)}\n\n```mermaid\n{mermaid(table)}\n```"
        return f"{block[1]}\n{drawn}\n\n{block[3]}"

    return _BLOCK.sub(draw, page)


def main(arguments: Sequence[str]) -> int:
    """Write or check all pages."""
    stale = []
    for name in PAGES:
        page = (ROOT / name).read_text("utf-8")
        if (drawn := rendered(page)) != page:
            stale.append(name)
            if "--check" not in arguments:
                (ROOT / name).write_text(drawn, "utf-8")
    for name in stale:
        print(f"{name} {'differs' if '--check' in arguments else 'was written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
