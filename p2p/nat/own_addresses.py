"""Own addresses: what we tell others to dial, from all who know one of our addresses (core).

    announced       what the operator says; stands for all others but circuits
    mapped          the outside end of a port that the router passes on to us, while it is of use
    observed        what several peers saw, or what a dial-back has reached
    interface       what our own interfaces have: of use to neighbours even behind a firewall
    relay           where relays that we hold a reservation at pass others on to us

Loopback is told only where we listen on nothing else. What dial-back found private is not told,
unless it is an interface's. A client tells nothing but its circuits.
"""

from __future__ import annotations

from p2p.address import Address, CircuitAddress, TcpAddress, scope
from p2p.nat.report import Reachability, Source

ADDRESSES_MAX = 8
"""As many as the DHT and the peerstores of others keep of one peer."""
_CIRCUITS_MAX = 3


class OwnAddresses:
    """Collects our addresses from all sources, and says which to tell others."""

    def __init__(self, *, announced: tuple[Address, ...] = (), client_mode: bool = False) -> None:
        self._announced = announced
        self._client_mode = client_mode
        self._interfaces: tuple[TcpAddress, ...] = ()
        self._observed: tuple[TcpAddress, ...] = ()
        self._mapped: TcpAddress | None = None
        self._circuits: tuple[CircuitAddress, ...] = ()
        self._verdicts: dict[TcpAddress, Reachability] = {}

    def on_interfaces(self, addresses: tuple[TcpAddress, ...]) -> None:
        """Where our interfaces can be dialed now."""
        self._interfaces = () if self._client_mode else addresses

    def on_observed(self, addresses: tuple[TcpAddress, ...]) -> None:
        """The addresses of ours that several peers agree on now, the best known first."""
        self._observed = () if self._client_mode else addresses

    def on_mapped(self, external: TcpAddress | None) -> None:
        """The outside end of a port mapping that is of use, or None when there is none."""
        self._mapped = None if self._client_mode else external

    def on_reserved(self, circuits: tuple[CircuitAddress, ...]) -> None:
        """Where we can be reached through relays now, the best first."""
        self._circuits = circuits

    def on_verdict(self, address: TcpAddress, reachability: Reachability) -> None:
        """What dial-back says of an address now; unknown also forgets it."""
        if reachability == "unknown":
            self._verdicts.pop(address, None)
        else:
            self._verdicts[address] = reachability

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What to tell others, the likeliest to be of use first; at most ADDRESSES_MAX."""
        circuits = self._circuits[:_CIRCUITS_MAX]
        direct = self._announced or self._found()
        return (*direct[: ADDRESSES_MAX - len(circuits)], *circuits)

    def _found(self) -> tuple[TcpAddress, ...]:
        interfaces = [one for one in self._interfaces if scope(one) != "loopback"]
        public = [one for one in interfaces if scope(one) == "public"]
        private = [one for one in interfaces if scope(one) == "private"]
        outside = [
            one
            for one in (self._mapped, *self._reached(), *self._observed)
            if one is not None and self._verdicts.get(one) != "private"
        ]
        best_first = sorted(
            dict.fromkeys((*public, *outside)),
            key=lambda one: ("public", "unknown", "private").index(
                self._verdicts.get(one, "unknown")
            ),
        )
        return tuple(dict.fromkeys((*best_first, *private))) or self._interfaces

    def _reached(self) -> tuple[TcpAddress, ...]:
        """What a dial-back reached though too few peers, or none, had observed it."""
        return tuple(one for one, verdict in self._verdicts.items() if verdict == "public")

    def sources(self) -> dict[Address, Source]:
        """Every address known now, told to others or not, and how we came to it."""
        found: dict[Address, Source] = {one: "announced" for one in self._announced}
        if self._mapped is not None:
            found.setdefault(self._mapped, "mapped")
        for one in self._interfaces:
            found.setdefault(one, "interface")
        for one in (*self._observed, *self._verdicts):
            found.setdefault(one, "observed")
        for circuit in self._circuits:
            found.setdefault(circuit, "relay")
        return found
