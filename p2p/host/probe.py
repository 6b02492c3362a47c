"""Probing: whether a peer answers at an address, found out without becoming its neighbour."""

from __future__ import annotations

import trio

from p2p.address import TcpAddress
from p2p.errors import MessageInvalid, RefusedError, StreamBroken
from p2p.host import multistream
from p2p.host.connection import PlainBytes
from p2p.host.handshake import prove_there
from p2p.host.listen import dial_cause
from p2p.host.records import NOISE
from p2p.host.transport import DialError
from p2p.identity import Identity
from p2p.peer_id import PeerId


async def probe(identity: Identity, peer_id: PeerId, address: TcpAddress) -> None:
    """Dial from a fresh port, and let the peer prove that it is there.

    The connection ends in the middle of its handshake, when the peer has proved its identity and
    before it has learned ours: so it never counts as a connection, and no stream is opened on it.
    The caller bounds the time.

    Raises:
        DialError: nobody is there, or somebody else.
    """
    try:
        # A fresh port, so that no NAT takes it for an answer on a connection that stands.
        stream = await trio.open_tcp_stream(address.host, address.port)
    except (OSError, ValueError) as exc:
        raise DialError(dial_cause(exc)) from exc
    try:
        plain = PlainBytes(stream)
        await multistream.propose_untrusted(plain, (NOISE.protocol,))
        await prove_there(plain, identity, peer_id)
    except (MessageInvalid, RefusedError) as exc:
        raise DialError(f"no libp2p peer of our kind there: {exc}") from exc
    except (StreamBroken, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise DialError("the connection was closed during the handshake") from exc
    finally:
        await trio.aclose_forcefully(stream)
