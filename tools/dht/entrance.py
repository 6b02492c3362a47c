"""How a command looks into a swarm's DHT: as a client that stays for a moment and holds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import trio

from p2p import Dht, Node, open_dht, open_node
from tools.access import private_config
from tools.failures import MISUSED, CommandError
from tools.output import console
from tools.stopping import run_until_stopped

Result = TypeVar("Result")

_ANSWER_S_MAX = 60.0
"""Many times what a search takes whose peers are dead one after another."""


@dataclass(frozen=True)
class Entrance:
    """Where the swarm is, and who we are there."""

    initial_peers: tuple[str, ...]
    identity_path: Path | None = None
    private_path: Path | None = None


def look(
    entrance: Entrance,
    ask: Callable[[Node, Dht], Awaitable[Result]],
    *,
    doing: str,
    as_json: bool,
) -> Result | None:
    """Enter the swarm and ask something; None if Ctrl-C came first.

    Raises:
        CommandError: no initial peer was given, or it took too long.
        p2p.P2PError: none of them answers, or the question failed.
    """
    if not entrance.initial_peers:
        raise CommandError(
            "The swarm cannot be found without the address of one of its peers",
            next_step="Give --initial-peers the address that `manyhands node` prints.",
            exit_code=MISUSED,
        )
    results: list[Result] = []

    async def enter_and_ask() -> None:
        screen = console(as_json=as_json)
        screen.print("Entering the swarm …")
        with trio.move_on_after(_ANSWER_S_MAX):
            async with _open(entrance) as (node, dht):
                screen.print(doing, markup=False)
                results.append(await ask(node, dht))
            return
        raise CommandError(
            f"There was no answer in {_ANSWER_S_MAX:g} s",
            next_step="See with `manyhands peers` who answers, and try another of them as the "
            "initial peer.",
        )

    trio.run(run_until_stopped, enter_and_ask)
    return results[0] if results else None


@asynccontextmanager
async def _open(entrance: Entrance) -> AsyncIterator[tuple[Node, Dht]]:
    # A client: a glance needs no port, and nobody should store records with us.
    config = replace(
        private_config(entrance.private_path),
        client_mode=True,
        identity_path=entrance.identity_path,
    )
    async with (
        open_node(config) as node,
        open_dht(node, initial_peers=entrance.initial_peers) as dht,
    ):
        yield node, dht
