"""Mirrors: what each replica of a dictionary was last heard to hold, so that it sends changes only.

A cursor is good for one replica and one boot of it: another replica, or the same after a restart,
is read in full. A reader that merges several replicas each time, as every read does, is thus
sent a change by each of them once; one that omits it hides nothing that the others hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from p2p.dht.reading import Sighting
from p2p.peer_id import PeerId

SIZE_BYTES_MAX = 16 * 2**20
"""Of all mirrors together: five replicas of three full dictionaries of small values."""

_Name: TypeAlias = tuple[PeerId, int]
"""A replica and a key."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How much of a replica's dictionary is known: its boot, and its count of changes."""

    boot: int
    change: int


@dataclass(slots=True)
class _Mirror:
    cursor: Cursor
    sightings: dict[str, Sighting] = field(default_factory=dict)
    size_bytes: int = 0


class DictionaryMirrors:
    """Mirrors by replica and key; those unread for longest are dropped for new ones."""

    def __init__(self, *, size_bytes_max: int = SIZE_BYTES_MAX) -> None:
        self._size_bytes_max = size_bytes_max
        self._mirrors: OrderedDict[_Name, _Mirror] = OrderedDict()
        self.size_bytes = 0

    def cursor(self, peer_id: PeerId, key: int) -> Cursor | None:
        """From where to read a replica's dictionary on; None for all of it."""
        mirror = self._mirrors.get((peer_id, key))
        return mirror.cursor if mirror is not None else None

    def on_answer(
        self,
        peer_id: PeerId,
        key: int,
        cursor: Cursor | None,
        sightings: Iterable[Sighting],
        now_s: float,
    ) -> list[Sighting]:
        """A replica's answer, complete and valid: what it holds now as far as we know, sorted.

        Args:
            cursor: as it came with the answer; None from a replica that counts no changes.
        """
        old = self._drop((peer_id, key))
        mirror = _Mirror(cursor or Cursor(0, 0))
        if old is not None and cursor is not None and old.cursor.boot == cursor.boot:
            mirror.sightings = {
                subkey: one for subkey, one in old.sightings.items() if one.expires_at_s > now_s
            }
        for sighting in sightings:
            if sighting.record.subkey is not None:
                mirror.sightings[sighting.record.subkey] = sighting
        held = [mirror.sightings[subkey] for subkey in sorted(mirror.sightings)]
        mirror.size_bytes = 256 + sum(sighting.record.size_bytes for sighting in held)
        if cursor is not None and mirror.size_bytes <= self._size_bytes_max:
            self._mirrors[peer_id, key] = mirror
            self.size_bytes += mirror.size_bytes
            while self.size_bytes > self._size_bytes_max:
                self._drop(next(iter(self._mirrors)))
        return held

    def _drop(self, name: _Name) -> _Mirror | None:
        mirror = self._mirrors.pop(name, None)
        if mirror is not None:
            self.size_bytes -= mirror.size_bytes
        return mirror
