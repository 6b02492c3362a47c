"""What an error of a JOIN call means for the search (core)."""

from __future__ import annotations

from averaging.matchmaking.outputs import AskFailure
from p2p import (
    CallTimeout,
    MessageInvalid,
    P2PError,
    RefusedError,
    RemoteError,
    StreamBroken,
    UnreachableError,
)


def failure_of(error: P2PError) -> tuple[AskFailure, str]:
    """The kind of failure and one that tells it; raises the error if it is none of the call's."""
    match error:
        case UnreachableError():
            cause = AskFailure.UNREACHABLE if error.attempts else AskFailure.NO_ADDRESS
            return cause, str(error)
        case RefusedError():
            return AskFailure.REFUSED, f"refused: {error}"
        case MessageInvalid():
            return AskFailure.INVALID, f"broke the protocol: {error}"
        case RemoteError():
            return AskFailure.REFUSED, str(error)
        case StreamBroken() | CallTimeout():
            return AskFailure.BROKEN, f"went away: {error}"
        case _:
            raise error
