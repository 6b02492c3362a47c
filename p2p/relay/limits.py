"""RelayLimits: what a relay gives to others."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1_048_576


@dataclass(frozen=True, kw_only=True)
class RelayLimits:
    """What a relay gives to others: enough for control and small averaging, not for bulk."""

    reservations_max: int = 128
    """Peers that may hold a reservation at once. Source: go-libp2p, relay resources."""
    reservations_per_network_max: int = 32
    """The same from one /24 (IPv4) or /48 (IPv6), since keys cost nothing; a whole office may sit
    behind one address. Source: go-libp2p's limit by autonomous system."""
    reservation_life_s: int = 3_600
    """How long a reservation lasts unless refreshed. Source: as above."""
    requests_per_minute_and_peer: int = 60
    """Reservations and circuits that one peer may ask for, granted or not."""
    requests_per_minute_and_network: int = 600
    """The same from one network."""
    circuits_max: int = 256
    """Circuits at once."""
    circuits_per_peer_max: int = 64
    """Circuits that one peer may take part in, on either end: one to each member of a group."""
    circuit_duration_s: int = 3_600
    """How long a circuit lasts, idle or not."""
    circuit_bytes_each_way: int = 256 * _MIB
    """What a circuit carries in each direction."""
    circuit_bytes_per_s: int = 4 * _MIB
    """How fast, both directions together."""
    peer_bytes_per_s: int = 8 * _MIB
    """The same for all circuits that one peer takes part in."""
    peer_bytes_per_hour: int = 1_024 * _MIB
    """What all circuits of one peer carry in an hour."""
    bytes_per_s: int = 32 * _MIB
    """How fast all circuits together are."""
    bytes_per_hour: int = 32_768 * _MIB
    """What all circuits together carry in an hour."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")
