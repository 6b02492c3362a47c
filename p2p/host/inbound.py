"""Inbound: accepts sockets within the gate's limits, and makes connections of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from p2p.address import TcpAddress
from p2p.host.gate import Gate
from p2p.host.guests import Guests
from p2p.host.listen import remote_address
from p2p.host.live import LiveConnection
from p2p.host.punches import Punches
from p2p.host.transport import DialError
from p2p.metrics import HANDSHAKES_REFUSED

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 0.1


class Inbound:
    """Serves the listeners of one host."""

    def __init__(
        self,
        listeners: list[trio.SocketListener],
        gate: Gate,
        guests: Guests,
        punches: Punches,
        *,
        upgrade: Callable[[trio.SocketStream, TcpAddress, None], Awaitable[LiveConnection]],
        begin: Callable[[LiveConnection, str], None],
    ) -> None:
        self._listeners = listeners
        self._gate = gate
        self._guests = guests
        self._punches = punches
        self._upgrade = upgrade
        self._begin = begin
        self._handshakes: dict[int, trio.CancelScope] = {}
        self._accepting = trio.CancelScope()

    def close(self) -> None:
        """Accept nobody any more; who is shaking hands is cut off."""
        self._accepting.cancel()

    async def accept_all(self) -> None:
        """Serve until closed."""
        with self._accepting:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        failing = False
        while True:
            try:
                stream = await listener.accept()
                failing = False
            except OSError as exc:
                # Out of descriptors or memory, a peer gone again, a network down: all of it passes.
                if not failing:
                    logger.warning("accept_failed %s", exc)
                failing = True
                await trio.sleep(_ACCEPT_PAUSE_S)
                continue
            remote = remote_address(stream)
            if remote and (punch := self._punches.expected_from(remote)):
                bring_up = partial(self._punches.bring_up, accepted=True)
                nursery.start_soon(bring_up, punch, stream, remote)
                continue
            admission = remote and self._gate.on_accepted(
                remote.host, trio.current_time(), known=self._guests.knows_host(remote.host)
            )
            if not remote or not admission:
                HANDSHAKES_REFUSED.inc()
                await trio.aclose_forcefully(stream)
                continue
            if admission.displaced is not None:
                self._handshakes[admission.displaced].cancel()
            scope = self._handshakes[admission.place] = trio.CancelScope()
            nursery.start_soon(self._serve, stream, remote, admission.place, scope)

    async def _serve(
        self,
        stream: trio.SocketStream,
        remote: TcpAddress,
        place: int,
        scope: trio.CancelScope,
    ) -> None:
        scope.deadline = trio.current_time() + HANDSHAKE_TIMEOUT_S
        try:
            with scope:
                connection = await self._upgrade(stream, remote, None)
                known = self._guests.knows_peer(connection.info.peer_id)
                if known:
                    # It may have moved; next time it is known before its handshake.
                    self._guests.on_reached(connection.info.peer_id, remote.host)
                if self._gate.on_proved(remote.host, known=known):
                    self._begin(connection, remote.host)
                else:
                    await connection.session.aclose()
        except DialError as exc:
            logger.debug("handshake_failed address=%s %s", remote, exc)
        except Exception:
            # A stranger's bytes must not take the node down; the operator gets the traceback.
            logger.exception("handshake_crashed address=%s", remote)
        finally:
            del self._handshakes[place]
            self._gate.on_handshake_over(place)
