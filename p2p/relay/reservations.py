"""Who has reserved at this relay, and what its circuits may carry (core).

A reservation lasts until it expires or its peer disconnects. A circuit lasts until one of its
ends goes, its time is up, or one direction has carried its bytes; an idle one ends in time, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from p2p.address import network_of
from p2p.peer_id import PeerId
from p2p.relay.schema import Status


@dataclass(frozen=True, kw_only=True)
class RelayLimits:
    """What a relay gives to others."""

    reservations_max: int = 128
    """Peers that may hold a reservation at once. Source: go-libp2p, relay resources."""
    reservations_per_network_max: int = 8
    """The same from one /24 (IPv4) or /48 (IPv6), since keys cost nothing. Source: as above."""
    reservation_life_s: int = 3_600
    """How long a reservation lasts unless refreshed. Source: as above."""
    circuits_max: int = 256
    """Circuits at once."""
    circuits_per_peer_max: int = 16
    """Circuits that one peer may take part in, on either end. Source: as above."""
    circuit_duration_s: int = 120
    """How long a circuit lasts, idle or not. Source: as above."""
    circuit_bytes_each_way: int = 131_072
    """What a circuit carries in each direction: enough to find a better path. Source: as above."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")


@dataclass(frozen=True)
class _Held:
    """One peer's reservation."""

    network: str
    expires_at_s: float


@dataclass(frozen=True)
class Circuit:
    """A circuit that may be opened now."""

    number: int
    source: PeerId
    target: PeerId
    ends_at_s: float


class Reservations:
    """Grants reservations and circuits within the limits."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._held: dict[PeerId, _Held] = {}
        self._circuits: dict[int, Circuit] = {}
        self._left_bytes: dict[tuple[int, PeerId], int] = {}
        self._next_number = 0

    @property
    def circuits(self) -> int:
        """How many are open."""
        return len(self._circuits)

    def holders(self, now_s: float) -> tuple[PeerId, ...]:
        """The peers that hold a reservation."""
        return tuple(peer for peer, held in self._held.items() if held.expires_at_s > now_s)

    def on_reserve(self, peer_id: PeerId, host: str, now_s: float) -> float | None:
        """A request, perhaps to refresh: until when it is granted, or None when we are full."""
        self._drop_expired(now_s)
        others = [held for peer, held in self._held.items() if peer != peer_id]
        network = network_of(host)
        near = sum(held.network == network for held in others)
        if (
            len(others) >= self._limits.reservations_max
            or near >= self._limits.reservations_per_network_max
        ):
            # A refresh from a place that is full now keeps what it has until that expires.
            return None
        expires_at_s = now_s + self._limits.reservation_life_s
        self._held[peer_id] = _Held(network, expires_at_s)
        return expires_at_s

    def on_disconnected(self, peer_id: PeerId) -> None:
        """The peer has no connection to us any more."""
        self._held.pop(peer_id, None)

    def on_connect(self, source: PeerId, target: PeerId, now_s: float) -> Circuit | Status:
        """A peer wants to reach another: the circuit, counted from now on, or why not."""
        self._drop_expired(now_s)
        if target not in self._held:
            return Status.NO_RESERVATION
        if source == target:
            return Status.PERMISSION_DENIED
        of_peer = Counter(
            peer for one in self._circuits.values() for peer in (one.source, one.target)
        )
        if (
            len(self._circuits) >= self._limits.circuits_max
            or max(of_peer[source], of_peer[target]) >= self._limits.circuits_per_peer_max
        ):
            return Status.RESOURCE_LIMIT_EXCEEDED
        ends_at_s = now_s + self._limits.circuit_duration_s
        circuit = Circuit(self._next_number, source, target, ends_at_s)
        self._next_number += 1
        self._circuits[circuit.number] = circuit
        for end in (source, target):
            self._left_bytes[circuit.number, end] = self._limits.circuit_bytes_each_way
        return circuit

    def on_bytes(self, circuit: Circuit, sender: PeerId, size_bytes: int) -> int:
        """Bytes to carry: how many of them may pass; fewer than asked ends the circuit."""
        left = self._left_bytes.get((circuit.number, sender), 0)
        passed = min(left, size_bytes)
        if passed:
            self._left_bytes[circuit.number, sender] = left - passed
        return passed

    def on_circuit_over(self, circuit: Circuit) -> None:
        """The circuit has ended, or could not be opened."""
        self._circuits.pop(circuit.number, None)
        for end in (circuit.source, circuit.target):
            self._left_bytes.pop((circuit.number, end), None)

    def _drop_expired(self, now_s: float) -> None:
        for peer in [peer for peer, held in self._held.items() if held.expires_at_s <= now_s]:
            del self._held[peer]
