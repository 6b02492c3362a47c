"""The aggregator: adds ciphertexts that it cannot read, as they come, and gives all the sum."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from averaging.homomorphic import schema
from averaging.homomorphic.gathering import Gathering
from averaging.homomorphic.parts import receive_parts, send_parts
from averaging.homomorphic.schema import Contribution, KeyRequest, Sum
from averaging.homomorphic.scheme import Adder, Ciphertexts, adder_untrusted, load_scheme
from averaging.homomorphic.spec import HomomorphicSpec
from averaging.naming import service_name
from p2p import (
    MessageInvalid,
    Node,
    PeerId,
    RefusedError,
    RpcCall,
    RpcService,
    open_service_nursery,
    rpc_client,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SumConfig:
    """How long members and the aggregator wait for each other."""

    round_s: float = 60.0
    """From a round's first member to its end; who has not delivered by then is left out."""
    silence_s: float = 20.0
    """A side that moves no bytes for so long, while it should, is cut off."""
    members_min: int = 3
    """A sum of fewer is refused by the aggregator and by members: from a sum of two, each of them
    finds the other's vector."""

    def __post_init__(self) -> None:
        if self.round_s <= 0 or self.silence_s <= 0 or self.members_min < 2:
            raise ValueError("round_s and silence_s must be positive, and members_min at least 2")


@asynccontextmanager
async def open_sum_aggregator(
    node: Node,
    group_name: str,
    members: Sequence[PeerId],
    spec: HomomorphicSpec,
    config: SumConfig | None = None,
) -> AsyncIterator[None]:
    """Add the members' ciphertexts while the block lasts, without the key to read them.

    Args:
        members: in the order that all have; the first draws the key.

    Raises:
        ValueError: this node is a member, which would hold the key; or the group does not fit.
        ExtraMissing: the scheme's package is not installed.
    """
    check_group(members, node.peer_id, spec)
    await node.offload(load_scheme, spec)
    aggregator = _Aggregator(node, group_name, members, spec, config or SumConfig())
    service = RpcService(service_name(schema.SUM_SERVICE, group_name), schema.MAJOR)
    handler: Any = aggregator.on_contribution
    service.stream(schema.SUM, handler)
    async with open_service_nursery() as nursery, service.serving(node):
        nursery.start_soon(aggregator.run)
        yield


def check_group(members: Sequence[PeerId], aggregator: PeerId, spec: HomomorphicSpec) -> None:
    """Whether these can make sums.

    Raises:
        ValueError: they cannot, and why.
    """
    if aggregator in members:
        raise ValueError("the aggregator must not be a member: members hold the key")
    if len(set(members)) < len(members) or not 2 <= len(members) <= spec.members_max:
        raise ValueError(f"there must be 2 to {spec.members_max} members, all different")


@dataclass
class _Round:
    """What becomes of one round; those who wait for its end hold it."""

    key: tuple[bytes, Adder] | None = None
    """The key's name, and what adds under it; the same for all of a round."""
    total: Ciphertexts | None = None
    result: tuple[Sum, bytes] | RefusedError = field(
        default_factory=lambda: RefusedError("closed", "the aggregator was closed")
    )
    closed: trio.Event = field(default_factory=trio.Event)


class _Aggregator:
    def __init__(
        self,
        node: Node,
        group_name: str,
        members: Sequence[PeerId],
        spec: HomomorphicSpec,
        config: SumConfig,
    ) -> None:
        self._node = node
        self._members = tuple(members)
        self._spec = spec
        self._config = config
        self._client = rpc_client(node, service_name(schema.KEY_SERVICE, group_name), schema.MAJOR)
        self._gathering = Gathering(members, round_s=config.round_s)
        self._opened = trio.Event()
        self._changed = trio.Event()
        self._adding = trio.Lock()
        self._round = _Round()

    async def run(self) -> None:
        """Close each round when all are there or its time is over, for ever."""
        while True:
            await self._opened.wait()
            self._opened = trio.Event()
            current, deadline_s = self._round, self._gathering.deadline_s
            assert deadline_s is not None
            with trio.move_on_at(deadline_s):
                while not self._gathering.is_complete:
                    await self._changed.wait()
            async with self._adding:
                await self._close(current)

    async def on_contribution(self, call: RpcCall[Any, Any]) -> None:
        """One member in one round."""
        request = call.request
        if not isinstance(request, Contribution):
            raise MessageInvalid("a contribution must begin with what it is")
        member, number = call.peer_id, request.round_number
        if request.spec != self._spec.digest:
            raise RefusedError("spec", "opened with another spec than the aggregator")
        if request.size_bytes > self._spec.bytes_max:
            raise RefusedError("too-large", f"at most {self._spec.bytes_max} bytes are due")
        was_open = self._gathering.deadline_s is not None
        refusal = self._gathering.admit(member, number, trio.current_time())
        if refusal is not None:
            raise RefusedError("round", refusal)
        if not was_open:
            self._round = _Round()
            self._opened.set()
        current = self._round
        try:
            data = await receive_parts(call, request.size_bytes, self._config.silence_s)
            await self._add(current, member, request, data)
        finally:
            self._gathering.on_lost(member, number)
            self._changed.set()
            self._changed = trio.Event()
        await current.closed.wait()
        if isinstance(current.result, RefusedError):
            raise RefusedError(current.result.code, current.result.message)
        message, summed = current.result
        await call.send(message)
        await send_parts(call, summed, self._config.silence_s)

    async def _add(
        self, current: _Round, member: PeerId, request: Contribution, data: bytes
    ) -> None:
        async with self._adding:
            if current.key is None:
                current.key = await self._ask_for_key()
            key_id, adder = current.key
            if request.key_id != key_id:
                raise RefusedError("key", "encrypted under another key than the first member's")
            loaded = await self._node.offload(adder.load_untrusted, data)
            if not self._gathering.on_delivered(member, request.round_number):
                raise RefusedError("late", "the round was closed before all of it came")
            if current.total is None:
                current.total = loaded
            else:
                current.total = await self._node.offload(adder.add, current.total, loaded)

    async def _ask_for_key(self) -> tuple[bytes, Adder]:
        """What the first member says of its key; asked in each round, since it may draw another."""
        answer = await self._client.call(
            self._members[0],
            schema.MODULUS,
            KeyRequest(self._spec.digest),
            timeout_s=self._config.silence_s,
        )
        return answer.key_id, await self._node.offload(adder_untrusted, self._spec, answer.modulus)

    async def _close(self, current: _Round) -> None:
        number, included = self._gathering.round_number, self._gathering.included
        at_least = self._config.members_min
        self._gathering.close()
        if current.key is None or current.total is None or len(included) < at_least:
            current.result = RefusedError(
                "too-few", f"{len(included)} of {len(self._members)} members delivered in time"
            )
        else:
            data = await self._node.offload(current.key[1].dump, current.total)
            current.result = (Sum(included, len(data)), data)
        current.total = None
        current.closed.set()
        logger.info("homomorphic_sum round=%d members=%d", number, len(included))
