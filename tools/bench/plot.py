"""Small line plots as SVG, which a browser and a page of Markdown show as they are (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 56, 52
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222", "#999")
"""Told apart by the colour-blind, too. Source: Okabe and Ito, Color Universal Design, 2008."""
_TICKS_MAX = 7
_STYLE = "font-family:sans-serif;font-size:12px;fill:#222"


@dataclass(frozen=True)
class Point:
    """One place of a series; low and high are the ends of its bar."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one name, joined by a line, marked, or both."""

    name: str
    points: Sequence[Point]
    line: bool = True
    marks: bool = False


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 up to the first that is not below the largest."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / (_TICKS_MAX - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * index for index in range(math.ceil(largest / step - 1e-9) + 1)]


def powers_of_ten(values: Sequence[float]) -> list[float]:
    """Those from the last that is not above the least to the first that is not below the largest.

    Args:
        values: at least one, all above 0.
    """
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def line_plot(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    x_ticks: Sequence[float],
    falling: bool = False,
) -> str:
    """An SVG of all series over the same axes; y begins at 0, x at 0.

    Args:
        falling: y, which is above 0, is in powers of ten, and the legend stands at the upper right.
    """
    points = [point for one in series for point in one.points]
    x_max = max([*x_ticks, *(point.x for point in points)])
    if falling:
        y_ticks = powers_of_ten([point.y for point in points])
        plot = _Plot(x_max, y_ticks[-1], y_ticks[0])
    else:
        y_ticks = ticks(max((point.high or point.y for point in points), default=1.0))
        plot = _Plot(x_max, y_ticks[-1])
    body = [*plot.axes(x_ticks, y_ticks), *plot.words(title, x_label, y_label)]
    for index, one in enumerate(series):
        body += plot.series(one, _COLORS[index % len(_COLORS)], index)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img">'
    )
    background = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", background, *body, "</svg>"]) + "\n"


class _Plot:
    """Where things are on the page."""

    def __init__(self, x_max: float, y_max: float, y_min: float | None = None) -> None:
        """With a y_min, y is in powers of ten."""
        self._x_max, self._y_max, self._y_min = x_max, y_max, y_min

    def x(self, value: float) -> float:
        """From the left edge of the page."""
        return round(_LEFT + value / self._x_max * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        """From the upper edge of the page."""
        share = value / self._y_max
        if self._y_min is not None:
            share = math.log(value / self._y_min) / math.log(self._y_max / self._y_min)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
        """The grid with its numbers."""
        low, left, right = _HEIGHT - _BOTTOM, self.x(0), self.x(self._x_max)
        drawn = []
        for tick in y_ticks:
            at = self.y(tick)
            drawn.append(_line(left, at, right, at, "#ddd" if at < low else "#222"))
            drawn.append(_text(left - 8, at + 4, f"{tick:g}", "end"))
        for tick in x_ticks:
            at = self.x(tick)
            drawn.append(_line(at, low, at, low + 5, "#222"))
            drawn.append(_text(at, low + 19, f"{tick:g}", "middle"))
        return drawn

    def words(self, title: str, x_label: str, y_label: str) -> list[str]:
        """The title and the names of the axes."""
        middle = (self.x(0) + self.x(self._x_max)) / 2
        return [
            _text(middle, 22, title, "middle", extra="font-weight:bold;font-size:14px"),
            _text(middle, _HEIGHT - 12, x_label, "middle"),
            _text(_LEFT - 52, _TOP - 12, y_label, "start"),
        ]

    def series(self, one: Series, color: str, index: int) -> list[str]:
        """One series, and its line in the legend."""
        drawn = []
        places = [(self.x(point.x), self.y(point.y)) for point in one.points]
        if one.line:
            path = " ".join(f"{x},{y}" for x, y in places)
            drawn.append(
                f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
            )
        for point, (x, y) in zip(one.points, places, strict=True):
            if point.low is not None and point.high is not None:
                drawn.append(_line(x, self.y(point.low), x, self.y(point.high), color, 2))
            if one.marks:
                drawn.append(_dot(x, y, color))
        # The legend stands at the right, where curves that grow or fall leave room.
        y = _HEIGHT - _BOTTOM - 20 - 18 * index if self._y_min is None else _TOP + 12 + 18 * index
        x = self.x(self._x_max) - 210
        sign = _dot(x, y - 4, color) if one.marks else _line(x - 10, y - 4, x + 10, y - 4, color, 2)
        return [*drawn, sign, _text(x + 18, y, one.name, "start")]


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: int = 1) -> str:
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{color}" stroke-width="{width}"/>'
    )


def _dot(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/>'


def _text(x: float, y: float, words: str, anchor: str, *, extra: str = "") -> str:
    style = f"{_STYLE};{extra}" if extra else _STYLE
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" style="{style}">{escape(words)}</text>'
