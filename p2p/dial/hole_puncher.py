"""Hole puncher: upgrades relayed connections to ones without a relay, by DCUtR.

Source: libp2p specification, relay/DCUtR; M. Seemann, M. Inden, D. Vyzovitis: Decentralized Hole
Punching, 2022.

    B began (the relayed connection came in at B)      A had come to B through the relay
    CONNECT{addresses of B}                     ->
                                                <-     CONNECT{addresses of A}; expects B
    dials A's public addresses plainly, for a moment
    SYNC                                        ->     dials B at once
    waits for half a round trip, dials A
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from p2p.address import TcpAddress, parse_tcp_address
from p2p.dial import punch as rules
from p2p.dial.dcutr import (
    DCUTR_PROTOCOL,
    PunchMessage,
    PunchType,
    framed,
    receive_untrusted,
)
from p2p.dial.punch import PunchCore, PunchResult
from p2p.errors import MessageInvalid, P2PError, StreamBroken
from p2p.host.host import Host
from p2p.host.listen import interface_networks
from p2p.host.stream import Stream
from p2p.host.transport import ConnectionInfo, DialError
from p2p.node import Node
from p2p.nursery import open_service_nursery
from p2p.peer_id import PeerId, short

logger = logging.getLogger(__name__)

EXCHANGE_TIMEOUT_S = 10.0
"""For the messages of one try."""
PLAIN_ROUND_TRIPS = 4
"""A plain dial needs so many round trips, each shorter than the one through the relay."""
PLAIN_S_MIN = 0.2
PLAIN_S_MAX = 1.5
CUT_OFF_MAX = 2
AGAIN_S = 0.1
"""Until a try that was cut off is repeated over the connection that is left."""
_RESULTS_MAX = 1_024


@asynccontextmanager
async def open_hole_puncher(
    node: Node,
    host: Host,
    *,
    observed: Callable[[], tuple[TcpAddress, ...]] = lambda: (),
    on_result: Callable[[PunchResult], None] = lambda result: None,
) -> AsyncIterator[HolePuncher]:
    """Punch to all who come or were reached through relays, until the block ends.

    Args:
        observed: how outsiders see connections that left from our listening port, and what a router
            has mapped to it, the most certain first.
        on_result: called with what came of each peer.
    """
    async with open_service_nursery() as nursery:
        puncher = HolePuncher(node, host, nursery, observed, on_result)
        host.set_handler(DCUTR_PROTOCOL, puncher.serve)
        host.on_connected.append(puncher.on_connected)
        nursery.start_soon(puncher.run)
        # Who came before us is welcome, too.
        for info in host.connections():
            puncher.on_connected(info)
        try:
            yield puncher
        finally:
            host.on_connected.remove(puncher.on_connected)
            host.set_handler(DCUTR_PROTOCOL, None)


@dataclass
class _Tries:
    """What the tries with one peer have been so far."""

    began_at_s: float
    count: int = 0
    mine: tuple[TcpAddress, ...] = ()
    theirs: tuple[TcpAddress, ...] = ()
    tried: tuple[TcpAddress, ...] = ()


class HolePuncher:
    """Drives the core with the streams and sockets of one host."""

    def __init__(
        self,
        node: Node,
        host: Host,
        nursery: trio.Nursery,
        observed: Callable[[], tuple[TcpAddress, ...]],
        on_result: Callable[[PunchResult], None],
    ) -> None:
        self._node = node
        self._host = host
        self._nursery = nursery
        self._observed = observed
        self._on_result = on_result
        self._core = PunchCore(node.rng)
        self._news = trio.Event()
        self._complained: set[PeerId] = set()
        self._series: dict[PeerId, trio.CancelScope] = {}
        self.results: dict[PeerId, PunchResult] = {}
        """What came of the peers that were punched to last."""

    def on_network_changed(self) -> None:
        """Our own addresses or our router have changed: what failed is tried again now."""
        self._core.on_network_changed(trio.current_time())
        self._wake()

    def on_connected(self, info: ConnectionInfo) -> None:
        """The host has a new connection."""
        if info.path != "relayed":
            self._core.on_unrelayed(info.peer_id)
            self._wake()
            return
        if not info.outbound and not self._is_unrelayed(info.peer_id):
            if self._core.state(info.peer_id) is None:
                self._nursery.start_soon(self._forget_when_gone, info.peer_id)
            if self._core.on_relayed(info.peer_id, trio.current_time()):
                self._nursery.start_soon(self._punch, info.peer_id)
            self._wake()

    async def run(self) -> None:
        """Begin again with peers whose pause is over."""
        while True:
            news = self._news
            deadline_s = self._core.deadline_s
            with trio.move_on_at(float("inf") if deadline_s is None else deadline_s):
                await news.wait()
            for peer_id in self._core.on_deadline(trio.current_time()):
                self._nursery.start_soon(self._punch, peer_id)

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _forget_when_gone(self, peer_id: PeerId) -> None:
        # The connection is being registered just now.
        await trio.lowlevel.checkpoint()
        await self._host.wait_disconnected(peer_id)
        self._core.on_gone(peer_id)
        self._complained.discard(peer_id)

    def _is_connected(self, peer_id: PeerId) -> bool:
        return any(one.peer_id == peer_id for one in self._host.connections())

    def _is_unrelayed(self, peer_id: PeerId) -> bool:
        return any(
            one.peer_id == peer_id and one.path != "relayed" for one in self._host.connections()
        )

    async def _wait_unrelayed(self, peer_id: PeerId) -> None:
        while not self._is_unrelayed(peer_id):
            # Each new connection is news.
            await self._news.wait()

    # We begin

    async def _punch(self, peer_id: PeerId) -> None:
        with trio.CancelScope() as self._series[peer_id]:
            try:
                await self._try_several_times(peer_id)
            finally:
                del self._series[peer_id]

    async def _try_several_times(self, peer_id: PeerId) -> None:
        tries = _Tries(trio.current_time())
        cause, broken = "", 0
        while tries.count < rules.TRIES:
            tries.count += 1
            cause, is_cut_off = "", False
            try:
                await self._try(peer_id, tries)
            except (P2PError, trio.TooSlowError) as exc:
                cause = self._complaint(peer_id, exc)
                is_cut_off = isinstance(exc, StreamBroken) and self._is_connected(peer_id)
            if self._is_unrelayed(peer_id):
                self._report_success(peer_id, tries, began=True)
                return
            if is_cut_off and broken < CUT_OFF_MAX:
                # Whoever comes through two relays at once closes one of the connections.
                broken += 1
                tries.count -= 1
                await trio.sleep(AGAIN_S)
            elif cause or not tries.tried:
                break
        self._core.on_failed(peer_id, trio.current_time())
        reason = cause or rules.why_failed(tries.mine, tries.theirs, tries.tried, tries=tries.count)
        self._report(peer_id, "failed", tries, reason, began=True)
        self._wake()

    async def _try(self, peer_id: PeerId, tries: _Tries) -> None:
        """One exchange, and the dials that follow on it; raises when there was no exchange."""
        tries.mine = rules.offers(self._observed(), self._own())
        stream = await self._host.open_stream(peer_id, DCUTR_PROTOCOL)
        try:
            if stream.path != "relayed":
                return
            with trio.fail_after(EXCHANGE_TIMEOUT_S):
                asked_at_s = trio.current_time()
                await stream.send_all(framed(self._message(PunchType.CONNECT, tries)))
                answer = await receive_untrusted(stream, PunchType.CONNECT)
                round_trip_s = trio.current_time() - asked_at_s
            tries.theirs = answer.addresses
            tries.tried = rules.targets(answer.addresses, tries.mine, interface_networks())
            if tries.count == 1 and await self._dial_plainly(peer_id, tries, round_trip_s):
                return
            if not tries.tried:
                return
            part = rules.part_of(
                began=True, try_number=tries.count, is_ours=answer.try_number is not None
            )
            self._host.expect_punch(peer_id, tries.tried, part)
            with trio.fail_after(EXCHANGE_TIMEOUT_S):
                await stream.send_all(framed(self._message(PunchType.SYNC, tries)))
                await stream.aclose()
        finally:
            stream.reset()
        await trio.sleep(round_trip_s / 2)
        await self._dial(peer_id, tries.tried)

    async def _dial_plainly(self, peer_id: PeerId, tries: _Tries, round_trip_s: float) -> bool:
        """Whether a public peer was reached by an ordinary dial; it only had come to us relayed."""
        addresses = rules.public_ones(tries.tried)
        limit_s = min(max(PLAIN_ROUND_TRIPS * round_trip_s, PLAIN_S_MIN), PLAIN_S_MAX)

        async def attempt(address: TcpAddress) -> None:
            try:
                await self._host.dial(peer_id, address, from_listen_port=False)
            except DialError:
                return
            except Exception:
                # A stranger's bytes must not take the node down; the operator gets the traceback.
                logger.exception("dial_crashed address=%s", address)
                return
            nursery.cancel_scope.cancel()

        with trio.move_on_after(limit_s):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(attempt, address)
        return self._is_unrelayed(peer_id)

    async def _dial(self, peer_id: PeerId, addresses: tuple[TcpAddress, ...]) -> None:
        try:
            await self._host.punch(peer_id, addresses, window_s=rules.WINDOW_S)
        except DialError as exc:
            logger.debug("punch_failed peer=%s %s", short(peer_id), exc)

    # We are asked

    async def serve(self, stream: Stream) -> None:
        """A peer that we came to through a relay wants to punch."""
        peer_id = stream.peer_id
        if series := self._series.get(peer_id):
            # We have come to each other at the same time: one of us begins, not both.
            if self._node.peer_id < peer_id:
                stream.reset()
                return
            series.cancel()
        refusal = self._refusal(stream) or self._core.on_asked(peer_id, trio.current_time())
        if refusal:
            self._complain(peer_id, refusal)
            stream.reset()
            return
        tries = _Tries(trio.current_time())
        try:
            await self._exchange(stream, tries)
        except MessageInvalid as exc:
            self._complain(peer_id, str(exc))
            raise
        except StreamBroken:
            # It does without SYNC when it has reached us plainly, which we may notice after it.
            with trio.move_on_after(PLAIN_S_MAX):
                await self._wait_unrelayed(peer_id)
        else:
            if tries.tried:
                await self._dial(peer_id, tries.tried)
        if self._is_unrelayed(peer_id):
            self._report_success(peer_id, tries, began=False)
        elif tries.count >= rules.TRIES:
            reason = rules.why_failed(tries.mine, tries.theirs, tries.tried, tries=tries.count)
            self._core.on_failed(peer_id, trio.current_time())
            self._report(peer_id, "failed", tries, reason, began=False)

    async def _exchange(self, stream: Stream, tries: _Tries) -> None:
        """Answer CONNECT, and return when SYNC has come; notes in tries what was said."""
        tries.mine = rules.offers(self._observed(), self._own())
        with trio.fail_after(EXCHANGE_TIMEOUT_S):
            asked = await receive_untrusted(stream, PunchType.CONNECT)
            is_ours = asked.try_number is not None
            tries.count = (
                min(asked.try_number, rules.TRIES)
                if asked.try_number
                else self._core.asked_lately(stream.peer_id)
            )
            tries.theirs = asked.addresses
            tries.tried = rules.targets(asked.addresses, tries.mine, interface_networks())
            part = rules.part_of(began=False, try_number=tries.count, is_ours=is_ours)
            # Before the answer: the peer may begin as soon as it has it.
            self._host.expect_punch(stream.peer_id, tries.tried, part)
            await stream.send_all(framed(self._message(PunchType.CONNECT, tries)))
            await receive_untrusted(stream, PunchType.SYNC)
            await stream.aclose()

    def _refusal(self, stream: Stream) -> str | None:
        if stream.path != "relayed":
            return "it asks to punch over a connection that needs no relay"
        came_to = any(
            one.peer_id == stream.peer_id and one.path == "relayed" and one.outbound
            for one in self._host.connections()
        )
        return None if came_to else "it asks to punch though it had come to us"

    # Both

    def _own(self) -> tuple[TcpAddress, ...]:
        return tuple(one for one in self._host.addresses if isinstance(one, TcpAddress))

    def _message(self, kind: PunchType, tries: _Tries) -> PunchMessage:
        addresses = tries.mine if kind is PunchType.CONNECT else ()
        return PunchMessage(type=kind, addresses=addresses, try_number=tries.count)

    def _complaint(self, peer_id: PeerId, exc: Exception) -> str:
        """What the peer did instead of taking part, as one sentence."""
        if isinstance(exc, MessageInvalid):
            self._complain(peer_id, str(exc))
            return f"The peer does not keep to the protocol: {exc}."
        if isinstance(exc, trio.TooSlowError):
            return "The peer did not answer our request to punch in time."
        return f"The peer does not take part in punching: {exc}."

    def _complain(self, peer_id: PeerId, what: str) -> None:
        """Once for each peer while it is here: it could repeat itself."""
        if peer_id not in self._complained and len(self._complained) < _RESULTS_MAX:
            self._complained.add(peer_id)
            logger.warning("punch_refused peer=%s %s", short(peer_id), what)

    def _report_success(self, peer_id: PeerId, tries: _Tries, *, began: bool) -> None:
        infos = [
            one
            for one in self._host.connections()
            if one.peer_id == peer_id and one.path != "relayed"
        ]
        newest = infos[-1]
        if newest.path == "punched":
            self._node.on_punched(peer_id, parse_tcp_address(newest.address))
            self._report(peer_id, "punched", tries, f"Try {tries.count} got through.", began=began)
        else:
            reason = "A plain dial got through, without punching."
            self._report(peer_id, "direct", tries, reason, began=began)

    def _report(
        self,
        peer_id: PeerId,
        outcome: rules.Outcome,
        tries: _Tries,
        reason: str,
        *,
        began: bool,
    ) -> None:
        seconds = trio.current_time() - tries.began_at_s
        result = PunchResult(peer_id, outcome, began, tries.count, seconds, reason)
        self.results.pop(peer_id, None)
        self.results[peer_id] = result
        if len(self.results) > _RESULTS_MAX:
            del self.results[next(iter(self.results))]
        logger.info(
            "punch_over peer=%s outcome=%s tries=%d seconds=%.2f",
            short(peer_id),
            outcome,
            tries.count,
            seconds,
        )
        self._on_result(result)
