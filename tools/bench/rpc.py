"""`manyhands bench rpc`: how long small things take, and what a connection costs at rest."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tools.bench.processes import ANSWER_S_MAX, Pair, RivalFailed, open_pair
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row
from tools.bench.rivals import NAMES

COLUMNS = (
    "rival",
    "connect_ms",
    "connect_p99_ms",
    "stream_ms",
    "stream_p99_ms",
    "call_ms",
    "call_p99_ms",
    "loaded_call_ms",
    "loaded_call_p99_ms",
    "load_megabytes_per_s",
    "idle_connection_kib",
)
CONNECT_MS_MAX, STREAM_MS_MAX, CALL_MS_MAX = 25.0, 1.0, 0.6
REPEATS = 3
_CALL_BYTES = 32
_LOADED_SHARE = 5
"""One loaded call for so many others: each takes longer."""
_WARMING_CONNECTIONS = 16
"""Before memory is counted, so that what the first ones load and reserve is not."""
_FULL_FACTOR = 5
_CALL_S_MAX = 1.0
"""What one call or connection may take on average; slower ones hang."""


@dataclass(frozen=True)
class RpcOptions:
    """How much is measured."""

    calls: int = 1_000
    """Calls of each kind and rival in all; --full makes it five times as many."""
    connects: int = 60
    """New connections in all, unless there are fewer calls."""
    connections: int = 200
    """Connections held at rest."""

    def each(self, total: int) -> int:
        """So many fall on one repetition."""
        return -(-total // REPEATS)

    @classmethod
    def full(cls, options: RpcOptions) -> RpcOptions:
        """More calls; a stock host refuses more connections than these after a while."""
        return cls(calls=_FULL_FACTOR * options.calls, connections=options.connections)


@dataclass
class Measured:
    """One rival, all its repetitions."""

    rival: str
    connect_s: list[float] = field(default_factory=list)
    stream_s: list[float] = field(default_factory=list)
    call_s: list[float] = field(default_factory=list)
    loaded_call_s: list[float] = field(default_factory=list)
    load_bytes_per_s: list[float] = field(default_factory=list)
    idle_connection_bytes: float | None = None

    def row(self) -> Row:
        """What the report says of it; None for what could not be measured."""
        load, idle = self.load_bytes_per_s, self.idle_connection_bytes
        return {
            "rival": NAMES[self.rival],
            "connects": len(self.connect_s),
            "calls": len(self.call_s),
            "loaded_calls": len(self.loaded_call_s),
            **_summary("connect", self.connect_s),
            **_summary("stream", self.stream_s),
            **_summary("call", self.call_s),
            **_summary("loaded_call", self.loaded_call_s),
            "load_megabytes_per_s": statistics.median(load) / 1e6 if load else None,
            "idle_connection_kib": None if idle is None else idle / 1024,
        }


def run_rpc(options: RpcOptions, steps: Steps) -> Report:
    """Measure every rival that comes up, the repetitions of all in turn; memory at the end."""
    report = Report("rpc", COLUMNS)
    steps.expect((REPEATS + 1) * len(NAMES))
    measured: dict[str, Measured] = {}
    with ExitStack() as stack:
        pairs: dict[str, Pair] = {}
        for rival, name in NAMES.items():
            try:
                pairs[rival] = stack.enter_context(open_pair(rival))
                measured[rival] = Measured(rival)
            except RivalFailed as exc:
                report.skip(name, str(exc))
        for repeat in range(REPEATS):
            for rival, pair in list(pairs.items()):
                steps.case(f"latency of {NAMES[rival]}, {repeat + 1} of {REPEATS}")
                try:
                    _measure_latency(pair, options, measured[rival])
                except RivalFailed as exc:
                    report.skip(NAMES[rival], str(exc))
                    del pairs[rival]
                steps.step()
    for rival, one in measured.items():
        steps.case(f"memory of {NAMES[rival]}")
        try:
            one.idle_connection_bytes = _idle_connection_bytes(rival, options.connections)
        except RivalFailed as exc:
            report.skip(f"{NAMES[rival]}, memory", str(exc))
        steps.step()
    report.rows = [one.row() for one in measured.values()]
    report.budgets = budgets(report.rows)
    return report


def _measure_latency(pair: Pair, options: RpcOptions, one: Measured) -> None:
    calls = options.each(options.calls)
    loaded_calls = options.each(options.calls // _LOADED_SHARE)

    def ask(**order: Any) -> dict[str, Any]:
        timeout_s = ANSWER_S_MAX + _CALL_S_MAX * calls
        return pair.client.ask(timeout_s=timeout_s, do="call", **order)

    connects = options.each(min(options.connects, options.calls))
    one.connect_s += pair.client.ask(do="connect", times=connects)["seconds"]
    one.call_s += ask(times=calls, size_bytes=_CALL_BYTES)["seconds"]
    one.stream_s += ask(times=calls, size_bytes=1, stream=True)["seconds"]
    loaded = ask(times=loaded_calls, size_bytes=_CALL_BYTES, loaded=True)
    one.loaded_call_s += loaded["seconds"]
    one.load_bytes_per_s.append(loaded["load_bytes"] / loaded["took_s"])


def _idle_connection_bytes(rival: str, connections: int) -> float:
    """By how much the listener's process grows for each; a fresh one has nothing to reuse."""
    with open_pair(rival) as pair:
        pair.client.ask(do="hold", connections=_WARMING_CONNECTIONS)
        before = pair.server.ask()["rss_bytes"]
        timeout_s = ANSWER_S_MAX + _CALL_S_MAX * connections
        pair.client.ask(timeout_s=timeout_s, do="hold", connections=connections)
        after = pair.server.ask()["rss_bytes"]
    return float(after - before) / connections


def _summary(name: str, seconds: list[float]) -> Row:
    """The median and the 99th percentile, in milliseconds."""
    if not seconds:
        return {f"{name}_ms": None, f"{name}_p99_ms": None}
    in_order = sorted(seconds)
    return {
        f"{name}_ms": statistics.median(in_order) * 1e3,
        f"{name}_p99_ms": in_order[int(0.99 * (len(in_order) - 1))] * 1e3,
    }


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge the promises for each of our rows, as far as it was measured."""
    promises = (
        ("a new connection", "connect_ms", CONNECT_MS_MAX),
        ("a new stream's first byte there and back", "stream_ms", STREAM_MS_MAX),
        ("a small call", "call_ms", CALL_MS_MAX),
    )
    return [
        Budget(f"{row['rival']}: {what}", row[key], limit, "ms", "<=")
        for row in rows
        if row["rival"] in (NAMES["noise"], NAMES["aes"])
        for what, key, limit in promises
        if row[key] is not None
    ]
