"""The errors of the networking layer: who is at fault, and may the caller retry."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.peer_id import PeerId, short


class P2PError(Exception):
    """Root of all errors that the networking layer raises on purpose."""


class RemoteError(P2PError):
    """The peer broke the protocol or failed while serving us; another peer may do better."""


class MessageInvalid(RemoteError):
    """Bytes from the network were not a valid message; the sender runs something else or lies."""


class RefusedError(P2PError):
    """The peer answered and said no; its code tells whether asking again can help."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Attempt:
    """One path that was tried to reach a peer, and why it failed."""

    address: str
    cause: str


class UnreachableError(P2PError):
    """No path to the peer worked; every path that was tried is listed with its cause."""

    def __init__(self, peer_id: PeerId | None, attempts: tuple[Attempt, ...] = ()) -> None:
        self.peer_id = peer_id
        self.attempts = attempts
        name = f"peer {short(peer_id)}" if peer_id else "peer"
        tried = "; ".join(f"{attempt.address}: {attempt.cause}" for attempt in attempts)
        super().__init__(f"{name} is unreachable ({tried or 'no address of it is known'})")


class StreamBroken(P2PError):
    """The stream was reset, or its connection was lost; what was under way did not complete."""


class CallTimeout(P2PError):
    """The peer did not answer in the time that the caller gave; it may be slow, frozen or gone."""


class PortalClosed(P2PError):
    """The thread or the loop that carried the network has ended; open it, or join, again."""


class ListenError(P2PError):
    """We could not listen on an address: the port is in use, not ours, or the address is not."""


class AddressInvalid(P2PError):
    """A text is not a multiaddress that we can dial; write /ip4/1.2.3.4/tcp/31337/p2p/12D3Koo…."""


class IdentityError(P2PError):
    """The key file cannot be used: unreadable, not a key, or readable by others."""


class AccessError(P2PError):
    """A token, deny list or swarm key cannot be used; the text names the file and the reason."""


class RecordInvalid(P2PError):
    """A DHT record is malformed, too large, expired, or not signed by the owner of its subkey."""
