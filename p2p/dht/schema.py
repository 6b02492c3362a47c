"""The messages of the DHT, /manyhands/dht/1, and their limits.

Every request names where its sender can be dialed (nothing: it is a client, and enters no
routing table); every answer says what time its sender believes it is. Times to live are relative.
All but PING and LEAVE carry several items at once, answered in order.

    PING                                  -> PONG
    FIND_NODE   targets                   -> the nearest contacts, per target
    FIND_VALUE  key, subkey or dictionary -> records and the nearest contacts, per query
    STORE       records, grouped by key   -> what became of each
    LEAVE                                 -> LEFT
    ASK_STATS                             -> STATS
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from msgspec import Meta

from p2p.dht.contact import Contact
from p2p.dht.key import KEY_SIZE_BYTES, node_key
from p2p.dht.record import SEQUENCE_MAX, Record
from p2p.errors import MessageInvalid
from p2p.identity import parse_peer_id_untrusted
from p2p.rpc import Method
from p2p.wire import Message

SERVICE = "dht"
MAJOR = 1

CONTACTS_MAX = 20
"""Contacts in one answer, per target."""
ADDRESSES_MAX = 8
ADDRESSES_PASSED_ON_MAX = 4
"""Of each contact that an answer names; with the lengths below an answer fits its limit."""
ADDRESS_LENGTH_MAX = 160
TARGETS_MAX = 16
"""Keys in one FIND_NODE."""
QUERIES_MAX = 8
"""Queries in one FIND_VALUE."""
RECORDS_MAX = 512
"""Records in one STORE or one answer."""
STORE_BYTES_MAX = 65_536
REASON_LENGTH_MAX = 128
ANSWER_BYTES_MAX = 262_144
PAGE_BYTES_MAX = 98_304
"""How many bytes of records one answer carries; the rest of a dictionary is asked for."""

_LIFE_MS_MAX = 7 * 86_400_000
_WALL_MS_MAX = 2**53

Key = Annotated[bytes, Meta(min_length=KEY_SIZE_BYTES, max_length=KEY_SIZE_BYTES)]
PeerText = Annotated[str, Meta(min_length=1, max_length=64)]
AddressText = Annotated[str, Meta(min_length=1, max_length=ADDRESS_LENGTH_MAX)]
Addresses = Annotated[tuple[AddressText, ...], Meta(max_length=ADDRESSES_MAX)]
KeyText = Annotated[str, Meta(min_length=1, max_length=256)]
SubkeyText = Annotated[str, Meta(max_length=128)]
Value = Annotated[bytes, Meta(max_length=32_768)]
Milliseconds = Annotated[int, Meta(ge=0, le=_LIFE_MS_MAX)]
WallMilliseconds = Annotated[int, Meta(ge=0, le=_WALL_MS_MAX)]
SequenceNumber = Annotated[int, Meta(ge=0, le=SEQUENCE_MAX)]
Counter = Annotated[int, Meta(ge=0, le=2**62)]
Count = Annotated[int, Meta(ge=0, le=CONTACTS_MAX)]


class Ping(Message, frozen=True):
    """Are you there?"""

    addresses: Addresses


class Pong(Message, frozen=True):
    """I am."""

    wall_ms: WallMilliseconds


class WireContact(Message, frozen=True):
    """A peer and where it can be dialed."""

    peer_id: PeerText
    addresses: Addresses


Contacts = Annotated[tuple[WireContact, ...], Meta(max_length=CONTACTS_MAX)]


class FindNode(Message, frozen=True):
    """Who is nearest to these keys?"""

    addresses: Addresses
    targets: Annotated[tuple[Key, ...], Meta(min_length=1, max_length=TARGETS_MAX)]
    count: Count


class FoundNodes(Message, frozen=True):
    """Per target, contacts that the answerer has heard itself, nearest first."""

    wall_ms: WallMilliseconds
    contacts: Annotated[tuple[Contacts, ...], Meta(max_length=TARGETS_MAX)]


class WireRecord(Message, frozen=True):
    """A record without its key, and what is left of its life."""

    subkey: SubkeyText | None
    value: Value
    remaining_ms: Milliseconds
    sequence: SequenceNumber = 0
    life_ms: Milliseconds = 0
    signed_at_ms: WallMilliseconds = 0
    signature: Annotated[bytes, Meta(max_length=64)] = b""


class Query(Message, frozen=True):
    """A value that is sought: one subkey, the plain value (None), or the dictionary."""

    key: Key
    subkey: SubkeyText | None = None
    dictionary: bool = False
    after: SubkeyText = ""
    """With dictionary: only subkeys that sort behind this one."""
    since_boot: Counter = 0
    """With dictionary: the answerer's boot when we last read it; 0 when we did not."""
    since_change: Counter = 0
    """And its number of changes then: if it has the same boot, only what changed after it."""


class FindValue(Message, frozen=True):
    """What do you hold under these keys, and who is nearest to them?"""

    addresses: Addresses
    queries: Annotated[tuple[Query, ...], Meta(min_length=1, max_length=QUERIES_MAX)]
    count: Count


class Found(Message, frozen=True):
    """The answer to one query."""

    contacts: Contacts
    records: Annotated[tuple[WireRecord, ...], Meta(max_length=RECORDS_MAX)]
    more: bool = False
    """Whether the dictionary goes on behind the last subkey here."""
    boot: Counter = 0
    """Of a dictionary: a number that the answerer takes anew at each start; 0 if it has none."""
    change: Counter = 0
    """And how many changes it has seen since then."""


class FoundValues(Message, frozen=True):
    """Per query, what was found."""

    wall_ms: WallMilliseconds
    found: Annotated[tuple[Found, ...], Meta(max_length=QUERIES_MAX)]


class KeyRecords(Message, frozen=True):
    """Records of one key."""

    key: KeyText
    records: Annotated[tuple[WireRecord, ...], Meta(min_length=1, max_length=RECORDS_MAX)]


class Store(Message, frozen=True):
    """Hold these for me."""

    addresses: Addresses
    items: Annotated[tuple[KeyRecords, ...], Meta(min_length=1, max_length=RECORDS_MAX)]


class Answer(Message, frozen=True):
    """What became of one record: stored (0), older than what we know (1), refused (2)."""

    code: Annotated[int, Meta(ge=0, le=2)]
    sequence: SequenceNumber = 0
    """With code 1: the higher sequence."""
    reason: Annotated[str, Meta(max_length=REASON_LENGTH_MAX)] = ""


class Stored(Message, frozen=True):
    """The answers, one per record, in the order of the request."""

    wall_ms: WallMilliseconds
    answers: Annotated[tuple[Answer, ...], Meta(max_length=RECORDS_MAX)]


class Leave(Message, frozen=True):
    """Farewell: ask me no more."""


class Left(Message, frozen=True):
    """Understood."""


Total = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class AskStats(Message, frozen=True):
    """What do you hold, and what have you done?"""


class Stats(Message, frozen=True):
    """What the answerer says of itself; none of it can be checked."""

    uptime_ms: Total
    """Since it joined."""
    contacts: Total
    """Peers in its routing table."""
    confirmed: Total
    """Those of them that it has heard itself."""
    records: Total
    record_bytes: Total
    """Memory for them, the books included."""
    record_bytes_max: Total
    sampled_keys: Total
    """So many of its keys were looked at for the next."""
    replica_keys: Total
    """Of those, so many for which it is among the nearest that it knows."""
    pings: Total = 0
    """Calls served, and so on."""
    find_nodes: Total = 0
    find_values: Total = 0
    stores: Total = 0
    stored: Total = 0
    """Records that peers gave it and that it kept."""
    older: Total = 0
    refused: Total = 0
    searches: Total = 0
    search_hops: Total = 0
    """Peers that it asked in all its searches together."""
    search_ms: Total = 0


PING = Method("ping", Ping, Pong, request_bytes_max=4096, response_bytes_max=4096)
FIND_NODE = Method("find_node", FindNode, FoundNodes, response_bytes_max=ANSWER_BYTES_MAX)
FIND_VALUE = Method("find_value", FindValue, FoundValues, response_bytes_max=ANSWER_BYTES_MAX)
STORE = Method(
    "store",
    Store,
    Stored,
    request_bytes_max=STORE_BYTES_MAX,
    response_bytes_max=ANSWER_BYTES_MAX,
)
LEAVE = Method("leave", Leave, Left, request_bytes_max=64, response_bytes_max=64)
STATS = Method("stats", AskStats, Stats, request_bytes_max=64, response_bytes_max=1024)


@lru_cache(maxsize=8192)
def contact_untrusted(peer_id: str, addresses: tuple[str, ...]) -> Contact:
    """A contact as somebody named it; raises MessageInvalid when the id is none."""
    parsed = parse_peer_id_untrusted(peer_id)
    return Contact(parsed, node_key(parsed), addresses)


def contacts_untrusted(named: Contacts) -> list[Contact]:
    """The contacts of an answer, without those whose id is none that we know."""
    contacts = []
    for wire in named:
        try:
            contacts.append(contact_untrusted(wire.peer_id, wire.addresses))
        except MessageInvalid:
            # Newer peers may know other kinds of ids; the rest of the answer is good.
            continue
    return contacts


def to_wire(record: Record, remaining_s: float) -> WireRecord:
    """A record as it travels."""
    return WireRecord(
        record.subkey,
        record.value,
        max(0, int(remaining_s * 1000)),
        record.sequence,
        record.life_ms,
        record.signed_at_ms,
        record.signature,
    )


def from_wire(key: str, wire: WireRecord) -> Record:
    """A record as it came, unchecked; its remaining life is beside it."""
    return Record(
        key=key,
        subkey=wire.subkey,
        value=wire.value,
        sequence=wire.sequence,
        life_ms=wire.life_ms,
        signed_at_ms=wire.signed_at_ms,
        signature=wire.signature,
    )
