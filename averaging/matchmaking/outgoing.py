"""Our own calls of matchmaking: a JOIN that stays open, and invitations, as the core asks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from averaging.matchmaking import schema
from averaging.matchmaking.failure import failure_of
from averaging.matchmaking.group import Group
from averaging.matchmaking.matcher import Matcher
from averaging.matchmaking.outputs import Ask, AskFailure, Output, SendInvite
from averaging.matchmaking.plan import parse_planned_untrusted
from p2p import (
    CallTimeout,
    Node,
    P2PError,
    PeerId,
    RpcClient,
    StreamBroken,
    UnreachableError,
    parse_peer_id_untrusted,
    short,
)

logger = logging.getLogger(__name__)

# The core passes over a silent peer long before; these only end calls that nobody waits for.
_ASK_TIMEOUT_S: Final = 10.0
_INVITE_TIMEOUT_S: Final = 5.0
# A dozen members, whose signatures take two milliseconds: a thread would be waited for as long.
_READ_AT_ONCE_BYTES_MAX: Final = 6_144


class Outgoing:
    """The calls under way; what comes of each is told to the core."""

    def __init__(
        self,
        node: Node,
        client: RpcClient,
        core: Matcher,
        apply: Callable[[list[Output]], None],
        nursery: trio.Nursery,
        element_count: int,
        vector_bytes: int,
    ) -> None:
        self._node = node
        self._client = client
        self._core = core
        self._apply = apply
        self._nursery = nursery
        self._vector = (element_count, vector_bytes)
        self._asks: dict[int, trio.CancelScope] = {}
        self._inviting: dict[PeerId, None] = {}

    def ask(self, ask: Ask) -> None:
        """Open a JOIN call."""
        scope = trio.CancelScope()
        self._asks[ask.ticket] = scope
        self._nursery.start_soon(self._ask, ask, scope)

    def withdraw(self, ticket: int) -> None:
        """Break a JOIN call off."""
        if ticket in self._asks:
            self._asks[ticket].cancel()

    def invite(self, output: SendInvite) -> None:
        """Invite a peer, unless the last invitation is still under way."""
        if output.peer_id not in self._inviting:
            self._inviting[output.peer_id] = None
            self._nursery.start_soon(self._invite, output)

    async def _ask(self, ask: Ask, scope: trio.CancelScope) -> None:
        failure: tuple[AskFailure, str] | None = None
        with scope:
            try:
                await self._converse(ask)
            except P2PError as exc:
                failure = failure_of(exc)
        del self._asks[ask.ticket]
        if failure is not None:
            now_s = trio.current_time()
            self._apply(self._core.on_ask_failed(ask.ticket, failure[0], failure[1], now_s))

    async def read_group_untrusted(self, body: bytes) -> Group:
        """As parse_planned_untrusted(), for our vector; of a large group in a thread."""
        if len(body) <= _READ_AT_ONCE_BYTES_MAX:
            return parse_planned_untrusted(body, *self._vector)
        return await self._node.offload(parse_planned_untrusted, body, *self._vector)

    async def _converse(self, ask: Ask) -> None:
        self._node.add_addresses(ask.peer_id, ask.addresses)
        opening = self._client.open(ask.peer_id, schema.JOIN, ask.request, timeout_s=_ASK_TIMEOUT_S)
        async with opening as call:
            while True:
                received = await call.receive()
                if received is None:
                    raise StreamBroken("it ended the call without a last word")
                message: schema.LeaderMessage = received[0]
                if isinstance(message, schema.GroupFormed):
                    group = await self.read_group_untrusted(message.body)
                    now_s = trio.current_time()
                    last_s = message.last_arrival_s
                    self._apply(self._core.on_group(ask.ticket, group, last_s, now_s))
                    return
                if isinstance(message, schema.Redirect):
                    parse_peer_id_untrusted(message.peer_id)
                now_s = trio.current_time()
                self._apply(self._core.on_leader_message(ask.ticket, message, now_s))
                if not isinstance(message, schema.Wait):
                    return

    async def _invite(self, output: SendInvite) -> None:
        peer = output.peer_id
        self._node.add_addresses(peer, output.addresses)
        try:
            answer = await self._client.call(
                peer, schema.INVITE, output.invite, timeout_s=_INVITE_TIMEOUT_S
            )
            if answer.leader:
                parse_peer_id_untrusted(answer.leader)
        except UnreachableError as exc:
            # Without an address to try it may be a client, that comes by itself.
            if exc.attempts:
                self._apply(self._core.on_unreachable(peer, trio.current_time()))
        except CallTimeout:
            self._apply(self._core.on_unreachable(peer, trio.current_time()))
        except P2PError as exc:
            logger.debug("invite_failed peer=%s cause=%s", short(peer), exc)
        else:
            round_id = output.invite.round.round_id()
            self._apply(self._core.on_invite_answer(peer, round_id, answer, trio.current_time()))
        finally:
            del self._inviting[peer]
