"""NetReport: how others can reach this node, as far as it knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NetReport:
    """A node's own addresses and connections; whether outsiders get through is not probed."""

    addresses: tuple[str, ...]
    """What we tell others to dial; empty for a client."""
    client_mode: bool
    """Whether the node was told that it cannot be dialed."""
    connections_direct: int
    connections_punched: int
    connections_relayed: int

    def __str__(self) -> str:
        reach = "client only" if self.client_mode else ", ".join(self.addresses)
        total = self.connections_direct + self.connections_punched + self.connections_relayed
        return f"reachable at {reach or 'no address'}; {total} connections"
