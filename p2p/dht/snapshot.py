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
    """Peers that it had heard itself, nearest to it first."""


def to_bytes(sequence: int, own_key: int, confirmed: Iterable[Contact]) -> bytes:
    """The bytes to be written down."""
    nearest_first = sorted(confirmed, key=lambda contact: contact.key ^ own_key)
    contacts = (
        WireContact(contact.peer_id, contact.addresses)
        for contact in _spread(nearest_first, CONTACTS_MAX)
    )
    return _MAGIC + encode(_Saved(sequence, tuple(contacts)))


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
