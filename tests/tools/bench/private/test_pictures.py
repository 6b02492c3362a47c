"""Pictures as SVG: every cell where it belongs, in its shade."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
import torch

from tools.bench.private.pictures import pictures_svg


def test_cells_have_their_place_and_shade() -> None:
    picture = torch.tensor([[0.0, 1.0, 0.5], [0.0, 7.0, -1.0]])
    drawn = pictures_svg("Two & one", {"a < b": picture[None]})
    root = ET.fromstring(drawn)
    paths = {
        one.attrib["fill"]: re.findall(r"M(\d) (\d)", one.attrib["d"])
        for one in root.iter("{http://www.w3.org/2000/svg}path")
    }
    assert paths == {"#000000": [("1", "0"), ("1", "1")], "#7f7f7f": [("2", "0")]}
    assert "Two &amp; one" in drawn
    assert "a &lt; b" in drawn


def test_each_picture_stands_within_the_page() -> None:
    drawn = pictures_svg("Many", {"one": torch.rand(3, 4, 5), "two": torch.rand(3, 4, 5)})
    width, height = (float(side) for side in re.findall(r'viewBox="0 0 (\d+) (\d+)"', drawn)[0])
    places = re.findall(r"translate\((\d+) (\d+)\) scale\((\d+)\)", drawn)
    assert len(set(places)) == 6
    for left, top, scale in places:
        assert float(left) + 5 * float(scale) <= width
        assert float(top) + 4 * float(scale) <= height


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        pictures_svg("Odd", {"one": torch.rand(1, 2, 2), "two": torch.rand(1, 3, 3)})
