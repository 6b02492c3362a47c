"""The figures of `manyhands bench private`: NoPeek's trade, and bytes by number of clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.bench.plot import Point, Series, line_plot, ticks
from tools.bench.private.clients import crossover
from tools.bench.private.nopeek import ATTACKS
from tools.bench.report import Row
from tools.failures import CommandError

NOPEEK_PLOT, CLIENTS_PLOT = "private-nopeek.svg", "private-clients.svg"


def save_plots(nopeek: Sequence[Row], clients: Sequence[Row], folder: Path) -> None:
    """Write those of the parts that were measured; raises CommandError."""
    drawn = {}
    if nopeek:
        drawn[NOPEEK_PLOT] = nopeek_plot(nopeek)
    if clients:
        drawn[CLIENTS_PLOT] = clients_plot(clients)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in drawn.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as exc:
        raise CommandError(
            f"{folder} cannot be written to: {exc.strerror}",
            next_step="Give --plot a folder that you may write to.",
        ) from exc


def nopeek_plot(rows: Sequence[Row]) -> str:
    """What is told wrongly, by what attacks miss; a point for each α, rising to the right."""
    names = [name for name in ATTACKS if f"{name}_error" in rows[0]]
    series = [
        Series(
            name,
            [Point(1e3 * row[f"{name}_error"], 100 * (1 - row["accuracy"])) for row in rows],
            marks=True,
        )
        for name in names
    ]
    alphas = ", ".join(f"{row['alpha']:g}" for row in rows)
    errors = [point.x for one in series for point in one.points]
    return line_plot(
        f"NoPeek with α = {alphas}, from left to right",
        "error of the attack, thousandths of a squared pixel",
        "test digits told wrongly, %",
        series,
        x_ticks=ticks(max(errors)),
    )


def clients_plot(rows: Sequence[Row]) -> str:
    """Kilobytes of a pass, and where the lines cross."""
    lines = [
        Series(name, [Point(row["clients"], row[key]) for row in rows], marks=True)
        for name, key in (("split", "split_kb"), ("federated", "federated_kb"))
    ]
    at = crossover(rows, "split_kb")
    if at != float("inf"):
        height = rows[0]["split_kb"]
        lines.append(Series(f"they cross at {at:.1f}", [Point(at, 0.0), Point(at, height)]))
    return line_plot(
        "What one pass over the digits moves, all clients together",
        "clients",
        "kilobytes",
        lines,
        x_ticks=[0, *(row["clients"] for row in rows)],
    )
