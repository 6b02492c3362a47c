"""Guests: whom we let in at all, and for whom places are kept (core).

Known is who was reached by our own dial, or stands on the allow list, and the hosts where it was.
To prove an identity to us makes nobody known: that costs a stranger nothing. Where swarms are open,
a stranger may get us to dial it, too; it then shares the kept places with all others known.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

from p2p.peer_id import PeerId

Key = TypeVar("Key")
_KNOWN_MAX = 4_096


class Guests:
    """The allow list, the deny list, and who is known."""

    def __init__(
        self,
        *,
        allowed: Iterable[PeerId] = (),
        denied: Iterable[PeerId] = (),
        others_may_ask: bool = False,
    ) -> None:
        """Make the lists.

        Args:
            others_may_ask: who is not on the allow list may show a token instead.
        """
        self._others_may_ask = others_may_ask
        self._allowed = frozenset(allowed)
        self._denied = frozenset(denied)
        self._peers: OrderedDict[PeerId, None] = OrderedDict()
        self._hosts: OrderedDict[str, None] = OrderedDict()

    def refusal(self, peer_id: PeerId) -> str | None:
        """Why the peer may not connect, or None if it may; the deny list has the last word."""
        if peer_id in self._denied:
            return "on our deny list"
        if self._allowed and not self._others_may_ask and peer_id not in self._allowed:
            return "not on our allow list"
        return None

    def on_reached(self, peer_id: PeerId, host: str) -> None:
        """A peer that our own dial led to, or the allow list names, is on this host."""
        _remember(self._peers, peer_id)
        _remember(self._hosts, host)

    def knows_host(self, host: str) -> bool:
        """Whether somebody known was reached there; before a handshake we know no more."""
        return host in self._hosts

    def knows_peer(self, peer_id: PeerId) -> bool:
        """Whether the peer is known."""
        return peer_id in self._peers or peer_id in self._allowed


def _remember(known: OrderedDict[Key, None], key: Key) -> None:
    known.pop(key, None)
    known[key] = None
    if len(known) > _KNOWN_MAX:
        known.popitem(last=False)
