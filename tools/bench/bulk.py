"""`manyhands bench bulk`: how fast streams of bytes are, and what they cost, beside rivals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tools.bench.processes import Pair, RivalFailed, open_pair
from tools.bench.report import Budget, Report
from tools.bench.rivals import NAMES

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


@dataclass(frozen=True)
class BulkOptions:
    """How much is measured."""

    full: bool = False
    """All nine cases instead of five."""
    seconds: float = 0.6
    """How long one measurement should take; the amount of data follows."""


@dataclass
class _Measured:
    """One case of one rival, all its repetitions."""

    rival: str
    streams: int
    write_bytes: int
    size_bytes: int
    speeds: list[float]
    sender: list[float]
    receiver: list[float]


def run_bulk(options: BulkOptions, progress: Callable[[str], None]) -> Report:
    """Measure every rival that comes up, the repetitions of all in turn."""
    report = Report("bulk")
    cases = CASES if options.full else QUICK_CASES
    measured: dict[tuple[str, int, int], _Measured] = {}
    with ExitStack() as stack:
        pairs = _open_pairs(report, stack)
        for streams, write_bytes in cases:
            for repeat in range(REPEATS):
                for rival, pair in list(pairs.items()):
                    progress(
                        f"{NAMES[rival]}: {streams} × {write_bytes // _KIB} KiB, "
                        f"{repeat + 1} of {REPEATS}"
                    )
                    one = measured.get((rival, streams, write_bytes))
                    try:
                        if one is None:
                            size = _size_for(pair, streams, write_bytes, options.seconds)
                            one = _Measured(rival, streams, write_bytes, size, [], [], [])
                            measured[rival, streams, write_bytes] = one
                        _measure(pair, one)
                    except RivalFailed as exc:
                        report.skip(rival, str(exc))
                        del pairs[rival]
    report.rows = [_row(one) for one in measured.values() if one.speeds]
    report.budgets = _budgets(measured)
    return report


def _open_pairs(report: Report, stack: ExitStack) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    for rival in NAMES:
        try:
            pairs[rival] = stack.enter_context(open_pair(rival))
        except RivalFailed as exc:
            report.skip(rival, str(exc))
    return pairs


def _size_for(pair: Pair, streams: int, write_bytes: int, seconds: float) -> int:
    """How much this rival moves in about so many seconds, tried with little."""
    size = max(4 * _MIB, streams * write_bytes)
    done = pair.client.ask(do="bulk", size_bytes=size, write_bytes=write_bytes, streams=streams)
    return int(max(size, min(seconds * done["size_bytes"] / done["seconds"], 2e9)))


def _measure(pair: Pair, one: _Measured) -> None:
    before = pair.server.ask(do="usage")
    done = pair.client.ask(
        do="bulk", size_bytes=one.size_bytes, write_bytes=one.write_bytes, streams=one.streams
    )
    after = pair.server.ask(do="usage")
    gigabytes = done["size_bytes"] / _GB
    one.speeds.append(done["size_bytes"] / done["seconds"] / 1e6)
    one.sender.append(done["cpu_s"] / gigabytes)
    one.receiver.append((after["cpu_s"] - before["cpu_s"]) / gigabytes)


def _row(one: _Measured) -> dict[str, object]:
    return {
        "rival": NAMES[one.rival],
        "streams": one.streams,
        "write_bytes": one.write_bytes,
        "size_bytes": one.size_bytes,
        "megabytes_per_s": statistics.median(one.speeds),
        "megabytes_per_s_min": min(one.speeds),
        "megabytes_per_s_max": max(one.speeds),
        "sender_cpu_s_per_gb": statistics.median(one.sender),
        "receiver_cpu_s_per_gb": statistics.median(one.receiver),
    }


def _budgets(measured: dict[tuple[str, int, int], _Measured]) -> list[Budget]:
    """The promises are for one stream and writes of 1 MiB."""

    def speed(rival: str) -> float | None:
        one = measured.get((rival, 1, _MIB))
        return statistics.median(one.speeds) if one and one.speeds else None

    promised: Sequence[tuple[str, str, float]] = (
        ("noise", "tls", 1.3),
        ("noise", "stock", 4.0),
        ("aes", "tls", 2.0),
    )
    budgets = []
    for ours, theirs, factor in promised:
        mine, other = speed(ours), speed(theirs)
        if mine is not None and other is not None:
            name = f"{NAMES[ours]}, against {NAMES[theirs]}"
            budgets.append(Budget(name, mine / other, factor, "times as fast", ">="))
    return budgets
