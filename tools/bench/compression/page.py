"""The page and the plots of `manyhands bench compression`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.bench.compression.biased import DIGITS, EF, EF21, NONE, REGRESSION, TOP, TOP_1, TOP_5
from tools.bench.compression.swarm import SWARM
from tools.bench.compression.uplinks import DENSE
from tools.bench.page import write_page
from tools.bench.plot import Point, Series, line_plot, ticks
from tools.bench.report import Budget, Report, Row

PAGE = "compression.md"
_BESIDE = {(NONE, DENSE), (NONE, TOP_5), (EF21, TOP_1), (EF21, TOP)}


def write(report: Report, budgets: Mapping[str, Sequence[Budget]], folder: Path) -> None:
    """Put what was measured into the folder's page; raises CommandError."""
    write_page(folder / PAGE, "Compression, measured", report, budgets, plots(report.rows))


def plots(rows: Sequence[Row]) -> dict[str, str]:
    """The SVGs by the names of their files, of those tables that are there."""
    found = {}
    for table, name, title in (
        (REGRESSION, "compression-regression.svg", "Logistic regression, ten workers, 50 inputs"),
        (DIGITS, "compression-digits.svg", "Odd or even digits, ten workers, 1 000 features"),
    ):
        drawn = [row for row in rows if row["part"] == table and _to_be_drawn(row)]
        if drawn:
            found[name] = _by_bits(title, drawn)
    slowest = min((row["uplink_mbit_per_s"] for row in rows if row["part"] == SWARM), default=0)
    drawn = [row for row in rows if row["part"] == SWARM and row["uplink_mbit_per_s"] == slowest]
    if drawn:
        found["compression-swarm.svg"] = _plot(
            f"A swarm with uplinks of {slowest:g} Mbit/s", "seconds", "loss", drawn
        )
    return found


def _to_be_drawn(row: Row) -> bool:
    """All with error feedback; beside them dense, one that loses what it lacks, and one EF21."""
    codec, how = row["codec"], row["error_feedback"]
    return how == EF or (how, codec) in _BESIDE


def _by_bits(title: str, rows: Sequence[Row]) -> str:
    """By the logarithm of the bits, since they differ by orders of magnitude."""
    logarithmic = [
        row | {"curve": [(math.log10(bits), loss) for bits, loss in row["curve"] if bits >= 1]}
        for row in rows
    ]
    return _plot(title, "kilobits sent by each worker, as powers of ten", "f(x) − f*", logarithmic)


def _plot(title: str, x_label: str, y_label: str, rows: Sequence[Row]) -> str:
    series = []
    for row in rows:
        how = row.get("error_feedback", NONE)
        name = row["codec"] if how == NONE else f"{row['codec']}, {how}"
        points = [Point(x, y) for x, y in row["curve"] if y > 0]
        series.append(Series(name, points))
    furthest = max(point.x for one in series for point in one.points)
    return line_plot(title, x_label, y_label, series, x_ticks=ticks(furthest), falling=True)
