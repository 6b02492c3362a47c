"""What we know of other peers: where they listen, kept within bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from p2p.address import (
    Address,
    CircuitAddress,
    first_hop,
    is_unspecified,
    parse_address_untrusted,
    sort_addresses,
)
from p2p.errors import MessageInvalid
from p2p.identity import parse_peer_id_untrusted
from p2p.peer_id import PeerId
from p2p.peerstore_file import SavedPeer

_PEERS_MAX = 10_000
_ADDRESSES_PER_PEER_MAX = 8
_PROVEN_PER_PEER_MAX = 2


class Peerstore:
    """Addresses by peer, in memory; the peers unused for longest are forgotten first.

    Anyone can tell us anything of a peer: new addresses displace old ones, but never those where
    the peer has proved its identity to us.
    """

    def __init__(self, *, peers_max: int = _PEERS_MAX) -> None:
        self._peers_max = peers_max
        self._addresses: OrderedDict[PeerId, tuple[Address, ...]] = OrderedDict()
        self._proven: dict[PeerId, tuple[Address, ...]] = {}
        self._seen_at_s: dict[PeerId, float] = {}

    def add_untrusted(self, peer_id: PeerId, addresses: Iterable[str]) -> None:
        """Remember addresses, the newest first; what is no address of this peer is left out."""
        fresh: list[Address] = []
        for text in addresses:
            try:
                address = parse_address_untrusted(text)
            except MessageInvalid:
                # Newer peers may announce kinds of addresses that we do not know.
                continue
            if address.peer_id not in (None, peer_id) or not is_dialable(address):
                continue
            if isinstance(address, CircuitAddress) and address.relay_id == peer_id:
                continue
            fresh.append(address.of(peer_id))
            if len(fresh) == _ADDRESSES_PER_PEER_MAX:
                break
        if fresh:
            self._put(peer_id, tuple(fresh))

    def on_reached(self, peer_id: PeerId, address: Address) -> None:
        """The peer has proved its identity at this address; circuits displace no direct ones."""
        proven = dict.fromkeys((address.of(peer_id), *self._proven.get(peer_id, ())))
        direct_first = sorted(proven, key=lambda one: isinstance(one, CircuitAddress))
        self._proven[peer_id] = tuple(direct_first)[:_PROVEN_PER_PEER_MAX]
        self._put(peer_id, ())

    def touch(self, peer_id: PeerId, now_s: float) -> None:
        """We have to do with this peer now (seconds since 1970)."""
        if peer_id in self._addresses:
            self._seen_at_s[peer_id] = now_s

    def copy(self) -> Peerstore:
        """What is known now, for another thread to write down."""
        copied = Peerstore(peers_max=self._peers_max)
        copied._addresses = self._addresses.copy()
        copied._proven = self._proven.copy()
        copied._seen_at_s = self._seen_at_s.copy()
        return copied

    def proven(self) -> Iterator[tuple[PeerId, Address]]:
        """Where peers have proved their identity to us."""
        for peer_id, addresses in self._proven.items():
            for address in addresses:
                yield peer_id, address

    def saved(self) -> list[SavedPeer]:
        """What is worth writing down: all peers, those unused for longest first."""
        return [
            SavedPeer(
                peer_id,
                tuple(map(str, addresses)),
                tuple(map(str, self._proven.get(peer_id, ()))),
                self._seen_at_s.get(peer_id, 0.0),
            )
            for peer_id, addresses in self._addresses.items()
        ]

    def restore_untrusted(self, peers: Iterable[SavedPeer]) -> None:
        """Take up what was written down; what is no peer or no address of it is left out."""
        for peer in peers:
            try:
                parse_peer_id_untrusted(peer.peer_id)
            except MessageInvalid:
                continue
            self.add_untrusted(peer.peer_id, peer.addresses)
            for text in reversed(peer.proven):
                if text in map(str, self._addresses.get(peer.peer_id, ())):
                    self.on_reached(peer.peer_id, parse_address_untrusted(text))
            self.touch(peer.peer_id, peer.seen_at_s)

    def _put(self, peer_id: PeerId, fresh: tuple[Address, ...]) -> None:
        proven = self._proven.get(peer_id, ())
        others = dict.fromkeys((*fresh, *self._addresses.get(peer_id, ())))
        for address in proven:
            others.pop(address, None)
        room = _ADDRESSES_PER_PEER_MAX - len(proven)
        self._addresses[peer_id] = (*proven, *tuple(others)[:room])
        self._addresses.move_to_end(peer_id)
        if len(self._addresses) > self._peers_max:
            forgotten, _ = self._addresses.popitem(last=False)
            self._proven.pop(forgotten, None)
            self._seen_at_s.pop(forgotten, None)

    def addresses_of(self, peer_id: PeerId) -> tuple[Address, ...]:
        """Known addresses, public before private before loopback, circuits last."""
        return sort_addresses(self._addresses.get(peer_id, ()))

    def forget(self, peer_id: PeerId) -> None:
        """Drop what is known of a peer."""
        self._addresses.pop(peer_id, None)
        self._proven.pop(peer_id, None)
        self._seen_at_s.pop(peer_id, None)


def is_dialable(address: Address) -> bool:
    """Whether a dial can make sense: port 0 and 0.0.0.0 are for listening only."""
    return first_hop(address).port > 0 and not is_unspecified(address)
