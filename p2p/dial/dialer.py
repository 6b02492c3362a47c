"""Dialer: races all addresses of a peer, shares one race among callers, keeps every cause."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2p.address import TcpAddress
from p2p.dial.backoff import BackOff
from p2p.dial.order import start_of
from p2p.discovery.networks import Interface
from p2p.errors import Attempt, UnreachableError
from p2p.host.transport import DialError, Transport
from p2p.peer_id import PeerId

logger = logging.getLogger(__name__)


@dataclass
class _Race:
    """One race under way; those who wait for it share its outcome."""

    addresses: tuple[TcpAddress, ...]
    attempts: tuple[Attempt, ...] | None = (Attempt("any", "the node is closing"),)
    """Why the race was lost; None when it was won. What stands here at first holds if it is cut."""
    finished: trio.Event = field(default_factory=trio.Event)


class Dialer:
    """Connects to peers over a transport, from a nursery of its owner.

    A race belongs to the dialer, not to the caller: one caller's cancellation does not
    fail another who waits for the same peer.
    """

    def __init__(
        self,
        transport: Transport,
        nursery: trio.Nursery,
        *,
        is_connected: Callable[[PeerId], bool],
        on_reached: Callable[[PeerId, TcpAddress], None],
        dial_timeout_s: float,
        rng: random.Random,
        interfaces: Callable[[], tuple[Interface, ...]] | None = None,
    ) -> None:
        self._transport = transport
        self._nursery = nursery
        self._is_connected = is_connected
        self._on_reached = on_reached
        self._dial_timeout_s = dial_timeout_s
        self._interfaces = interfaces or tuple
        self._races: dict[PeerId, _Race] = {}
        self.back_off = BackOff(rng)

    async def connect(self, peer_id: PeerId, addresses: tuple[TcpAddress, ...]) -> None:
        """Connect at whichever address answers first.

        Raises:
            UnreachableError: none did; it lists them all.
        """
        while not self._is_connected(peer_id):
            race = self._races.get(peer_id)
            joined = race is not None
            if race is None:
                if not addresses:
                    raise UnreachableError(peer_id)
                race = _Race(addresses)
                self._nursery.start_soon(self._run, peer_id, race)
                self._races[peer_id] = race
            await race.finished.wait()
            if race.attempts is None:
                return
            # A race that we only joined may not have known all of our addresses.
            if not joined or set(addresses) <= set(race.addresses):
                raise UnreachableError(peer_id, race.attempts)

    async def _dial(
        self, peer_id: PeerId, address: TcpAddress, addresses: tuple[TcpAddress, ...]
    ) -> None:
        """Dial one of several addresses, when its turn comes and for as long as it may take."""
        start = start_of(address, addresses, self._interfaces())
        await trio.sleep(start.delay_s)
        timeout_s = min(self._dial_timeout_s, start.timeout_s_max)
        with trio.move_on_after(timeout_s):
            return await self._transport.dial(peer_id, address)
        raise DialError(f"no answer in {timeout_s:g} s")

    async def _run(self, peer_id: PeerId, race: _Race) -> None:
        causes: dict[TcpAddress, str] = {}
        due, paused = self.back_off.split(race.addresses, trio.current_time())

        async def attempt(address: TcpAddress, nursery: trio.Nursery) -> None:
            try:
                await self._dial(peer_id, address, race.addresses)
            except DialError as exc:
                causes[address] = str(exc)
            except Exception:
                # A stranger's bytes must not take the node down; the operator gets the traceback.
                logger.exception("dial_crashed address=%s", address)
                causes[address] = "an error of ours, see the log"
            else:
                self.back_off.forgive((address,))
                self._on_reached(peer_id, address)
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                for address in due:
                    nursery.start_soon(attempt, address, nursery)
            for address, cause in causes.items():
                self.back_off.on_failed(address, cause, trio.current_time())
            tried = tuple(
                Attempt(str(address), causes.get(address, "lost at once")) for address in due
            )
            race.attempts = None if self._is_connected(peer_id) else tried + paused
        finally:
            del self._races[peer_id]
            race.finished.set()
