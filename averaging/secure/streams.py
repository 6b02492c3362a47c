"""What a session keeps of its streams, and how its group cuts the vector."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import trio

from averaging.allreduce.bell import Bell
from averaging.matchmaking.group import Group
from averaging.secure.parts import Arriving, Span
from averaging.secure.schema import SumEnd


@dataclass
class Outbox:
    """What waits for one stream: small messages first, then numbers of spans."""

    bell: Bell = field(default_factory=Bell)
    messages: deque[Any] = field(default_factory=deque)
    """As many as the protocol has; each is put in once."""
    bulk: deque[Any] = field(default_factory=deque)
    """At an uplink spans, at a link plans and spans."""
    sending: bool = False
    drained: Bell = field(default_factory=Bell)
    """Rings when all has been sent."""

    def put(self, message: Any) -> None:
        """Send a small message soon."""
        self.messages.append(message)
        self.bell.ring()

    def put_bulk(self, what: Any) -> None:
        """Send a span when its turn comes."""
        self.bulk.append(what)
        self.bell.ring()

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self.messages and not self.bulk


@dataclass
class Uplink:
    """Our stream to an aggregator."""

    outbox: Outbox = field(default_factory=Outbox)
    sums: dict[tuple[int, int], Arriving] = field(default_factory=dict)
    """Masked sums on their way to us, by plan and span."""
    ends: list[SumEnd] = field(default_factory=list)
    """Of sums that are here, and that we do not yet know whether to expect."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    cause: str = "it closed the stream"
    """Why it ended."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Why a session is over."""

    reason: str
    """Empty on success."""
    blamed: tuple[int, ...] = ()


def spans_of(group: Group) -> tuple[tuple[Span, ...], tuple[int, ...]]:
    """The spans of a group that are not empty, and the index of each one's aggregator."""
    spans, owners, start = [], [], 0
    for peer, length in zip(group.aggregators, group.span_elements, strict=True):
        if length:
            spans.append(Span(start, start + length))
            owners.append(group.peer_ids.index(peer))
        start += length
    return tuple(spans), tuple(owners)
