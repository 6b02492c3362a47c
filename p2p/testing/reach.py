"""Who reaches whom in a simulated network: peers behind routers, relays, and punched paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from p2p.address import CircuitAddress
from p2p.host.transport import DialError
from p2p.nat.report import NetReport, Reachability
from p2p.peer_id import PeerId
from p2p.relay.schema import CircuitLimit

if TYPE_CHECKING:
    from p2p.testing.transport import SimTransport


class SimWhereabouts:
    """What a simulated node knows of how others reach it: what the network decided, at once."""

    def __init__(self) -> None:
        self.reachability: Reachability = "unknown"
        self.on_reachability: list[Callable[[Reachability], None]] = []

    def report_on(self, plain: NetReport) -> NetReport:
        """The report with the verdict."""
        return replace(plain, reachability=self.reachability)

    def on_verdict(self, reachability: Reachability) -> None:
        """Outsiders begin or cease to get through."""
        if reachability != self.reachability:
            self.reachability = reachability
            for tell in tuple(self.on_reachability):
                tell(reachability)


class Reach:
    """Which peers cannot be dialed, which relays pass others on to them, who can punch."""

    def __init__(self, transports: Mapping[PeerId, SimTransport]) -> None:
        self.private: dict[PeerId, None] = {}
        self.relays: dict[PeerId, CircuitLimit] = {}
        self.circuits_cut = 0
        self._transports = transports
        self._punchable: dict[frozenset[PeerId], None] = {}

    def let_punch(self, a: PeerId, b: PeerId, possible: bool) -> None:
        """Whether two peers get a punched path once they have met through a relay."""
        if possible:
            self._punchable[frozenset((a, b))] = None
        else:
            self._punchable.pop(frozenset((a, b)), None)

    def can_punch(self, a: PeerId, b: PeerId) -> bool:
        """Whether a dial of one to the other gets through while the other dials, too."""
        return frozenset((a, b)) in self._punchable

    def behind(
        self, dialer: PeerId, address: CircuitAddress, target: PeerId
    ) -> tuple[SimTransport, CircuitLimit]:
        """Who is reached by a circuit, and what it carries; raises DialError."""
        relay, reached = self._transports.get(address.relay_id), self._transports.get(target)
        if relay is None or address.relay_id not in self.relays:
            raise DialError("the relay cannot be reached: connection refused")
        if dialer == address.relay_id:
            raise DialError("that relay is ourselves")
        if reached is None or replace(address, peer_id=None) not in reached.addresses:
            raise DialError("the relay has no reservation for it")
        return reached, self.relays[address.relay_id]

    def update(self) -> None:
        """Have private peers hold places at all relays, and tell others so."""
        circuits = [
            CircuitAddress(replace(relay.listening, peer_id=peer_id))
            for peer_id in self.relays
            if (relay := self._transports.get(peer_id)) is not None
        ]
        for peer_id, transport in self._transports.items():
            own = transport.addresses
            if peer_id in self.private:
                ways = [one for one in circuits if one.relay_id != peer_id]
                transport.set_addresses((*transport.listening_on, *ways))
                for way in ways:
                    transport.reserve(way.relay)
            elif any(isinstance(one, CircuitAddress) for one in own):
                transport.set_addresses(transport.listening_on)
