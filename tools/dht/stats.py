"""`manyhands dht stats`: what each node of a swarm holds and has served, in its own words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import trio
from rich.table import Table

from p2p import Dht, DhtStats, Node, P2PError, PeerId, RefusedError, UnreachableError, short
from tools.dht.entrance import Entrance, look
from tools.failures import ILL, WELL
from tools.output import console, print_json

_AT_ONCE_MAX = 16
_SURVEY_S_MAX = 20.0
_SUMMED = (
    "records",
    "record_bytes",
    "pings",
    "find_nodes",
    "find_values",
    "stores",
    "stored",
    "older",
    "refused",
    "searches",
    "search_hops",
    "search_ms",
)


@dataclass(frozen=True)
class NodeStats:
    """One node's words, or why there are none."""

    peer_id: PeerId
    stats: DhtStats | None
    cause: str = ""


def show_stats(entrance: Entrance, *, peers_max: int, as_json: bool) -> int:
    """Print what the nodes say; returns the exit code.

    Raises:
        CommandError, p2p.P2PError: the swarm cannot be entered.
    """

    async def ask(node: Node, dht: Dht) -> list[NodeStats]:
        return await _ask_all(node, dht, peers_max)

    rows = look(
        entrance, ask, doing="Asking who knows whom, and what each holds …", as_json=as_json
    )
    if rows is None:
        return ILL
    rows.sort(key=lambda row: (row.stats is None, -(row.stats.records if row.stats else 0)))
    if as_json:
        print_json({"nodes": [_as_object(row) for row in rows], "together": together(rows)})
    else:
        console().print(table_of(rows))
    screen = console(as_json=as_json)
    for line in summary(rows):
        screen.print(line)
    return WELL if any(row.stats for row in rows) else ILL


async def _ask_all(node: Node, dht: Dht, peers_max: int) -> list[NodeStats]:
    found: dict[PeerId, tuple[str, ...]] = {peer_id: () for peer_id in dht.peers[:peers_max]}
    with trio.move_on_after(_SURVEY_S_MAX):
        surveyed = await dht.survey(peers_max=peers_max)
        found = dict(list((found | surveyed).items())[:peers_max])
    limiter = trio.CapacityLimiter(_AT_ONCE_MAX)
    rows: list[NodeStats] = []

    async def ask(peer_id: PeerId, addresses: Iterable[str]) -> None:
        async with limiter:
            try:
                rows.append(NodeStats(peer_id, await dht.stats_of(peer_id, addresses)))
            except RefusedError as exc:
                cause = "runs a version that does not say" if exc.code != "busy" else str(exc)
                rows.append(NodeStats(peer_id, None, cause))
            except UnreachableError as exc:
                cause = exc.attempts[0].cause if exc.attempts else str(exc)
                rows.append(NodeStats(peer_id, None, cause))
            except P2PError as exc:
                rows.append(NodeStats(peer_id, None, str(exc)))

    async with trio.open_nursery() as nursery:
        for peer_id, addresses in found.items():
            nursery.start_soon(ask, peer_id, addresses)
    return rows


def together(rows: Iterable[NodeStats]) -> dict[str, int]:
    """Sums over all nodes that answered."""
    answered = [row.stats for row in rows if row.stats is not None]
    sums = {name: sum(getattr(stats, name) for stats in answered) for name in _SUMMED}
    return {"nodes": len(answered), **sums}


def _as_object(row: NodeStats) -> dict[str, Any]:
    if row.stats is None:
        return {"peer_id": row.peer_id, "cause": row.cause}
    words = {name: getattr(row.stats, name) for name in row.stats.__struct_fields__}
    return {"peer_id": row.peer_id, **words, "cause": ""}


def table_of(rows: list[NodeStats]) -> Table:
    """A line for each node, the fullest first."""
    table = Table(title=f"{len(rows)} nodes of the DHT, in their own words")
    table.add_column("peer")
    for heading in (
        "up",
        "contacts",
        "records",
        "as replica",
        "memory",
        "pings",
        "finds",
        "reads",
        "stores",
        "refused",
        "own searches",
    ):
        table.add_column(heading, justify="right")
    table.add_column("remark", overflow="fold")
    for row in rows:
        cells = [""] * 11 if row.stats is None else _cells(row.stats)
        table.add_row(short(row.peer_id), *cells, row.cause.replace("[", "\\["))
    return table


def _cells(stats: DhtStats) -> list[str]:
    share = stats.replica_keys / stats.sampled_keys if stats.sampled_keys else None
    hops = f", {stats.search_hops / stats.searches:.1f} peers each" if stats.searches else ""
    return [
        _duration(stats.uptime_ms / 1000),
        str(stats.confirmed),
        str(stats.records),
        "" if share is None else f"{share:.0%}",
        f"{stats.record_bytes / 1024:.0f} KiB",
        str(stats.pings),
        str(stats.find_nodes),
        str(stats.find_values),
        str(stats.stores),
        str(stats.refused),
        f"{stats.searches}{hops}",
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def summary(rows: list[NodeStats]) -> list[str]:
    """What the swarm's nodes say together, and what to do next."""
    sums = together(rows)
    if not sums["nodes"]:
        return ["Nobody said anything: see with `manyhands peers` who answers at all."]
    answered = [row.stats for row in rows if row.stats is not None]
    fullest = max(stats.record_bytes / stats.record_bytes_max for stats in answered)
    lines = [
        f"{sums['nodes']} nodes hold {sums['records']} records, copies counted, in "
        f"{sums['record_bytes'] / 1024:.0f} KiB; the fullest has {fullest:.0%} of what it may."
    ]
    offered = sums["stored"] + sums["older"] + sums["refused"]
    if offered and sums["refused"] > 0.05 * offered:
        lines.append(
            f"{sums['refused'] / offered:.0%} of what was offered was refused: somebody floods, "
            "or breaks a limit; p2p_dht_refusals_total in a node's metrics says which."
        )
    else:
        lines.append("How one key is found: manyhands dht trace KEY, with the same --initial-peers")
    return lines
