"""A bare butterfly all-reduce over limited links: what a split of the vector costs by itself.

As in ours, a contributor has one stream to each aggregator; parts go up and averages come down
on it at once, chunk by chunk, and an average leaves as soon as all parts of its chunk are there.
There is neither encryption nor agreement: those are measured by `manyhands bench averaging`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import trio

from averaging import Capacity
from tools.bench.pipes import Link, Peer, connect, hang_up

Vector = npt.NDArray[np.float32]
CHUNK_ELEMENTS: Final = 4096


async def seconds_to_average(
    capacities: Sequence[Capacity],
    span_elements: Sequence[int],
    vectors: Sequence[Vector],
    *,
    timeout_s: float,
) -> float:
    """Average the contributors' vectors and check the result at each; returns how long it took.

    Args:
        capacities: of the members; their rates must be known.
        span_elements: one for each member, 0 for those that average nothing.
        vectors: of the members that contribute, in order, shape (elements,).

    Raises:
        trio.TooSlowError: it took too long.
    """
    peers = [
        Peer(Link(_rate(one.up_bytes_per_s)), Link(_rate(one.down_bytes_per_s)))
        for one in capacities
    ]
    contributors = [i for i, one in enumerate(capacities) if one.contributes]
    inputs = dict(zip(contributors, vectors, strict=True))
    round_ = _Round(peers, inputs, span_elements)
    try:
        for owner in round_.owners:
            for member in contributors:
                if member != owner:
                    await connect(peers, member, owner)
        begun_s = trio.current_time()
        with trio.fail_after(timeout_s):
            await round_.run()
        seconds = trio.current_time() - begun_s
    finally:
        await hang_up(peers)
    expected = np.mean(vectors, axis=0, dtype=np.float64)
    for result in round_.results.values():
        np.testing.assert_allclose(result, expected, atol=1e-5)
    return seconds


def _rate(bytes_per_s: float | None) -> float:
    if not bytes_per_s:
        raise ValueError("a link of the benchmark needs a rate")
    return bytes_per_s


class _Round:
    """One round of all peers."""

    def __init__(
        self, peers: list[Peer], inputs: dict[int, Vector], span_elements: Sequence[int]
    ) -> None:
        self.owners = [i for i, length in enumerate(span_elements) if length]
        self._peers = peers
        self._inputs = inputs
        stops = list(accumulate(span_elements))
        self._chunks = {
            owner: [
                slice(start, min(start + CHUNK_ELEMENTS, stops[owner]))
                for start in range(
                    stops[owner] - span_elements[owner], stops[owner], CHUNK_ELEMENTS
                )
            ]
            for owner in self.owners
        }
        element_count = stops[-1]
        self.results = {i: np.zeros(element_count, np.float32) for i in inputs}
        self._sums = np.zeros(element_count, np.float32)
        self._missing = {owner: [len(inputs)] * len(self._chunks[owner]) for owner in self.owners}
        self._averaged = {
            owner: [trio.Event() for _ in self._chunks[owner]] for owner in self.owners
        }

    async def run(self) -> None:
        """Until every contributor has the whole result."""
        async with trio.open_nursery() as nursery:
            for owner in self.owners:
                for member in self._inputs:
                    if member == owner:
                        nursery.start_soon(self._keep, owner)
                    else:
                        nursery.start_soon(self._send_parts, member, owner)
                        nursery.start_soon(self._receive_parts, member, owner)
                        nursery.start_soon(self._send_averages, member, owner)
                        nursery.start_soon(self._receive_averages, member, owner)

    async def _send_parts(self, member: int, owner: int) -> None:
        for chunk in self._chunks[owner]:
            await self._peers[member].send((member, owner), _view(self._inputs[member][chunk]))

    async def _receive_parts(self, member: int, owner: int) -> None:
        for number, chunk in enumerate(self._chunks[owner]):
            data = await self._peers[owner].receive((member, owner), 4 * (chunk.stop - chunk.start))
            self._add(owner, number, np.frombuffer(data, np.float32))

    async def _send_averages(self, member: int, owner: int) -> None:
        for number, chunk in enumerate(self._chunks[owner]):
            await self._averaged[owner][number].wait()
            await self._peers[owner].send((member, owner), _view(self._sums[chunk]))

    async def _receive_averages(self, member: int, owner: int) -> None:
        for chunk in self._chunks[owner]:
            data = await self._peers[member].receive(
                (member, owner), 4 * (chunk.stop - chunk.start)
            )
            self.results[member][chunk] = np.frombuffer(data, np.float32)

    async def _keep(self, owner: int) -> None:
        """What an owner contributes to its own span, and takes from it, passes no link."""
        for number, chunk in enumerate(self._chunks[owner]):
            self._add(owner, number, self._inputs[owner][chunk])
        for number, chunk in enumerate(self._chunks[owner]):
            await self._averaged[owner][number].wait()
            self.results[owner][chunk] = self._sums[chunk]

    def _add(self, owner: int, number: int, part: Vector) -> None:
        chunk = self._chunks[owner][number]
        self._sums[chunk] += part
        self._missing[owner][number] -= 1
        if not self._missing[owner][number]:
            self._sums[chunk] /= len(self._inputs)
            self._averaged[owner][number].set()


def _view(values: npt.NDArray[Any]) -> memoryview:
    return values.view(np.uint8).data
