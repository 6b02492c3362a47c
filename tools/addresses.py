"""Which of a peer's addresses to pass on, and what to type with it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


def farthest_first(addresses: Iterable[str]) -> tuple[str, ...]:
    """Sort multiaddresses so that those which more computers can dial come first.

    A way through a relay reaches as far as the relay's own address, and comes after direct ones
    that do.
    """

    def nearness(address: str) -> float:
        detour = 0.5 if "/p2p-circuit" in address else 0.0
        try:
            host = ipaddress.ip_address(address.split("/")[2])
        except (IndexError, ValueError):
            return detour  # a name: whoever announces one means it for others
        if host.is_loopback or host.is_link_local:
            return 2 + detour
        return (1 if host.is_private else 0) + detour

    return tuple(sorted(addresses, key=nearness))


def join_command(address: str) -> str:
    """What another computer types to train with the peer at this address."""
    return f"manyhands train digits --initial-peers {address}"
