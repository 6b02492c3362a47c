"""What every benchmark reports: rows, budgets and what was skipped, as a table or as JSON."""

from __future__ import annotations

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

from tools.output import console, print_json

VERSION = 1
Row = dict[str, Any]


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


@dataclass
class Report:
    """The outcome of one benchmark; made when it begins."""

    bench: str
    rows: list[Row] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
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

    def show(self, *, as_json: bool, columns: Sequence[str]) -> None:
        """Print it; the columns are the keys of the rows that people see."""
        if as_json:
            print_json(self.as_object())
            return
        screen = console(as_json=False)
        cores, cpu = self.machine["cores"], self.machine["cpu"]
        table = Table(title=f"{self.bench}, on {cores} cores of {cpu}")
        for column in columns:
            table.add_column(
                column.replace("_", " "), justify="left" if column == "rival" else "right"
            )
        for row in self.rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        screen.print(table)
        for one in self.budgets:
            word = "[green]holds[/]" if one.holds else "[bold red]missed[/]"
            screen.print(
                f"{word}  {one.name}: {one.measured:.3g} {one.unit}, "
                f"budget {one.comparison} {one.budget:g}"
            )
        for skipped in self.skipped:
            screen.print(f"skipped  {skipped['name']}: {skipped['reason']}", markup=False)

    def exit_code(self, *, check: bool) -> int:
        """0 when it was measured; with check, 1 if a budget was missed or none could be judged."""
        kept = bool(self.budgets) and all(one.holds for one in self.budgets)
        return 1 if check and not kept else 0


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
