"""Simulate swarms of the DHT's own nodes, and say what they came to: a table, budgets, plots."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from p2p.testing import Partition, SwarmFigures, SwarmPlan, percentile, run_dht_world
from tools.bench.plot import Point, Series, line_plot
from tools.bench.report import Budget, Report
from tools.failures import MISUSED, CommandError
from tools.output import console
from tools.simulate.huge_pages import move_onto_huge_pages

_MOVED_EVERY = 0.05
"""Shares of a simulation after which what was added is moved, too."""
_SMALLEST = 100
_FACTOR = 10**0.5
COLUMNS = (
    "nodes",
    "gets",
    "success",
    "missing",
    "stale",
    "forged_believed",
    "hops_median",
    "hops_p99",
    "queries_median",
    "get_s_median",
    "get_s_p99",
    "messages_per_node_h",
    "served_p99_to_median",
    "served_gini",
    "records_held_mean",
    "contacts_mean",
    "wall_s",
    "memory_mb",
)


@dataclass(frozen=True, kw_only=True)
class DhtOptions:
    """What `manyhands simulate dht` was asked for."""

    nodes: int
    minutes: float
    churn_per_h: float
    loss: float
    liars: float
    gets_per_node_h: float
    partition: str | None
    seed: int
    plot: Path | None = None
    """The folder for plots; with it, smaller swarms are simulated, too."""

    def plan(self, nodes: int) -> SwarmPlan:
        """The plan of a swarm of so many.

        Raises:
            CommandError: something in it cannot be.
        """
        try:
            return SwarmPlan(
                nodes=nodes,
                minutes=self.minutes,
                churn_per_h=self.churn_per_h,
                loss=self.loss,
                liars=self.liars,
                gets_per_node_h=self.gets_per_node_h,
                partition=_partition(self.partition),
                seed=self.seed,
            )
        except ValueError as exc:
            raise CommandError(
                f"There is no such swarm: {exc}.",
                next_step="See: manyhands simulate dht --help",
                exit_code=MISUSED,
            ) from exc


def run_dht(options: DhtOptions) -> Report:
    """Simulate; plots are in their folder when this returns.

    Raises:
        CommandError: an option cannot be, or the folder cannot be written to.
    """
    sizes = _sizes(options.nodes) if options.plot is not None else [options.nodes]
    plans = [options.plan(nodes) for nodes in sizes]
    report = Report(bench="simulate dht", columns=COLUMNS)
    for plan in plans:
        # The swarm before is one large cycle, and collectors are lazy.
        gc.collect()
        begun_s, cpu_s = time.perf_counter(), time.process_time()
        figures = _simulate(plan)
        row = row_of(plan, figures)
        row["wall_s"] = round(time.perf_counter() - begun_s, 1)
        row["cpu_s"] = round(time.process_time() - cpu_s, 1)
        row["memory_mb"] = _memory_mb()
        report.rows.append(row)
    report.budgets += budgets_of(plans[-1], figures, report.rows[-1])
    if options.plot is not None:
        _draw(options.plot, report.rows)
    return report


def row_of(plan: SwarmPlan, figures: SwarmFigures) -> dict[str, Any]:
    """One line of the table, with more than the table shows."""
    whole, served = figures.whole, figures.served_per_node_h
    return {
        "nodes": plan.nodes,
        "minutes": plan.minutes,
        "churn_per_h": plan.churn_per_h,
        "loss": plan.loss,
        "liars": plan.liars,
        "seed": plan.seed,
        "gets": whole.gets,
        "success": whole.success,
        "missing": whole.missing,
        "stale": whole.stale,
        "forged_believed": whole.forged,
        "hops_median": whole.hops_median,
        "hops_p99": whole.hops_p99,
        "hops": {str(hops): whole.hops[hops] for hops in sorted(whole.hops)},
        "queries_median": whole.queries_median,
        "get_s_median": round(percentile(whole.seconds, 50), 4),
        "get_s_p99": round(percentile(whole.seconds, 99), 4),
        "puts": figures.puts,
        "put_replicas_mean": figures.put_replicas_mean,
        "departures": figures.departures,
        "failed_joins": figures.failed_joins,
        "messages_per_node_h": figures.messages_per_node_h,
        "calls_per_node_h": figures.calls_per_node_h,
        "served_per_node_h_mean": served.mean,
        "served_per_node_h_p99": served.p99,
        "served_per_node_h_max": served.largest,
        "served_p99_to_median": served.p99 / served.median if served.median else 0.0,
        "served_gini": served.gini,
        "records_held_mean": figures.records_held.mean,
        "records_held_max": figures.records_held.largest,
        "contacts_mean": figures.contacts.mean,
        "phases": [
            {"name": one.name, "gets": one.gets, "success": one.success} for one in figures.phases
        ],
        "events": figures.events,
    }


def budgets_of(plan: SwarmPlan, figures: SwarmFigures, row: dict[str, Any]) -> list[Budget]:
    """What is promised of the largest swarm."""
    whole = figures.whole
    budgets = [
        Budget("gets that find what was put", 100 * whole.success, 99.9, "%", ">="),
        Budget("hops, median", whole.hops_median, 5, "hops", "<="),
        Budget("forgeries believed", whole.forged, 0, "gets", "<="),
    ]
    healed = [one for one in figures.phases if one.name == "healed"]
    if healed:
        budgets.append(Budget("gets after healing", 100 * healed[0].success, 99.9, "%", ">="))
    if plan.nodes <= 10_000 and plan.minutes <= 30:
        budgets.append(Budget("wall time", row["wall_s"], 600, "s", "<="))
        if row["memory_mb"] is not None:
            budgets.append(Budget("memory", row["memory_mb"], 8192, "MiB", "<="))
    return budgets


def _partition(text: str | None) -> Partition | None:
    if text is None:
        return None
    try:
        at_minute, minutes, share = map(float, text.split(":"))
    except ValueError as exc:
        raise ValueError("a partition is minute:minutes:share, such as 10:5:0.3") from exc
    return Partition(at_minute=at_minute, minutes=minutes, share=share)


def _sizes(nodes: int) -> list[int]:
    """From a hundred up, two to each power of ten."""
    sizes, size = [], float(_SMALLEST)
    while round(size) < nodes:
        sizes.append(round(size))
        size *= _FACTOR
    return [*sizes, nodes]


def _simulate(plan: SwarmPlan) -> SwarmFigures:
    screen = console(as_json=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    ) as bar:
        task = bar.add_task(f"{plan.nodes} nodes", total=1.0)
        moved_at = 0.0

        def on_progress(share: float) -> None:
            nonlocal moved_at
            bar.update(task, completed=share)
            if share >= moved_at + _MOVED_EVERY:
                moved_at = share
                move_onto_huge_pages()

        return run_dht_world(plan, on_progress)


def _memory_mb() -> int | None:
    """The most that this process has had so far; None where it cannot be told."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most >> (20 if sys.platform == "darwin" else 10)


def _draw(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Cost by size, on an axis of powers of ten."""
    plots = {
        "messages": ("Messages of a node in an hour", "messages", ("messages_per_node_h",)),
        "hops": ("Hops of a get", "hops", ("hops_median", "hops_p99")),
        "seconds": ("Time of a get", "s", ("get_s_median", "get_s_p99")),
        "load": ("Calls that a node serves in an hour", "calls", _LOAD),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (title, unit, keys) in plots.items():
            (folder / f"dht-{name}.svg").write_text(_plot(title, unit, keys, rows), "utf-8")
    except OSError as exc:
        raise CommandError(
            f"{folder} cannot be written to: {exc.strerror}",
            next_step="Give --plot a folder that you may write to.",
        ) from exc


_LOAD = ("served_per_node_h_mean", "served_per_node_h_p99", "served_per_node_h_max")


def _plot(title: str, unit: str, keys: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    series = [
        Series(
            key.replace("_", " "),
            [Point(row["nodes"], row[key]) for row in rows],
            marks=True,
        )
        for key in keys
    ]
    return line_plot(title, "nodes", unit, series, x_ticks=[row["nodes"] for row in rows])
