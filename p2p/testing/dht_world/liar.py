"""Liars: peers that join, ask and answer pings as everybody does, and lie when asked for more."""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Callable
from enum import Enum
from typing import Any

from p2p.dht.contact import Contact
from p2p.dht.record import Record, owner_of
from p2p.dht.schema import CONTACTS_MAX
from p2p.dht.store import StoreCode
from p2p.testing.dht_world.network import Kind

# Neighbours in order of key that are sorted by distance: the nearest by XOR are among them but
# for few, and a liar need not be exact.
_NEIGHBOURHOOD = 2 * CONTACTS_MAX
# What a forger claims of a record that its owner never wrote.
_FORGED_SEQUENCE = 2**60
FORGED_VALUE = b"forged"


class Lie(Enum):
    """How a liar lies; each also says that it stored what it threw away."""

    MISLEAD = "wrong closer peers"
    """Names fellow liars, invented peers, and true ones at wrong addresses."""
    FORGE = "forged records"
    """Answers with a newer record that the owner never signed."""
    DROP = "silent drops"
    """Answers nothing but pings and stores."""


class FalseFriends:
    """Whom misleading liars name, in order of their keys."""

    def __init__(self) -> None:
        self._contacts: list[Contact] = []

    def add(self, contact: Contact) -> None:
        """Another to be named."""
        insort(self._contacts, contact, key=lambda one: one.key)

    def near(self, target: int, count: int) -> list[Contact]:
        """Some of the nearest to a key."""
        at = bisect(self._contacts, target, key=lambda one: one.key)
        around = self._contacts[max(0, at - _NEIGHBOURHOOD) : at + _NEIGHBOURHOOD]
        return sorted(around, key=lambda one: one.key ^ target)[:count]


class Liar:
    """What one liar answers."""

    def __init__(self, lie: Lie, friends: FalseFriends) -> None:
        self.lie, self._friends = lie, friends

    def answer(self, kind: Kind, request: Any, honestly: Callable[[], Any]) -> Any:
        """The answer to anything but a ping or a farewell; None is silence."""
        if kind is Kind.STORE:
            return [(StoreCode.STORED, 0)] * len(request)
        if self.lie is Lie.DROP:
            return None
        if self.lie is Lie.MISLEAD:
            if kind is Kind.FIND_NODE:
                targets, count = request
                return [self._friends.near(target, count) for target in targets]
            target, _, count = request
            return self._friends.near(target, count), []
        if kind is Kind.FIND_NODE:
            return honestly()
        contacts, _ = honestly()
        return contacts, [self._forged(request[1])]

    def _forged(self, subkey: str) -> tuple[Record, float]:
        assert owner_of(subkey) is not None
        # The key is what the reader asks for: it is not part of the answer on the wire.
        forged = Record(
            key="",
            subkey=subkey,
            value=FORGED_VALUE,
            sequence=_FORGED_SEQUENCE,
            life_ms=3_600_000,
            signature=b"\1" * 64,
        )
        return forged, 3600.0
