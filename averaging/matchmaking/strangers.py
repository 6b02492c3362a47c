"""How strangers find each other: a signed record of each peer under the group's DHT key."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import trio

from averaging.matchmaking import schema
from averaging.matchmaking.acquaintances import Candidate
from averaging.matchmaking.keys import SHARED_BUCKET, strangers_key
from averaging.round_id import RoundId
from averaging.tensors import describe_difference
from p2p import (
    Dht,
    Entry,
    MessageInvalid,
    Node,
    P2PError,
    PeerId,
    SchemaValidator,
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
# Whoever looks at the same time as we has just written its record: soon again, then less often.
_POLL_S_MIN = 0.125
_POLL_S_MAX = 0.5
_OWNED_PREFIX = owned_subkey(PeerId(""))

STRANGERS_VALIDATOR = SchemaValidator(
    key_pattern=rf".*{re.escape(strangers_key(''))}(b.*)?", kind=schema.CandidateRecord, owned=True
)
"""For DhtConfig.validators: nodes that have it hold no nonsense under the keys of groups."""


@dataclass(frozen=True)
class Place:
    """What a peer's record says of it."""

    round: RoundId
    bucket: str


class Records:
    """One peer's record in the DHT, kept there while it serves, and those of others."""

    def __init__(
        self,
        node: Node,
        dht: Dht,
        group_name: str,
        spec_hash: bytes,
        place: Callable[[], Place],
    ) -> None:
        self._node = node
        self._dht = dht
        self._group_name = group_name
        self._spec_hash = spec_hash
        self._place = place
        self._told = place()
        self._moved = trio.Event()
        self._count_due_s = -math.inf

    async def keep_published(self) -> None:
        """Keep our record where everybody is listed; it goes by itself soon after we do."""
        while True:
            stored = await self._put(strangers_key(self._group_name), self._place())
            await trio.sleep(_REFRESH_S if stored else _RETRY_S)

    async def keep_published_in_bucket(self) -> None:
        """Keep our record where our bucket of the grid is, and follow it there at once.

        Records that are left behind name an earlier round; nobody expects us there any more.
        """
        while True:
            moved, place = self._moved, self._place()
            stored = True
            if place.bucket:
                stored = await self._put(strangers_key(self._group_name, place.bucket), place)
            with trio.move_on_after(_REFRESH_S if stored else _RETRY_S):
                await moved.wait()

    def on_place(self) -> None:
        """Our place may be another one now."""
        if self._place() != self._told:
            self._told = self._place()
            self._moved.set()
            self._moved = trio.Event()

    async def _put(self, key: str, place: Place) -> bool:
        """Write our record under a key; whether anybody took it."""
        record = schema.CandidateRecord(
            self._node.addresses[: schema.ADDRESSES_MAX],
            schema.round_on_wire(place.round),
            self._spec_hash,
            place.bucket,
        )
        subkey = owned_subkey(self._node.peer_id)
        try:
            report = await self._dht.put(key, encode(record), subkey=subkey, ttl_s=_RECORD_TTL_S)
        except P2PError as exc:
            logger.info("record_not_stored key=%s cause=%s", key, exc)
            return False
        return report.replicas > 0

    async def poll(self, bucket: str, on_records: Callable[[list[Candidate] | None], None]) -> None:
        """Read the records of a bucket again and again, while we look for a group."""
        pause_s = _POLL_S_MIN
        while True:
            on_records(await self.read(bucket))
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_S_MAX)

    async def count(self, timeout_s: float) -> list[Candidate] | None:
        """Everybody's records, or None if they were read lately or are not to be had in time."""
        if trio.current_time() < self._count_due_s:
            return None
        records = None
        with trio.move_on_after(timeout_s):
            records = await self.read(SHARED_BUCKET)
        if records is not None:
            self._count_due_s = trio.current_time() + _REFRESH_S
        return records

    async def read(self, bucket: str) -> list[Candidate] | None:
        """The records of a bucket, in the shared one of everybody; None if not to be had."""
        try:
            entries = await self._dht.get_dictionary(strangers_key(self._group_name, bucket))
        except P2PError as exc:
            logger.info("records_not_read group=%s cause=%s", self._group_name, exc)
            return None
        candidates = []
        for subkey, entry in sorted(entries.items()):
            try:
                candidates.append(parse_record_untrusted(subkey, entry, self._spec_hash))
            except MessageInvalid as exc:
                logger.debug("record_invalid group=%s cause=%s", self._group_name, exc)
        return candidates


def parse_record_untrusted(subkey: str, entry: Entry, spec_hash: bytes) -> Candidate:
    """A stranger's record, also of one that averages something else.

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
    same = record.spec_hash == spec_hash
    return Candidate(
        peer,
        record.addresses,
        min(entry.remaining_s, _RECORD_TTL_S),
        sequence=entry.sequence,
        round_number=record.round.number,
        bucket=record.bucket,
        difference="" if same else describe_difference(spec_hash, record.spec_hash),
    )
