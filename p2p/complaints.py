"""Complaints: what peers do wrong is logged once for each of them, however often they do it."""

from __future__ import annotations

import logging
from collections import OrderedDict

from p2p.peer_id import PeerId, short

PEERS_MAX = 4_096
"""So many are remembered; keys cost nothing, so the oldest are forgotten."""


class Complaints:
    """Whom one service has complained of."""

    def __init__(self, logger: logging.Logger, event: str) -> None:
        self._logger = logger
        self._event = event
        self._known: OrderedDict[PeerId, None] = OrderedDict()

    def add(self, peer_id: PeerId, cause: str) -> None:
        """Log what a peer has done, unless one line of it stands there already."""
        if peer_id in self._known:
            return
        self._known[peer_id] = None
        if len(self._known) > PEERS_MAX:
            self._known.popitem(last=False)
        self._logger.warning("%s peer=%s cause=%s", self._event, short(peer_id), cause)
