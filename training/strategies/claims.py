"""Asking peers how good they are: protocol `/manyhands/claims.<run hash>/1`.

    peer -> peer    claim: nothing asked          the mean of its last losses, if it has any

A claim comes from the peer itself over a connection that proves who it is. That it is true is not
proven: who follows it checks.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import trio
from msgspec import Meta

from p2p import (
    Message,
    Method,
    Node,
    P2PError,
    PeerId,
    RpcService,
    rpc_client,
)

MAJOR = 1
CLAIM_BYTES_MAX = 64
# Few enough to open streams to at once; claims are some bytes.
_ASKED_AT_ONCE_MAX = 32


class ClaimRequest(Message, frozen=True):
    """How good are you?"""


class Claim(Message, frozen=True):
    """The answer."""

    loss: Annotated[float, Meta(ge=-1e30, le=1e30)] | None = None


CLAIM = Method(
    "claim",
    ClaimRequest,
    Claim,
    request_bytes_max=CLAIM_BYTES_MAX,
    response_bytes_max=CLAIM_BYTES_MAX,
)


def service_name(run: str) -> str:
    """The RPC service of one run; hashed, since the name is the user's text."""
    return f"claims.{hashlib.sha256(run.encode()).hexdigest()[:16]}"


@asynccontextmanager
async def claims_served(node: Node, run: str, claim: Callable[[], Claim]) -> AsyncIterator[None]:
    """Answer with what `claim` gives while the block lasts."""

    async def answer(caller: PeerId, request: ClaimRequest) -> Claim:
        return claim()

    service = RpcService(service_name(run), MAJOR)
    service.unary(CLAIM, answer)
    async with service.serving(node):
        yield


async def ask_claims(
    node: Node, run: str, peers: Sequence[PeerId], *, timeout_s: float
) -> dict[str, float]:
    """What these peers claim; who does not answer in time, or has no loss yet, is left out."""
    client = rpc_client(node, service_name(run), MAJOR)
    claims: dict[str, float] = {}
    limit = trio.CapacityLimiter(_ASKED_AT_ONCE_MAX)

    async def ask(peer: PeerId) -> None:
        try:
            async with limit:
                answer = await client.call(peer, CLAIM, ClaimRequest(), timeout_s=timeout_s)
        except P2PError:
            # It is not followed this time; the next exchange asks again.
            return
        if answer.loss is not None:
            claims[str(peer)] = answer.loss

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask, peer)
    return dict(sorted(claims.items()))
