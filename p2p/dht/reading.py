"""Reading: merges what several replicas say of a key, and tells who of them lags behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from p2p.dht.record import Record, supersedes
from p2p.peer_id import PeerId

# A signed record younger than this may still be on its way from its owner: nobody lags yet.
_SETTLED_S = 10.0
# Repaired per replica and read; the rest is left to the next read or to republishing.
_REPAIRS_MAX = 64


@dataclass(frozen=True, slots=True)
class Sighting:
    """A valid record that a replica holds, and when it expires by our clock."""

    record: Record
    expires_at_s: float


class Reading:
    """The newest record per subkey among all answers; each answer is valid already."""

    def __init__(self) -> None:
        self._newest: dict[str | None, Sighting] = {}
        self._held_by: dict[PeerId, dict[str | None, Record]] = {}

    def on_answer(self, peer_id: PeerId, sightings: Iterable[Sighting]) -> None:
        """A replica answered, perhaps with nothing."""
        held = self._held_by.setdefault(peer_id, {})
        for sighting in sightings:
            subkey = sighting.record.subkey
            held[subkey] = sighting.record
            newest = self._newest.get(subkey)
            if (
                newest is None
                or supersedes(
                    sighting.record, sighting.expires_at_s, newest.record, newest.expires_at_s
                )
                or (
                    newest.record.version == sighting.record.version
                    and sighting.expires_at_s > newest.expires_at_s
                )
            ):
                self._newest[subkey] = sighting

    @property
    def heard(self) -> bool:
        """Whether anybody answered."""
        return bool(self._held_by)

    def newest(self, now_s: float) -> dict[str | None, Sighting]:
        """The living records by subkey, sorted, the plain value first."""
        living = [
            (subkey, sighting)
            for subkey, sighting in self._newest.items()
            if sighting.expires_at_s > now_s
        ]
        return dict(sorted(living, key=lambda item: item[0] or ""))

    def lacked_by(self, peer_id: PeerId, now_s: float) -> list[Sighting]:
        """What a replica should hold and does not, or only in an older version."""
        held = self._held_by.get(peer_id)
        if held is None:
            return []
        return [
            sighting
            for subkey, sighting in self.newest(now_s).items()
            if _settled(sighting, now_s)
            and (subkey not in held or held[subkey].version != sighting.record.version)
        ][:_REPAIRS_MAX]


def _settled(sighting: Sighting, now_s: float) -> bool:
    record = sighting.record
    age_s = record.life_ms / 1000 - (sighting.expires_at_s - now_s)
    return record.owner is None or age_s > _SETTLED_S
