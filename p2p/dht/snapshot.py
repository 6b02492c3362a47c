"""Snapshots: what a node of the DHT writes down, so that it is back at once after a restart (core).

Whom it knew and where they could be dialed, and the highest number that it signed a record with.
The file is ours, but disks and other programs err: it is checked like what comes from the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from p2p.dht.contact import Contact
from p2p.dht.record import SEQUENCE_MAX
from p2p.dht.schema import WireContact, contacts_untrusted
from p2p.errors import MessageInvalid
from p2p.wire import Message, decode_untrusted, encode

FIRST_TRIED = 16
"""Of those known before a restart, so many are greeted at once: most live, and one is enough."""
CONTACTS_MAX = 256
"""A table of a swarm of a million nodes has about so many."""
SIZE_BYTES_MAX = 512 * 1024
_MAGIC = b"manyhands dht 1\n"


class _Saved(Message, frozen=True):
    sequence: Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
    contacts: Annotated[tuple[WireContact, ...], Meta(max_length=CONTACTS_MAX)]


@dataclass(frozen=True)
class Snapshot:
    """What a node knew when it wrote it down."""

    sequence: int = 0
    """The highest number of a record of its own."""
    contacts: tuple[Contact, ...] = ()
    """Peers that it had heard itself, nearest to it first; then some that it had known before."""


def to_bytes(
    sequence: int, own_key: int, confirmed: Iterable[Contact], remembered: Iterable[Contact] = ()
) -> bytes:
    """The bytes to be written down.

    Args:
        remembered: whom we knew at our start. While we have heard nobody since, our network may be
            down, and all are kept; then only as many as the next start will try.
    """

    def nearest(contacts: Iterable[Contact], count: int) -> list[Contact]:
        return _spread(sorted(contacts, key=lambda contact: contact.key ^ own_key), count)

    contacts = nearest(confirmed, CONTACTS_MAX)
    heard = {contact.peer_id for contact in contacts}
    unheard = (contact for contact in remembered if contact.peer_id not in heard)
    count = FIRST_TRIED if contacts else CONTACTS_MAX
    contacts += nearest(unheard, max(0, count - len(contacts)))
    wires = (WireContact(contact.peer_id, contact.addresses) for contact in contacts)
    return _MAGIC + encode(_Saved(sequence, tuple(wires)))


def from_bytes_untrusted(data: bytes) -> Snapshot:
    """What was written down; raises MessageInvalid when it is damaged, or no snapshot at all."""
    if not data.startswith(_MAGIC):
        raise MessageInvalid("not a snapshot of a node of the DHT")
    saved = decode_untrusted(data[len(_MAGIC) :], _Saved, size_bytes_max=SIZE_BYTES_MAX)
    return Snapshot(saved.sequence, tuple(contacts_untrusted(saved.contacts)))


def first_to_try(snapshot: Snapshot, count: int) -> list[Contact]:
    """Whom to greet after a restart: half neighbours, half from all over the key space."""
    return _spread(list(snapshot.contacts), count)


def _spread(nearest_first: list[Contact], count: int) -> list[Contact]:
    if len(nearest_first) <= count:
        return nearest_first
    near, far = nearest_first[: count // 2], nearest_first[count // 2 :]
    wanted = count - len(near)
    return near + [far[index * len(far) // wanted] for index in range(wanted)]
