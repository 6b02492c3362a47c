"""Whereabouts: finds out how others can reach this node, keeps that current, and tells them.

each connection's peer says how it sees us        observed addresses, mapping kind
peers dial us back when asked                     a verdict for each address
the router, when asked for a port                 a mapped address
our interfaces, looked at every 10 s              a new network: all the above again
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

import trio

from p2p.address import CircuitAddress, TcpAddress, parse_address, parse_tcp_address, scope
from p2p.config import NodeConfig
from p2p.host.listen import interface_hosts
from p2p.host.transport import ConnectionInfo, Identified, OnIdentified, Transport
from p2p.nat.autonat import AUTONAT_PROTOCOL, Probe, ask_dial_back, serving_dial_back
from p2p.nat.classify import Facts, classify
from p2p.nat.observed import Observations, is_global
from p2p.nat.own_addresses import OwnAddresses
from p2p.nat.report import (
    AddressReport,
    Behind,
    NetReport,
    PortMapping,
    Reachability,
    RelayReport,
)
from p2p.nat.verdicts import Question, Server, Verdict, Verdicts
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId

if TYPE_CHECKING:
    # It loads miniupnpc, which simulations do without.
    from p2p.nat.portmap import PortMapper

logger = logging.getLogger(__name__)

NETWORK_LOOK_S = 10.0
_TICK_S = 10.0
_SUSPECTED_MAX = 2


class IdentifyingTransport(Transport, Protocol):
    """A transport that asks the peer of each connection how it sees us."""

    on_identified: list[OnIdentified]

    def identified(self, peer_id: PeerId) -> Identified | None:
        """What the peer said of itself on the newest connection that it answered on."""


@asynccontextmanager
async def open_whereabouts(
    node: Node,
    host: IdentifyingTransport,
    config: NodeConfig,
    *,
    probe: Probe,
    interfaces: Callable[[], tuple[str, ...]] = interface_hosts,
) -> AsyncIterator[Whereabouts]:
    """Keep the node's own addresses and its report current until the block ends.

    A node that listens on loopback only, or nowhere, only watches its interfaces.

    Args:
        probe: dials a peer back from a fresh port.
        interfaces: the hosts of this machine's interfaces.
    """
    async with open_service_nursery() as nursery, AsyncExitStack() as stack:
        here = Whereabouts(node, host, config, interfaces)
        nursery.start_soon(here.watch_network)
        if is_open_to_others(config):
            host.on_identified.append(here.on_identified)
            stack.callback(host.on_identified.remove, here.on_identified)
            if config.dial_back:
                stack.enter_context(serving_dial_back(host, probe))
                nursery.start_soon(here.ask_always)
        yield here


def is_open_to_others(config: NodeConfig) -> bool:
    """Whether the node listens anywhere but on loopback."""
    listening = [parse_tcp_address(text) for text in config.listen]
    return not config.client_mode and any(scope(one) != "loopback" for one in listening)


class Whereabouts:
    """What is known of our own addresses; every change is told to the transport at once."""

    def __init__(
        self,
        node: Node,
        host: IdentifyingTransport,
        config: NodeConfig,
        interfaces: Callable[[], tuple[str, ...]],
    ) -> None:
        self._node = node
        self._host = host
        self._find_interfaces = interfaces
        self._interface_hosts = interfaces()
        self._announced = tuple(parse_address(text) for text in config.announce)
        self._own = OwnAddresses(announced=self._announced, client_mode=config.client_mode)
        self._observations = Observations()
        self._verdicts = Verdicts(node.rng)
        self._port_mapping: PortMapping | None = None
        self.port_mapper: PortMapper | None = None
        """Who asks the router for a port, if anybody does."""
        self._relays: tuple[RelayReport, ...] = ()
        self._seen_hosts: dict[str, str | None] = {}
        self._news = trio.Event()
        self.on_network_changed: list[Callable[[], None]] = [node.on_network_changed]
        """Called when the addresses of our interfaces have changed, or when the internet sees us
        elsewhere."""
        self.on_seen_host: list[Callable[[str], None]] = []
        """Called with our IPv4 host as several peers of the internet see it, when it is new."""
        self.on_reachability: list[Callable[[Reachability], None]] = []
        """Called when outsiders begin or cease to get through to us, as far as we know."""
        self._told_reachability: Reachability = "unknown"
        self._own.on_interfaces(host.listening_on)
        self._refresh()

    # What others find out

    def on_identified(self, info: ConnectionInfo, identified: Identified) -> None:
        """A connection's peer says how it sees us; callable for Host.on_identified."""
        if identified.observed is not None and info.path != "relayed":
            observer = parse_tcp_address(info.address)
            now_s = trio.current_time()
            if self._observations.on_observed(info, observer, identified.observed, now_s):
                self._refresh()
        # It may be one who dials back.
        self._verdicts.on_connected(info.peer_id)
        self._wake()

    def on_mapped(self, mapping: PortMapping | None) -> None:
        """The router passes a port on to us, or no more."""
        self._port_mapping = mapping
        external = None
        if mapping is not None and mapping.useless_because is None:
            external = parse_tcp_address(mapping.external)
        self._own.on_mapped(external)
        self._refresh()

    def on_reserved(self, relays: tuple[RelayReport, ...]) -> None:
        """The reservations that we hold at relays now, the best first."""
        self._relays = relays
        circuits = (parse_address(one.address) for one in relays)
        self._own.on_reserved(tuple(one for one in circuits if isinstance(one, CircuitAddress)))
        self._refresh()

    async def watch_network(self) -> None:
        """Notice when the addresses of our interfaces change: another network, a cable is back."""
        while True:
            await trio.sleep(NETWORK_LOOK_S)
            now = self._find_interfaces()
            if now != self._interface_hosts:
                logger.info("network_changed addresses=%d", len(now))
                self._interface_hosts = now
                self._observations.on_interfaces(now)
                self._own.on_interfaces(self._host.listening_on)
                self._on_changed()

    def _on_changed(self) -> None:
        self._verdicts.on_changed(trio.current_time())
        for callback in tuple(self.on_network_changed):
            callback()
        self._refresh()

    # Asking for dial-back

    async def ask_always(self) -> None:
        """Put questions to peers whenever one is due, several at once."""
        async with trio.open_nursery() as nursery:
            while True:
                now_s = trio.current_time()
                self._observations.on_time(self._node.connections, now_s)
                self._verdicts.on_time(now_s)
                self._refresh()
                servers = self._servers()
                while question := self._verdicts.next_question(servers, now_s):
                    nursery.start_soon(self._ask, question)
                wake_at_s = min(self._verdicts.wake_at_s(servers), now_s + _TICK_S)
                with trio.move_on_at(wake_at_s):
                    await self._news.wait()

    async def _ask(self, question: Question) -> None:
        answer = await ask_dial_back(self._host, self._node.peer_id, question)
        before = self._verdict(question.address).reachability
        self._verdicts.on_answer(question, answer, trio.current_time())
        after = self._verdict(question.address)
        if after.reachability != before:
            logger.info(
                "reachability address=%s verdict=%s evidence=%r",
                question.address,
                after.reachability,
                after.evidence,
            )
        self._refresh()
        self._wake()

    def _servers(self) -> tuple[Server, ...]:
        """The peers that dial back, as far as we know, each where we are connected to it."""
        infos = [info for info in self._node.connections if info.path != "relayed"]
        # Whoever we have dialed from the listen port may get in where others do not.
        let_in = {parse_tcp_address(one.address).host for one in infos if one.from_listen_port}
        servers: dict[PeerId, Server] = {}
        for info in infos:
            identified = self._host.identified(info.peer_id)
            there = parse_tcp_address(info.address)
            if identified and AUTONAT_PROTOCOL in identified.protocols and is_global(there):
                servers[info.peer_id] = Server(info.peer_id, there.host, there.host not in let_in)
        return tuple(servers.values())

    def _candidates(self) -> Mapping[TcpAddress, frozenset[str]]:
        """The addresses of the internet that may lead to us, and who alone has told us of them."""
        observed = self._observations
        found: dict[TcpAddress, frozenset[str]] = {}
        mapped = []
        if self._port_mapping is not None and self._port_mapping.useless_because is None:
            mapped = [parse_tcp_address(self._port_mapping.external)]
        announced = [one for one in self._announced if isinstance(one, TcpAddress)]
        for one in (*announced, *mapped, *self._host.listening_on, *observed.confirmed()):
            found.setdefault(one, frozenset())
        # Whoever forwards a port by hand mostly forwards the same one.
        for port, kind in {(one.port, one.kind): None for one in self._host.listening_on}:
            if host := observed.external_host(kind):
                found.setdefault(TcpAddress(kind, host, port), frozenset())
            elif host := observed.suspected_host(kind):
                guess = TcpAddress(kind, host, port)
                found.setdefault(guess, observed.observers_of_host(host))
        if observed.mapping() != "endpoint-dependent":
            for one in observed.suspected()[:_SUSPECTED_MAX]:
                found.setdefault(one, observed.observers_of_host(one.host))
        return {replace(one, peer_id=None): by for one, by in found.items() if is_global(one)}

    # What follows

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _refresh(self) -> None:
        """Tell others what is known now."""
        known = self._verdicts.candidates
        self._verdicts.on_candidates(self._candidates(), trio.current_time())
        if self._verdicts.candidates != known:
            self._wake()
        self._own.on_observed(self._observations.confirmed())
        for address in dict.fromkeys((*known, *self._verdicts.candidates)):
            self._own.on_verdict(address, self._verdict(address).reachability)
        if self._own.addresses != self._host.addresses:
            self._host.set_addresses(self._own.addresses)
            logger.info("addresses_changed addresses=%s", ",".join(map(str, self._own.addresses)))
        seen = {kind: self._observations.external_host(kind) for kind in ("ip4", "ip6")}
        if any(seen[kind] and self._seen_hosts.get(kind) != seen[kind] for kind in seen):
            is_first = not any(self._seen_hosts.values())
            self._seen_hosts |= {kind: host for kind, host in seen.items() if host}
            for callback in tuple(self.on_seen_host):
                if host := self._seen_hosts.get("ip4"):
                    callback(host)
            if not is_first:
                self._on_changed()

        if self.reachability != self._told_reachability:
            self._told_reachability = self.reachability
            for tell in tuple(self.on_reachability):
                tell(self.reachability)

    def punchable(self) -> tuple[TcpAddress, ...]:
        """Where outsiders may meet our listen port if we dial out at the same moment."""
        observed = (*self._observations.confirmed(), *self._observations.suspected())
        mapped: tuple[TcpAddress, ...] = ()
        if self._port_mapping is not None and self._port_mapping.useless_because is None:
            mapped = (parse_tcp_address(self._port_mapping.external),)
        return tuple(dict.fromkeys((*mapped, *observed)))

    # Report

    def _verdict(self, address: TcpAddress) -> Verdict:
        return self._verdicts.verdict(address, trio.current_time())

    def report_on(self, plain: NetReport) -> NetReport:
        """A report on addresses and connections, with what is known of the way to us."""
        mapper = self.port_mapper
        return replace(
            plain,
            reachability=self._reachability(),
            mapping=self._observations.mapping(),
            behind=self._behind(),
            details=self._details(),
            port_mapping=self._port_mapping,
            port_mapping_problem=mapper.problem if mapper else None,
            relays=self._relays,
        )

    @property
    def reachability(self) -> Reachability:
        """Whether outsiders get through to us at any address."""
        return self._reachability()

    def _reachability(self, kind: str | None = None) -> Reachability:
        """Public if any address is; private if those of which anything is known are."""
        if self._node.client_mode:
            return "private"
        verdicts = {
            self._verdict(one).reachability
            for one in self._verdicts.candidates
            if kind in (None, one.kind)
        }
        if "public" in verdicts:
            return "public"
        return "private" if "private" in verdicts else "unknown"

    def _behind(self) -> Behind:
        """Of IPv4 where anything is known of it: most peers have no other."""
        four = self._behind_in("ip4")
        return four if four != "unknown" else self._behind_in("ip6")

    def _behind_in(self, kind: str) -> Behind:
        version = 4 if kind == "ip4" else 6
        local = [host for host in self._interface_hosts if ip_address(host).version == version]
        router = None
        if self._port_mapping is not None:
            external = parse_tcp_address(self._port_mapping.external)
            router = external.host if external.kind == kind else None
        return classify(
            Facts(
                local_hosts=tuple(host for host in local if not ip_address(host).is_loopback),
                seen_host=self._observations.suspected_host(kind),
                router_host=router,
                router_has_no_host=kind == "ip4" and self._router_has_no_host(),
                reachability=self._reachability(kind),
            )
        )

    def _router_has_no_host(self) -> bool:
        return self.port_mapper is not None and self.port_mapper.has_no_address

    def _details(self) -> tuple[AddressReport, ...]:
        reports = []
        for address, source in self._own.sources().items():
            if isinstance(address, CircuitAddress):
                verdict = Verdict("public", "The relay has promised to pass others on to us.")
            else:
                verdict = self._verdict(address)
            text = str(address.of(self._node.peer_id))
            reports.append(AddressReport(text, source, verdict.reachability, verdict.evidence))
        return tuple(reports)
