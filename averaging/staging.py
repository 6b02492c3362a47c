"""Staging: one host buffer in which tensors, on whichever device, become the flat vector."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from averaging.tensors import Array, Tensor, TensorSpec

if TYPE_CHECKING:
    from averaging import torch_tensors


class Staging:
    """Carries tensors of one spec to a flat vector of its own and back, one step at a time.

    The vector is kept from step to step: fresh memory of this size costs more than the copying.
    With tensors on GPUs it is pinned, and copies run on streams of their own, all at once. Where
    `spec.view()` gives a vector, none of this is needed; memory is taken at the first flatten().

    Args:
        spec: what is carried.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._flat: Array | None = None
        self._pinned = False
        self._streams: torch_tensors.SideStreams | None = None

    def flatten(self, tensors: Mapping[str, Tensor]) -> Array:
        """The flat vector with the tensors' values; the next call overwrites it.

        Work that was queued on the tensors' GPUs before the call is waited for.

        Raises:
            ValueError: the tensors are not as the spec says.
        """
        self._spec.check(tensors)
        flat = self._buffer(tensors)
        with self._copying(tensors):
            return self._spec.flatten(tensors, flat, non_blocking=True)

    def write_back(self, flat: Array, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the tensors in place; when it returns, the GPUs have the values, too.

        Args:
            flat: the vector that flatten() gave, or another.

        Raises:
            ValueError: the tensors or the vector are not as the spec says; nothing is written.
        """
        self._spec.check(tensors, to_write=True)
        if self._pinned and self._flat is not None and flat is not self._flat:
            # To pinned memory and on to the GPU is faster than to the GPU from any other.
            self._flat[...] = flat
            flat = self._flat
        with self._copying(tensors):
            self._spec.write_back(flat, tensors, non_blocking=True)

    def _buffer(self, tensors: Mapping[str, Tensor]) -> Array:
        pinned = bool(_on_gpus(tensors))
        if self._flat is None or (pinned and not self._pinned):
            count, dtype = self._spec.element_count, self._spec.dtype
            if pinned:
                from averaging import torch_tensors

                self._flat = torch_tensors.pinned(count, dtype)
            else:
                self._flat = np.empty(count, dtype)
            self._pinned = pinned
        return self._flat

    def _copying(self, tensors: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        on_gpus = _on_gpus(tensors)
        if not on_gpus:
            return nullcontext()
        if self._streams is None:
            from averaging import torch_tensors

            self._streams = torch_tensors.SideStreams()
        return self._streams.copying(on_gpus)


def _on_gpus(tensors: Mapping[str, Tensor]) -> list[torch_tensors.Tensor]:
    return [
        tensor
        for tensor in tensors.values()
        if not isinstance(tensor, np.ndarray | np.generic) and tensor.is_cuda
    ]
