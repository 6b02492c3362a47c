"""Shares: what each peer holds of the node's budgets, over all its connections together (core)."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakValueDictionary

from p2p.host.budget import Budget, Share
from p2p.host.yamux import INBOUND_STREAMS_MAX
from p2p.host.yamux_streams import UNREAD_BYTES_MAX, UNSENT_BYTES_MAX
from p2p.host.yamux_window import PROMISED_BYTES_MAX
from p2p.peer_id import PeerId

STREAMS_SERVED_MAX = 4_096
"""Handlers at once, over all peers."""


@dataclass(frozen=True)
class PeerShares:
    """One peer's; they last as long as somebody uses them."""

    unread: Share
    unsent: Share
    promised: Share
    served: Share
    """Streams of the peer that a handler serves."""


class Shares:
    """The budgets of a node, and the shares of the peers that are connected."""

    def __init__(self, buffered_bytes_max: int) -> None:
        held_max = buffered_bytes_max
        self._unread = Budget(total_max=held_max, share_max=UNREAD_BYTES_MAX)
        self._unsent = Budget(total_max=held_max, share_max=UNSENT_BYTES_MAX)
        self._promised = Budget(total_max=held_max, share_max=PROMISED_BYTES_MAX)
        self._served = Budget(total_max=STREAMS_SERVED_MAX, share_max=INBOUND_STREAMS_MAX)
        self._of: WeakValueDictionary[PeerId, PeerShares] = WeakValueDictionary()

    def of(self, peer_id: PeerId) -> PeerShares:
        """The peer's shares; the same ones as long as any of its connections has them."""
        shares = self._of.get(peer_id)
        if shares is None:
            shares = self._of[peer_id] = PeerShares(
                self._unread.open_share(),
                self._unsent.open_share(),
                self._promised.open_share(),
                self._served.open_share(),
            )
        return shares
