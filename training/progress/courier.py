"""Telling one peer of our progress: a stream on which our newest record follows each piece of news.

    opening     our record out, the peer's own record back
    news        our record again; several pieces at once make one message
    quiet       our record again after a while, as a sign of life
    broken      opened anew at once; if that fails the peer is lost, and tried again later

The peer's progress comes the same way, on a stream that it opens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from p2p import (
    Node,
    P2PError,
    PeerId,
    RefusedError,
    RpcCall,
    RpcClient,
    StreamBroken,
    open_service_nursery,
    short,
)
from training.progress import schema
from training.progress.schema import Progress, ProgressAnswer

logger = logging.getLogger(__name__)

# A peer that cannot be reached is tried again with growing pauses.
_RETRY_S_MAX = 10.0
# A stream that breaks at once is opened again only so often.
_SHORT_S = 0.1


class Office(Protocol):
    """Where couriers get what they carry and bring what they hear."""

    def message(self) -> Progress:
        """Our newest record."""

    def on_answer(self, peer_id: PeerId, record: Progress) -> None:
        """The peer said where it is."""

    def on_unreachable(self, peer_id: PeerId, *, sequence: int, cause: str) -> None:
        """The peer cannot be told, though it was known up to this sequence number."""

    def sequence_of(self, peer_id: PeerId) -> int:
        """The newest sequence number heard of the peer; -1 for none."""


class Courier:
    """Tells one peer, until it is forgotten."""

    def __init__(
        self,
        peer_id: PeerId,
        office: Office,
        node: Node,
        client: RpcClient,
        *,
        heartbeat_s: float,
        timeout_s: float,
        forget_s: float,
    ) -> None:
        self.reached = False
        """Whether the peer hears us."""
        self.introduced = trio.Event()
        """Set when the peer has answered for the first time, or could not be reached."""
        self._peer_id = peer_id
        self._office = office
        self._node = node
        self._client = client
        self._heartbeat_s = heartbeat_s
        self._timeout_s = timeout_s
        self._forget_s = forget_s
        self._wake = trio.Event()

    def on_news(self) -> None:
        """Our progress changed; who cannot be reached hears of it when it can."""
        if self.reached:
            self._wake.set()

    def on_sign_of_life(self) -> None:
        """The peer has come to us: now it can be reached, too."""
        if not self.reached:
            self._wake.set()

    async def run(self, on_end: Callable[[PeerId], None]) -> None:
        """Carry messages until the peer is forgotten."""
        pause_s = self._heartbeat_s
        forgotten_at_s = trio.current_time() + self._forget_s
        try:
            while (
                self._office.sequence_of(self._peer_id) >= 0 or trio.current_time() < forgotten_at_s
            ):
                began_s = trio.current_time()
                if await self._visit():
                    # It broke; perhaps the connection only.
                    await trio.sleep_until(began_s + _SHORT_S)
                    pause_s = self._heartbeat_s
                    continue
                self.introduced.set()
                with trio.move_on_after(pause_s):
                    await self._wake.wait()
                self._wake = trio.Event()
                pause_s = min(2 * pause_s, _RETRY_S_MAX)
        finally:
            self.introduced.set()
            on_end(self._peer_id)

    async def _visit(self) -> bool:
        """One stream's life; False when it could not be opened."""
        if not self._can_try():
            # It cannot be dialed and has not come to us: what it says through the DHT counts.
            return False
        heard = self._office.sequence_of(self._peer_id)
        try:
            async with self._client.open(
                self._peer_id, schema.REPORTS, self._office.message(), timeout_s=self._timeout_s
            ) as call:
                with trio.fail_after(self._timeout_s):
                    received = await call.receive()
                if received is None:
                    raise StreamBroken("ended without an answer")
                self.reached = True
                if received[0].record is not None:
                    self._office.on_answer(self._peer_id, received[0].record)
                self.introduced.set()
                await self._carry_on(call)
        except (P2PError, trio.TooSlowError) as exc:
            was_reached, self.reached = self.reached, False
            if not was_reached:
                refused = isinstance(exc, RefusedError)
                cause = str(exc) or f"no answer within {self._timeout_s:g} s"
                level = logging.DEBUG if refused else logging.INFO
                logger.log(level, "peer_lost peer=%s cause=%s", short(self._peer_id), cause)
                self._office.on_unreachable(self._peer_id, sequence=heard, cause=cause)
            return was_reached
        finally:
            self.reached = False
        return True

    async def _carry_on(self, call: RpcCall[Progress, ProgressAnswer]) -> None:
        """Tell what is new until the stream breaks."""
        async with open_service_nursery() as nursery:
            nursery.start_soon(_cancel_when_broken, call, nursery.cancel_scope)
            while True:
                with trio.move_on_after(self._heartbeat_s):
                    await self._wake.wait()
                self._wake = trio.Event()
                with trio.fail_after(self._timeout_s):
                    await call.send(self._office.message())
        raise StreamBroken("the connection was lost")

    def _can_try(self) -> bool:
        connected = self._peer_id in self._node.connected_peers
        return connected or bool(self._node.addresses_of(self._peer_id))


async def _cancel_when_broken(
    call: RpcCall[Progress, ProgressAnswer], scope: trio.CancelScope
) -> None:
    await call.wait_broken()
    scope.cancel()
