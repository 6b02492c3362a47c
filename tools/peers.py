"""`manyhands peers`: who trains a run at this moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import trio
from rich.table import Table

from p2p import Dht, MessageInvalid, NodeConfig, PeerId, open_dht, open_node, owned_subkey
from tools.access import private_config
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.output import console, print_json
from tools.stopping import run_until_stopped
from tools.visits import Visit, visit_all
from training.progress import schema


@dataclass(frozen=True, kw_only=True)
class PeerRow:
    """One live trainer, as its newest record in the DHT tells."""

    peer_id: str
    step: int
    samples: int
    """Accumulated for the next step."""
    samples_per_s: float
    role: str
    seconds_ago: float
    """Age of the record; trainers renew theirs every ten seconds."""
    addresses: tuple[str, ...]
    visit: Visit
    """What was seen of it from here."""


def show_peers(
    run: str,
    initial_peers: tuple[str, ...],
    *,
    identity_path: Path | None = None,
    private_path: Path | None = None,
    as_json: bool,
) -> int:
    """Print the live trainers of a run, the furthest first; returns the exit code.

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
    found: list[PeerRow] = []
    # A client: a glance needs no port, and nobody should store records with us.
    config = replace(private_config(private_path), client_mode=True, identity_path=identity_path)
    if not trio.run(run_until_stopped, _ask, run, initial_peers, config, found):
        return ILL
    rows = sorted(found, key=lambda row: (-row.step, row.peer_id))
    if as_json:
        print_json({"run": run, "peers": [_as_object(row) for row in rows]})
    else:
        _print_table(run, rows)
    return WELL


async def _ask(
    run: str, initial_peers: tuple[str, ...], config: NodeConfig, found: list[PeerRow]
) -> None:
    async with (
        open_node(config) as node,
        open_dht(node, initial_peers=initial_peers) as dht,
    ):
        entries = await _records(dht, run)
        visits = await visit_all(
            node, {peer_id: record.addresses for peer_id, (record, _) in entries.items()}
        )
        found += [
            PeerRow(
                peer_id=peer_id,
                step=record.step,
                samples=record.samples,
                samples_per_s=round(record.samples_per_s, 1),
                role=record.role,
                seconds_ago=round(age_s, 1),
                addresses=record.addresses,
                visit=visits[peer_id],
            )
            for peer_id, (record, age_s) in entries.items()
        ]


async def _records(dht: Dht, run: str) -> dict[PeerId, tuple[schema.Progress, float]]:
    """All records of the run that their owners signed, with their age; others are left out."""
    records = {}
    for subkey, entry in (await dht.get_dictionary(schema.dht_key(run))).items():
        if entry.owner is None or subkey != owned_subkey(entry.owner):
            continue
        try:
            record = schema.decode_record_untrusted(entry.value)
        except MessageInvalid:
            continue
        records[entry.owner] = (record, max(record.life_s - entry.remaining_s, 0.0))
    return records


def _as_object(row: PeerRow) -> dict[str, object]:
    # The role that it has in the run is the one of its record.
    return vars(row.visit) | {name: value for name, value in vars(row).items() if name != "visit"}


def _print_table(run: str, rows: list[PeerRow]) -> None:
    screen = console()
    if not rows:
        screen.print(f"Nobody trains the run {run} at the moment.", markup=False)
        screen.print("Begin with: manyhands train digits --initial-peers ADDRESS")
        return
    table = Table(title=f"Trainers of the run {run}")
    table.add_column("peer id", overflow="fold")
    for heading in ("step", "samples", "samples/s", "role", "seconds ago", "path", "latency"):
        table.add_column(heading, justify="right")
    table.add_column("runs")
    for row in rows:
        table.add_row(
            row.peer_id,
            str(row.step),
            str(row.samples),
            f"{row.samples_per_s:.0f}",
            row.role,
            f"{row.seconds_ago:.0f}",
            row.visit.path or "none",
            row.visit.latency,
            row.visit.agent,
        )
    screen.print(table)
    screen.print(f"To join them: manyhands train digits --run {run} --initial-peers ADDRESS")
