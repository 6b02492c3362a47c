"""Contacts, and how many of them are of one address range: so that no owner of one fills a list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from p2p.address import CircuitAddress, network_of, parse_address_untrusted, scope
from p2p.errors import MessageInvalid
from p2p.peer_id import PeerId

PEERS_PER_NETWORK_MAX = 2
"""Preferred limit of peers of one /24 or /48 in a bucket or among a record's holders."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer of the DHT: who it is, where it sits, where it may be dialed."""

    peer_id: PeerId
    key: int
    addresses: tuple[str, ...] = ()


@lru_cache(maxsize=65536)
def networks_of(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The public address ranges (/24, /48) that these addresses fall into; private ones none."""
    networks: dict[str, None] = {}
    for text in addresses:
        try:
            address = parse_address_untrusted(text)
        except MessageInvalid:
            # A kind of address that we do not know says nothing of its owner.
            continue
        if isinstance(address, CircuitAddress):
            # It tells where the relay is.
            continue
        if scope(address) == "public":
            networks[network_of(address.host)] = None
    return tuple(networks)


class NetworkTally:
    """Counts peers by address range, so that no owner of one range fills a list."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def crowded(self, contact: Contact) -> bool:
        """Whether one of the contact's ranges has its share already."""
        for network in networks_of(contact.addresses):
            if self._counts.get(network, 0) >= PEERS_PER_NETWORK_MAX:
                return True
        return False

    def over(self, contact: Contact) -> bool:
        """Whether one of the contact's ranges has more than its share."""
        for network in networks_of(contact.addresses):
            if self._counts.get(network, 0) > PEERS_PER_NETWORK_MAX:
                return True
        return False

    def add_unless_crowded(self, contact: Contact) -> bool:
        """Count a contact if none of its ranges has its share already; returns whether it did."""
        networks, counts = networks_of(contact.addresses), self._counts
        for network in networks:
            if counts.get(network, 0) >= PEERS_PER_NETWORK_MAX:
                return False
        for network in networks:
            counts[network] = counts.get(network, 0) + 1
        return True

    def add(self, contact: Contact) -> None:
        """Count a contact."""
        for network in networks_of(contact.addresses):
            self._counts[network] = self._counts.get(network, 0) + 1


def choose_diverse(contacts: Iterable[Contact], count: int) -> list[Contact]:
    """The first ``count`` contacts, passing over crowded address ranges while others are left."""
    tally = NetworkTally()
    chosen: list[Contact] = []
    crowded: list[Contact] = []
    for contact in contacts:
        if len(chosen) == count:
            break
        (chosen if tally.add_unless_crowded(contact) else crowded).append(contact)
    return chosen + crowded[: count - len(chosen)]
