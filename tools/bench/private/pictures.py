"""Rows of small grey pictures as SVG, which a browser and a page show as they are (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape

import torch

_CELL = 6
_GAP = 8
_LEFT, _TOP = 92, 40
_GREYS = 17
"""Shades that are told apart, white to black; more would not be seen in pictures so small."""
_STYLE = "font-family:sans-serif;font-size:12px;fill:#222"


def pictures_svg(title: str, rows: Mapping[str, torch.Tensor]) -> str:
    """An SVG with a line of pictures for each name.

    Args:
        title: above all.
        rows: for each name (pictures, height, width) from 0, white, to 1, black; what is beyond
            is cut off. All of one shape.
    """
    shapes = {tuple(pictures.shape) for pictures in rows.values()}
    if len(shapes) != 1:
        raise ValueError(f"pictures of one shape are needed, not {sorted(shapes)}")
    count, height, width = shapes.pop()
    page_width = _LEFT + count * (width * _CELL + _GAP)
    page_height = _TOP + len(rows) * (height * _CELL + _GAP)
    body = [
        f'<rect width="{page_width}" height="{page_height}" fill="#fff"/>',
        f'<text x="8" y="22" style="{_STYLE};font-weight:bold">{escape(title)}</text>',
    ]
    for line, (name, pictures) in enumerate(rows.items()):
        top = _TOP + line * (height * _CELL + _GAP)
        middle = top + height * _CELL // 2 + 4
        body.append(f'<text x="8" y="{middle}" style="{_STYLE}">{escape(name)}</text>')
        for index, picture in enumerate(pictures):
            left = _LEFT + index * (width * _CELL + _GAP)
            body.append(f'<g transform="translate({left} {top}) scale({_CELL})">')
            body += [*_picture(picture), "</g>"]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {page_width} {page_height}" '
        f'width="{page_width}" height="{page_height}" role="img" shape-rendering="crispEdges">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", *body, "</svg>"]) + "\n"


def _picture(picture_HW: torch.Tensor) -> list[str]:
    """A background, and one path for all cells of a shade."""
    height, width = picture_HW.shape
    shades_HW = (picture_HW.clamp(0, 1) * (_GREYS - 1)).round().int().tolist()
    cells: dict[int, list[str]] = {}
    for y, line in enumerate(shades_HW):
        for x, shade in enumerate(line):
            if shade:
                cells.setdefault(shade, []).append(f"M{x} {y}h1v1h-1z")
    drawn = [
        f'<rect width="{width}" height="{height}" fill="#fff" stroke="#ccc" stroke-width=".1"/>'
    ]
    for shade, places in sorted(cells.items()):
        grey = f"{255 - round(255 * shade / (_GREYS - 1)):02x}"
        drawn.append(f'<path fill="#{grey * 3}" d="{"".join(places)}"/>')
    return drawn
