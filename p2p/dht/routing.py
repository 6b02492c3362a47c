"""The routing table: which peers we know, sorted by how much of our key they share.

Each bucket holds up to ``bucket_size`` contacts and as many replacements. A contact is *confirmed*
once it has answered or asked us something; what others merely told us of fills empty places, gives
way to whoever speaks to us, and is never passed on.

    event                       contact is          -> effect
    on_seen (it spoke to us)    in the table        moves to the fresh end, failures forgotten
                                new, room left      enters; an unconfirmed contact makes room
                                new, bucket full    displaces one of a crowded address range,
                                                    else waits among the replacements
    on_heard_of (second hand)   new, room left      enters unconfirmed
    on_failed                   unconfirmed         leaves
                                confirmed           leaves at the second failure, if anybody spoke
                                                    to us since the first: else it is our own
                                                    network that is down
    on_left (it said farewell)  any                 leaves

Whoever failed is also shunned for a while: lookups do not try it and answers do not name it.
Source: P. Maymounkov, D. Mazières, Kademlia, 2002, §2.2, §4.1.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import filterfalse
from typing import TypeAlias

from p2p.dht.contact import Contact, NetworkTally
from p2p.dht.key import KEY_BITS, bucket_index, random_key_in_bucket
from p2p.peer_id import PeerId

FAILURES_MAX = 2
SHUN_FIRST_S = 5.0
SHUN_LONGEST_S = 600.0
# Remembered failures: enough for every contact of a large table, little memory.
_SHUNNED_MAX = 1024

IsShunned: TypeAlias = Callable[[PeerId, float], bool]


@dataclass(slots=True)
class _Place:
    """A contact in a bucket, and how we have found it."""

    contact: Contact
    seen_at_s: float
    confirmed: bool
    failures: int = 0
    doubted: bool = False
    failed_at_s: float = 0.0


class _Bucket:
    """Contacts by peer id, the longest unheard first, with replacements beside them."""

    __slots__ = ("_others", "_sound", "looked_up_at_s", "places", "replacements", "settled")

    def __init__(self) -> None:
        self.settled = False
        """Whether it is known that nobody in it would make room, until somebody changes."""
        self.places: dict[PeerId, _Place] = {}
        self.replacements: dict[PeerId, _Place] = {}
        self.looked_up_at_s = float("-inf")
        self._sound: list[Contact] | None = None
        """Who spoke to us and has not failed since; None when that is to be found out anew."""
        self._others: list[_Place] = []

    def on_change(self) -> None:
        """Somebody came, went or moved."""
        self.settled = False
        self._sound = None

    def on_trouble(self) -> None:
        """Somebody failed, or is sound at last or again."""
        self._sound = None

    def latest(self) -> _Place | None:
        """Who spoke to us last, of those who have not failed since."""
        last_first = reversed(self.places.values())
        return next((p for p in last_first if p.confirmed and not p.failures), None)

    def usable(self, now_s: float, shunned: IsShunned, confirmed_only: bool) -> list[Contact]:
        """The contacts without those that just failed, in no order."""
        if self._sound is None:
            sound = [p for p in self.places.values() if p.confirmed and not p.failures]
            self._sound = [place.contact for place in sound]
            self._others = [p for p in self.places.values() if p.failures or not p.confirmed]
        if not self._others:
            return self._sound
        return self._sound + [
            place.contact
            for place in self._others
            if (place.confirmed or not confirmed_only)
            and not (place.failures and shunned(place.contact.peer_id, now_s))
        ]


class RoutingTable:
    """Peers by shared prefix with our key; pure bookkeeping, fed by whoever talks to peers."""

    def __init__(self, own_key: int, *, bucket_size: int = 20, bits: int = KEY_BITS) -> None:
        self._own_key = own_key
        self._bits = bits
        self._bucket_size = bucket_size
        self._buckets: dict[int, _Bucket] = {}
        self._unsure: dict[PeerId, _Place] = {}
        """Whoever has a place and never spoke to us, or was slow or failed since."""
        self._shunned: dict[PeerId, tuple[int, float]] = {}
        self._last_seen_at_s = float("-inf")
        self._looked_up_own_at_s = float("-inf")

    def __len__(self) -> int:
        return sum(len(bucket.places) for bucket in self._buckets.values())

    @property
    def contacts(self) -> list[Contact]:
        """Everyone in the table, the farthest bucket first."""
        return [place.contact for place in self._places()]

    @property
    def confirmed(self) -> list[Contact]:
        """Everyone in the table who spoke to us."""
        return [place.contact for place in self._places() if place.confirmed]

    def known(self, contact: Contact) -> Contact:
        """Our own knowledge of a peer that somebody else named, if it spoke to us before."""
        bucket = self._buckets.get(bucket_index(self._own_key, contact.key, self._bits))
        place = bucket.places.get(contact.peer_id) if bucket is not None else None
        return place.contact if place is not None and place.confirmed else contact

    def has_place(self, contact: Contact) -> bool:
        """Whether a peer is in the table, and not merely among the replacements."""
        bucket = self._buckets.get(bucket_index(self._own_key, contact.key, self._bits))
        return bucket is not None and contact.peer_id in bucket.places

    def _places(self) -> Iterator[_Place]:
        for index in sorted(self._buckets):
            yield from self._buckets[index].places.values()

    def _bucket_of(self, key: int) -> _Bucket:
        index = bucket_index(self._own_key, key, self._bits)
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = _Bucket()
        return bucket

    def on_seen(self, contact: Contact, now_s: float) -> bool:
        """A peer that can be dialed spoke to us; returns True when it is newly confirmed."""
        self._last_seen_at_s = now_s
        peer_id = contact.peer_id
        self._shunned.pop(peer_id, None)
        # Most are known; bucket_index() is written out for them.
        bucket = self._buckets.get(self._bits - (self._own_key ^ contact.key).bit_length())
        known = bucket.places.pop(peer_id, None) if bucket is not None else None
        if bucket is not None and known is not None:
            newly_confirmed = not known.confirmed
            if known.contact is not contact and contact.addresses:
                moved = known.contact.addresses != contact.addresses
                if moved or known.contact.seen_in != contact.seen_in:
                    known.contact = contact
                    bucket.on_change()
            known.seen_at_s = now_s
            if self._unsure.pop(peer_id, None) is not None:
                known.confirmed, known.failures, known.doubted = True, 0, False
                bucket.on_trouble()
            bucket.places[peer_id] = known
            return newly_confirmed
        return contact.key != self._own_key and self._enter(contact, now_s)

    def _enter(self, contact: Contact, now_s: float) -> bool:
        """A peer without a place spoke to us; returns whether it has one now."""
        bucket = self._bucket_of(contact.key)
        bucket.replacements.pop(contact.peer_id, None)
        place = _Place(contact, now_s, confirmed=True)
        if len(bucket.places) >= self._bucket_size:
            displaced = self._displaceable(bucket, contact)
            if displaced is None:
                bucket.replacements[contact.peer_id] = place
                if len(bucket.replacements) > self._bucket_size:
                    del bucket.replacements[next(iter(bucket.replacements))]
                return False
            del bucket.places[displaced]
            self._unsure.pop(displaced, None)
        bucket.places[contact.peer_id] = place
        bucket.on_change()
        return True

    def _displaceable(self, bucket: _Bucket, newcomer: Contact) -> PeerId | None:
        """Who makes room: an unconfirmed contact, else the newest of a crowded address range."""
        if bucket.settled:
            return None
        tally = NetworkTally()
        for peer_id, place in bucket.places.items():
            if not place.confirmed:
                return peer_id
            tally.add(place.contact)
        over = (p for p, place in reversed(bucket.places.items()) if tally.over(place.contact))
        newest_over = next(over, None)
        bucket.settled = newest_over is None
        return None if tally.crowded(newcomer) else newest_over

    def on_heard_of(self, contacts: Iterable[Contact], now_s: float) -> None:
        """Somebody told us of peers: worth a try where we have a place to fill."""
        # Most of whom answers name are known, or there is no room for them: that is found out
        # without a call for each.
        buckets, own_key, bits, size = self._buckets, self._own_key, self._bits, self._bucket_size
        for contact in contacts:
            bucket = buckets.get(bits - (own_key ^ contact.key).bit_length())
            if bucket is None or (
                len(bucket.places) < size and contact.peer_id not in bucket.places
            ):
                self._fill(contact, now_s)

    def _fill(self, contact: Contact, now_s: float) -> None:
        """Give an empty place to a peer that has none."""
        if contact.key == self._own_key or self.shunned(contact.peer_id, now_s):
            return
        bucket = self._bucket_of(contact.key)
        # At the stale end, so that it is the first to be tried and the first to go.
        place = _Place(contact, float("-inf"), confirmed=False)
        bucket.places = {contact.peer_id: place, **bucket.places}
        bucket.on_change()
        self._unsure[contact.peer_id] = place

    def on_failed(self, peer_id: PeerId, key: int, now_s: float) -> None:
        """A peer could not be reached or did not answer."""
        failures = self._shunned.pop(peer_id, (0, 0.0))[0] + 1
        shun_s = min(SHUN_FIRST_S * 2.0 ** (failures - 1), SHUN_LONGEST_S)
        self._shunned[peer_id] = (failures, now_s + shun_s)
        if len(self._shunned) > _SHUNNED_MAX:
            del self._shunned[next(iter(self._shunned))]
        bucket = self._buckets.get(bucket_index(self._own_key, key, self._bits))
        if bucket is None:
            return
        bucket.replacements.pop(peer_id, None)
        place = bucket.places.get(peer_id)
        if place is None:
            return
        if place.failures == 0:
            place.failed_at_s = now_s
        place.failures += 1
        bucket.on_trouble()
        self._unsure[peer_id] = place
        somebody_spoke = self._last_seen_at_s > place.failed_at_s
        if not place.confirmed or (place.failures >= FAILURES_MAX and somebody_spoke):
            self._remove(bucket, peer_id)

    def on_doubted(self, peer_id: PeerId, key: int) -> None:
        """A peer was passed over for being slow: it is to be pinged, and not blamed yet."""
        bucket = self._buckets.get(bucket_index(self._own_key, key, self._bits))
        place = bucket.places.get(peer_id) if bucket is not None else None
        if place is not None:
            place.doubted = True
            self._unsure[peer_id] = place

    @property
    def unsure(self) -> bool:
        """Whether there are contacts that we know by hearsay only, or doubt."""
        return any(not place.confirmed or place.doubted for place in self._unsure.values())

    def on_left(self, peer_id: PeerId, key: int) -> None:
        """A peer said farewell."""
        bucket = self._buckets.get(bucket_index(self._own_key, key, self._bits))
        if bucket is not None:
            bucket.replacements.pop(peer_id, None)
            self._remove(bucket, peer_id)

    def _remove(self, bucket: _Bucket, peer_id: PeerId) -> None:
        """Take a contact out; the newest replacement that is not of a crowded range enters."""
        self._unsure.pop(peer_id, None)
        bucket.on_change()
        if bucket.places.pop(peer_id, None) is not None and bucket.replacements:
            tally = NetworkTally()
            for place in bucket.places.values():
                tally.add(place.contact)
            waiting = bucket.replacements
            newest_first = reversed(waiting)
            fit = (p for p in newest_first if not tally.crowded(waiting[p].contact))
            substitute_id = next(fit, next(reversed(waiting)))
            substitute = waiting.pop(substitute_id)
            bucket.places[substitute_id] = substitute
            # It was heard long ago, perhaps: the stalest stand first.
            by_time = sorted(bucket.places.items(), key=lambda item: item[1].seen_at_s)
            bucket.places = dict(by_time)

    def shunned(self, peer_id: PeerId, now_s: float) -> bool:
        """Whether the peer failed so recently that trying it again would be a waste."""
        return now_s < self._shunned.get(peer_id, (0, 0.0))[1]

    def troubled(self, now_s: float) -> bool:
        """Whether somebody failed of late, and has not spoken to us since."""
        return any(until_s + SHUN_LONGEST_S > now_s for _, until_s in self._shunned.values())

    def nearest(
        self, target: int, count: int, now_s: float, *, confirmed_only: bool = False
    ) -> list[Contact]:
        """The contacts nearest to a key, nearest first, without those that just failed."""
        # Whoever shares a bucket with the key is nearest. Those of deeper buckets differ from the
        # key where we do; those of another bucket differ from it where they differ from us.
        own = bucket_index(self._own_key, target, self._bits)
        buckets, shunned = self._buckets, self.shunned
        found: list[Contact] = []
        if own in buckets:
            found += buckets[own].usable(now_s, shunned, confirmed_only)
        if len(found) < count:
            for index, bucket in buckets.items():
                if index > own and bucket.places:
                    found += bucket.usable(now_s, shunned, confirmed_only)
        if len(found) < count:
            for index in sorted((index for index in buckets if index < own), reverse=True):
                found += buckets[index].usable(now_s, shunned, confirmed_only)
                if len(found) >= count:
                    break
        found.sort(key=lambda contact: contact.key ^ target)
        return found[:count]

    def stale(
        self,
        now_s: float,
        count: int,
        idle_s_max: float,
        *,
        connected_idle_s_max: float = 0.0,
        is_connected: Callable[[PeerId], bool] = lambda _: False,
    ) -> list[Contact]:
        """Contacts unheard for longer than they may be, or failing, the stalest first.

        Args:
            idle_s_max: how long one may be silent.
            connected_idle_s_max: how long one may that is connected to us.
        """
        unheard = dict(self._unsure)
        before_s, connected_before_s = now_s - idle_s_max, now_s - connected_idle_s_max
        even_connected_before_s = min(before_s, connected_before_s)
        for bucket in self._buckets.values():
            # The stalest stand first: behind one that was heard of late, all were.
            stalest = next(iter(bucket.places.values()), None)
            if stalest is None or stalest.seen_at_s > before_s:
                continue
            for peer_id, place in bucket.places.items():
                if place.seen_at_s > even_connected_before_s:
                    break
                unheard[peer_id] = place
            for peer_id in filterfalse(is_connected, bucket.places):
                place = bucket.places[peer_id]
                if place.seen_at_s > before_s:
                    break
                unheard[peer_id] = place
        idle = [place for peer_id, place in unheard.items() if not self.shunned(peer_id, now_s)]
        idle.sort(key=lambda place: (place.seen_at_s, place.contact.key))
        return [place.contact for place in idle[:count]]

    def witness(self) -> Contact | None:
        """The contact heard last, if another one fails: does it speak, that one is to blame."""
        if not any(place.failures for place in self._unsure.values()):
            return None
        sound = [latest for bucket in self._buckets.values() if (latest := bucket.latest())]
        return max(sound, key=lambda place: place.seen_at_s).contact if sound else None

    def on_looked_up(self, target: int, now_s: float) -> None:
        """A lookup went through the bucket of this key, so it needs no refresh for a while."""
        if target == self._own_key:
            self._looked_up_own_at_s = now_s
        else:
            self._bucket_of(target).looked_up_at_s = now_s

    def refresh_targets(self, now_s: float, idle_s: float, rng: random.Random) -> list[int]:
        """Keys to look up so that every bucket is filled: none that was looked up of late.

        Our own key serves the deep buckets, which together hold no more than one lookup finds.
        """
        deepest = max((i for i, b in self._buckets.items() if b.places), default=-1)
        neighbours = 0
        targets = []
        for index in range(deepest, -1, -1):
            bucket = self._buckets.get(index)
            neighbours += len(bucket.places) if bucket else 0
            if neighbours > self._bucket_size and (
                bucket is None or bucket.looked_up_at_s <= now_s - idle_s
            ):
                targets.append(random_key_in_bucket(self._own_key, index, rng, self._bits))
        if self._looked_up_own_at_s <= now_s - idle_s:
            targets.append(self._own_key)
        return targets[::-1]
