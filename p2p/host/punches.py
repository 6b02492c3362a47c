"""Punching: sockets opened to a peer that opens its own to us, and one connection made of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from p2p.address import TcpAddress
from p2p.host.listen import dial_cause
from p2p.host.live import LiveConnection
from p2p.host.punch_table import EXPECTED_S, Part, PunchTable
from p2p.host.sockets import DialingSockets
from p2p.host.transport import DialError
from p2p.peer_id import PeerId

logger = logging.getLogger(__name__)

HANDSHAKE_S = 5.0
"""For one socket that has been connected; the others wait while we are the dialer."""
SOCKETS_MAX = 16
"""Connected ones of one punch at once; further ones are closed."""
_FIRST_PAUSE_S = 0.1

Upgrade = Callable[[trio.SocketStream, TcpAddress, PeerId | None], Awaitable[LiveConnection]]
"""Makes a connection of a socket: as the dialer of that peer, or as listener for None."""


@dataclass(eq=False)
class Punch:
    """What is under way with one peer."""

    peer_id: PeerId
    part: Part
    begun_at_s: float
    causes: dict[str, str] = field(default_factory=dict)
    """Why each address that failed did."""
    handshakes: int = 0
    idle: trio.Event = field(default_factory=trio.Event)
    """Set when the last handshake under way has ended."""
    done: trio.Event = field(default_factory=trio.Event)
    turn: trio.Lock = field(default_factory=trio.Lock)
    """As dialer we bring up one socket after the other, so that both sides keep the same one."""


class Punches:
    """Opens sockets while the peer does the same; the listener hands over what meets it."""

    def __init__(
        self, sockets: DialingSockets, upgrade: Upgrade, begin: Callable[[LiveConnection], None]
    ) -> None:
        self._sockets = sockets
        self._upgrade = upgrade
        self._begin = begin
        self._table = PunchTable()
        self._punches: dict[PeerId, Punch] = {}

    def expect(self, peer_id: PeerId, addresses: Iterable[TcpAddress], part: Part) -> None:
        """For 10 s, connections from these addresses are of this peer, with this part for us."""
        now_s = trio.current_time()
        for old in [one for one in self._punches.values() if now_s > one.begun_at_s + EXPECTED_S]:
            del self._punches[old.peer_id]
        self._table.forget(peer_id)
        self._table.expect(peer_id, addresses, part, now_s)
        self._punches[peer_id] = Punch(peer_id, part, now_s)

    def expected_from(self, remote: TcpAddress) -> Punch | None:
        """What an accepted connection belongs to, if it is no ordinary one."""
        expected = self._table.find(remote, trio.current_time())
        return self._punches.get(expected.peer_id) if expected else None

    def on_unrelayed(self, peer_id: PeerId) -> None:
        """The peer has a connection without a relay, however it came about: nothing is missing."""
        if punch := self._punches.pop(peer_id, None):
            self._table.forget(peer_id)
            punch.done.set()

    async def open(
        self, peer_id: PeerId, addresses: tuple[TcpAddress, ...], *, window_s: float
    ) -> None:
        """Connect to a peer that has been expected, and that dials us in the same moments.

        Raises:
            DialError: no connection came of it; the text names the cause for each address.
        """
        punch = self._punches.get(peer_id)
        if punch is None:
            # It has come in the meantime.
            return
        deadline_s = trio.current_time() + window_s

        async def end_when_done() -> None:
            await punch.done.wait()
            nursery.cancel_scope.cancel()

        async def keep_trying(address: TcpAddress) -> None:
            stream = await self._connect(punch, address, deadline_s)
            if stream is not None:
                await self.bring_up(punch, stream, address, accepted=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_when_done)
            async with trio.open_nursery() as tries:
                for address in addresses:
                    tries.start_soon(keep_trying, address)
                # The peer may yet get through to our listener.
                await trio.sleep_until(deadline_s)
            if punch.handshakes:
                with trio.move_on_after(HANDSHAKE_S):
                    await punch.idle.wait()
            nursery.cancel_scope.cancel()
        if not punch.done.is_set():
            causes = "; ".join(f"{address}: {cause}" for address, cause in punch.causes.items())
            raise DialError(causes or "the peer has no address that we could try")

    async def _connect(
        self, punch: Punch, address: TcpAddress, deadline_s: float
    ) -> trio.SocketStream | None:
        """A socket to there; refusals are no answer while the peer's router is still closed."""
        pause_s = _FIRST_PAUSE_S
        punch.causes[str(address)] = "no answer"
        stream = None
        with trio.move_on_at(deadline_s):
            while stream is None:
                try:
                    stream = await self._sockets.open_to_punch(address)
                except OSError as exc:
                    # The port may be taken because our listener has met the peer already.
                    punch.causes[str(address)] = dial_cause(exc)
                    await trio.sleep(pause_s)
                    pause_s *= 2
        return stream

    async def bring_up(
        self, punch: Punch, stream: trio.SocketStream, remote: TcpAddress, *, accepted: bool
    ) -> None:
        """Make the connection of this socket if no other becomes it first; else close it."""
        if punch.handshakes == SOCKETS_MAX:
            stream.socket.close()
            return
        as_dialer = punch.part == "dialer" or (punch.part == "by-socket" and not accepted)
        if not punch.handshakes:
            punch.idle = trio.Event()
        punch.handshakes += 1
        try:
            if as_dialer:
                async with punch.turn:
                    await self._shake_hands(punch, stream, remote, punch.peer_id)
            else:
                await self._shake_hands(punch, stream, remote, None)
        except DialError as exc:
            punch.causes[str(remote)] = str(exc)
        except trio.TooSlowError:
            punch.causes[str(remote)] = "connected, but the handshake took too long"
        except Exception:
            # A stranger's bytes must not take the node down; the operator gets the traceback.
            logger.exception("punch_crashed address=%s", remote)
            punch.causes[str(remote)] = "an error of ours, see the log"
        except BaseException:
            stream.socket.close()
            raise
        finally:
            punch.handshakes -= 1
            if not punch.handshakes:
                punch.idle.set()

    async def _shake_hands(
        self, punch: Punch, stream: trio.SocketStream, remote: TcpAddress, expected: PeerId | None
    ) -> None:
        if punch.done.is_set():
            stream.socket.close()
            return
        with trio.fail_after(HANDSHAKE_S):
            connection = await self._upgrade(stream, remote, expected)
            if connection.info.peer_id != punch.peer_id:
                await connection.session.aclose()
                raise DialError(f"impostor: {connection.info.peer_id} answers there")
        self._begin(connection)
