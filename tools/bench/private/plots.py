"""The figures of `manyhands bench private`: NoPeek's trade, what an attack draws, and bytes."""

from __future__ import annotations

from collections.abc import Sequence

from tools.bench.plot import Point, Series, line_plot, ticks
from tools.bench.private.clients import crossover
from tools.bench.private.nopeek import ATTACKS, NoPeekOptions, reconstructions
from tools.bench.private.pictures import pictures_svg
from tools.bench.report import Report, Row

NOPEEK_PLOT, DIGITS_PLOT = "private-nopeek.svg", "private-digits.svg"
CLIENTS_PLOT = "private-clients.svg"


def plots(report: Report, options: NoPeekOptions) -> dict[str, str]:
    """The SVGs of those parts that were measured, by the names of their files.

    Args:
        options: of NoPeek, by which digits are drawn as an attack finds them.
    """
    nopeek, clients = report.rows_of("nopeek"), report.rows_of("clients")
    drawn = {}
    if nopeek:
        drawn[NOPEEK_PLOT] = nopeek_plot(nopeek)
        drawn[DIGITS_PLOT] = pictures_svg(
            "Digits, and what an attack makes of their activations", reconstructions(options)
        )
    if clients:
        drawn[CLIENTS_PLOT] = clients_plot(clients)
    return drawn


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
    named = {
        "split": "split_kb",
        "federated": "federated_kb",
        "federated, with a server (2KN)": "formula_kb",
    }
    lines = [
        Series(name, [Point(row["clients"], row[key]) for row in rows], marks=True)
        for name, key in named.items()
    ]
    at = crossover(rows)
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
