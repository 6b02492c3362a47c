"""Plots: they are well-formed SVG, and points stand where their numbers say."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.bench.plot import Point, Series, line_plot, powers_of_ten, ticks

SVG = "{http://www.w3.org/2000/svg}"


@given(st.floats(1e-9, 1e12))
def test_ticks_are_few_round_and_reach_the_largest(largest: float) -> None:
    found = ticks(largest)
    assert found[0] == 0
    assert found[-1] >= largest * (1 - 1e-6)
    assert 2 <= len(found) <= 12
    assert found[-2] < largest


def test_nothing_measured_has_ticks_too() -> None:
    assert ticks(0) == [0.0, 1.0]


def test_a_plot_is_xml_with_each_point_and_word() -> None:
    drawn = line_plot(
        "A <title> & more",
        "peers",
        "seconds",
        [
            Series("ideal", [Point(0, 0), Point(8, 4)]),
            Series("measured", [Point(2, 1, 0.5, 2), Point(4, 2), Point(8, 4)], False, True),
        ],
        x_ticks=(2, 4, 8),
    )
    root = ElementTree.fromstring(drawn)
    words = [element.text for element in root.iter(f"{SVG}text")]
    for text in ("A <title> & more", "peers", "seconds", "ideal", "measured", "2", "8"):
        assert text in words
    (line,) = root.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in line.get("points", "").split())
    dots = [
        (float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter(f"{SVG}circle")
    ]
    assert len(dots) == 4, "three points and one in the legend"
    # Halfway along the line is halfway on the page; larger values stand higher.
    assert dots[1] == (pytest.approx((x0 + x1) / 2), pytest.approx((y0 + y1) / 2))
    assert dots[2] == (x1, y1)
    assert y1 < dots[0][1] < y0


@given(st.lists(st.floats(1e-30, 1e30), min_size=1))
def test_powers_of_ten_enclose_all_values(values: list[float]) -> None:
    found = powers_of_ten(values)
    assert len(found) >= 2
    assert found[0] <= min(values) * (1 + 1e-9)
    assert max(values) <= found[-1] * (1 + 1e-9)
    assert all(high / low == pytest.approx(10) for low, high in itertools.pairwise(found))


def test_what_falls_by_powers_of_ten_is_a_straight_line() -> None:
    points = [Point(float(n), 10.0**-n) for n in range(4)]
    drawn = line_plot("t", "x", "y", [Series("a", points)], x_ticks=[0, 3], falling=True)
    polyline = ElementTree.fromstring(drawn).find(f"{SVG}polyline")
    assert polyline is not None
    places = [tuple(map(float, pair.split(","))) for pair in polyline.attrib["points"].split()]
    downs = [low[1] - high[1] for high, low in itertools.pairwise(places)]
    assert downs == pytest.approx([downs[0]] * 3, abs=0.2)
    assert downs[0] > 50
    assert ">0.001<" in drawn
