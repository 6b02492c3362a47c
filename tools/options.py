"""Options that several commands share, and what each command sets up first."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from tools.logs import set_up_logs

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log on stderr.")]
LogFile = Annotated[Path | None, typer.Option(help="Append the log to this file.")]
InitialPeers = Annotated[
    list[str] | None,
    typer.Option(
        "--initial-peers",
        metavar="ADDRESS",
        help="Where to enter the swarm, as /ip4/1.2.3.4/tcp/31337/p2p/12D3KooW…; repeat it, or "
        "separate several by commas. One that answers is enough.",
    ),
]
Listen = Annotated[
    list[str] | None,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        help="Where to listen; repeatable. Port 0 takes a free one, /ip4/127.0.0.1/… keeps to "
        "this machine.",
    ),
]
Announce = Annotated[
    list[str] | None,
    typer.Option(
        "--announce",
        metavar="ADDRESS",
        help="What to tell others to dial instead of what was found; repeatable.",
    ),
]
Codec = Annotated[
    str | None,
    typer.Option(
        help="Compress what peers send each other, as int8-block, topk:0.01, powersgd:4 or auto; "
        "all peers of a run alike. By default as the recipe says.",
    ),
]
TokenIdentity = Annotated[
    Path | None,
    typer.Option(
        "--identity", help="Key file that a token is for; by default a new identity each time."
    ),
]
# For parents such as the demo: a child ends when its stdin does, and can be told to join then.
StopWithStdin = Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)]
JoinWhenTold = Annotated[bool, typer.Option("--join-when-told", hidden=True)]


def begin(
    *, verbose: bool = False, log_file: Path | None = None, stop_with_stdin: bool = False
) -> threading.Event | None:
    """What every longer command sets up first; returns the event that a parent can set."""
    set_up_logs(verbose=verbose, log_file=log_file)
    if not stop_with_stdin:
        return None
    from tools.stopping import stop_when_stdin_closes

    return stop_when_stdin_closes()


def split(values: list[str] | None) -> tuple[str, ...]:
    """Options that were repeated or joined by commas, one by one."""
    return tuple(
        part.strip() for value in values or () for part in value.split(",") if part.strip()
    )
