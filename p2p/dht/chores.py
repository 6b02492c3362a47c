"""Chores: what a node owes the DHT without being asked, and when (pure; see upkeep.py)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from p2p.dht.contact import Contact
from p2p.dht.core import DhtCore
from p2p.dht.record import Record
from p2p.dht.store import Held
from p2p.peer_id import PeerId

TICK_S = 30.0
UNSURE_TICK_S = 2.0
"""While there are contacts known by hearsay only, which are not passed on: a table without sound
contacts in some part of the key space is where liars there can hide their neighbours. Also while
there are some that were slow, and cost every lookup a little."""
SPREAD = (0.8, 1.2)
"""Each pause is stretched by so much, so that nodes that started together do not act together."""
PINGS_PER_TICK = 20
CONNECTED_PATIENCE = 6
"""A contact that we are connected to is alive, as the connection's keepalive knows; it is asked
only this many times less often whether it still takes part in the DHT."""
HAND_OVER_DELAY_S = 1.0
"""Newcomers come in bursts; one pass over the records serves all that came meanwhile."""
HAND_OVER_BY = 2
"""How many of a newcomer's predecessors hand a record over: two, in case one lies or is lost."""
REPUBLISH_STAGGER_S = 30.0
"""Each further replica waits so much longer to republish: the first one's copies reach it."""
REJOIN_S = 60.0

Delivery: TypeAlias = tuple[Contact, list[Held]]


@dataclass(slots=True)
class Parcels:
    """Per peer, the records that it is to be given, with what is left of their lives."""

    by_peer: dict[PeerId, tuple[Contact, list[tuple[Record, float]]]] = field(default_factory=dict)

    def add(self, contact: Contact, held: Iterable[Held], now_s: float) -> None:
        """Add records to what a peer is to be given."""
        _, records = self.by_peer.setdefault(contact.peer_id, (contact, []))
        records.extend((item.record, item.expires_at_s - now_s) for item in held)


def contacts_pause_s(core: DhtCore) -> float:
    """How long to wait before the next look at the contacts, before it is spread."""
    return UNSURE_TICK_S if core.table.unsure else TICK_S


def records_pause_s(core: DhtCore) -> float:
    """How long to wait before the next look at the records, before it is spread."""
    return min(TICK_S, core.config.republish_s / 4)


def pings_due(core: DhtCore, now_s: float, is_connected: Callable[[PeerId], bool]) -> list[Contact]:
    """Contacts to be asked whether they are still there."""
    idle_s_max = core.config.liveness_s
    return core.table.stale(
        now_s,
        PINGS_PER_TICK,
        idle_s_max,
        connected_idle_s_max=idle_s_max * CONNECTED_PATIENCE,
        is_connected=is_connected,
    )


def refresh_due(core: DhtCore, now_s: float, rng: random.Random) -> tuple[int, int] | None:
    """A key to look up, and how widely; one at a time, as a refresh is never urgent."""
    targets = core.table.refresh_targets(now_s, core.config.refresh_s, rng)
    if not targets:
        return None
    own = targets[0] == core.own_key
    return targets[0], core.config.bucket_size if own else core.config.replicas


def handed_over(
    core: DhtCore, newcomers: dict[PeerId, Contact], now_s: float
) -> Iterator[list[Delivery]]:
    """Per key that we hold, what newcomers are to be given that are now among its nearest."""
    for key, _, held in core.store.living(now_s):
        nearest = core.replicas_of(key, now_s)
        if not any(c is not None and c.peer_id in newcomers for c in nearest):
            yield []
            continue
        ranked = core.replicas_of(key, now_s, len(newcomers))
        before = [c for c in ranked if c is None or c.peer_id not in newcomers]
        if None not in before[:HAND_OVER_BY]:
            yield []
            continue
        yield [
            (contact, held)
            for contact in ranked[: core.config.replicas]
            if contact is not None and contact.peer_id in newcomers
        ]


def republished(core: DhtCore, now_s: float) -> Iterator[list[Delivery]]:
    """Per key that we hold, what its replicas are to be given: what nobody offered us for long.

    What is yielded counts as offered now.
    """
    period_s = core.config.republish_s
    for key, _, held in core.store.living(now_s):
        if all(item.refreshed_at_s > now_s - period_s for item in held):
            yield []
            continue
        replicas = core.replicas_of(key, now_s)
        rank = replicas.index(None) if None in replicas else len(replicas)
        due_s = period_s + rank * min(REPUBLISH_STAGGER_S, period_s / 10)
        due = [item for item in held if item.refreshed_at_s <= now_s - due_s]
        for item in due:
            item.refreshed_at_s = now_s
        yield [(contact, due) for contact in replicas if due and contact is not None]


def bequeathed(core: DhtCore, now_s: float) -> Iterator[list[Delivery]]:
    """Per key that we hold as a replica, who takes our place when we leave.

    Who has just become a client is nobody's replica any more, but has the records.
    """
    for key, _, held in core.store.living(now_s):
        nearest = core.others_near(key, core.config.replicas, now_s)
        if nearest and (core.is_client or None in core.replicas_of(key, now_s)):
            yield [(nearest[-1], held)]
        else:
            yield []
