"""TensorSpec: which tensors are averaged, how they travel, and the one flat vector they make."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from averaging.codecs.floating import ITEM_SIZE_BYTES, FloatingWire, Run, rounded_to_odd

if TYPE_CHECKING:
    from averaging import torch_tensors

Array = np.ndarray[Any, Any]
Tensor: TypeAlias = "Array | torch_tensors.Tensor"
"""Of numpy, or of PyTorch on any device; PyTorch is loaded only if the caller has loaded it."""

FLOAT_DTYPES = tuple(ITEM_SIZE_BYTES)
"""What can be averaged; integers would lose their meaning."""

# Arithmetic makes a generic of an array without dimensions; it is as good, but read-only.
_NUMPY = (np.ndarray, np.generic)


CODED_ELEMENTS_MIN = 4_096
"""A tensor with less is not worth a codec, unless a configuration says so."""
_VECTOR_FACTOR = 16

# Four parts make a hash; nobody gains by a collision, since a peer may claim any hash.
_HASH_PART_BYTES = 8


def describe_difference(ours: bytes, theirs: bytes) -> str:
    """In what the specs with these hashes differ, in words."""
    different = []
    for index, part in enumerate(("names", "shapes", "dtypes", "dtypes on the wire")):
        bytes_of_part = slice(index * _HASH_PART_BYTES, (index + 1) * _HASH_PART_BYTES)
        if ours[bytes_of_part] != theirs[bytes_of_part]:
            different.append(part)
    if "dtypes" in different and "dtypes on the wire" in different:
        # The one follows from the other.
        different.remove("dtypes on the wire")
    if not different:
        return "the tensors differ"
    *first, last = different
    return f"the tensors' {', '.join(first)}{' and ' if first else ''}{last} differ"


@dataclass(frozen=True)
class TensorSpec:
    """Names, shapes and dtypes of the tensors, in the order of the flat vector.

    All members of a group must have equal specs; the hash tells. The flat vector is numpy's and has
    one dtype, the narrowest that holds every tensor's values; bfloat16, which numpy does not have,
    is held as float32.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    wire_dtypes: tuple[str, ...] = ()
    """As what each tensor travels; empty: as it is."""
    coded_names: tuple[str, ...] = ()
    """Tensors that a codec may compress, if there is one; they come first."""

    def __post_init__(self) -> None:
        if not self.wire_dtypes:
            object.__setattr__(self, "wire_dtypes", self.dtypes)
        if self.coded_names != self.names[: len(self.coded_names)]:
            raise ValueError("the tensors that are coded must be the first ones of the spec")
        if not len(self.names) == len(self.shapes) == len(self.dtypes) == len(self.wire_dtypes):
            raise ValueError("a spec needs one shape and one dtype for each name")
        if not self.names:
            raise ValueError("a spec needs at least one tensor")
        if len(set(self.names)) != len(self.names):
            raise ValueError("the names in a spec must differ")
        possible = ", ".join(FLOAT_DTYPES)
        for name, dtype, wire_dtype in zip(self.names, self.dtypes, self.wire_dtypes, strict=True):
            if dtype not in FLOAT_DTYPES:
                raise ValueError(f"tensor {name!r} is {dtype}; only {possible} can be averaged")
            if wire_dtype not in FLOAT_DTYPES:
                raise ValueError(f"tensor {name!r} cannot be sent as {wire_dtype}; only {possible}")

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], wire: str | Mapping[str, str] | None = None
    ) -> TensorSpec:
        """The spec of these tensors; the mapping's order is free.

        Args:
            wire: as with_wire() takes it.
        """
        names = tuple(sorted(tensors))
        dtypes = tuple(_dtype_name(name, tensors[name]) for name in names)
        shapes = tuple(tuple(tensors[name].shape) for name in names)
        return cls(names, shapes, dtypes).with_wire(wire)

    def with_wire(self, wire: str | Mapping[str, str] | None) -> TensorSpec:
        """The same tensors, each sent as this dtype, in the order that goes with it.

        The order is by the dtype on the wire, then by name, so that few pieces of the vector have
        a dtype of their own.

        Args:
            wire: one dtype for all; or dtypes by name, or by the beginnings of names, written with
                a `*` behind; an exact name goes first, then the longest beginning. None, and names
                that nothing fits: as the tensor is.

        Raises:
            ValueError: a dtype cannot be sent, or fits no tensor.
        """
        wire_dtypes = _wire_dtypes(self.names, self.dtypes, wire)
        ranks = {dtype: rank for rank, dtype in enumerate(FLOAT_DTYPES)}
        order = sorted(
            range(len(self.names)),
            # What is no dtype is complained about below.
            key=lambda i: (ranks.get(wire_dtypes[i], 0), self.names[i]),
        )
        return TensorSpec(
            names=tuple(self.names[i] for i in order),
            shapes=tuple(self.shapes[i] for i in order),
            dtypes=tuple(self.dtypes[i] for i in order),
            wire_dtypes=tuple(wire_dtypes[i] for i in order),
        )

    def with_coded(self, elements_min: int | Mapping[str, int | None]) -> TensorSpec:
        """The same tensors with those in front that are large enough to be compressed.

        Args:
            elements_min: how many elements these have at least, and 16 times as many if they have
                one dimension: norms and biases are small, and more than others depends on each of
                their values. Or how many by names, as with_wire() takes them, whatever the
                dimensions; None for never, and 4 096 as above for the others.

        Raises:
            ValueError: a name fits no tensor.
        """
        by_name = elements_min if isinstance(elements_min, Mapping) else {}
        usual = CODED_ELEMENTS_MIN if isinstance(elements_min, Mapping) else elements_min
        patterns = _best_patterns(self.names, by_name)
        coded = []
        for size, shape, pattern in zip(self.sizes, self.shapes, patterns, strict=True):
            least: int | None = usual * (1 if len(shape) > 1 else _VECTOR_FACTOR)
            if pattern is not None:
                least = by_name[pattern]
            coded.append(least is not None and size >= least)
        # Sorting keeps the order of all that is alike.
        order = sorted(range(len(self.names)), key=lambda i: not coded[i])
        return TensorSpec(
            names=tuple(self.names[i] for i in order),
            shapes=tuple(self.shapes[i] for i in order),
            dtypes=tuple(self.dtypes[i] for i in order),
            wire_dtypes=tuple(self.wire_dtypes[i] for i in order),
            coded_names=tuple(self.names[i] for i in order if coded[i]),
        )

    @property
    def coded_count(self) -> int:
        """So many of the flat vector's first elements a codec may compress."""
        return sum(self.sizes[: len(self.coded_names)])

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
        """The dtype of the flat vector."""
        return np.result_type(
            *("float32" if dtype == "bfloat16" else dtype for dtype in self.dtypes)
        )

    @cached_property
    def wire(self) -> FloatingWire:
        """How the flat vector travels."""
        runs: list[Run] = []
        start = 0
        for size, dtype in zip(self.sizes, self.wire_dtypes, strict=True):
            if runs and runs[-1].dtype_name == dtype:
                runs[-1] = replace(runs[-1], stop=start + size)
            elif size:
                runs.append(Run(start, start + size, dtype))
            start += size
        return FloatingWire(runs, self.dtype)

    @cached_property
    def hash(self) -> bytes:
        """Names the spec in 32 bytes: eight of the SHA-256 of the names, of the shapes, of the
        dtypes, and of those on the wire, so that two peers can tell in what they differ.

        Which tensors are coded is a matter of the group's terms, and does not change it.
        """
        if self.coded_names:
            wire = dict(zip(self.names, self.wire_dtypes, strict=True))
            return self.with_wire(wire).hash
        parts = (self.names, self.shapes, self.dtypes)
        digests = [
            hashlib.sha256(msgspec.msgpack.encode(part)) for part in (*parts, self.wire_dtypes)
        ]
        return b"".join(digest.digest()[:_HASH_PART_BYTES] for digest in digests)

    def check(self, tensors: Mapping[str, Tensor], *, to_write: bool = False) -> None:
        """Raise ValueError unless the tensors are as the spec says (and may be written)."""
        if tensors.keys() != set(self.names):
            different = sorted(set(self.names) ^ tensors.keys())
            raise ValueError(f"these tensors are not both in the spec and given: {different[:5]}")
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            tensor = tensors[name]
            given_dtype = _dtype_name(name, tensor)
            if tuple(tensor.shape) != shape or given_dtype != dtype:
                raise ValueError(
                    f"tensor {name!r} is {given_dtype}{tuple(tensor.shape)}, "
                    f"the spec says {dtype}{shape}"
                )
            complaint = _complaint(tensor, to_write=to_write)
            if complaint is not None:
                raise ValueError(f"tensor {name!r} {complaint}")

    def view(self, tensors: Mapping[str, Tensor]) -> Array | None:
        """The tensors' own memory as the flat vector, or None where they must be copied.

        That is possible for a single tensor that lies in one piece in the host's memory and has the
        flat vector's dtype. What is written into the view is written into the tensor.

        Raises:
            ValueError: the tensors are not as the spec says.
        """
        self.check(tensors)
        if len(self.names) > 1:
            return None
        tensor = tensors[self.names[0]]
        if isinstance(tensor, _NUMPY):
            plain = tensor.flags.c_contiguous and tensor.flags.aligned
            if not plain or tensor.dtype != self.dtype:
                return None
            return np.asarray(tensor).reshape(-1)
        from averaging import torch_tensors

        return torch_tensors.view(tensor)

    def flatten(
        self,
        tensors: Mapping[str, Tensor],
        out: Array | None = None,
        *,
        non_blocking: bool = False,
    ) -> Array:
        """The flat vector with the tensors' values: a new one, or out overwritten.

        Args:
            non_blocking: copies from GPUs are only queued; Staging waits for them.

        Raises:
            ValueError: the tensors or out are not as the spec says.
        """
        self.check(tensors)
        flat = np.empty(self.element_count, self.dtype) if out is None else out
        self._check_flat(flat)
        for name, part in self._parts(flat):
            tensor = tensors[name]
            if isinstance(tensor, _NUMPY):
                part[...] = tensor.reshape(-1)
            else:
                from averaging import torch_tensors

                torch_tensors.read(tensor, part, non_blocking=non_blocking)
        return flat

    def write_back(
        self, flat: Array, tensors: Mapping[str, Tensor], *, non_blocking: bool = False
    ) -> None:
        """Overwrite the tensors in place with the values of the flat vector, rounded once.

        Args:
            flat: nothing is done if it is view() of these tensors.
            non_blocking: copies to GPUs are only queued; Staging waits for them.

        Raises:
            ValueError: the tensors or the vector are not as the spec says; nothing is written.
        """
        self.check(tensors, to_write=True)
        self._check_flat(flat)
        own = self.view(tensors)
        if own is not None and own.ctypes.data == flat.ctypes.data:
            return
        for (name, part), dtype in zip(self._parts(flat), self.dtypes, strict=True):
            tensor = tensors[name]
            would_round_twice = part.dtype == np.float64 and ITEM_SIZE_BYTES[dtype] == 2
            if would_round_twice:
                part = rounded_to_odd(part)
            if isinstance(tensor, _NUMPY):
                with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                    tensor[...] = part.reshape(tensor.shape)
            else:
                from averaging import torch_tensors

                # The rounded part is gone at the next turn, and must be copied by then.
                queued = non_blocking and not would_round_twice
                torch_tensors.write(tensor, part, non_blocking=queued)

    def _check_flat(self, flat: Array) -> None:
        if flat.shape != (self.element_count,) or flat.dtype != self.dtype:
            raise ValueError(f"the flat vector must have {self.element_count} {self.dtype}")
        if not flat.flags.c_contiguous:
            raise ValueError("the flat vector must be contiguous")

    def _parts(self, flat: Array) -> Iterator[tuple[str, Array]]:
        """Each tensor's name and a view of its part of the flat vector."""
        start = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            yield name, flat[start : start + size]
            start += size


def _dtype_name(name: str, tensor: Tensor) -> str:
    if isinstance(tensor, _NUMPY):
        return str(tensor.dtype.name)
    # Whoever has one of its tensors has loaded PyTorch.
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(tensor, torch.Tensor):
        raise ValueError(
            f"tensor {name!r} is a {type(tensor).__name__}; give numpy arrays or torch tensors"
        )
    return str(tensor.dtype).removeprefix("torch.")


def _complaint(tensor: Tensor, *, to_write: bool) -> str | None:
    """Why the tensor's memory cannot be read (or written), or None."""
    if isinstance(tensor, _NUMPY):
        readable = tensor.flags.writeable or not to_write
        return None if readable else "cannot be written; give a writable array"
    from averaging import torch_tensors

    return torch_tensors.complaint(tensor, to_write=to_write)


def _wire_dtypes(
    names: tuple[str, ...], dtypes: tuple[str, ...], wire: str | Mapping[str, str] | None
) -> list[str]:
    """What with_wire() says each tensor travels as."""
    patterns = {"*": wire} if isinstance(wire, str) else dict(wire or {})
    return [
        dtype if best is None else patterns[best]
        for dtype, best in zip(dtypes, _best_patterns(names, patterns), strict=True)
    ]


def _best_patterns(names: tuple[str, ...], patterns: Collection[str]) -> list[str | None]:
    """What fits each name best: itself, else the longest beginning, else nothing."""
    unused = dict.fromkeys(patterns)
    found = []
    for name in names:
        fitting = [pattern for pattern in patterns if _fits(pattern, name)]
        for pattern in fitting:
            unused.pop(pattern, None)
        found.append(
            max(fitting, key=lambda pattern: (pattern == name, len(pattern)), default=None)
        )
    if unused:
        raise ValueError(f"no tensor has the names that options are given for: {list(unused)[:5]}")
    return found


def _fits(pattern: str, name: str) -> bool:
    return pattern == name or (pattern.endswith("*") and name.startswith(pattern[:-1]))
