"""The commands that look at the network: doctor, peers, ping and bandwidth, with their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.access import Private
from tools.options import (
    InitialPeers,
    Json,
    Listen,
    TokenIdentity,
    Verbose,
    begin,
    split,
)

Target = Annotated[
    str,
    typer.Argument(
        metavar="PEER_OR_ADDRESS",
        help="A full address, or a peer id that is looked up through --initial-peers.",
    ),
]


def doctor(
    initial_peers: InitialPeers = None,
    listen: Listen = None,
    identity: Annotated[
        Path | None, typer.Option(help="Key file; by default the one of `manyhands node`.")
    ] = None,
    private: Private = None,
    bandwidth: Annotated[
        bool, typer.Option(help="Measure how fast bytes come and go; moves some megabytes.")
    ] = True,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check whether this computer can take part, what stands in the way, and what to do about it.

    It looks at this computer, enters the swarm for half a minute, and asks its peers. Without
    --initial-peers, or without a network, it says what it can. Exit code 1: it cannot take part.

    Example: manyhands doctor --initial-peers /ip4/192.168.1.5/tcp/31337/p2p/12D3KooW…
    """
    from tools.doctor.command import DoctorOptions, run_doctor
    from tools.identity import default_identity_path

    begin(verbose=verbose)
    raise typer.Exit(
        run_doctor(
            DoctorOptions(
                identity_path=identity or default_identity_path(),
                listen=split(listen) or ("/ip4/0.0.0.0/tcp/31337",),
                initial_peers=split(initial_peers),
                private_path=private,
                measures=bandwidth,
                as_json=as_json,
            )
        )
    )


def ping(
    target: Target,
    initial_peers: InitialPeers = None,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How often.")] = 10,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.0, max=60.0, help="Seconds between two.")
    ] = 0.5,
    identity: TokenIdentity = None,
    private: Private = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ping a peer: how long an answer takes, on which path, and how many are lost.

    Any libp2p peer answers. Exit code 1: not one answer came.

    Example: manyhands ping /ip4/192.168.1.5/tcp/31337/p2p/12D3KooW… --count 20
    """
    from tools.ping import show_ping
    from tools.reaching import Target as Whom

    begin(verbose=verbose)
    whom = Whom(target, split(initial_peers), identity_path=identity, private_path=private)
    raise typer.Exit(show_ping(whom, count=count, interval_s=interval_s, as_json=as_json))


def bandwidth(
    target: Target,
    initial_peers: InitialPeers = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=10.0, help="How long to measure in each direction.")
    ] = 3.0,
    identity: TokenIdentity = None,
    private: Private = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure how fast bytes come from a peer and go to it, and on which path.

    A peer lets others measure only so much in an hour.

    Example: manyhands bandwidth /ip4/192.168.1.5/tcp/31337/p2p/12D3KooW…
    """
    from tools.bandwidth import show_bandwidth
    from tools.reaching import Target as Whom

    begin(verbose=verbose)
    whom = Whom(target, split(initial_peers), identity_path=identity, private_path=private)
    raise typer.Exit(show_bandwidth(whom, seconds=seconds, as_json=as_json))


def peers(
    run: Annotated[
        str | None, typer.Option(help="Only the live trainers of this run, such as digits.")
    ] = None,
    initial_peers: InitialPeers = None,
    identity: TokenIdentity = None,
    private: Private = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List who is in a swarm: path, latency, role and version; with --run its live trainers.

    Example: manyhands peers --initial-peers /ip4/192.168.1.5/tcp/31337/p2p/12D3KooW…
    """
    begin(verbose=verbose)
    if run is None:
        from tools.swarm_peers import show_swarm

        raise typer.Exit(
            show_swarm(
                split(initial_peers), identity_path=identity, private_path=private, as_json=as_json
            )
        )
    from tools.peers import show_peers

    raise typer.Exit(
        show_peers(
            run,
            split(initial_peers),
            identity_path=identity,
            private_path=private,
            as_json=as_json,
        )
    )


def add_to(app: typer.Typer) -> None:
    """Make these commands of the program."""
    for command in (doctor, peers, ping, bandwidth):
        app.command()(command)
