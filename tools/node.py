"""`manyhands node`: a bootstrap node, the meeting point of a swarm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from rich.console import Console

from p2p import (
    RELAYS_VALIDATOR,
    DhtConfig,
    Node,
    RelayLimits,
    SchemaValidator,
    open_dht,
    open_node,
    open_relay_directory,
    open_service_nursery,
)
from tools.access import private_config
from tools.addresses import farthest_first, join_command
from tools.doctor.diagnosis import short_verdict
from tools.failures import CommandError
from tools.identity import default_identity_path
from tools.output import console, print_json
from tools.stopping import run_until_stopped

_FIRST_VERDICT_S = 20.0
_NEXT_VERDICT_S = 10.0
_VERDICT_LOOK_S = 0.2


SIGNED_KEYS = (r".*/0(b.*)?", r".*/progress")
"""Where those who train list themselves; what they put there only they need to understand."""
VALIDATORS = (
    RELAYS_VALIDATOR,
    *(SchemaValidator(key_pattern=one, kind=Any, owned=True) for one in SIGNED_KEYS),
)
"""What the node demands of the records that it holds and reads."""


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What `manyhands node` was asked for."""

    listen: tuple[str, ...]
    """Multiaddresses to listen on."""
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those found."""
    identity_path: Path | None = None
    """Key file; None takes this user's own."""
    initial_peers: tuple[str, ...] = ()
    """Other nodes of the same swarm."""
    private_path: Path | None = None
    """File that says who may connect; None lets everybody in."""
    relay: bool = False
    """Serve as a relay, too: pass bytes on between others."""
    relay_limits: RelayLimits = field(default_factory=RelayLimits)
    """What the relay gives to others."""
    metrics_port: int | None = None
    """Where to serve Prometheus metrics, on loopback; None serves none."""
    as_json: bool = False
    """Print one JSON object when ready instead of a page for people."""


def relay_limits(
    *,
    peers: int | None = None,
    circuits: int | None = None,
    megabytes_per_s: float | None = None,
    gigabytes_per_hour: float | None = None,
    circuit_megabytes_per_s: float | None = None,
    circuit_megabytes: float | None = None,
    circuit_minutes: float | None = None,
) -> RelayLimits:
    """The limits that an operator names, in the units of people; the others as they are.

    What one peer may have is never more than what all may have together.
    """
    named = {
        "reservations_max": peers,
        "circuits_max": circuits,
        "bytes_per_s": megabytes_per_s and megabytes_per_s * 1e6,
        "bytes_per_hour": gigabytes_per_hour and gigabytes_per_hour * 1e9,
        "circuit_bytes_per_s": circuit_megabytes_per_s and circuit_megabytes_per_s * 1e6,
        "circuit_bytes_each_way": circuit_megabytes and circuit_megabytes * 1e6,
        "circuit_duration_s": circuit_minutes and circuit_minutes * 60,
    }
    usual = RelayLimits()
    limits = replace(usual, **{name: int(value) for name, value in named.items() if value})
    # Twice a circuit's rate for a peer with several, as it is unless the operator changes it.
    return replace(limits, peer_bytes_per_s=2 * limits.circuit_bytes_per_s)


def run_node(options: NodeOptions) -> None:
    """Serve until Ctrl-C or SIGTERM, which is its normal end.

    Raises:
        p2p.P2PError: the port is in use, the key file cannot be used, or no initial peer answers.
    """
    with _metrics(options.metrics_port):
        trio.run(run_until_stopped, _serve, options)
    console(as_json=True).print("The node has left. Started again, it has the same address.")


async def _serve(options: NodeOptions) -> None:
    identity_path = options.identity_path or default_identity_path()
    config = replace(
        private_config(options.private_path),
        listen=options.listen,
        announce=options.announce,
        identity_path=identity_path,
        relay=options.relay,
        relay_limits=options.relay_limits,
        # Beside the key, so that a node that starts again knows whom to call.
        peerstore_path=identity_path.with_name(f"{identity_path.name}.peers"),
    )
    async with (
        open_node(config) as node,
        open_dht(node, DhtConfig(validators=VALIDATORS), options.initial_peers) as dht,
        open_relay_directory(node, dht),
        open_service_nursery() as nursery,
    ):
        addresses = farthest_first(node.addresses)
        if options.as_json:
            print_json({"peer_id": node.peer_id, "addresses": addresses})
        else:
            _welcome(node.peer_id, addresses, relay=options.relay)
            if options.relay:
                _tell_limits(options.relay_limits)
        nursery.start_soon(_tell_verdicts, node, console(as_json=options.as_json))
        await trio.sleep_forever()


async def _tell_verdicts(node: Node, screen: Console) -> None:
    """Say where the node stands, once it has had time to find out, and again when that changes."""
    told = ""
    with trio.move_on_after(_FIRST_VERDICT_S):
        # A report tells nobody that it changed.
        while node.net_report.reachability == "unknown" and not _keeps_to_itself(node):  # noqa: ASYNC110
            await trio.sleep(_VERDICT_LOOK_S)
    while True:
        sentence, advice = short_verdict(node.net_report)
        if sentence != told:
            screen.print(f"Doctor: {sentence}", markup=False)
            if advice:
                screen.print(f"        {advice}", markup=False)
            told = sentence
        await trio.sleep(_NEXT_VERDICT_S)


def _keeps_to_itself(node: Node) -> bool:
    return all(address.startswith(("/ip4/127.", "/ip6/::1/")) for address in node.addresses)


def _welcome(peer_id: str, addresses: tuple[str, ...], *, relay: bool) -> None:
    screen = console()
    screen.print(f"[bold]node {peer_id} is ready[/]{', and relays for others' if relay else ''}")
    for address in addresses:
        screen.print(f"  {address}", markup=False)
    if addresses:
        screen.print("\nTo train with it, paste this in another terminal or on another computer:")
        screen.print(f"\n  [bold]{join_command(addresses[0])}[/]\n")
        if addresses[0] != addresses[-1]:
            screen.print(f"On this computer this works too: {join_command(addresses[-1])}")
    screen.print("Ctrl-C stops the node.")


def _tell_limits(limits: RelayLimits) -> None:
    screen = console()
    screen.print(
        f"It serves as a relay: {limits.reservations_max} peers, {limits.circuits_max} circuits, "
        f"{limits.bytes_per_s / 1e6:.0f} MB/s and {limits.bytes_per_hour / 1e9:.0f} GB an hour "
        f"in all; each circuit {limits.circuit_bytes_per_s / 1e6:.1f} MB/s, "
        f"{limits.circuit_bytes_each_way / 1e6:.0f} MB each way, "
        f"{limits.circuit_duration_s / 60:.0f} minutes.",
        highlight=False,
    )


@contextlib.contextmanager
def _metrics(port: int | None) -> Iterator[None]:
    """Serve Prometheus metrics within the block."""
    if port is None:
        yield
        return
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr="127.0.0.1")
    except OSError as exc:
        raise CommandError(
            f"Metrics cannot be served at 127.0.0.1:{port}: {exc.strerror}",
            next_step="Give another --metrics-port, or none.",
        ) from exc
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
