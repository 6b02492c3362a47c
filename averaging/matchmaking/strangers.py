"""How strangers find each other: a signed record of each peer under the group's DHT key."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from averaging.matchmaking import schema
from averaging.matchmaking.acquaintances import Candidate
from averaging.matchmaking.keys import strangers_key
from averaging.round_id import RoundId
from p2p import (
    Dht,
    Entry,
    MessageInvalid,
    Node,
    P2PError,
    PeerId,
    decode_untrusted,
    encode,
    owned_subkey,
    parse_peer_id_untrusted,
    short,
)

logger = logging.getLogger(__name__)

# A peer that died is tried in vain for at most this long; a refresh each third of it is cheap.
_RECORD_TTL_S = 60.0
_REFRESH_S = _RECORD_TTL_S / 3
_RETRY_S = 2.0
_POLL_S = 0.5
_OWNED_PREFIX = owned_subkey(PeerId(""))


async def keep_published(
    node: Node, dht: Dht, group_name: str, spec_hash: bytes, round_of: Callable[[], RoundId]
) -> None:
    """Keep our record in the DHT; it goes by itself soon after we do."""
    while True:
        record = schema.CandidateRecord(
            node.addresses[: schema.ADDRESSES_MAX], schema.round_on_wire(round_of()), spec_hash
        )
        try:
            report = await dht.put(
                strangers_key(group_name),
                encode(record),
                subkey=owned_subkey(node.peer_id),
                ttl_s=_RECORD_TTL_S,
            )
            stored = report.replicas > 0
        except P2PError as exc:
            logger.info("record_not_stored group=%s cause=%s", group_name, exc)
            stored = False
        await trio.sleep(_REFRESH_S if stored else _RETRY_S)


async def poll(
    dht: Dht,
    group_name: str,
    spec_hash: bytes,
    on_candidates: Callable[[list[Candidate]], None],
) -> None:
    """Read the strangers' records again and again, while we look for a group."""
    while True:
        entries: dict[str, Entry] = {}
        try:
            entries = await dht.get_dictionary(strangers_key(group_name))
        except P2PError as exc:
            logger.info("records_not_read group=%s cause=%s", group_name, exc)
        candidates = []
        for subkey, entry in sorted(entries.items()):
            try:
                candidate = parse_record_untrusted(subkey, entry, spec_hash)
            except MessageInvalid as exc:
                logger.debug("record_invalid group=%s cause=%s", group_name, exc)
                continue
            if candidate is not None:
                candidates.append(candidate)
        on_candidates(candidates)
        await trio.sleep(_POLL_S)


def parse_record_untrusted(subkey: str, entry: Entry, spec_hash: bytes) -> Candidate | None:
    """A stranger's record, or None if it averages something else.

    Raises:
        MessageInvalid: not a record of the peer that its subkey names.
    """
    if not subkey.startswith(_OWNED_PREFIX):
        raise MessageInvalid(f"a record that nobody signed: {subkey[:80]!r}")
    peer = parse_peer_id_untrusted(subkey[len(_OWNED_PREFIX) :])
    if entry.owner != peer:
        raise MessageInvalid(f"a record of {short(peer)} that it did not sign")
    record = decode_untrusted(
        entry.value, schema.CandidateRecord, size_bytes_max=schema.RECORD_BYTES_MAX
    )
    if record.spec_hash != spec_hash or not record.addresses:
        return None
    return Candidate(peer, record.addresses, min(entry.remaining_s, _RECORD_TTL_S))
