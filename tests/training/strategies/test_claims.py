"""Claims of losses: their bytes, and bytes that are none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import MessageInvalid, decode_untrusted, encode
from p2p.testing import SimNetwork, run_sim
from training.strategies.claims import (
    CLAIM_BYTES_MAX,
    Claim,
    ClaimRequest,
    ask_claims,
    claims_served,
)

RECORDED = {
    ClaimRequest(): "90",
    Claim(): "91c0",
    Claim(0.5): "91cb3fe0000000000000",
}


def decode(data: bytes) -> Claim:
    return decode_untrusted(data, Claim, size_bytes_max=CLAIM_BYTES_MAX)


@pytest.mark.parametrize("message", RECORDED, ids=str)
def test_recorded_bytes(message: Claim | ClaimRequest) -> None:
    data = bytes.fromhex(RECORDED[message])
    assert encode(message) == data
    assert decode_untrusted(data, type(message), size_bytes_max=CLAIM_BYTES_MAX) == message


@given(st.none() | st.floats(-1e30, 1e30))
def test_round_trip(loss: float | None) -> None:
    assert decode(encode(Claim(loss))) == Claim(loss)


@given(st.binary(max_size=80))
def test_anything_else_is_refused(data: bytes) -> None:
    try:
        claim = decode(data)
    except MessageInvalid:
        return
    assert claim.loss is None or math.isfinite(claim.loss)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e31])
def test_losses_that_are_no_numbers_are_refused(loss: float) -> None:
    with pytest.raises(MessageInvalid):
        decode(encode(Claim(loss)))


def test_who_has_no_claim_or_does_not_answer_is_left_out() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            network.open_node("alice") as alice,
            network.open_node("bob") as bob,
            network.open_node("carol") as carol,
            network.open_node("dave") as dave,
            claims_served(bob, "run", lambda: Claim(0.25)),
            claims_served(carol, "run", Claim),
        ):
            peers = (bob, carol, dave)
            for peer in peers:
                alice.add_addresses(peer.peer_id, peer.addresses)
            asked = tuple(peer.peer_id for peer in peers)
            assert await ask_claims(alice, "run", asked, timeout_s=1) == {str(bob.peer_id): 0.25}

    run_sim(1, main)
