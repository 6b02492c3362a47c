"""`manyhands dht trace`: a search as a tree of who named whom, with times and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from p2p import Dht, Hop, HopOutcome, Node, PeerId, Trace, short
from tools.dht.entrance import Entrance, look
from tools.failures import ILL, WELL
from tools.output import console, print_json

_KEY_BITS = 256
_FAILED = (HopOutcome.REFUSED, HopOutcome.TIMEOUT, HopOutcome.UNREACHABLE, HopOutcome.INVALID)
_ANSWERED = (HopOutcome.FOUND, HopOutcome.CLOSER, HopOutcome.NONE_CLOSER)


@dataclass(frozen=True)
class Sought:
    """What is looked for."""

    key: str
    subkey: str | None = None
    dictionary: bool = False


def show_trace(entrance: Entrance, sought: Sought, *, as_json: bool) -> int:
    """Print how a search went; returns the exit code.

    Raises:
        CommandError, p2p.P2PError: the swarm cannot be entered.
    """

    async def ask(_node: Node, dht: Dht) -> Trace:
        return await dht.trace(sought.key, subkey=sought.subkey, dictionary=sought.dictionary)

    doing = f"Searching for {sought.key!r} …"
    trace = look(entrance, ask, doing=doing, as_json=as_json)
    if trace is None:
        return ILL
    if as_json:
        print_json({"key": sought.key, "subkey": sought.subkey, **as_object(trace)})
    else:
        console().print(table_of(trace, title=f"The search for {sought.key!r}"))
    screen = console(as_json=as_json)
    for line in summary(trace):
        screen.print(line, markup=False)
    return WELL if any(hop.outcome in _ANSWERED for hop in trace.hops) else ILL


def shared_bits(hop: Hop) -> int:
    """How many leading bits of what is sought a peer's place shares: more is nearer."""
    return _KEY_BITS - hop.distance.bit_length()


def as_object(trace: Trace) -> dict[str, Any]:
    """What --json prints of a trace."""
    return {
        "target": f"{trace.target:064x}",
        "took_ms": round(trace.took_s * 1000, 3),
        "depth": trace.depth,
        "replicas": list(trace.replicas),
        "holders": list(trace.holders),
        "hops": [
            {
                "peer_id": hop.peer_id,
                "addresses": list(hop.addresses),
                "named_by": hop.named_by,
                "depth": hop.depth,
                "shared_bits": shared_bits(hop),
                "asked_at_ms": round(hop.asked_at_s * 1000, 3),
                "took_ms": round(hop.took_s * 1000, 3),
                "connected": hop.connected,
                "outcome": hop.outcome.value,
                "named": hop.named,
                "cause": hop.cause,
            }
            for hop in trace.hops
        ],
    }


def in_tree_order(trace: Trace) -> Iterator[Hop]:
    """Each hop behind the one that named it, in the order of asking."""
    named: dict[PeerId | None, list[Hop]] = {}
    for hop in trace.hops:
        named.setdefault(hop.named_by, []).append(hop)

    def below(peer_id: PeerId | None) -> Iterator[Hop]:
        for hop in named.get(peer_id, []):
            yield hop
            yield from below(hop.peer_id)

    return below(None)


def table_of(trace: Trace, *, title: str) -> Table:
    """A search for people: who named whom by indentation."""
    table = Table(title=title, title_justify="left")
    table.add_column("peer", no_wrap=True)
    for heading in ("shared bits", "asked at", "took"):
        table.add_column(heading, justify="right")
    table.add_column("answer", overflow="fold")
    table.add_column("nearest", justify="right")
    ranks = {peer_id: rank for rank, peer_id in enumerate(trace.replicas, start=1)}
    for hop in in_tree_order(trace):
        indent = "" if hop.depth == 1 else "  " * (hop.depth - 2) + "└ "
        table.add_row(
            indent + short(hop.peer_id),
            str(shared_bits(hop)),
            f"{hop.asked_at_s * 1000:.1f} ms",
            f"{hop.took_s * 1000:.1f} ms" + ("" if hop.connected else " *"),
            _answer(hop),
            f"{ranks[hop.peer_id]}." if hop.peer_id in ranks else "",
        )
    return table


def _answer(hop: Hop) -> str:
    style = {HopOutcome.FOUND: "green", HopOutcome.NOT_AWAITED: "dim"}.get(hop.outcome, "")
    if hop.outcome in _FAILED:
        style = "red"
    text = hop.outcome.value
    if hop.outcome in _ANSWERED:
        text += f", named {hop.named}"
    # A stranger's words: their brackets are no markup.
    cause = f": {hop.cause}".replace("[", "\\[") if hop.cause else ""
    return f"[{style}]{text}[/]{cause}" if style else text + cause


def summary(trace: Trace) -> list[str]:
    """What a search came to, and what to do next."""
    failed = sum(hop.outcome in _FAILED for hop in trace.hops)
    holders = set(trace.holders)
    holding = sum(peer_id in holders for peer_id in trace.replicas)
    lines = [
        f"{len(trace.hops)} peers asked in {trace.took_s * 1000:.1f} ms, {failed} failed; the "
        f"nearest was {trace.depth} deep. {holding} of the {len(trace.replicas)} nearest hold it.",
    ]
    if not all(hop.connected for hop in trace.hops):
        lines.append("* with the time to connect.")
    if not trace.replicas:
        lines.append("Nobody answered: try another initial peer, or `manyhands doctor`.")
    elif not holders:
        lines.append("Nobody holds it: it was never put, has expired, or its holders are gone.")
    elif holding < len(trace.replicas):
        lines.append("Those that lack it are given it by the next read: manyhands dht get")
    else:
        lines.append("What is in it: manyhands dht get, with the same key")
    return lines
