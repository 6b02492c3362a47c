"""Records: what the DHT holds under a key, how owners sign it, and which of two is the newer.

A key holds one plain value (subkey None) and a dictionary of subkeys. A subkey ``peer:<id>`` is
*owned*: only that peer can write it, with its identity key; everything else is unsigned, and
anyone may overwrite it.

    unsigned   the later expiry wins, ties by bytes
    signed     the higher sequence wins, ties by bytes, whatever the expiry

A signature covers key, subkey, value, sequence, life and the owner's wall time. Lives run by
relative time: each holder passes on what is left. The wall time is only a coarse bound against
replay, judged by the median clock of one's peers: see validate.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import msgspec

from p2p.errors import MessageInvalid, RecordInvalid
from p2p.identity import Identity, parse_peer_id_untrusted, verify_signature
from p2p.peer_id import PeerId

OWNED_PREFIX = "peer:"
SIGNED_LIFE_S_MAX = 3600.0
"""A signature is good for at most so long, so that a replay is too."""
CLOCK_SLACK_S = 900.0
"""How far an owner's clock may be off, and how long a sequence is remembered beyond expiry."""
SEQUENCE_MAX = 2**62
# So that a record's signature never passes for another kind of message.
_DOMAIN = b"manyhands/dht/record/1\0"

Version: TypeAlias = tuple[int, bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One value under a key and perhaps a subkey; sequence, life and signature if it is owned."""

    key: str
    subkey: str | None
    value: bytes
    sequence: int = 0
    life_ms: int = 0
    signed_at_ms: int = 0
    """The owner's wall time at signing."""
    signature: bytes = b""

    @property
    def owner(self) -> PeerId | None:
        """The one peer that may write this, or None when anyone may."""
        return owner_of(self.subkey)

    @property
    def version(self) -> Version:
        """Equal for equal versions, and greater for the newer of two signed ones."""
        return (self.sequence, self.value, self.signature)

    @property
    def size_bytes(self) -> int:
        """What it costs to hold, the keeping of books included."""
        names = len(self.key.encode()) + len((self.subkey or "").encode())
        return 256 + names + len(self.value)


def owned_subkey(peer_id: PeerId) -> str:
    """The subkey that only this peer can write; put() signs it by itself."""
    return OWNED_PREFIX + peer_id


def owner_of(subkey: str | None) -> PeerId | None:
    """The owner that a subkey names, unchecked; None for one that anyone may write."""
    if subkey is None or not subkey.startswith(OWNED_PREFIX):
        return None
    return PeerId(subkey[len(OWNED_PREFIX) :])


def signed_bytes(record: Record) -> bytes:
    """What the owner signs."""
    return _DOMAIN + msgspec.msgpack.encode(
        (
            record.key,
            record.subkey,
            record.value,
            record.sequence,
            record.life_ms,
            record.signed_at_ms,
        )
    )


def sign_record(record: Record, identity: Identity) -> Record:
    """The record with its owner's signature."""
    assert record.owner == identity.peer_id
    return replace(record, signature=identity.sign(signed_bytes(record)))


def check_signature(record: Record) -> None:
    """Raise RecordInvalid unless an owned record is signed by its owner, and no other is."""
    if record.owner is None:
        if record.signature or record.sequence or record.life_ms or record.signed_at_ms:
            raise RecordInvalid("only a subkey peer:<id> can be signed")
        return
    try:
        owner = parse_peer_id_untrusted(record.owner)
    except MessageInvalid as exc:
        raise RecordInvalid(f"the subkey names no peer: {exc}") from exc
    if not 0 < record.life_ms <= SIGNED_LIFE_S_MAX * 1000:
        raise RecordInvalid(f"a signed record lives at most {SIGNED_LIFE_S_MAX:g} s")
    if not 0 < record.sequence <= SEQUENCE_MAX:
        raise RecordInvalid(f"a sequence is from 1 to {SEQUENCE_MAX}")
    if not verify_signature(owner, signed_bytes(record), record.signature):
        raise RecordInvalid("not signed by the owner of its subkey")


def check_age(record: Record, swarm_wall_s: float) -> None:
    """Raise RecordInvalid when a signed record is so old, or so early, that it must be a replay."""
    if record.owner is None:
        return
    age_s = swarm_wall_s - record.signed_at_ms / 1000
    if age_s > record.life_ms / 1000 + CLOCK_SLACK_S:
        raise RecordInvalid(f"signed {age_s:.0f} s ago, longer than it may live")
    if age_s < -CLOCK_SLACK_S:
        raise RecordInvalid(f"signed {-age_s:.0f} s in the future")


def within_age_s(record: Record, remaining_s: float, swarm_wall_s: float) -> float:
    """What is left of a life, no longer than check_age() will pass the record."""
    if record.owner is None:
        return remaining_s
    too_old_s = (record.signed_at_ms + record.life_ms) / 1000 + CLOCK_SLACK_S
    return min(remaining_s, too_old_s - swarm_wall_s)


def supersedes(new: Record, new_expires_at_s: float, old: Record, old_expires_at_s: float) -> bool:
    """Whether the new record replaces the old one of the same key and subkey."""
    if new.owner is not None:
        return new.version > old.version
    return (new_expires_at_s, new.value) > (old_expires_at_s, old.value)


class Sequencer:
    """Numbers a peer's signed records, always upwards, also across restarts and clock jumps."""

    def __init__(self, floor: int = 0) -> None:
        self.last = floor

    def next(self, wall_s: float) -> int:
        """The next number: the wall time in milliseconds, or one more than the last if higher."""
        self.last = max(self.last + 1, int(wall_s * 1000))
        return self.last

    def on_seen_untrusted(self, sequence: int, wall_s: float) -> None:
        """A holder says it holds a higher number of ours; beyond belief, it is not believed."""
        believable = int((wall_s + SIGNED_LIFE_S_MAX + CLOCK_SLACK_S) * 1000)
        if self.last < sequence <= believable:
            self.last = sequence
