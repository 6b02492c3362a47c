"""Snapshots as runs of bytes, what describes them, and who is asked for which chunk."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from blake3 import blake3

from averaging.state import schema
from averaging.state.schema import ManifestAnswer
from averaging.tensors import Array
from p2p import MessageInvalid, PeerId, encode

Flags = np.ndarray[Any, np.dtype[np.bool_]]

DTYPES = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""What a state may hold; bfloat16 travels as the bits of uint16."""


@dataclass(frozen=True)
class Snapshot:
    """The state of one peer at one moment: nothing may change it afterwards."""

    version: int
    metadata: bytes
    arrays: Mapping[str, Array]


@dataclass(frozen=True)
class StateTable:
    """Names, shapes and dtypes of a state's tensors, in the order of its bytes."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> StateTable:
        """The table of these arrays, by name."""
        names = tuple(sorted(arrays))
        return cls(
            names,
            tuple(tuple(arrays[name].shape) for name in names),
            tuple(arrays[name].dtype.name for name in names),
        )

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each tensor's bytes begin, and where the last one's end."""
        starts = [0]
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            starts.append(starts[-1] + math.prod(shape) * np.dtype(dtype).itemsize)
        return tuple(starts)

    @property
    def size_bytes(self) -> int:
        """All tensors together."""
        return self.starts[-1]

    def empty_arrays(self) -> dict[str, Array]:
        """New arrays to be filled."""
        return {
            name: np.empty(shape, dtype)
            for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True)
        }


@dataclass(frozen=True)
class Manifest:
    """Describes a snapshot and proves each of its chunks."""

    version: int
    metadata: bytes
    table: StateTable
    chunk_size_bytes: int
    digests: tuple[bytes, ...] = field(repr=False)

    def answer(self) -> ManifestAnswer:
        """As it travels."""
        return ManifestAnswer(
            self.version,
            self.metadata,
            self.table.names,
            self.table.shapes,
            self.table.dtypes,
            self.chunk_size_bytes,
            b"".join(self.digests),
        )

    @cached_property
    def snapshot_id(self) -> bytes:
        """Names exactly this content."""
        return hashlib.sha256(encode(self.answer())).digest()

    @cached_property
    def _words_C4(self) -> Array:
        """The hashes as numbers, for comparing many at once; C = chunks."""
        return np.frombuffer(b"".join(self.digests), np.uint64).reshape(-1, 4)

    def shared_C(self, other: Manifest) -> Flags:
        """Which chunks of this state are in the other one, too: none where they are not alike."""
        one = (self.version, self.metadata, self.table, self.chunk_size_bytes)
        if one != (other.version, other.metadata, other.table, other.chunk_size_bytes):
            return np.zeros(len(self.digests), np.bool_)
        shared_C: Flags = np.all(self._words_C4 == other._words_C4, axis=1)
        return shared_C

    def span(self, index: int) -> tuple[int, int]:
        """Where a chunk begins and ends."""
        start = index * self.chunk_size_bytes
        return start, min(start + self.chunk_size_bytes, self.table.size_bytes)


def manifest_untrusted(answer: ManifestAnswer) -> Manifest:
    """Check what a donor says it has; nothing is allocated for it.

    Raises:
        MessageInvalid: the parts do not fit together.
    """
    if not len(answer.names) == len(answer.shapes) == len(answer.dtypes):
        raise MessageInvalid("a manifest needs one shape and one dtype for each name")
    if any(a >= b for a, b in zip(answer.names, answer.names[1:], strict=False)):
        raise MessageInvalid("the names in a manifest must be sorted and differ")
    if unknown := sorted(set(answer.dtypes) - set(DTYPES)):
        raise MessageInvalid(f"a manifest names unknown dtypes: {unknown[:3]}")
    table = StateTable(answer.names, answer.shapes, answer.dtypes)
    chunk_count = -(-table.size_bytes // answer.chunk_size_bytes)
    if len(answer.digests) != chunk_count * schema.HASH_SIZE_BYTES:
        raise MessageInvalid("a manifest needs one hash for each chunk")
    return Manifest(
        answer.version,
        answer.metadata,
        table,
        answer.chunk_size_bytes,
        tuple(
            answer.digests[at : at + schema.HASH_SIZE_BYTES]
            for at in range(0, len(answer.digests), schema.HASH_SIZE_BYTES)
        ),
    )


def choose_manifest(manifests: Mapping[PeerId, Manifest]) -> Manifest | None:
    """What most donors have, the newest of equals.

    Donors may differ in a few chunks though all are honest, since buffers are each peer's own: so
    those count that have any chunk in common, and then with how many each chunk is shared.
    """

    def rank(donor: PeerId) -> tuple[int, int, int, bytes]:
        mine = manifests[donor]
        shared = [mine.shared_C(manifests[other]) for other in manifests if other != donor]
        fellows = sum(bool(one_C.any()) for one_C in shared)
        chunks = sum(int(one_C.sum()) for one_C in shared)
        return -fellows, -mine.version, -chunks, mine.snapshot_id

    best = min(sorted(manifests), key=rank, default=None)
    return None if best is None else manifests[best]


class StateBytes:
    """The bytes of arrays, end to end, without joining them."""

    def __init__(self, table: StateTable, arrays: Mapping[str, Array]) -> None:
        self._starts = table.starts
        self._views = [_bytes_of(arrays[name]) for name in table.names]

    def read(self, start: int, end: int) -> bytes | memoryview:
        """A copy of a run of bytes; no copy where it lies within one array."""
        pieces = [view[first:last].data for view, first, last in self._pieces(start, end)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, start: int, data: bytes) -> None:
        """Overwrite a run of bytes in the arrays."""
        source = np.frombuffer(data, np.uint8)
        at = 0
        for view, first, last in self._pieces(start, start + len(data)):
            view[first:last] = source[at : at + last - first]
            at += last - first

    def _pieces(self, start: int, end: int) -> Iterator[tuple[Array, int, int]]:
        index = max(0, bisect_right(self._starts, start) - 1)
        while start < end:
            begins, ends = self._starts[index], self._starts[index + 1]
            last = min(end, ends)
            if last > start:
                yield self._views[index], start - begins, last - begins
                start = last
            index += 1

    def hashes(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The BLAKE3 hash of each run."""
        return [chunk_hash(self.read(start, end)) for start, end in spans]


def chunk_hash(data: bytes | memoryview) -> bytes:
    """What a manifest says of a chunk's bytes."""
    return blake3(data).digest()


def _bytes_of(array: Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if not array.flags.c_contiguous:
        raise ValueError("the arrays of a state must be C-contiguous")
    return array.reshape(-1).view(np.uint8)


class ChunkPlan:
    """Decides whom to ask for which chunk.

    Each chunk is asked of one donor that holds it, lowest first. When all are asked for, a donor
    with nothing to do is asked again for the chunk that has waited longest, so that one slow donor
    does not hold up the end. What was asked of a lost donor is asked of others.

    Args:
        come_C: the chunks that are there from the beginning.
    """

    def __init__(self, come_C: Flags) -> None:
        self.come_C = come_C.copy()
        """The chunks that are there."""
        self._left = int(np.sum(~come_C))
        self._asked: dict[int, list[PeerId]] = {}
        self._holds: dict[PeerId, Flags] = {}
        # What each donor may be asked for, lowest last; some of it others have been asked for.
        self._waiting: dict[PeerId, list[int]] = {}
        self.is_hopeless = False
        """Whether a chunk is left that none of the donors holds any more."""

    @property
    def is_done(self) -> bool:
        """Whether every chunk has come."""
        return self._left == 0

    def on_donor(self, donor: PeerId, holds_C: Flags) -> None:
        """These chunks can be had from this donor."""
        self._holds[donor] = holds_C
        wanted_C = holds_C & ~self.come_C
        self._waiting[donor] = [int(index) for index in np.flatnonzero(wanted_C)[::-1]]

    def next_request(self, donor: PeerId) -> int | None:
        """The chunk to ask this donor for next; None while there is none for it."""
        waiting = self._waiting[donor]
        while waiting:
            index = waiting.pop()
            if index not in self._asked and not self.come_C[index]:
                self._asked[index] = [donor]
                return index
        for index, donors in self._asked.items():
            if len(donors) == 1 and donor not in donors and self._holds[donor][index]:
                donors.append(donor)
                return index
        return None

    def on_chunk(self, index: int) -> bool:
        """A chunk came and is right; False if it had come before."""
        if index not in self._asked:
            return False
        del self._asked[index]
        self.come_C[index] = True
        self._left -= 1
        return True

    def on_donor_lost(self, donor: PeerId) -> None:
        """The donor answers no more."""
        self._holds.pop(donor, None)
        self._waiting.pop(donor, None)
        had_C = self.come_C.copy()
        for holds_C in self._holds.values():
            had_C |= holds_C
        self.is_hopeless = not had_C.all()
        for index in sorted(self._asked, reverse=True):
            donors = self._asked[index]
            if donor in donors:
                donors.remove(donor)
                if not donors:
                    del self._asked[index]
                    for other, waiting in self._waiting.items():
                        if self._holds[other][index]:
                            waiting.append(index)
