"""RecordStore: the records that a node holds for others, bounded in every direction.

Each record is charged to whoever delivered it: the peer, or the public address range that it came
from, as one machine can have any number of ids. When memory runs out, whoever delivered the most
bytes loses its oldest records first, so that one who floods displaces nobody but itself. What a
signed record's sequence was is remembered for 15 minutes beyond its life, so that an older one
cannot come back. All records of one key together stay so few that a reader can take them all.

Every change is numbered, so that who has read a dictionary before is sent only what changed since.
The numbers mean something together with the store's *boot*, which no other store has. Nothing is
ever deleted before it expires, as the reader sees by itself, so no tombstones are needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice

from p2p.dht.key import record_key
from p2p.dht.record import CLOCK_SLACK_S, SIGNED_LIFE_S_MAX, Record, supersedes
from p2p.dht.shares import Shares, Slot

KEY_BYTES_MAX = 256
SUBKEY_BYTES_MAX = 128
DICTIONARY_BYTES_MAX = 3 * 2**20
"""All records of one key together: a reader turns so many pages, and can remember five replicas."""

# A sweep looks at so many records at most, about a millisecond's work; the next goes on from there.
_SWEEP_RECORDS = 4096
# A copy that gains less life than this is the same record passed on, not a refresh: each
# passing-on would otherwise add the time that the message travelled.
_REFRESH_GAIN_S = 1.0


@dataclass(frozen=True, kw_only=True)
class StoreLimits:
    """How much a node holds for others."""

    value_bytes_max: int = 16_384
    """The largest value; what is larger belongs into a download, not into the DHT."""
    subkeys_per_key_max: int = 1024
    """The largest dictionary; when it is full, unsigned subkeys give way to signed ones."""
    ttl_s_max: float = 86_400.0
    """The longest life of an unsigned record; signed ones live at most an hour."""
    records_per_peer_max: int = 16_384
    """Records that one peer, or public address range, may have delivered to us, those handed over
    included."""
    offered_per_peer_burst: int = 4096
    """Records that one peer may offer at once; a neighbour hands over as many as it holds."""
    offered_per_peer_per_s: float = 64.0
    """Records that it may offer in the long run; to check a signature takes 0.1 ms of a core."""
    total_bytes_max: int = 32 * 2**20
    """Memory for all records, the keeping of books included."""

    def __post_init__(self) -> None:
        if not 0 < self.value_bytes_max <= 32_768:
            raise ValueError("value_bytes_max is from 1 to 32768, to fit a message")
        if min(self.subkeys_per_key_max, self.records_per_peer_max, self.total_bytes_max) < 1:
            raise ValueError("limits must be positive")
        if self.offered_per_peer_burst < 1 or not self.offered_per_peer_per_s > 0:
            raise ValueError("limits must be positive")
        if self.ttl_s_max < SIGNED_LIFE_S_MAX:
            raise ValueError(f"ttl_s_max must be at least {SIGNED_LIFE_S_MAX:g}")


class StoreCode(IntEnum):
    """What became of an offered record."""

    STORED = 0
    OLDER = 1
    """We hold, or remember, a newer one."""
    REFUSED = 2


@dataclass(frozen=True, slots=True)
class StoreResult:
    """The outcome of offering a record."""

    code: StoreCode
    sequence: int = 0
    """With OLDER: the higher sequence that we know."""
    reason: str = ""


@dataclass(slots=True)
class Held:
    """A record in the store, and how long it lives by our clock."""

    record: Record
    expires_at_s: float
    lives_until_s: float
    """A signed record's first arrival plus its life: no copy can make it live longer."""
    source: str
    """To whom it is charged: a peer, or an address range."""
    refreshed_at_s: float
    """When anybody last offered us this record: somebody else takes care of it, too."""
    change: int = 0
    """The number of the store's change that brought it here, or made it live longer."""


@dataclass(slots=True)
class KeyRecords:
    """All that is held under one key."""

    key: str
    slots: dict[str | None, Held] = field(default_factory=dict)
    size_bytes: int = 0


@dataclass(slots=True)
class _Memory:
    """What remains of a signed record after its end."""

    sequence: int
    lives_until_s: float


class RecordStore:
    """Records by key and subkey; every limit is enforced on the way in."""

    def __init__(self, limits: StoreLimits, *, boot: int = 1) -> None:
        self._limits = limits
        self.boot = boot
        """A random number from 1; a later store of this node has another."""
        self.change = 0
        """How many changes there were."""
        self._keys: OrderedDict[int, KeyRecords] = OrderedDict()
        self._memories: OrderedDict[Slot, _Memory] = OrderedDict()
        self.shares = Shares()
        """Who brought what."""

    def __len__(self) -> int:
        return self.shares.count

    @property
    def size_bytes(self) -> int:
        """Memory for all records, the keeping of books included."""
        return self.shares.size_bytes

    def put(self, record: Record, *, remaining_s: float, source: str, now_s: float) -> StoreResult:
        """Offer a record that the validators have passed."""
        reason = self.complaint(record, remaining_s)
        if reason is not None:
            return StoreResult(StoreCode.REFUSED, reason=reason)
        key = record_key(record.key)
        slot = (key, record.subkey)
        self._drop_if_expired(slot, now_s)
        held = self._held(slot)
        lives_until_s = now_s + (record.life_ms / 1000 if record.owner else remaining_s)
        if held is not None:
            if held.record.version == record.version:
                return self._refresh(held, remaining_s, now_s)
            if not supersedes(record, now_s + remaining_s, held.record, held.expires_at_s):
                return StoreResult(StoreCode.OLDER, held.record.sequence)
        elif (memory := self._memories.get(slot)) is not None:
            if record.sequence < memory.sequence:
                return StoreResult(StoreCode.OLDER, memory.sequence)
            if record.sequence == memory.sequence:
                lives_until_s = min(lives_until_s, memory.lives_until_s)
        expires_at_s = min(now_s + remaining_s, lives_until_s)
        if expires_at_s <= now_s:
            return StoreResult(StoreCode.OLDER, record.sequence)
        reason = self._no_room(slot, record, source)
        if reason is not None:
            return StoreResult(StoreCode.REFUSED, reason=reason)
        self._insert(slot, Held(record, expires_at_s, lives_until_s, source, now_s))
        return StoreResult(StoreCode.STORED)

    def get(self, key: int, subkey: str | None, now_s: float) -> Held | None:
        """The living record of a key and subkey."""
        held = self._held((key, subkey))
        return held if held is not None and held.expires_at_s > now_s else None

    def dictionary(
        self, key: int, after: str, size_bytes_max: int, now_s: float, *, since: int = 0
    ) -> tuple[list[Held], bool]:
        """A page of a key's subkeys, in order, those behind ``after``; and whether more follow.

        Args:
            since: leaves out what did not change after the change of this number.
        """
        entry = self._keys.get(key)
        if entry is None:
            return [], False
        subkeys = sorted(
            subkey
            for subkey, held in entry.slots.items()
            if subkey is not None and subkey > after and held.change > since
        )
        page: list[Held] = []
        size_bytes = 0
        for subkey in subkeys:
            held = entry.slots[subkey]
            if held.expires_at_s <= now_s:
                continue
            size_bytes += held.record.size_bytes
            if page and size_bytes > size_bytes_max:
                return page, True
            page.append(held)
        return page, False

    def expire(self, now_s: float) -> None:
        """Drop what is past its life: a bounded piece of the whole, in turn."""
        looked_at = 0
        for _ in range(len(self._keys)):
            if looked_at >= _SWEEP_RECORDS:
                break
            key, entry = next(iter(self._keys.items()))
            self._keys.move_to_end(key)
            looked_at += len(entry.slots)
            expired = [subkey for subkey, one in entry.slots.items() if one.expires_at_s <= now_s]
            for subkey in expired:
                self._remove((key, subkey))
        while self._memories:
            slot, memory = next(iter(self._memories.items()))
            if memory.lives_until_s + CLOCK_SLACK_S > now_s:
                break
            del self._memories[slot]

    def living(self, now_s: float) -> Iterator[tuple[int, str, list[Held]]]:
        """Each key with its records, for handing over; the store may change meanwhile."""
        for key, entry in list(self._keys.items()):
            living = [held for held in entry.slots.values() if held.expires_at_s > now_s]
            if living:
                yield key, entry.key, living

    def sample(self, count_max: int) -> list[int]:
        """So many of the keys at most; others after the next sweep."""
        return list(islice(self._keys, count_max))

    def complaint(self, record: Record, remaining_s: float) -> str | None:
        """Why a record is over a limit, or None."""
        limits = self._limits
        if len(record.value) > limits.value_bytes_max:
            return f"the value is larger than {limits.value_bytes_max} bytes"
        if not 0 < len(record.key.encode()) <= KEY_BYTES_MAX:
            return f"a key has from 1 to {KEY_BYTES_MAX} bytes"
        if record.subkey is not None and len(record.subkey.encode()) > SUBKEY_BYTES_MAX:
            return f"a subkey has at most {SUBKEY_BYTES_MAX} bytes"
        longest_s = record.life_ms / 1000 if record.owner else limits.ttl_s_max
        if not 0 < remaining_s <= longest_s:
            return f"it may live from 0 to {longest_s:g} s, not {remaining_s:g}"
        return None

    def _held(self, slot: Slot) -> Held | None:
        entry = self._keys.get(slot[0])
        return entry.slots.get(slot[1]) if entry is not None else None

    def _refresh(self, held: Held, remaining_s: float, now_s: float) -> StoreResult:
        held.refreshed_at_s = now_s
        if held.record.owner is None:
            held.lives_until_s = max(held.lives_until_s, now_s + remaining_s)
        expires_at_s = min(now_s + remaining_s, held.lives_until_s)
        if expires_at_s > held.expires_at_s + _REFRESH_GAIN_S:
            held.expires_at_s = expires_at_s
            self._number(held)
        return StoreResult(StoreCode.STORED)

    def _no_room(self, slot: Slot, record: Record, source: str) -> str | None:
        """Make room for a record, or say why there is none."""
        limits = self._limits
        share = self.shares.of(source)
        if slot not in share.slots and len(share.slots) >= limits.records_per_peer_max:
            return (
                f"{len(share.slots)} records here are of you or your address range, as many as may"
            )
        reason = self._no_room_in_key(slot, record)
        if reason is not None:
            return reason
        held = self._held(slot)
        needed = record.size_bytes - (held.record.size_bytes if held is not None else 0)
        while self.size_bytes + needed > limits.total_bytes_max:
            heaviest_id, heaviest = self.shares.heaviest()
            if heaviest_id == source or heaviest.size_bytes <= share.size_bytes + needed:
                return "this node is full"
            victim = next(iter(heaviest.slots))
            if victim == slot:
                return "this node is full"
            self._remove(victim)
        return None

    def _no_room_in_key(self, slot: Slot, record: Record) -> str | None:
        """Make room under a key, where unsigned records give way to signed ones, or say why not."""
        entry = self._keys.get(slot[0])
        if entry is None:
            return None
        held = entry.slots.get(slot[1])
        count = len(entry.slots) + (held is None)
        size_bytes = entry.size_bytes + record.size_bytes
        if held is not None:
            size_bytes -= held.record.size_bytes
        count_max = self._limits.subkeys_per_key_max
        if (held is not None or count <= count_max) and size_bytes <= DICTIONARY_BYTES_MAX:
            return None
        unsigned = (
            []
            if record.owner is None
            else [one for one in entry.slots.values() if one.record.owner is None]
        )
        unsigned.sort(key=lambda one: one.expires_at_s)
        for giving_way, one in enumerate(unsigned, 1):
            count -= 1
            size_bytes -= one.record.size_bytes
            if count <= count_max and size_bytes <= DICTIONARY_BYTES_MAX:
                for gone in unsigned[:giving_way]:
                    self._remove((slot[0], gone.record.subkey))
                return None
        if size_bytes > DICTIONARY_BYTES_MAX:
            return f"the key has {entry.size_bytes} bytes, as many as it may"
        return f"the key has {len(entry.slots)} subkeys, as many as it may"

    def _insert(self, slot: Slot, held: Held) -> None:
        if self._held(slot) is not None:
            self._remove(slot, remember=False)
        key, subkey = slot
        entry = self._keys.get(key)
        if entry is None:
            entry = self._keys[key] = KeyRecords(held.record.key)
        entry.slots[subkey] = held
        size_bytes = held.record.size_bytes
        entry.size_bytes += size_bytes
        self._number(held)
        self.shares.add(held.source, slot, size_bytes)
        self._memories.pop(slot, None)

    def _number(self, held: Held) -> None:
        self.change += 1
        held.change = self.change

    def _remove(self, slot: Slot, *, remember: bool = True) -> None:
        key, subkey = slot
        entry = self._keys[key]
        held = entry.slots.pop(subkey)
        size_bytes = held.record.size_bytes
        entry.size_bytes -= size_bytes
        if not entry.slots:
            del self._keys[key]
        self.shares.remove(held.source, slot, size_bytes)
        if remember and held.record.owner is not None:
            self._remember(slot, held)

    def _remember(self, slot: Slot, held: Held) -> None:
        self._memories[slot] = _Memory(held.record.sequence, held.lives_until_s)
        # They may take a fraction of the memory of records; a flood pushes out the oldest.
        if len(self._memories) * 1024 > self._limits.total_bytes_max:
            self._memories.popitem(last=False)

    def _drop_if_expired(self, slot: Slot, now_s: float) -> None:
        held = self._held(slot)
        if held is not None and held.expires_at_s <= now_s:
            self._remove(slot)
