"""The figures of `manyhands bench dedloc`: steps, transfers and a day, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.bench.dedloc import BARE
from tools.bench.dedloc_setups import BALANCED, SETUPS, VARYING
from tools.bench.dedloc_world import DELAYED, SYNCHRONOUS
from tools.bench.plot import Point, Series, line_plot
from tools.bench.report import Row
from tools.failures import CommandError

_NUMBERS = {setup.name: number for number, setup in enumerate(SETUPS, start=1)}
_SETUPS_LABEL = ", ".join(f"{number} {name}" for name, number in _NUMBERS.items())


def plots(rows: Sequence[Row], hours: float) -> dict[str, str]:
    """The SVGs by the names of their files; times are in seconds, rates in samples a second."""
    return {
        "dedloc-steps.svg": _by_setup(
            "A global step of 4,096 samples",
            "seconds",
            [
                _marks("batch and best transfer", rows, SYNCHRONOUS, "theory_step_seconds"),
                _marks("simulated, synchronous", rows, SYNCHRONOUS, "step_seconds"),
                _marks("simulated, delayed updates", rows, DELAYED, "step_seconds"),
            ],
        ),
        "dedloc-transfers.svg": _by_setup(
            "Averaging, in times of the linear program's best",
            "times as long",
            [
                Series("the best", [Point(0, 1.0), Point(len(SETUPS), 1.0)]),
                _marks("simulated", rows, SYNCHRONOUS, "transfer_per_optimum"),
                _marks("measured", rows, BARE, "transfer_per_optimum"),
            ],
        ),
        "dedloc-day.svg": _day(rows, hours),
    }


def save_plots(rows: Sequence[Row], hours: float, folder: Path) -> None:
    """Write them all; raises CommandError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, drawn in plots(rows, hours).items():
            (folder / name).write_text(drawn, "utf-8")
    except OSError as exc:
        raise CommandError(
            f"{folder} cannot be written to: {exc.strerror}",
            next_step="Give --plot a folder that you may write to.",
        ) from exc


def _by_setup(title: str, y_label: str, series: Sequence[Series]) -> str:
    return line_plot(title, _SETUPS_LABEL, y_label, series, x_ticks=list(_NUMBERS.values()))


def _marks(name: str, rows: Sequence[Row], how: str, key: str) -> Series:
    points = [
        Point(_NUMBERS[row["setup"]], row[key])
        for row in rows
        if row["how"] == how and row["setup"] in _NUMBERS
    ]
    return Series(name, points, line=False, marks=True)


def _day(rows: Sequence[Row], hours: float) -> str:
    found = {row["setup"]: row for row in rows if row["how"] == SYNCHRONOUS}
    rates = found[VARYING.name]["samples_per_s_over_time"]
    part_h = hours / len(rates)
    steady = found[BALANCED.name]["samples_per_s"]
    return line_plot(
        "Eight more peers for a third of the time",
        "hours",
        "samples a second",
        [
            Series("time-varying", [Point((n + 0.5) * part_h, y) for n, y in enumerate(rates)]),
            Series("without them", [Point(0, steady), Point(hours, steady)]),
        ],
        x_ticks=[hours * number / 6 for number in range(7)],
    )
