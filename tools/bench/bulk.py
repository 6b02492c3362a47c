"""`manyhands bench bulk`: how fast streams of bytes are, and what they cost, beside rivals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from tools.bench.processes import ANSWER_S_MAX, Pair, RivalFailed, open_pair
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row
from tools.bench.rivals import NAMES, RELAYED, RELAYED_NAME

COLUMNS = (
    "rival",
    "streams",
    "write_bytes",
    "megabytes_per_s",
    "sender_cpu_s_per_gb",
    "receiver_cpu_s_per_gb",
)
_KIB, _MIB, _GB = 1024, 1_048_576, 1e9
CASES = tuple((streams, write) for streams in (1, 4, 16) for write in (4 * _KIB, 64 * _KIB, _MIB))
QUICK_CASES = ((1, 4 * _KIB), (1, 64 * _KIB), (1, _MIB), (4, 64 * _KIB), (16, 64 * _KIB))
REPEATS = 3
MEASURED = {**NAMES, RELAYED: RELAYED_NAME}
RELAYED_MEGABYTES_PER_S_MIN = 100.0
_TRIAL_BYTES = 4 * _MIB
_TRIAL_S_MIN = 0.05
"""A shorter trial says too little about the speed: it is repeated with more."""
_SIZE_BYTES_MAX = 4e9
_SLOWER_MAX = 10
"""So many times as long as planned a measurement may take: others may come to need the cores."""


@dataclass(frozen=True)
class BulkOptions:
    """How much is measured."""

    full: bool = False
    """All nine cases instead of five."""
    seconds: float = 0.6
    """How long one measurement should take; the amount of data follows."""


@dataclass
class Measured:
    """One case of one rival, all its repetitions."""

    rival: str
    streams: int
    write_bytes: int
    size_bytes: int
    megabytes_per_s: list[float] = field(default_factory=list)
    sender_cpu_s_per_gb: list[float] = field(default_factory=list)
    receiver_cpu_s_per_gb: list[float] = field(default_factory=list)

    def row(self) -> Row:
        """What the report says of it."""
        return {
            "rival": MEASURED[self.rival],
            "streams": self.streams,
            "write_bytes": self.write_bytes,
            "size_bytes": self.size_bytes,
            "repetitions": len(self.megabytes_per_s),
            "megabytes_per_s": statistics.median(self.megabytes_per_s),
            "megabytes_per_s_min": min(self.megabytes_per_s),
            "megabytes_per_s_max": max(self.megabytes_per_s),
            "sender_cpu_s_per_gb": statistics.median(self.sender_cpu_s_per_gb),
            "receiver_cpu_s_per_gb": statistics.median(self.receiver_cpu_s_per_gb),
        }


def run_bulk(options: BulkOptions, steps: Steps) -> Report:
    """Measure every rival that comes up, the repetitions of all in turn."""
    report = Report("bulk", COLUMNS)
    cases = CASES if options.full else QUICK_CASES
    steps.expect(len(cases) * REPEATS * len(MEASURED))
    with ExitStack() as stack:
        pairs = _open_pairs(report, stack)
        for streams, write_bytes in cases:
            steps.case(f"{streams} × {write_bytes // _KIB} KiB")
            measured: dict[str, Measured] = {}
            for _ in range(REPEATS):
                for rival, pair in list(pairs.items()):
                    try:
                        if rival not in measured:
                            size = _size_for(pair, streams, write_bytes, options.seconds)
                            measured[rival] = Measured(rival, streams, write_bytes, size)
                        _measure(pair, measured[rival], options.seconds)
                    except RivalFailed as exc:
                        report.skip(MEASURED[rival], str(exc))
                        del pairs[rival]
                    steps.step()
            report.rows += [one.row() for one in measured.values() if one.megabytes_per_s]
    report.budgets = budgets(report.rows)
    return report


def _open_pairs(report: Report, stack: ExitStack) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    for rival, name in MEASURED.items():
        try:
            pairs[rival] = stack.enter_context(open_pair(rival))
        except RivalFailed as exc:
            report.skip(name, str(exc))
    return pairs


def _size_for(pair: Pair, streams: int, write_bytes: int, seconds: float) -> int:
    """How much this rival moves in about so many seconds, tried with little."""
    size = max(_TRIAL_BYTES, streams * write_bytes)
    while True:
        done = pair.client.ask(do="bulk", size_bytes=size, write_bytes=write_bytes, streams=streams)
        if done["seconds"] >= min(_TRIAL_S_MIN, seconds) or size >= _SIZE_BYTES_MAX:
            break
        size *= 4
    fitting = seconds * done["size_bytes"] / done["seconds"]
    return int(max(streams * write_bytes, min(fitting, _SIZE_BYTES_MAX)))


def _measure(pair: Pair, one: Measured, seconds: float) -> None:
    done = pair.client.ask(
        timeout_s=ANSWER_S_MAX + _SLOWER_MAX * seconds,
        do="bulk",
        size_bytes=one.size_bytes,
        write_bytes=one.write_bytes,
        streams=one.streams,
    )
    gigabytes = done["size_bytes"] / _GB
    one.megabytes_per_s.append(done["size_bytes"] / done["seconds"] / 1e6)
    one.sender_cpu_s_per_gb.append(done["sender_cpu_s"] / gigabytes)
    one.receiver_cpu_s_per_gb.append(done["receiver_cpu_s"] / gigabytes)


PROMISES: Sequence[tuple[str, str, float]] = (
    ("noise", "tls", 1.3),
    ("noise", "stock", 4.0),
    ("aes", "tls", 2.0),
)
"""Ours, theirs, and how many times as fast ours shall be: one stream, writes of 1 MiB."""


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge the promises of which both sides were measured."""
    speeds = {
        row["rival"]: row["megabytes_per_s"]
        for row in rows
        if (row["streams"], row["write_bytes"]) == (1, _MIB)
    }
    told = [
        Budget(
            f"{NAMES[ours]}, against {NAMES[theirs]}",
            speeds[NAMES[ours]] / speeds[NAMES[theirs]],
            factor,
            "times as fast",
            ">=",
        )
        for ours, theirs, factor in PROMISES
        if NAMES[ours] in speeds and NAMES[theirs] in speeds
    ]
    if RELAYED_NAME in speeds:
        speed, least = speeds[RELAYED_NAME], RELAYED_MEGABYTES_PER_S_MIN
        told.append(Budget(f"{RELAYED_NAME}: three processes", speed, least, "MB/s", ">="))
    return told
