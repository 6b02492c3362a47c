"""Disjoint paths: several lookups for one target that have no peer in common (core).

A liar that is asked can lead a lookup astray. Here each peer is asked by one path only, so it can
lead that one astray and no other; what the honest paths find is in the union of what all found.

Source: I. Baumgart, S. Mies, S/Kademlia: A Practicable Approach Towards Secure Key-Based Routing,
2007, §4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from p2p.dht.contact import Contact, choose_diverse
from p2p.dht.lookup import Lookup
from p2p.peer_id import PeerId


def paths_for(known: int, bucket_size: int, wanted: int) -> int:
    """How many paths are worth their messages: one while we know everybody ourselves."""
    return wanted if known > bucket_size else 1


class DisjointLookup:
    """A search on several paths at once; it is done when all of them are."""

    def __init__(
        self,
        target: int,
        seeds: Sequence[Contact],
        *,
        paths: int,
        own_id: PeerId,
        width: int,
        parallelism: int,
        stall_s: float,
        hedge_s: float | None = None,
        avoid: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        self._target = target
        path_of = self._path_of = dict[PeerId, int]()
        self._turn = 0

        def lookup(index: int) -> Lookup:
            return Lookup(
                target,
                # The nearest seeds are dealt out one by one, so that all paths begin near.
                seeds[index::paths],
                own_id=own_id,
                width=width,
                # The same number of queries under way as in a single lookup, or one each.
                parallelism=-(-parallelism // paths),
                stall_s=stall_s,
                hedge_s=hedge_s,
                avoid=lambda one: path_of.get(one, index) != index or avoid(one),
            )

        self._paths = [lookup(index) for index in range(paths)]

    @property
    def target(self) -> int:
        """The key that it is about."""
        return self._target

    @property
    def done(self) -> bool:
        """Whether no path has anything left to learn."""
        # A path of nobody but stalled peers does not hold up those that got somewhere.
        got_somewhere = any(path.got_somewhere for path in self._paths)
        return all(path.done or (got_somewhere and path.exhausted) for path in self._paths)

    @property
    def deadline_s(self) -> float | None:
        """When on_deadline() is due."""
        deadlines = [path.deadline_s for path in self._paths if not path.done]
        return min((one for one in deadlines if one is not None), default=None)

    @property
    def late(self) -> list[Contact]:
        """Peers that have not answered, and may be slow only."""
        return [contact for path in self._paths for contact in path.late]

    @property
    def silent(self) -> list[Contact]:
        """Peers that have stalled and never answered."""
        return [contact for path in self._paths for contact in path.silent]

    @property
    def queries(self) -> int:
        """How many queries were sent, on all paths."""
        return sum(path.queries for path in self._paths)

    @property
    def hops(self) -> int:
        """How many peers in a row led to the nearest one that answered, on the longest path."""
        return max(path.hops for path in self._paths)

    def next_queries(self, now_s: float) -> list[Contact]:
        """Whom to ask now; each is thereby taken as asked, and no other path's any more."""
        chosen: list[Contact] = []
        count = len(self._paths)
        for index in range(count):
            # In turn, so that no path has the first choice of peers each time.
            mine = (index + self._turn) % count
            for contact in self._paths[mine].next_queries(now_s):
                self._path_of[contact.peer_id] = mine
                for other, path in enumerate(self._paths):
                    if other != mine:
                        path.drop(contact.peer_id)
                chosen.append(contact)
        self._turn += 1
        return chosen

    def on_answer(
        self, peer_id: PeerId, named: Iterable[Contact], version: Hashable = None
    ) -> None:
        """A peer named others: candidates of its path alone."""
        index = self._path_of.get(peer_id)
        if index is not None:
            self._paths[index].on_answer(peer_id, named, version)

    def on_failure(self, peer_id: PeerId) -> None:
        """A peer could not be asked, or gave no valid answer."""
        index = self._path_of.get(peer_id)
        if index is not None:
            self._paths[index].on_failure(peer_id)

    def on_deadline(self, now_s: float) -> None:
        """Peers that have been silent too long hold the others up no more."""
        for path in self._paths:
            path.on_deadline(now_s)

    def answered(self) -> list[Contact]:
        """Everyone who answered on any path, nearest first, crowded address ranges last."""
        everyone = [contact for path in self._paths for contact in path.answered()]
        everyone.sort(key=lambda contact: contact.key ^ self._target)
        return choose_diverse(everyone, len(everyone))
