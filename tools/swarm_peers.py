"""`manyhands peers` without a run: everybody in a swarm, how far, and what they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import trio
from rich.table import Table

from p2p import Node, P2PError, PeerId, UnreachableError, ask_about, open_dht, open_node, ping
from tools.access import private_config
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.output import console, print_json
from tools.stopping import run_until_stopped

PEERS_MAX = 256
_AT_ONCE_MAX = 16
_SURVEY_S_MAX = 20.0
_PEER_S_MAX = 10.0


@dataclass(frozen=True, kw_only=True)
class SwarmRow:
    """One peer, as it was seen from here."""

    peer_id: str
    path: str
    """direct, punched or relayed; empty when it was not reached."""
    round_trip_s: float | None
    role: str
    """node, relay or client; empty when it did not say."""
    agent: str
    addresses: tuple[str, ...]
    cause: str
    """Why it was not reached; empty when it was."""


def show_swarm(
    initial_peers: tuple[str, ...],
    *,
    identity_path: Path | None = None,
    private_path: Path | None = None,
    as_json: bool,
) -> int:
    """Print who is in the swarm, the nearest first; returns the exit code.

    Raises:
        CommandError: no initial peer was given.
        p2p.P2PError: none of them answers.
    """
    if not initial_peers:
        raise CommandError(
            "The swarm cannot be found without the address of one of its peers",
            next_step="Give --initial-peers the address that `manyhands node` prints.",
            exit_code=MISUSED,
        )
    rows: list[SwarmRow] = []
    if not trio.run(
        run_until_stopped, _look, initial_peers, identity_path, private_path, as_json, rows
    ):
        return ILL
    rows.sort(key=lambda row: (row.round_trip_s is None, row.round_trip_s or 0.0, row.peer_id))
    if as_json:
        print_json({"peers": [vars(row) for row in rows]})
    else:
        _print_table(rows)
    return WELL


async def _look(
    initial_peers: tuple[str, ...],
    identity_path: Path | None,
    private_path: Path | None,
    as_json: bool,
    rows: list[SwarmRow],
) -> None:
    # A client: a glance needs no port, and nobody should store records with us.
    config = replace(private_config(private_path), client_mode=True, identity_path=identity_path)
    limiter = trio.CapacityLimiter(_AT_ONCE_MAX)
    async with (
        open_node(config) as node,
        open_dht(node, initial_peers=initial_peers) as dht,
    ):
        console(as_json=as_json).print("Asking who knows whom …")
        found = {peer_id: node.addresses_of(peer_id) for peer_id in node.connected_peers}
        with trio.move_on_after(_SURVEY_S_MAX):
            found |= await dht.survey(peers_max=PEERS_MAX)
        console(as_json=as_json).print(f"Asking {len(found)} peers …")
        async with trio.open_nursery() as nursery:
            for peer_id, addresses in found.items():
                nursery.start_soon(_visit, node, peer_id, addresses, limiter, rows)


async def _visit(
    node: Node,
    peer_id: PeerId,
    addresses: tuple[str, ...],
    limiter: trio.CapacityLimiter,
    rows: list[SwarmRow],
) -> None:
    row = SwarmRow(
        peer_id=peer_id,
        path="",
        round_trip_s=None,
        role="",
        agent="",
        addresses=addresses,
        cause=f"no answer in {_PEER_S_MAX:g} s",
    )
    async with limiter:
        with trio.move_on_after(_PEER_S_MAX):
            try:
                await node.connect(peer_id, addresses)
                answer = await ping(node, peer_id)
                row = replace(row, path=answer.path, round_trip_s=answer.round_trip_s, cause="")
                told = await ask_about(node, peer_id)
                role = "relay" if told.is_relay else "client" if told.is_client else "node"
                row = replace(row, role=role, agent=f"{told.agent} {told.version}")
            except UnreachableError as exc:
                row = replace(row, cause=exc.attempts[0].cause if exc.attempts else str(exc))
            except P2PError as exc:
                # Reached, and of another kind that does not say what it is.
                row = replace(row, cause="" if row.path else str(exc))
    rows.append(replace(row, addresses=node.addresses_of(peer_id) or addresses))


def _print_table(rows: list[SwarmRow]) -> None:
    screen = console()
    table = Table(title=f"{len(rows)} peers of the swarm, as seen from here")
    table.add_column("peer id", overflow="fold")
    table.add_column("path")
    table.add_column("latency", justify="right")
    table.add_column("role")
    table.add_column("runs")
    table.add_column("remark", overflow="fold")
    for row in rows:
        latency = f"{row.round_trip_s * 1000:.1f} ms" if row.round_trip_s is not None else ""
        table.add_row(row.peer_id, row.path, latency, row.role, row.agent, row.cause)
    screen.print(table)
    screen.print("Who trains a run: manyhands peers --run digits, with the same --initial-peers")
