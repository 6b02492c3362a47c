"""A member: encrypts its vector, sends it to the aggregator, and decrypts the sum.

The first member draws the key and gives it to the others, and to nobody else, over connections that
are encrypted and prove who is at the other end.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import trio
from numpy.typing import ArrayLike

from averaging.homomorphic import schema
from averaging.homomorphic.aggregator import SumConfig, check_group
from averaging.homomorphic.errors import SumFailed
from averaging.homomorphic.parts import receive_parts, send_parts
from averaging.homomorphic.schema import (
    Contribution,
    KeyAnswer,
    KeyRequest,
    ModulusAnswer,
    Sum,
)
from averaging.homomorphic.scheme import SecretKey, Vector, draw_key, key_id, key_untrusted
from averaging.homomorphic.spec import HomomorphicSpec
from averaging.naming import service_name
from p2p import MessageInvalid, Node, P2PError, PeerId, RefusedError, RpcService, rpc_client, short

_KEY_AGAIN_S = 0.5
"""The first member may be opened a moment after us."""


@dataclass(frozen=True)
class SumReport:
    """A sum, and what it took."""

    sum: Vector
    """Of shape (elements,), within the spec's tolerance of the true one."""
    included: tuple[PeerId, ...]
    """Whose vectors are in it."""
    sent_bytes: int
    received_bytes: int
    encrypt_s: float
    decrypt_s: float
    round_s: float
    """From the first byte sent to the last received: mostly waiting for the others."""

    @property
    def mean(self) -> Vector:
        """The sum divided by those who are in it."""
        return self.sum / len(self.included)

    def __str__(self) -> str:
        return (
            f"sum of {len(self.included)} members: {self.sent_bytes} bytes sent, "
            f"{self.received_bytes} received, {self.encrypt_s:.3f} s to encrypt, "
            f"{self.decrypt_s:.3f} s to decrypt, {self.round_s:.3f} s in the round"
        )


class SumMember:
    """One member, with the group's key."""

    def __init__(
        self,
        node: Node,
        group_name: str,
        group: tuple[Sequence[PeerId], PeerId],
        key: SecretKey,
        spec: HomomorphicSpec,
        config: SumConfig,
    ) -> None:
        self._node = node
        self._members, self._aggregator = tuple(group[0]), group[1]
        self._client = rpc_client(node, service_name(schema.SUM_SERVICE, group_name), schema.MAJOR)
        self._key = key
        self._key_id = key_id(key)
        self._spec = spec
        self._config = config

    async def sum(self, vector: ArrayLike, *, round_number: int) -> SumReport:
        """The sum of all members' vectors of this round, or of those that came in time.

        Args:
            vector: of shape (elements,), finite, within the spec's magnitude; not changed.
            round_number: the same at all members, and larger in each round.

        Raises:
            SumFailed: there is no sum, and why.
            ValueError: the vector does not fit the spec.
        """
        numbers = _checked(np.asarray(vector, dtype=np.float64), self._spec)
        begun_s = time.perf_counter()
        data = await self._node.offload(self._key.encrypt, numbers)
        encrypt_s = time.perf_counter() - begun_s
        try:
            included, summed = await self._exchange(data, round_number)
            received_s = time.perf_counter()
            decrypted = await self._node.offload(self._key.decrypt_untrusted, summed, len(included))
        except P2PError as exc:
            raise SumFailed(f"round {round_number} gave no sum: {exc}") from exc
        counted = decrypted[0]
        if abs(counted - len(included)) > self._spec.tolerance(len(included)):
            raise SumFailed(
                f"round {round_number}: the aggregator names {len(included)} members, and its sum "
                f"holds {counted:.1f}; nothing of it can be used"
            )
        return SumReport(
            sum=decrypted[1:],
            included=tuple(self._members[place] for place in included),
            sent_bytes=len(data),
            received_bytes=len(summed),
            encrypt_s=encrypt_s,
            decrypt_s=time.perf_counter() - received_s,
            round_s=received_s - begun_s - encrypt_s,
        )

    async def _exchange(self, data: bytes, round_number: int) -> tuple[tuple[int, ...], bytes]:
        silence_s = self._config.silence_s
        request = Contribution(self._spec.digest, self._key_id, round_number, len(data))
        async with self._client.open(
            self._aggregator, schema.SUM, request, timeout_s=silence_s
        ) as call:
            await send_parts(call, data, silence_s)
            received = None
            with trio.move_on_after(self._config.round_s + silence_s):
                received = await call.receive()
            if received is None:
                raise MessageInvalid("the aggregator gave no answer in time")
            place = self._members.index(self._node.peer_id)
            answer = _sum_untrusted(received[0], place, len(self._members), self._spec)
            if len(answer.included) < self._config.members_min:
                raise RefusedError("too-few", f"{len(answer.included)} members are in the sum")
            summed = await receive_parts(call, answer.size_bytes, silence_s)
            await call.finish_sending()
            return answer.included, summed


@asynccontextmanager
async def open_sum_member(
    node: Node,
    group_name: str,
    members: Sequence[PeerId],
    aggregator: PeerId,
    spec: HomomorphicSpec,
    config: SumConfig | None = None,
    *,
    key_timeout_s: float = 30.0,
) -> AsyncIterator[SumMember]:
    """Be one of the members while the block lasts; entered means that the key is here.

    Args:
        members: in the order that all have; the first draws the key.
        aggregator: who adds; it gets no key.
        key_timeout_s: how long to wait for the first member.

    Raises:
        SumFailed: the first member gave no key.
        ValueError: the aggregator is a member, this node is none, or the group does not fit.
        ExtraMissing: the scheme's package is not installed.
    """
    check_group(members, aggregator, spec)
    if node.peer_id not in members:
        raise ValueError("this node is not one of the members")
    async with AsyncExitStack() as stack:
        if node.peer_id == members[0]:
            key = await node.offload(draw_key, spec)
            service = _key_service(group_name, tuple(members), aggregator, key, spec)
            await stack.enter_async_context(service.serving(node))
        else:
            key = await _fetch_key(node, group_name, members[0], spec, key_timeout_s)
        group = (members, aggregator)
        yield SumMember(node, group_name, group, key, spec, config or SumConfig())


def _key_service(
    group_name: str,
    members: tuple[PeerId, ...],
    aggregator: PeerId,
    key: SecretKey,
    spec: HomomorphicSpec,
) -> RpcService:
    name = key_id(key)

    def check(request: KeyRequest) -> None:
        if request.spec != spec.digest:
            raise RefusedError("spec", "opened with another spec than the first member")

    async def on_key(caller: PeerId, request: KeyRequest) -> KeyAnswer:
        if caller not in members:
            raise RefusedError("not-member", "only members get the key")
        check(request)
        return KeyAnswer(key.secret)

    async def on_modulus(caller: PeerId, request: KeyRequest) -> ModulusAnswer:
        if caller != aggregator:
            raise RefusedError("not-aggregator", "only the aggregator needs this")
        check(request)
        return ModulusAnswer(name, key.modulus)

    service = RpcService(service_name(schema.KEY_SERVICE, group_name), schema.MAJOR)
    service.unary(schema.KEY, on_key)
    service.unary(schema.MODULUS, on_modulus)
    return service


async def _fetch_key(
    node: Node, group_name: str, first: PeerId, spec: HomomorphicSpec, timeout_s: float
) -> SecretKey:
    client = rpc_client(node, service_name(schema.KEY_SERVICE, group_name), schema.MAJOR)
    request = KeyRequest(spec.digest)
    cause = "it did not answer"
    with trio.move_on_after(timeout_s):
        while True:
            try:
                answer = await client.call(first, schema.KEY, request, timeout_s=timeout_s)
                return await node.offload(key_untrusted, spec, answer.secret)
            except P2PError as exc:
                cause = str(exc)
                if isinstance(exc, RefusedError) and exc.code in ("spec", "not-member"):
                    break
            await trio.sleep(_KEY_AGAIN_S)
    raise SumFailed(f"no key from {short(first)}: {cause}")


def _checked(vector: Vector, spec: HomomorphicSpec) -> Vector:
    """The numbers to encrypt: a one, and the vector."""
    if vector.shape != (spec.elements,):
        raise ValueError(f"the vector must have {spec.elements} elements in one dimension")
    # Also false for what is not a number.
    if not np.all(np.abs(vector) <= spec.magnitude_max):
        raise ValueError(f"elements must be finite, and at most {spec.magnitude_max:g} in size")
    return np.concatenate(([1.0], vector))


def _sum_untrusted(message: Any, place: int, members: int, spec: HomomorphicSpec) -> Sum:
    """A sum that names members in rising order, our own place among them.

    Raises:
        MessageInvalid: it does not, or announces more bytes than a sum takes.
    """
    if not isinstance(message, Sum):
        raise MessageInvalid("the aggregator sent something else than a sum")
    included = message.included
    if list(included) != sorted(set(included)) or place not in included:
        raise MessageInvalid("the aggregator names members twice, or not this one")
    if included[-1] >= members:
        raise MessageInvalid("the aggregator names a member that is none")
    if message.size_bytes > spec.bytes_max:
        raise MessageInvalid("the aggregator announces more bytes than a sum takes")
    return message
