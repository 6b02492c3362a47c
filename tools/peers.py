"""`manyhands peers`: who trains a run at this moment."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
from rich.table import Table

from p2p import Dht, MessageInvalid, NodeConfig, PeerId, open_dht, open_node, owned_subkey
from tools.access import private_config
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.output import console, print_json
from tools.stopping import run_until_stopped
from tools.visits import Visit, visit_all
from training.metrics import Metrics, decode_metrics_untrusted, metrics_key
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
    contributed_samples: int | None
    """What it says to have put into all steps; None where it tells no metrics."""
    contributed_share: float | None
    """Its part of what all say to have put in."""
    loss: float | None
    """The last that it computed."""
    version: str | None
    """Of its manyhands."""
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
        metrics = await _metrics(dht, run)
        contributed = sum(told.samples for told in metrics.values())
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
                **_contribution(metrics.get(peer_id), contributed),
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


async def _metrics(dht: Dht, run: str) -> dict[PeerId, Metrics]:
    """What trainers say of their part, also those that have left a moment ago."""
    metrics = {}
    for subkey, entry in (await dht.get_dictionary(metrics_key(run))).items():
        if entry.owner is not None and subkey == owned_subkey(entry.owner):
            with contextlib.suppress(MessageInvalid):
                metrics[entry.owner] = decode_metrics_untrusted(entry.value)
    return metrics


def _contribution(told: Metrics | None, contributed: int) -> dict[str, Any]:
    """The fields of a row that its metrics fill."""
    if told is None:
        return dict.fromkeys(("contributed_samples", "contributed_share", "loss", "version"))
    return {
        "contributed_samples": told.samples,
        "contributed_share": round(told.samples / contributed, 4) if contributed else 0.0,
        "loss": told.loss,
        "version": told.version,
    }


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
    for heading in (
        *("step", "samples", "samples/s", "contributed", "share", "loss"),
        *("role", "seconds ago", "path", "latency"),
    ):
        table.add_column(heading, justify="right")
    table.add_column("runs")
    for row in rows:
        table.add_row(
            row.peer_id,
            str(row.step),
            str(row.samples),
            f"{row.samples_per_s:.0f}",
            _or_unknown(row.contributed_samples, "d"),
            _or_unknown(row.contributed_share, ".0%"),
            _or_unknown(row.loss, ".3g"),
            row.role,
            f"{row.seconds_ago:.0f}",
            row.visit.path or "none",
            row.visit.latency,
            row.visit.agent,
        )
    screen.print(table)
    screen.print(f"To join them: manyhands train digits --run {run} --initial-peers ADDRESS")


def _or_unknown(number: float | None, form: str) -> str:
    return "?" if number is None else format(number, form)
