"""Access on a connection: proving the swarm key and showing tokens, before any stream exists.

    under Noise      the swarm key's proofs, if the node has one
    /manyhands/access/1, agreed on by multistream-select:
        both         HELLO{token, number of the deny list}     at most 4 KiB
        both         LIST{the deny list, if it is newer than the other's}
    then records and yamux are agreed on

A peer that does not speak the protocol gets in only if the allow list names it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from p2p.access import (
    DENY_LIST_BYTES_MAX,
    SLACK_S,
    TOKEN_BYTES_MAX,
    DenyList,
    Token,
    is_deny_list_of,
    read_deny_list,
    read_token,
    token_refusal,
)
from p2p.clock import wall_time_s
from p2p.config import AccessConfig
from p2p.errors import AccessError, MessageInvalid
from p2p.host.multistream import ByteStream
from p2p.host.swarm_key import is_proof, proof
from p2p.host.transport import DialError
from p2p.peer_id import PeerId
from p2p.wire import Message, decode_untrusted, encode

logger = logging.getLogger(__name__)

ACCESS_PROTOCOL = "/manyhands/access/1"
_LENGTH_BYTES = 4
_PROOF_BYTES = 32
# No line of multistream-select begins so: a side without a key hangs up at once.
_PROOF_FOLLOWS = b"\xff\xff"
T = TypeVar("T", bound=Message)


class Hello(Message, frozen=True):
    """Each side's first word."""

    token: Token
    deny_number: int


class Listing(Message, frozen=True):
    """Each side's second word."""

    deny_list: DenyList | None = None


@dataclass(frozen=True)
class Handshaken:
    """What the handshake has shown."""

    me: PeerId
    peer_id: PeerId
    handshake_hash: bytes
    is_dialer: bool


async def prove_swarm_key_untrusted(stream: ByteStream, key: bytes, who: Handshaken) -> None:
    """Show that we have the key, and see that the other has; raises DialError."""
    ids = (who.me, who.peer_id) if who.is_dialer else (who.peer_id, who.me)
    of_dialer = proof(key, b"initiator", who.handshake_hash, *ids)
    of_listener = proof(key, b"responder", who.handshake_hash, *ids)
    mine, other = (of_dialer, of_listener) if who.is_dialer else (of_listener, of_dialer)
    if who.is_dialer:
        await stream.send_all(_PROOF_FOLLOWS + mine)
    if await stream.receive_exactly(len(_PROOF_FOLLOWS)) != _PROOF_FOLLOWS:
        raise DialError("the other side does not have a swarm key")
    if not is_proof(other, await stream.receive_exactly(_PROOF_BYTES)):
        raise DialError("the other side does not have our swarm key")
    if not who.is_dialer:
        await stream.send_all(_PROOF_FOLLOWS + mine)


class Access:
    """The authority's word as this node knows it: its own token, and the newest deny list."""

    def __init__(
        self,
        config: AccessConfig,
        me: PeerId,
        on_denied: Callable[[PeerId], None],
        *,
        wall_time_s: Callable[[], float] = wall_time_s,
    ) -> None:
        self._config = config
        self._wall_time_s = wall_time_s
        self._on_denied = on_denied
        self._deny_list = DenyList(config.authority, 0, [])
        token = read_token(config.token_path)
        if reason := self._refusal(token, me):
            raise AccessError(f"{config.token_path}: {reason}; ask for a new one")
        if config.deny_list_path is not None:
            self._take_up(read_deny_list(config.deny_list_path))

    def _refusal(self, token: Token, peer_id: PeerId) -> str | None:
        config = self._config
        return token_refusal(
            token,
            authority=config.authority,
            run=config.run,
            peer_id=peer_id,
            now_s=self._wall_time_s(),
        )

    def is_denied(self, peer_id: PeerId) -> bool:
        """Whether the newest deny list that we have seen names the peer."""
        return peer_id in self._deny_list.peers

    async def exchange_untrusted(self, stream: ByteStream, peer_id: PeerId) -> float:
        """Show our token and check the other's.

        The file is read each time, so a token is renewed by putting the new one in its place.

        Returns:
            for how many seconds the peer may stay.

        Raises:
            DialError: the peer may not come in; the text says why.
            MessageInvalid: what came is no message of this protocol.
        """
        try:
            token = read_token(self._config.token_path)
        except AccessError as exc:
            raise DialError(str(exc)) from exc
        await _send(stream, Hello(token, self._deny_list.number))
        theirs = await _receive_untrusted(stream, Hello, TOKEN_BYTES_MAX)
        newer = self._deny_list if self._deny_list.number > theirs.deny_number else None
        await _send(stream, Listing(newer))
        listing = await _receive_untrusted(stream, Listing, DENY_LIST_BYTES_MAX)
        if listing.deny_list is not None:
            self._take_up(listing.deny_list)
        if reason := self._refusal(theirs.token, peer_id):
            raise DialError(reason)
        if self.is_denied(peer_id):
            raise DialError("the authority has taken the peer's access back")
        return theirs.token.expires_at_s + SLACK_S - self._wall_time_s()

    def _take_up(self, deny_list: DenyList) -> None:
        """Keep a deny list if it is newer and the authority's."""
        if deny_list.number <= self._deny_list.number:
            return
        if not is_deny_list_of(deny_list, self._config.authority):
            logger.info("deny_list_refused number=%d", deny_list.number)
            return
        self._deny_list = deny_list
        logger.info("deny_list number=%d peers=%d", deny_list.number, len(deny_list.peers))
        for peer_id in deny_list.peers:
            self._on_denied(PeerId(peer_id))


async def _send(stream: ByteStream, message: Message) -> None:
    body = encode(message)
    await stream.send_all(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


async def _receive_untrusted(stream: ByteStream, kind: type[T], size_bytes_max: int) -> T:
    size = int.from_bytes(await stream.receive_exactly(_LENGTH_BYTES), "big")
    if size > size_bytes_max:
        raise MessageInvalid(f"{size} bytes of access are over the limit")
    return decode_untrusted(await stream.receive_exactly(size), kind, size_bytes_max=size_bytes_max)
