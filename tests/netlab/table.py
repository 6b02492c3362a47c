"""What the tests in real networks have measured, as a table at their end."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.netlab.matrix import Facts, Meeting


@dataclass(frozen=True)
class Cell:
    """Two situations, and what came of the pair."""

    one: str
    other: str
    meeting: Meeting
    here: Facts
    there: Facts


@dataclass(frozen=True)
class Try:
    """One of several tries of a pair that can be punched."""

    one: str
    other: str
    meeting: Meeting


CELLS: list[Cell] = []
TRIES: list[Try] = []
NOTES: list[tuple[str, float]] = []
"""What else took how many seconds."""


def lines() -> Iterator[str]:
    """The table, as Markdown."""
    if CELLS:
        yield (
            "| alice (dials) | bob | path | first byte, s | final path, s "
            "| 8 MiB averaged, s | of it matchmaking, s |"
        )
        yield "| --- | --- | --- | --- | --- | --- | --- |"
    for cell in CELLS:
        met = cell.meeting
        yield (
            f"| {cell.one} | {cell.other} | {met.way} | {met.first_byte_s:.2f} "
            f"| {met.final_s:.2f} | {cell.here['seconds']:.1f} | {cell.here['matchmaking_s']:.1f} |"
        )
    if TRIES:
        yield ""
        yield "| tried often | punched | median, s | longest, s |"
        yield "| --- | --- | --- | --- |"
        for one, other in dict.fromkeys((each.one, each.other) for each in TRIES):
            met_s = [
                each.meeting.final_s
                for each in TRIES
                if (each.one, each.other) == (one, other) and each.meeting.way == "punched"
            ]
            total = Counter((each.one, each.other) for each in TRIES)[one, other]
            median = f"{statistics.median(met_s):.2f} | {max(met_s):.2f}" if met_s else "- | -"
            yield f"| {one} and {other} | {len(met_s)} of {total} | {median} |"
        punched = [one.meeting.final_s for one in TRIES if one.meeting.way == "punched"]
        if punched:
            share, median_s = len(punched) / len(TRIES), statistics.median(punched)
            yield f"punched: {share:.1%} of {len(TRIES)} tries, median {median_s:.2f} s"
    for what, seconds in NOTES:
        yield f"{what}: {seconds:.1f} s"
