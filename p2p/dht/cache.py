"""ReadCache: what was read of late, for readers to whom that is new enough (core).

Every reader says how old an answer may be; without a word it may not be old at all, and nothing
is cached. That nothing was found is remembered like anything else. An entry that was used since
it was read is *due* to be read again shortly before it is too old for its users, or its first
record expires: who asks again and again never waits. One that nobody uses any more is let go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from p2p.dht.reading import Sighting

ENTRIES_MAX = 1024
SIZE_BYTES_MAX = 8 * 2**20
# Read again so long before the end: some round trips across the globe.
_LEAD_S_MAX = 1.0
_LEAD_FRACTION = 0.25

Name: TypeAlias = tuple[str, str | None, bool]
"""Key, subkey, and whether the whole dictionary is meant."""
Found: TypeAlias = Mapping[str | None, Sighting]


@dataclass(slots=True)
class _Entry:
    found: Found
    asked_at_s: float
    expires_at_s: float
    """When its first record expires; infinite when nothing was found."""
    size_bytes: int
    used_max_age_s: float = 0.0
    """The least age that a user of it would put up with; 0 while there was none."""


class ReadCache:
    """Answers by what was asked for, the least recently used first."""

    def __init__(
        self, *, entries_max: int = ENTRIES_MAX, size_bytes_max: int = SIZE_BYTES_MAX
    ) -> None:
        self._entries_max = entries_max
        self._size_bytes_max = size_bytes_max
        self._entries: OrderedDict[Name, _Entry] = OrderedDict()
        self._written_at_s: OrderedDict[Name, float] = OrderedDict()
        self._forgotten_write_at_s = float("-inf")
        self.size_bytes = 0
        self.deadline_s: float | None = None
        """When due() is to be called, at the latest; None while no entry is in use."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: Name, *, max_age_s: float, now_s: float) -> Found | None:
        """What was found at most so long ago, perhaps nothing; None if it must be read."""
        entry = self._entries.get(name)
        if entry is None or max_age_s <= 0 or now_s - entry.asked_at_s > max_age_s:
            return None
        if entry.expires_at_s <= now_s:
            # Its owner may have put it again.
            return None
        self._entries.move_to_end(name)
        ages = (entry.used_max_age_s, max_age_s) if entry.used_max_age_s else (max_age_s,)
        entry.used_max_age_s = min(ages)
        due_s = _due_s(entry)
        self.deadline_s = due_s if self.deadline_s is None else min(self.deadline_s, due_s)
        return entry.found

    def on_read(self, name: Name, found: Found, asked_at_s: float) -> None:
        """The replicas were asked at this time, and this is what they hold."""
        self.forget(name)
        if asked_at_s < self._written_at_s.get(name, self._forgotten_write_at_s):
            # We wrote meanwhile: they may have answered before they were given it.
            return
        size_bytes = 256 + sum(sighting.record.size_bytes for sighting in found.values())
        if size_bytes > self._size_bytes_max:
            return
        expires_at_s = min((one.expires_at_s for one in found.values()), default=float("inf"))
        self._entries[name] = _Entry(found, asked_at_s, expires_at_s, size_bytes)
        self.size_bytes += size_bytes
        while len(self._entries) > self._entries_max or self.size_bytes > self._size_bytes_max:
            self.forget(next(iter(self._entries)))

    def forget(self, name: Name) -> None:
        """It has changed."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes

    def on_written(self, key: str, subkey: str | None, now_s: float) -> list[Name]:
        """We wrote it ourselves: what was asked for before is old, under the names returned."""
        names: list[Name] = [(key, subkey, False), (key, None, True)]
        for name in names:
            self.forget(name)
            self._written_at_s.pop(name, None)
            self._written_at_s[name] = now_s
        while len(self._written_at_s) > self._entries_max:
            _, self._forgotten_write_at_s = self._written_at_s.popitem(last=False)
        return names

    def due(self, now_s: float) -> list[Name]:
        """What is to be read again now; each is named once, until it is used again."""
        names = [
            name
            for name, entry in self._entries.items()
            if entry.used_max_age_s and _due_s(entry) <= now_s
        ]
        for name in names:
            self._entries[name].used_max_age_s = 0.0
        self.deadline_s = min(
            (_due_s(entry) for entry in self._entries.values() if entry.used_max_age_s),
            default=None,
        )
        return names


def _due_s(entry: _Entry) -> float:
    ends_s = min(entry.asked_at_s + entry.used_max_age_s, entry.expires_at_s)
    lead_s = min(_LEAD_S_MAX, _LEAD_FRACTION * (ends_s - entry.asked_at_s))
    return ends_s - lead_s
