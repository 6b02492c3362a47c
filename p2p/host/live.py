"""A live connection as the host keeps it, and how one of two that crossed is given up."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from p2p.host import identify, multistream
from p2p.host.muxer import Muxer
from p2p.host.negotiated import NegotiatedStream
from p2p.host.noise import NoiseSession
from p2p.host.transport import ConnectionInfo, Identified, OnIdentified

# The peer may learn of the survivor half a round trip later, and opens streams on the other until.
_RETIRE_AFTER_S = 2.0


@dataclass(eq=False)
class LiveConnection:
    """An upgraded connection and what is known of it."""

    info: ConnectionInfo
    session: NoiseSession
    """Closed by whoever does not let the muxer run."""
    muxer: Muxer
    ends_at_s: float
    """When the peer's token ends, on trio's clock."""
    identified: Identified | None = None
    """What the peer says of itself, once it has been asked and has answered."""

    async def open_stream(self, protocol: str) -> NegotiatedStream:
        """A stream on this connection; raises StreamBroken when it is lost or going away."""
        muxed = self.muxer.open_stream()
        try:
            await muxed.send_all(multistream.proposal(protocol))
        except BaseException:
            muxed.reset()
            raise
        return NegotiatedStream(muxed, self.info, protocol, agreed=False)

    async def ask_who(self, tell: list[OnIdentified]) -> None:
        """Ask the peer once who it is; one that does not answer is told of to nobody."""
        self.identified = await identify.ask(self.info, self.open_stream)
        if self.identified is not None and not self.muxer.lost.is_set():
            for callback in tuple(tell):
                callback(self.info, self.identified)


async def retire(loser: LiveConnection, survivor: LiveConnection) -> None:
    """Close one that another makes needless, once its streams have ended and while that lives."""
    await trio.sleep(_RETIRE_AFTER_S)
    while not (loser.muxer.lost.is_set() or survivor.muxer.lost.is_set()):
        # The survivor has answered a ping, so it is no black hole from its beginning.
        alive = survivor.muxer.session.windows.rtt_s is not None
        if alive and not loser.muxer.stream_count:
            await loser.muxer.aclose()
            return
        await trio.sleep(_RETIRE_AFTER_S)
