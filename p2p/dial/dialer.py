"""Dialer: races all addresses of a peer, shares one race among callers, keeps every cause.

Direct addresses start at once. Ways through relays start when all of those have failed, or after a
head start. A circuit that wins ends the race for those who wait; the direct attempts still under
way go on, and one that succeeds then takes the new streams.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2p.address import Address, CircuitAddress
from p2p.dial.backoff import BackOff
from p2p.dial.order import start_of
from p2p.discovery.networks import Interface
from p2p.errors import Attempt, UnreachableError
from p2p.host.transport import DialError, Transport
from p2p.peer_id import PeerId

logger = logging.getLogger(__name__)

HEAD_START_S = 0.25
"""How long direct addresses are tried alone, before circuits join in. Source: RFC 8305, §5."""


@dataclass
class _Race:
    """One race under way; those who wait for it share its outcome."""

    addresses: tuple[Address, ...]
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
        on_reached: Callable[[PeerId, Address], None],
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

    async def connect(self, peer_id: PeerId, addresses: tuple[Address, ...]) -> None:
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

    async def _run(self, peer_id: PeerId, race: _Race) -> None:
        due, paused = self.back_off.split(race.addresses, trio.current_time())
        try:
            async with trio.open_nursery() as nursery:
                lanes = _Lanes(due, nursery)
                for address in lanes.direct:
                    nursery.start_soon(self._attempt, peer_id, address, race, lanes)
                if lanes.circuits:
                    if lanes.direct:
                        with trio.move_on_after(HEAD_START_S):
                            await lanes.direct_failed.wait()
                    async with trio.open_nursery() as circuits:
                        lanes.circuit_scope = circuits.cancel_scope
                        for way in lanes.circuits:
                            circuits.start_soon(self._attempt, peer_id, way, race, lanes)
            for address, cause in lanes.causes.items():
                self.back_off.on_failed(address, cause, trio.current_time())
            tried = tuple(
                Attempt(str(address), lanes.causes.get(address, "lost at once")) for address in due
            )
            if not race.finished.is_set():
                race.attempts = None if self._is_connected(peer_id) else tried + paused
        finally:
            self._finish(peer_id, race)

    def _finish(self, peer_id: PeerId, race: _Race) -> None:
        if self._races.get(peer_id) is race:
            del self._races[peer_id]
        race.finished.set()

    async def _dial(
        self, peer_id: PeerId, address: Address, addresses: tuple[Address, ...]
    ) -> None:
        """Dial one of several addresses, when its turn comes and for as long as it may take."""
        start = start_of(address, addresses, self._interfaces())
        await trio.sleep(start.delay_s)
        timeout_s = min(self._dial_timeout_s, start.timeout_s_max)
        with trio.move_on_after(timeout_s):
            return await self._transport.dial(peer_id, address)
        raise DialError(f"no answer in {timeout_s:g} s")

    async def _attempt(self, peer_id: PeerId, address: Address, race: _Race, lanes: _Lanes) -> None:
        try:
            await self._dial(peer_id, address, race.addresses)
        except DialError as exc:
            lanes.on_failed(address, str(exc))
        except Exception:
            # A stranger's bytes must not take the node down; the operator gets the traceback.
            logger.exception("dial_crashed address=%s", address)
            lanes.on_failed(address, "an error of ours, see the log")
        else:
            self.back_off.forgive((address,))
            self._on_reached(peer_id, address)
            lanes.on_reached(address)
            if isinstance(address, CircuitAddress) and self._is_connected(peer_id):
                race.attempts = None
                self._finish(peer_id, race)


class _Lanes:
    """The addresses of one race: direct ones start, circuits follow, a direct one wins."""

    def __init__(self, addresses: tuple[Address, ...], nursery: trio.Nursery) -> None:
        self.direct: list[Address] = [
            one for one in addresses if not isinstance(one, CircuitAddress)
        ]
        self.circuits: list[Address] = [one for one in addresses if isinstance(one, CircuitAddress)]
        self.causes: dict[Address, str] = {}
        self.direct_failed = trio.Event()
        self.circuit_scope = trio.CancelScope()
        self._all_scope = nursery.cancel_scope

    def on_failed(self, address: Address, cause: str) -> None:
        """This one did not lead to the peer."""
        self.causes[address] = cause
        if all(one in self.causes for one in self.direct):
            self.direct_failed.set()

    def on_reached(self, address: Address) -> None:
        """End what is not needed any more; direct attempts outlast a circuit that was quicker."""
        scope = self.circuit_scope if isinstance(address, CircuitAddress) else self._all_scope
        scope.cancel()
