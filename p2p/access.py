"""Access: tokens with which an authority lets peers into a swarm, and lists that take them back.

A token says which peer may take part in which run, and until when; nobody else can use it, since
the peer proves its identity on each connection. A deny list takes tokens back before their end;
the one with the higher number counts.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from p2p.errors import AccessError, MessageInvalid
from p2p.identity import Identity, verify_signature
from p2p.peer_id import PeerId, short
from p2p.wire import Message, decode_untrusted, encode

TOKEN_BYTES_MAX = 4_096
DENY_LIST_BYTES_MAX = 65_536
SLACK_S = 300.0
"""How far clocks may be apart before a token that is good is refused."""
_PEERS_DENIED_MAX = 1_000
_TOKEN_PREFIX, _LIST_PREFIX = "manyhands-token:", "manyhands-deny-list:"
_SEALED_TOKEN, _SEALED_LIST = b"manyhands/token/1", b"manyhands/deny-list/1"

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
_Signature = Annotated[bytes, msgspec.Meta(max_length=64)]
Signed = TypeVar("Signed", "Token", "DenyList")


class Token(Message, frozen=True):
    """The authority lets one peer into one run; times are in seconds since 1970."""

    authority: _Name
    run: _Name
    peer_id: _Name
    role: _Name
    not_before_s: _Seconds
    expires_at_s: _Seconds
    signature: _Signature = b""


class DenyList(Message, frozen=True):
    """The peers that may take part no more, whatever token they hold."""

    authority: _Name
    number: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    peers: Annotated[list[_Name], msgspec.Meta(max_length=_PEERS_DENIED_MAX)]
    signature: _Signature = b""


def sign_token(
    authority: Identity,
    *,
    run: str,
    peer_id: PeerId,
    role: str,
    not_before_s: float,
    expires_at_s: float,
) -> Token:
    """A token of this authority."""
    # Whole numbers would be written in another way than they are read, and the signature not fit.
    begins_s, ends_s = float(not_before_s), float(expires_at_s)
    bare = Token(authority.peer_id, run, peer_id, role, begins_s, ends_s)
    return msgspec.structs.replace(bare, signature=authority.sign(_SEALED_TOKEN + encode(bare)))


def sign_deny_list(authority: Identity, *, number: int, peers: list[PeerId]) -> DenyList:
    """A deny list of this authority; it counts where those known have a lower number."""
    bare = DenyList(authority.peer_id, number, list(peers))
    return msgspec.structs.replace(bare, signature=authority.sign(_SEALED_LIST + encode(bare)))


def _is_signed(signed: Token | DenyList, sealed: bytes, authority: PeerId) -> bool:
    bare = msgspec.structs.replace(signed, signature=b"")
    return signed.authority == authority and verify_signature(
        authority, sealed + encode(bare), signed.signature
    )


def token_refusal(
    token: Token, *, authority: PeerId, run: str, peer_id: PeerId, now_s: float
) -> str | None:
    """Why this token does not let this peer in, or None if it does.

    Args:
        now_s: our wall time; clocks may be SLACK_S apart.
    """
    if not _is_signed(token, _SEALED_TOKEN, authority):
        return "the token is not signed by the authority"
    if token.peer_id != peer_id:
        return f"the token is for {short(PeerId(token.peer_id))}, not for {short(peer_id)}"
    if token.run != run:
        return f"the token is for the run {token.run!r}, not for {run!r}"
    if now_s < token.not_before_s - SLACK_S:
        return f"the token is good only in {token.not_before_s - now_s:.0f} s"
    if now_s > token.expires_at_s + SLACK_S:
        return f"the token has ended {now_s - token.expires_at_s:.0f} s ago"
    return None


def is_deny_list_of(deny_list: DenyList, authority: PeerId) -> bool:
    """Whether the authority has signed it."""
    return _is_signed(deny_list, _SEALED_LIST, authority)


def token_text(token: Token) -> str:
    """The one line that an operator hands out."""
    return _TOKEN_PREFIX + base64.b64encode(encode(token)).decode()


def deny_list_text(deny_list: DenyList) -> str:
    """The one line of a deny list's file."""
    return _LIST_PREFIX + base64.b64encode(encode(deny_list)).decode()


def read_token(path: Path) -> Token:
    """The token in a file; raises AccessError."""
    return _read(path, _TOKEN_PREFIX, Token, TOKEN_BYTES_MAX)


def read_deny_list(path: Path) -> DenyList:
    """The deny list in a file; raises AccessError."""
    return _read(path, _LIST_PREFIX, DenyList, DENY_LIST_BYTES_MAX)


def _read(path: Path, prefix: str, kind: type[Signed], size_bytes_max: int) -> Signed:
    try:
        text = path.expanduser().read_text("ascii")[: 2 * size_bytes_max].strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise AccessError(f"cannot read {path}: {exc}") from exc
    match = re.fullmatch(rf"{prefix}(\S+)", text)
    if match is None:
        raise AccessError(f"{path} must hold one line that begins with {prefix}")
    try:
        raw = base64.b64decode(match[1], validate=True)
        return decode_untrusted(raw, kind, size_bytes_max=size_bytes_max)
    except (binascii.Error, MessageInvalid) as exc:
        raise AccessError(f"{path} is damaged: {exc}") from exc
