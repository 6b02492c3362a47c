"""`manyhands bench rpc`: how long small things take, and what a connection costs at rest."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from tools.bench.processes import Pair, RivalFailed, open_pair
from tools.bench.report import Budget, Report, Row
from tools.bench.rivals import NAMES

COLUMNS = (
    "rival",
    "connect_ms",
    "stream_ms",
    "call_ms",
    "call_p99_ms",
    "loaded_call_ms",
    "loaded_call_p99_ms",
    "idle_connection_kib",
)
RIVALS = ("tcp", "tls", "stock", "noise", "aes")
_CALL_BYTES = 32
CONNECT_MS_MAX, STREAM_MS_MAX, CALL_MS_MAX = 25.0, 1.0, 0.6


@dataclass(frozen=True)
class RpcOptions:
    """How much is measured."""

    calls: int = 1_000
    connects: int = 20
    connections: int = 100


def run_rpc(options: RpcOptions, progress: Callable[[str], None]) -> Report:
    """Measure every rival that comes up, one after the other."""
    report = Report("rpc")
    for rival in RIVALS:
        progress(NAMES[rival])
        try:
            with open_pair(rival) as pair:
                row = _measure(pair, options)
        except RivalFailed as exc:
            report.skip(rival, str(exc))
            continue
        report.rows.append({"rival": NAMES[rival], **row})
        if rival in ("noise", "aes"):
            report.budgets += _budgets(NAMES[rival], row)
    return report


def _measure(pair: Pair, options: RpcOptions) -> Row:
    connect = pair.client.ask(do="connect", times=options.connects)["seconds"]
    alone = pair.client.ask(do="call", times=options.calls, size_bytes=_CALL_BYTES)
    stream = pair.client.ask(do="call", times=options.calls, size_bytes=1, stream=True)
    loaded = pair.client.ask(
        do="call", times=options.calls // 5, size_bytes=_CALL_BYTES, loaded=True
    )
    before = pair.server.ask(do="usage")
    pair.client.ask(do="hold", connections=options.connections)
    after = pair.server.ask(do="usage")
    return {
        "connect_ms": _median_ms(connect),
        "stream_ms": _median_ms(stream["seconds"]),
        "call_ms": _median_ms(alone["seconds"]),
        "call_p99_ms": _p99_ms(alone["seconds"]),
        "loaded_call_ms": _median_ms(loaded["seconds"]),
        "loaded_call_p99_ms": _p99_ms(loaded["seconds"]),
        "idle_connection_kib": (after["rss_bytes"] - before["rss_bytes"])
        / options.connections
        / 1024,
    }


def _median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e3


def _p99_ms(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))] * 1e3


def _budgets(name: str, row: Row) -> list[Budget]:
    return [
        Budget(f"{name}: a new connection", row["connect_ms"], CONNECT_MS_MAX, "ms", "<="),
        Budget(
            f"{name}: a new stream's first byte there and back",
            row["stream_ms"],
            STREAM_MS_MAX,
            "ms",
            "<=",
        ),
        Budget(f"{name}: a small call", row["call_ms"], CALL_MS_MAX, "ms", "<="),
    ]
