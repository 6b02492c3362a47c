"""`manyhands ping`: how far a peer is, on which path, and how reliably it answers."""

from __future__ import annotations

import trio
from rich.table import Table

from p2p import Node, P2PError, PeerId, ping
from tools.failures import ILL, WELL
from tools.output import console, print_json
from tools.pings import Pings
from tools.reaching import Target, open_reaching
from tools.stopping import run_until_stopped

ANSWER_S_MAX = 5.0


def show_ping(target: Target, *, count: int, interval_s: float, as_json: bool) -> int:
    """Ping a peer some times, or until Ctrl-C; returns the exit code.

    Raises:
        CommandError, p2p.P2PError: it cannot be reached at all.
    """
    pings = Pings()
    whom: list[PeerId] = []
    trio.run(run_until_stopped, _ping, target, count, interval_s, as_json, pings, whom)
    if not pings.sent:
        return ILL
    latencies = pings.latencies()
    if as_json:
        print_json(
            {
                "peer_id": whom[0],
                "sent": pings.sent,
                "lost": pings.lost,
                "paths": {path: vars(latency) for path, latency in latencies.items()},
            }
        )
    else:
        table = Table(title=f"{pings.sent} pings, {pings.loss:.0%} lost")
        table.add_column("path")
        for heading in ("answers", "least", "median", "95 %"):
            table.add_column(heading, justify="right")
        for path, latency in latencies.items():
            times = (latency.least_s, latency.median_s, latency.p95_s)
            table.add_row(path, str(latency.count), *(f"{s * 1000:.1f} ms" for s in times))
        console().print(table)
        console().print(_next_step(pings))
    return WELL if latencies else ILL


def _next_step(pings: Pings) -> str:
    if not pings.round_trips_s:
        return "It is connected and does not answer: it may be frozen or overloaded; try later."
    if list(pings.round_trips_s) == ["relayed"]:
        return "Only a relay leads there: `manyhands doctor` at either end says what is in the way."
    if pings.loss > 0.05:
        return "Many are lost: check the Wi-Fi or the cable, and whether the line is busy."
    return "How fast bytes go there: manyhands bandwidth, with the same address."


async def _ping(
    target: Target,
    count: int,
    interval_s: float,
    as_json: bool,
    pings: Pings,
    whom: list[PeerId],
) -> None:
    async with open_reaching(target) as (node, peer_id):
        whom.append(peer_id)
        screen = console(as_json=as_json)
        for number in range(1, count + 1):
            screen.print(f"{number:>3}  {await _once(node, peer_id, pings)}", markup=False)
            if number < count:
                await trio.sleep(interval_s)


async def _once(node: Node, peer_id: PeerId, pings: Pings) -> str:
    """Ping once; what became of it, in words."""
    cause = f"no answer in {ANSWER_S_MAX:g} s"
    with trio.move_on_after(ANSWER_S_MAX):
        try:
            answer = await ping(node, peer_id)
        except P2PError as exc:
            cause = str(exc)
        else:
            pings.on_answer(answer.path, answer.round_trip_s)
            return f"{answer.round_trip_s * 1000:.1f} ms, {answer.path}"
    pings.on_lost()
    return cause
