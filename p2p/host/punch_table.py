"""The punch table: which sockets to expect from peers that dial us as we dial them (core).

The peer's first packet may meet our listening socket instead of our dialing one, so that the
listener, too, must know which part we play on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from p2p.address import TcpAddress
from p2p.peer_id import PeerId

Part = Literal["dialer", "listener", "by-socket"]
"""Our part in the handshakes of a punched connection, whichever socket call made it; by-socket:
dialer where our connect() succeeded, listener where our listener accepted."""

EXPECTED_S = 10.0
_ENTRIES_MAX = 512


@dataclass(frozen=True)
class Expected:
    """A peer that may come from an address, and our part when it does."""

    peer_id: PeerId
    part: Part
    until_s: float


class PunchTable:
    """Whom to expect from where; the oldest entries give way."""

    def __init__(self) -> None:
        self._expected: OrderedDict[tuple[str, int], Expected] = OrderedDict()

    def expect(
        self, peer_id: PeerId, addresses: Iterable[TcpAddress], part: Part, now_s: float
    ) -> None:
        """From now on a connection from one of these is the peer's; the newest word counts."""
        expected = Expected(peer_id, part, now_s + EXPECTED_S)
        for address in addresses:
            key = (address.host, address.port)
            self._expected.pop(key, None)
            self._expected[key] = expected
            if len(self._expected) > _ENTRIES_MAX:
                self._expected.popitem(last=False)

    def find(self, remote: TcpAddress, now_s: float) -> Expected | None:
        """Who is expected from there, if anybody is."""
        expected = self._expected.get((remote.host, remote.port))
        return expected if expected and now_s < expected.until_s else None

    def forget(self, peer_id: PeerId) -> None:
        """The peer has come: what else comes from its addresses is no part of this."""
        for key in [key for key, one in self._expected.items() if one.peer_id == peer_id]:
            del self._expected[key]
