"""`manyhands peers` without a run: everybody in a swarm, how far, and what they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import trio
from rich.table import Table

from p2p import open_dht, open_node
from tools.access import private_config
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.output import console, print_json
from tools.stopping import run_until_stopped
from tools.visits import Visit, visit_all

PEERS_MAX = 256
_SURVEY_S_MAX = 20.0


@dataclass(frozen=True, kw_only=True)
class SwarmRow:
    """One peer, as it was seen from here."""

    peer_id: str
    addresses: tuple[str, ...]
    visit: Visit


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
    rows.sort(key=lambda row: (row.visit.nearness, row.peer_id))
    if as_json:
        print_json({"peers": [_as_object(row) for row in rows]})
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
    async with (
        open_node(config) as node,
        open_dht(node, initial_peers=initial_peers) as dht,
    ):
        console(as_json=as_json).print("Asking who knows whom …")
        found = {peer_id: node.addresses_of(peer_id) for peer_id in node.connected_peers}
        with trio.move_on_after(_SURVEY_S_MAX):
            found |= await dht.survey(peers_max=PEERS_MAX)
        console(as_json=as_json).print(f"Asking {len(found)} peers …")
        visits = await visit_all(node, found)
        rows += [
            SwarmRow(
                peer_id=peer_id,
                addresses=node.addresses_of(peer_id) or found[peer_id],
                visit=visit,
            )
            for peer_id, visit in visits.items()
        ]


def _as_object(row: SwarmRow) -> dict[str, object]:
    return {"peer_id": row.peer_id, **vars(row.visit), "addresses": row.addresses}


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
        seen = row.visit
        table.add_row(row.peer_id, seen.path, seen.latency, seen.role, seen.agent, seen.cause)
    screen.print(table)
    screen.print("Who trains a run: manyhands peers --run digits, with the same --initial-peers")
