"""Gathers the facts: looks at this machine, enters the swarm for a moment, and asks its peers."""

from __future__ import annotations

import platform
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import trio

from p2p import (
    AddressInvalid,
    Identity,
    IdentityError,
    ListenError,
    Node,
    NodeConfig,
    P2PError,
    PeerId,
    Told,
    UnreachableError,
    ask_about,
    interfaces,
    measure_download,
    measure_upload,
    open_dht,
    open_node,
    ping,
)
from tools.access import private_config
from tools.doctor.facts import (
    BandwidthFacts,
    EntryFacts,
    Facts,
    InUse,
    KeyFacts,
    KeyState,
    PeerFacts,
    outcome_of,
)
from tools.doctor.ports import on_a_free_port, port_facts

PEERS_ASKED_MAX = 16
SETTLE_S_MAX = 30.0
"""Dial-back, port mapping and relays take some seconds each; then they are as they are."""
_ASK_S = 5.0
_ENTRY_S = 15.0
_MEASURE_S = 3.0
_MEASURED_WITH_MAX = 3
_LOOK_S = 0.2

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What to look at."""

    identity_path: Path
    listen: tuple[str, ...]
    initial_peers: tuple[str, ...] = ()
    private_path: Path | None = None
    measures: bool = True
    """Measure the bandwidth, which moves some megabytes."""
    settle_s: float = SETTLE_S_MAX


@dataclass
class _Found:
    """What has been found out so far, on the network."""

    entries: dict[str, EntryFacts] = field(default_factory=dict)
    told: dict[PeerId, Told] = field(default_factory=dict)
    foreign: dict[PeerId, str] = field(default_factory=dict)
    """Peers of other kinds, and what they call themselves."""
    clocks_ahead_s: dict[PeerId, float] = field(default_factory=dict)
    round_trips_s: dict[PeerId, float] = field(default_factory=dict)


async def examine(what: Examination, tell: Tell) -> Facts:
    """All facts; takes from a second up to a minute, and says what it is at.

    Raises:
        AddressInvalid: an initial peer's address, or one to listen on, is none.
        CommandError: the file of a private swarm cannot be used.
    """
    tell("Looking at this computer …")
    config = replace(private_config(what.private_path), listen=what.listen)
    key, identity = key_facts(what.identity_path)
    facts = Facts(
        key=key,
        measures=what.measures,
        ports=tuple(port_facts(address) for address in what.listen),
        interfaces=interfaces(),
        python=platform.python_version(),
        libp2p=_version("libp2p"),
        manyhands=_version("manyhands"),
    )
    # Where a token opens the door, it does so for the real identity only.
    as_itself = what.private_path is not None and identity is not None
    config = replace(
        config,
        listen=tuple(
            port.address if port.state == "free" else on_a_free_port(port.address)
            for port in facts.ports
            if port.state != "not-here"
        ),
        client_mode=not facts.ports,
        identity_path=what.identity_path if as_itself else None,
    )
    try:
        return await _on_the_network(what, config, identity, facts, tell)
    except ListenError:
        # Somebody was quicker than we with a port that was free; a client learns the rest.
        return await _on_the_network(what, replace(config, client_mode=True), identity, facts, tell)


def key_facts(path: Path) -> tuple[KeyFacts, Identity | None]:
    """Whether a key file can be used; it is not made when missing."""
    where = path.expanduser()
    if not where.exists():
        return KeyFacts(path=str(path), state="missing"), None
    try:
        identity = Identity.load_or_create(where)
    except IdentityError as exc:
        try:
            is_open = bool(where.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
            where.read_bytes()
        except OSError:
            return KeyFacts(path=str(path), state="unreadable", detail=str(exc)), None
        state: KeyState = "open" if is_open else "no-key"
        return KeyFacts(path=str(path), state=state, detail=str(exc)), None
    return KeyFacts(path=str(path), state="good", peer_id=identity.peer_id), identity


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


async def _on_the_network(
    what: Examination, config: NodeConfig, identity: Identity | None, facts: Facts, tell: Tell
) -> Facts:
    if not what.initial_peers:
        return facts
    found = _Found()
    async with open_node(config) as node:
        tell("Asking the initial peers …")
        async with trio.open_nursery() as nursery:
            for address in what.initial_peers:
                nursery.start_soon(_enter, node, address, found)
        facts = replace(facts, entries=tuple(found.entries[one] for one in what.initial_peers))
        if not facts.entered:
            return facts
        async with open_dht(node, initial_peers=[entry.address for entry in facts.entered]):
            tell("Asking peers who they are and what time it is …")
            await _ask_all(node, identity, found)
            if identity is not None:
                key = await _in_use(node, identity, facts.key, found)
                facts = replace(facts, key=key)
            if not facts.only_here and not config.client_mode:
                tell("Waiting for peers to try to reach this one …")
                await _settle(node, what.settle_s)
            if what.measures:
                tell("Measuring how fast bytes come and go …")
                facts = replace(facts, bandwidth=await _measure(node, found))
            facts = replace(facts, report=node.net_report)
    foreign = tuple(
        PeerFacts(peer_id=peer_id, agent=agent or "unnamed", version="", clock_ahead_s=None)
        for peer_id, agent in found.foreign.items()
        if peer_id not in found.told
    )
    return replace(facts, peers=(*(_peer(found, peer_id) for peer_id in found.told), *foreign))


async def _enter(node: Node, address: str, found: _Found) -> None:
    """Connect to one initial peer; what became of it is kept."""
    cause = f"no answer in {_ENTRY_S:g} s"
    with trio.move_on_after(_ENTRY_S):
        try:
            peer_id = await node.connect_address(address)
            answer = await ping(node, peer_id)
        except UnreachableError as exc:
            cause = exc.attempts[0].cause if exc.attempts else str(exc)
        except AddressInvalid:
            raise
        except P2PError as exc:
            cause = str(exc)
        else:
            found.round_trips_s[peer_id] = answer.round_trip_s
            found.entries[address] = EntryFacts(
                address=address,
                outcome="answered",
                path=answer.path,
                round_trip_s=answer.round_trip_s,
            )
            return
    found.entries[address] = EntryFacts(address=address, outcome=outcome_of(cause), cause=cause)


async def _ask_all(node: Node, identity: Identity | None, found: _Found) -> None:
    async with trio.open_nursery() as nursery:
        for peer_id in node.connected_peers[:PEERS_ASKED_MAX]:
            nursery.start_soon(_ask, node, peer_id, identity, found)


async def _ask(node: Node, peer_id: PeerId, identity: Identity | None, found: _Found) -> None:
    try:
        begun_s = node.wall_time_s()
        told = await ask_about(node, peer_id, subject=identity, timeout_s=_ASK_S)
        middle_s = (begun_s + node.wall_time_s()) / 2
        found.clocks_ahead_s[peer_id] = told.wall_ms / 1000 - middle_s
        found.told[peer_id] = told
        with trio.move_on_after(_ASK_S):
            found.round_trips_s[peer_id] = (await ping(node, peer_id)).round_trip_s
    except P2PError:
        # Peers of other kinds do not serve this; what every libp2p peer tells must do.
        identified = await node.ask_who(peer_id)
        if identified is not None:
            found.foreign[peer_id] = identified.agent


async def _in_use(node: Node, identity: Identity, key: KeyFacts, found: _Found) -> KeyFacts:
    """Whether somebody else has our identity at this moment, and from where."""
    if not found.told:
        return key
    places: dict[str, InUse] = {}
    for told in found.told.values():
        ours = [told.sees_you_at] if identity.peer_id == node.peer_id else []
        for place in told.subject_at:
            if place not in ours:
                here = _host(place) == _host(told.sees_you_at)
                places[place] = "here" if here else "elsewhere"
    if not places and identity.peer_id != node.peer_id and node.addresses_of(identity.peer_id):
        # The swarm knows where it listens; if it proves its key there, it is there.
        with trio.move_on_after(_ASK_S):
            try:
                await node.connect(identity.peer_id)
            except UnreachableError:
                return replace(key, in_use="no")
            hosts = {one.host for one in interfaces()}
            for info in node.connections:
                if info.peer_id == identity.peer_id:
                    place_here = _host(info.address) in hosts
                    places[info.address] = "here" if place_here else "elsewhere"
    if not places:
        return replace(key, in_use="no")
    elsewhere = tuple(place for place, use in places.items() if use == "elsewhere")
    return replace(
        key, in_use="elsewhere" if elsewhere else "here", places=elsewhere or tuple(places)
    )


def _host(address: str) -> str:
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else ""


async def _settle(node: Node, settle_s: float) -> None:
    """Wait until it is known whether we are reachable, and how, but not for ever."""
    with trio.move_on_after(settle_s):
        while not _is_settled(node):  # noqa: ASYNC110 - a report tells nobody that it changed
            await trio.sleep(_LOOK_S)


def _is_settled(node: Node) -> bool:
    report = node.net_report
    if report.reachability == "public":
        return True
    return report.reachability == "private" and report.behind != "unknown" and bool(report.relays)


async def _measure(node: Node, found: _Found) -> BandwidthFacts | None:
    """With the nearest peer that lets us, unrelayed ones first."""
    relayed = {info.peer_id for info in node.connections if info.path == "relayed"}
    near = sorted(
        found.told, key=lambda peer: (peer in relayed, found.round_trips_s.get(peer, 9.0), peer)
    )
    facts: BandwidthFacts | None = None
    for peer_id in near[:_MEASURED_WITH_MAX]:
        facts = BandwidthFacts(peer_id=peer_id, path="direct")
        try:
            down = await measure_download(node, peer_id, seconds=_MEASURE_S)
            facts = replace(facts, path=down.path, down_bytes_per_s=down.bytes_per_s)
            up = await measure_upload(node, peer_id, seconds=_MEASURE_S)
            return replace(facts, up_bytes_per_s=up.bytes_per_s)
        except P2PError as exc:
            facts = replace(facts, why_not=str(exc))
        if facts.down_bytes_per_s is not None:
            return facts
    return facts


def _peer(found: _Found, peer_id: PeerId) -> PeerFacts:
    told = found.told[peer_id]
    return PeerFacts(
        peer_id=peer_id,
        agent=told.agent,
        version=told.version,
        clock_ahead_s=found.clocks_ahead_s[peer_id],
    )
