"""What every benchmark reports: rows, budgets and what was skipped, as a table or as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from tools.failures import ILL, WELL, CommandError
from tools.output import console, print_json

VERSION = 1
_ROWS_ASIDE_MAX = 5
"""More rows than these are too many to stand side by side."""
Row = dict[str, Any]
Form = Literal["table", "json", "markdown"]


@dataclass(frozen=True)
class Budget:
    """What was promised, and what was measured."""

    name: str
    measured: float
    budget: float
    unit: str
    comparison: Literal["<=", ">="]

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        if self.comparison == "<=":
            return self.measured <= self.budget
        return self.measured >= self.budget

    def line(self) -> str:
        """Of a list in Markdown."""
        return f"- {'holds' if self.holds else '**missed**'}: {self}"

    def __str__(self) -> str:
        """For people."""
        sign = "≤" if self.comparison == "<=" else "≥"
        return f"{self.name}: {self.measured:.3g} {self.unit} (budget {sign} {self.budget:g})"


@dataclass
class Report:
    """The outcome of one benchmark; made when it begins."""

    bench: str
    columns: Sequence[str]
    """The keys of the rows that people see."""
    rows: list[Row] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    tables: dict[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    """Of a benchmark of several parts: the title and columns of each, by the rows' key "part"."""
    machine: dict[str, Any] = field(default_factory=lambda: _machine())
    begun_s: float = field(default_factory=time.perf_counter)

    def skip(self, name: str, reason: str) -> None:
        """A rival could not be measured."""
        self.skipped.append({"name": name, "reason": reason})

    def as_object(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "bench": self.bench,
            "version": VERSION,
            "commit": _commit(),
            "machine": self.machine,
            "seconds": round(time.perf_counter() - self.begun_s, 1),
            "rows": self.rows,
            "budgets": [{**asdict(one), "holds": one.holds} for one in self.budgets],
            "skipped": self.skipped,
        }

    def save(self, path: Path) -> None:
        """Write what --json prints, for people to read.

        Raises:
            CommandError: the file cannot be written.
        """
        try:
            path.write_text(
                json.dumps(self.as_object(), indent=1, ensure_ascii=False) + "\n", "utf-8"
            )
        except OSError as exc:
            raise CommandError(
                f"{path} cannot be written: {exc.strerror}",
                next_step="Give --save a file in a folder that you may write to.",
            ) from exc

    def show(self, form: Form) -> None:
        """Print it."""
        beside = console(as_json=form != "table")
        if form == "json":
            print_json(self.as_object())
        elif form == "markdown":
            console().print(self.markdown(), markup=False)
        else:
            for table in self._tables():
                beside.print(table)
        for one in self.budgets:
            word = "[green]holds[/]" if one.holds else "[bold red]missed[/]"
            beside.print(f"{word}  {one}")
        for skipped in self.skipped:
            beside.print(f"skipped  {skipped['name']}: {skipped['reason']}", markup=False)
        beside.print(_next_step(self))

    def rows_of(self, part: str) -> list[Row]:
        """Those of one part."""
        return [row for row in self.rows if row.get("part") == part]

    def _tables(self) -> list[Table]:
        made = []
        for title, (head, *lines) in self._cells_by_title():
            table = Table(title=title)
            for index, text in enumerate(head):
                table.add_column(text, justify="right" if index else "left")
            for line in lines:
                table.add_row(*line)
            made.append(table)
        return made

    def _cells_by_title(self) -> list[tuple[str, list[list[str]]]]:
        """What each table shows; parts without rows have none."""
        if not self.tables:
            cores, cpu = self.machine["cores"], self.machine["cpu"]
            return [(f"{self.bench}, on {cores} cores of {cpu}", _cells(self.columns, self.rows))]
        return [
            (title, _cells(columns, rows))
            for part, (title, columns) in self.tables.items()
            if (rows := self.rows_of(part))
        ]

    def markdown(self) -> str:
        """Its section in benchmarks/RESULTS.md, from the machine to the budgets."""
        text = [
            self.machine_line(),
            "",
            *self._markdown_tables(),
            *(one.line() for one in self.budgets),
            *(f"- skipped: {one['name']}: {one['reason']}" for one in self.skipped),
        ]
        return "\n".join(text)

    def _markdown_tables(self) -> list[str]:
        """Their lines, each table with an empty one after it."""
        text = []
        for title, (head, *lines) in self._cells_by_title():
            text += [f"**{title}**", ""] if self.tables else []
            text += [*_markdown_lines(head, lines), ""]
        return text

    def machine_line(self) -> str:
        """Where this was measured."""
        machine = self.machine
        return (
            f"Commit {_commit()}, {machine['cores']} cores of {machine['cpu']}, Python "
            f"{machine['python']}, load {machine['load']} at the beginning."
        )

    def exit_code(self, *, check: bool) -> int:
        """1 if nothing of ours could be judged or, with check, if a budget was missed; else 0."""
        missed = not all(one.holds for one in self.budgets)
        return ILL if not self.budgets or (check and missed) else WELL


def _next_step(report: Report) -> str:
    if not report.budgets:
        return "Nothing could be judged. The reasons above say what to mend."
    if not all(one.holds for one in report.budgets):
        return "Run it again when nothing else runs here: a busy machine misses budgets."
    return f"Every figure: manyhands bench {report.bench} --json"


def _cells(columns: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    """Each line of a table, its head first; the longer side stands upright."""
    head = [column.replace("_", " ") for column in columns]
    body = [[_cell(row.get(column)) for column in columns] for row in rows]
    lines = [head, *body]
    upright = len(rows) >= min(len(columns), _ROWS_ASIDE_MAX + 1)
    return lines if upright else [list(line) for line in zip(*lines, strict=True)]


def markdown_table(columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The lines of a table."""
    head, *lines = _cells(columns, rows)
    return _markdown_lines(head, lines)


def _markdown_lines(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [_markdown_row(one) for one in (head, ["---"] * len(head), *lines)]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "–" if value is None else str(value)


def _machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
