"""What each error of a JOIN call means for the search."""

import pytest

from averaging.matchmaking.failure import failure_of
from averaging.matchmaking.outputs import AskFailure
from p2p import (
    Attempt,
    CallTimeout,
    IdentityError,
    MessageInvalid,
    P2PError,
    PeerId,
    RefusedError,
    RemoteError,
    StreamBroken,
    UnreachableError,
)

BOB = PeerId("bob")
ATTEMPT = Attempt("/ip4/10.0.0.1/tcp/1", "refused")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UnreachableError(BOB, (ATTEMPT,)), AskFailure.UNREACHABLE),
        (UnreachableError(BOB), AskFailure.NO_ADDRESS),
        (RefusedError("invalid", "no"), AskFailure.REFUSED),
        (MessageInvalid("noise"), AskFailure.INVALID),
        (RemoteError("oops"), AskFailure.REFUSED),
        (StreamBroken("gone"), AskFailure.BROKEN),
        (CallTimeout("slow"), AskFailure.BROKEN),
    ],
)
def test_each_error_of_a_call_has_a_cause_and_a_reason(error: P2PError, cause: AskFailure) -> None:
    found, reason = failure_of(error)
    assert found is cause
    assert str(error) in reason


def test_an_error_that_is_none_of_the_calls_goes_on() -> None:
    with pytest.raises(IdentityError):
        failure_of(IdentityError("no key"))
