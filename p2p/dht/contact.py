"""Contacts, and how many of them are of one address range: so that no owner of one fills a list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
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
    seen_in: str | None = None
    """The public address range of its connection to us; None if it has none, or is private."""
    networks: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The public address ranges that it is in, or says so; worked out once, as every choice of
    contacts asks for them."""
    elsewhere: bool = field(init=False, repr=False, compare=False)
    """Whether all that it says of its addresses is of other ranges than where we see it: they may
    be a third party's, or false, to pass for a peer of many ranges."""

    def __post_init__(self) -> None:
        networks, seen_in = networks_of(self.addresses), self.seen_in
        elsewhere = seen_in is not None and seen_in not in networks
        if elsewhere and seen_in is not None:
            networks = (*networks, seen_in)
        object.__setattr__(self, "networks", networks)
        object.__setattr__(self, "elsewhere", elsewhere)


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
        for network in contact.networks:
            if self._counts.get(network, 0) >= PEERS_PER_NETWORK_MAX:
                return True
        return False

    def over(self, contact: Contact) -> bool:
        """Whether one of the contact's ranges has more than its share."""
        for network in contact.networks:
            if self._counts.get(network, 0) > PEERS_PER_NETWORK_MAX:
                return True
        return False

    def add(self, contact: Contact) -> None:
        """Count a contact."""
        for network in contact.networks:
            self._counts[network] = self._counts.get(network, 0) + 1


def is_diverse(contacts: Iterable[Contact]) -> bool:
    """Whether no address range has more than its share of these."""
    counts: dict[str, int] = {}
    for contact in contacts:
        for network in contact.networks:
            count = counts[network] = counts.get(network, 0) + 1
            if count > PEERS_PER_NETWORK_MAX:
                return False
    return True


def choose_diverse(contacts: Iterable[Contact], count: int) -> list[Contact]:
    """The first ``count`` contacts, passing over crowded address ranges while others are left.

    No more of them are looked at than are needed; ``count`` is 1 or more, or there are none.
    """
    # As a NetworkTally counts, but without a call for each contact: every answer to a lookup asks.
    counts: dict[str, int] = {}
    chosen: list[Contact] = []
    crowded: list[Contact] = []
    for contact in contacts:
        for network in contact.networks:
            if counts.get(network, 0) >= PEERS_PER_NETWORK_MAX:
                crowded.append(contact)
                break
        else:
            for network in contact.networks:
                counts[network] = counts.get(network, 0) + 1
            chosen.append(contact)
            if len(chosen) == count:
                break
    return chosen + crowded[: count - len(chosen)]
