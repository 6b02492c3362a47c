"""The commands of `manyhands dht`, with their options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.access import Private
from tools.options import InitialPeers, Json, TokenIdentity, Verbose, begin, split

if TYPE_CHECKING:
    from tools.dht.entrance import Entrance

app = typer.Typer(
    name="dht",
    help="Look into the distributed table through which a swarm finds itself.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Key = Annotated[str, typer.Argument(help="The key, as in digits/progress.")]
Subkey = Annotated[
    str | None, typer.Option(help="Only this entry of the key's dictionary; by default all.")
]


@app.command()
def get(
    key: Key,
    subkey: Subkey = None,
    initial_peers: InitialPeers = None,
    identity: TokenIdentity = None,
    private: Private = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what is stored under a key: its value, its subkeys, who signed them, how long they live.

    Exit code 1: nothing is there.

    Example: manyhands dht get digits/progress --initial-peers /ip4/192.168.1.5/tcp/31337/p2p/12D3…
    """
    from tools.dht.values import show_get

    begin(verbose=verbose)
    entrance = _entrance(initial_peers, identity, private)
    raise typer.Exit(show_get(entrance, key, subkey, as_json=as_json))


@app.command()
def put(
    key: Key,
    value: Annotated[str, typer.Argument(help="The value, as text; - reads it from stdin.")],
    subkey: Annotated[str | None, typer.Option(help="An entry of the key's dictionary.")] = None,
    ttl_s: Annotated[
        float,
        typer.Option(
            "--ttl", min=1, max=86_400, help="Seconds it lives; a signed one at most 3600."
        ),
    ] = 600.0,
    sign: Annotated[
        bool,
        typer.Option(
            "--sign",
            help="Under the subkey of our own peer id, signed: nobody else can overwrite it.",
        ),
    ] = False,
    initial_peers: InitialPeers = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="Key file to sign with; by default a new identity each time."),
    ] = None,
    private: Private = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Store a value at the nodes nearest to its key, and say how many hold it.

    Exit code 1: not one holds it.

    Example: manyhands dht put greeting hello --ttl 60 --initial-peers /ip4/192.168.1.5/tcp/…
    """
    from tools.dht.values import PutRequest, show_put

    begin(verbose=verbose)
    entrance = _entrance(initial_peers, identity, private)
    request = PutRequest(key, value, subkey=subkey, ttl_s=ttl_s, signs=sign)
    raise typer.Exit(show_put(entrance, request, as_json=as_json))


@app.command()
def trace(
    key: Key,
    subkey: Annotated[str | None, typer.Option(help="An entry of the key's dictionary.")] = None,
    dictionary: Annotated[
        bool, typer.Option("--dictionary", help="Look for the key's whole dictionary.")
    ] = False,
    initial_peers: InitialPeers = None,
    identity: TokenIdentity = None,
    private: Private = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Follow a search: each peer asked, who named it, how long it took and what it answered.

    A search goes on until all of the nearest nodes, which should hold the value, have answered.
    Exit code 1: nobody answered.

    Example: manyhands dht trace digits/progress --dictionary --initial-peers /ip4/192.168.1.5/…
    """
    from tools.dht.tracing import Sought, show_trace

    begin(verbose=verbose)
    entrance = _entrance(initial_peers, identity, private)
    sought = Sought(key, subkey, dictionary=dictionary)
    raise typer.Exit(show_trace(entrance, sought, as_json=as_json))


@app.command()
def stats(
    peers_max: Annotated[
        int, typer.Option(min=1, max=1024, help="Ask at most so many nodes.")
    ] = 256,
    initial_peers: InitialPeers = None,
    identity: TokenIdentity = None,
    private: Private = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """What each node of a swarm holds and has served: contacts, records, bytes, calls, refusals.

    Nodes speak for themselves, and a liar may say anything. Exit code 1: not one said anything.

    Example: manyhands dht stats --initial-peers /ip4/192.168.1.5/tcp/31337/p2p/12D3KooW…
    """
    from tools.dht.stats import show_stats

    begin(verbose=verbose)
    entrance = _entrance(initial_peers, identity, private)
    raise typer.Exit(show_stats(entrance, peers_max=peers_max, as_json=as_json))


def _entrance(
    initial_peers: list[str] | None, identity: Path | None, private: Path | None
) -> Entrance:
    from tools.dht.entrance import Entrance

    return Entrance(split(initial_peers), identity_path=identity, private_path=private)
