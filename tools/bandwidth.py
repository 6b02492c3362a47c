"""`manyhands bandwidth`: how fast bytes come from a peer and go to it."""

from __future__ import annotations

import trio
from rich.table import Table

from p2p import Measured, PeerId, RefusedError, measure_download, measure_upload
from tools.failures import ILL, WELL, CommandError
from tools.output import console, print_json
from tools.reaching import Target, open_reaching
from tools.stopping import run_until_stopped


def show_bandwidth(target: Target, *, seconds: float, as_json: bool) -> int:
    """Measure both directions, one after the other; returns the exit code.

    Raises:
        CommandError: the peer lets nobody measure now.
        p2p.P2PError: it cannot be reached, or broke off.
    """
    found: dict[str, Measured] = {}
    whom: list[PeerId] = []
    if not trio.run(run_until_stopped, _measure, target, seconds, as_json, found, whom):
        return ILL
    if as_json:
        rates = {
            direction: {"bytes_per_s": measured.bytes_per_s, **vars(measured)}
            for direction, measured in found.items()
        }
        print_json({"peer_id": whom[0], **rates})
        return WELL
    table = Table(title=f"Bandwidth to {whom[0]}")
    for heading in ("direction", "Mbit/s", "MB", "seconds", "path"):
        table.add_column(heading, justify="left" if heading in ("direction", "path") else "right")
    for direction, measured in found.items():
        table.add_row(
            direction,
            f"{measured.bytes_per_s * 8 / 1e6:.1f}",
            f"{measured.size_bytes / 1e6:.1f}",
            f"{measured.seconds:.1f}",
            measured.path,
        )
    console().print(table)
    if any(measured.path == "relayed" for measured in found.values()):
        console().print("A relay was between; it limits what it passes on. See: manyhands doctor")
    else:
        console().print("Whether this computer is fit for a swarm says: manyhands doctor")
    return WELL


async def _measure(
    target: Target,
    seconds: float,
    as_json: bool,
    found: dict[str, Measured],
    whom: list[PeerId],
) -> None:
    screen = console(as_json=as_json)
    async with open_reaching(target) as (node, peer_id):
        whom.append(peer_id)
        try:
            screen.print("Bytes come …")
            found["down"] = await measure_download(node, peer_id, seconds=seconds)
            screen.print("Bytes go …")
            found["up"] = await measure_upload(node, peer_id, seconds=seconds)
        except RefusedError as exc:
            raise CommandError(
                f"The peer lets nobody measure with it now ({exc.message or exc.code})",
                next_step="Try again later, or with another peer that `manyhands peers` lists.",
            ) from exc
