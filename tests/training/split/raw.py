"""A session in which anything can be sent, and what an honest client would send in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import torch
from torch import nn

from p2p import (
    Node,
    RpcCall,
    rpc_client,
)
from tests.training.split.world import (
    RUN,
    World,
    batches,
    make_model,
)
from training.split import Parts, SplitClientConfig, cut
from training.split.connecting import hello_of
from training.split.front import FrontOptions
from training.split.schema import (
    MAJOR,
    PAYLOAD_BYTES_MAX,
    Forward,
    Hello,
    Welcome,
    session_method,
    split_service_name,
)

WIDTH, ROWS, LIMIT_BYTES = 10, 2, 1 << 16
cross_entropy = nn.functional.cross_entropy
Call = RpcCall[Any, Any]


def halves(at: int | tuple[int, int] = 2) -> Parts:
    return cut(make_model(), at, example=batches(1)[0][0])


def activations(value: float = 0.5) -> bytes:
    return torch.full((ROWS, WIDTH), value, dtype=torch.float64).numpy().tobytes()


def labels(value: int = 1) -> bytes:
    return torch.full((ROWS,), value).numpy().tobytes()


def forward(number: int = 1, **changes: Any) -> Forward:
    plain = Forward(number, ROWS, ROWS * WIDTH * 8, (), "int64")
    return msgspec.structs.replace(plain, **changes)


def honest_hello(parts: Parts, **changes: Any) -> Hello:
    loss = cross_entropy if parts.is_u_shaped else None
    hello = hello_of(parts, FrontOptions(loss=loss), SplitClientConfig(), "float64")
    return msgspec.structs.replace(hello, **changes)


@asynccontextmanager
async def raw_call(world: World, node: Node, hello: Hello) -> AsyncIterator[Call]:
    """A stream on which anything can be sent; its welcome was read."""
    client = rpc_client(node, split_service_name(RUN), MAJOR)
    method = session_method(PAYLOAD_BYTES_MAX)
    async with client.open(world.node.peer_id, method, hello, timeout_s=5) as call:
        received = await call.receive()
        assert received is not None
        assert isinstance(received[0], Welcome)
        yield call
