"""TensorSpec: which tensors are averaged, and the one flat vector they make."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, Any]

FLOAT_DTYPES = ("float16", "float32", "float64")
"""What can be averaged; integers would lose their meaning."""


# Four parts make a hash; nobody gains by a collision, since a peer may claim any hash.
_HASH_PART_BYTES = 8


def describe_difference(ours: bytes, theirs: bytes) -> str:
    """In what the specs with these hashes differ, in words."""
    different = []
    for index, part in enumerate(("names", "shapes", "dtypes")):
        bytes_of_part = slice(index * _HASH_PART_BYTES, (index + 1) * _HASH_PART_BYTES)
        if ours[bytes_of_part] != theirs[bytes_of_part]:
            different.append(part)
    if not different:
        return "the tensors differ"
    *first, last = different
    return f"the tensors' {', '.join(first)}{' and ' if first else ''}{last} differ"


@dataclass(frozen=True)
class TensorSpec:
    """Names, shapes and dtypes of the tensors, in the order of the flat vector.

    All members of a group must have equal specs; the hash tells.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.shapes) == len(self.dtypes):
            raise ValueError("a spec needs one shape and one dtype for each name")
        if not self.names:
            raise ValueError("a spec needs at least one tensor")
        if len(set(self.names)) != len(self.names):
            raise ValueError("the names in a spec must differ")
        for name, dtype in zip(self.names, self.dtypes, strict=True):
            if dtype not in FLOAT_DTYPES:
                raise ValueError(
                    f"tensor {name!r} is {dtype}; only {', '.join(FLOAT_DTYPES)} can be averaged"
                )

    @classmethod
    def of(cls, tensors: Mapping[str, Array]) -> TensorSpec:
        """The spec of these tensors; ordered by name, so that the mapping's order is free."""
        names = tuple(sorted(tensors))
        return cls(
            names=names,
            shapes=tuple(tuple(tensors[name].shape) for name in names),
            dtypes=tuple(tensors[name].dtype.name for name in names),
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each tensor."""
        return tuple(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    @property
    def element_count(self) -> int:
        """Elements of the flat vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the flat vector: the narrowest that holds every tensor's values."""
        return np.result_type(*self.dtypes)

    @cached_property
    def hash(self) -> bytes:
        """Names the spec in 32 bytes: eight of the SHA-256 of the names, of the shapes, of the
        dtypes, and of all three, so that two peers can tell in what they differ.
        """
        parts = (self.names, self.shapes, self.dtypes)
        digests = [hashlib.sha256(msgspec.msgpack.encode(part)) for part in (*parts, parts)]
        return b"".join(digest.digest()[:_HASH_PART_BYTES] for digest in digests)

    def check(self, tensors: Mapping[str, Array], *, to_write: bool = False) -> None:
        """Raise ValueError unless the tensors are as the spec says (and may be written)."""
        if tensors.keys() != set(self.names):
            different = sorted(set(self.names) ^ tensors.keys())
            raise ValueError(f"these tensors are not both in the spec and given: {different[:5]}")
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            tensor = tensors[name]
            if tuple(tensor.shape) != shape or tensor.dtype.name != dtype:
                raise ValueError(
                    f"tensor {name!r} is {tensor.dtype.name}{tuple(tensor.shape)}, "
                    f"the spec says {dtype}{shape}"
                )
            if to_write and not tensor.flags.writeable:
                raise ValueError(f"tensor {name!r} cannot be written; give a writable array")

    def flatten(self, tensors: Mapping[str, Array], out: Array | None = None) -> Array:
        """The flat vector with the tensors' values: a new one, or out overwritten."""
        self.check(tensors)
        flat = np.empty(self.element_count, self.dtype) if out is None else out
        self._check_flat(flat)
        for part, tensor in zip(self._parts(flat), self._in_order(tensors), strict=True):
            part[...] = tensor.reshape(-1)
        return flat

    def write_back(self, flat: Array, tensors: Mapping[str, Array]) -> None:
        """Overwrite the tensors in place with the values of the flat vector."""
        self.check(tensors, to_write=True)
        self._check_flat(flat)
        for part, tensor in zip(self._parts(flat), self._in_order(tensors), strict=True):
            tensor[...] = part.reshape(tensor.shape)

    def _check_flat(self, flat: Array) -> None:
        if flat.shape != (self.element_count,) or flat.dtype != self.dtype:
            raise ValueError(f"the flat vector must have {self.element_count} {self.dtype}")

    def _in_order(self, tensors: Mapping[str, Array]) -> Sequence[Array]:
        return [tensors[name] for name in self.names]

    def _parts(self, flat: Array) -> Sequence[Array]:
        """Views of the flat vector, one for each tensor."""
        parts = []
        start = 0
        for size in self.sizes:
            parts.append(flat[start : start + size])
            start += size
        return parts
