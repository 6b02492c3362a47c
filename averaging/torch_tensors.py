"""PyTorch's side of averaging: the only module here that imports it, itself imported on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
Tensor = torch.Tensor


def complaint(tensor: Tensor, *, to_write: bool) -> str | None:
    """Why the tensor's memory cannot be read (or written), or None."""
    if tensor.layout != torch.strided:
        return "is not dense"
    if tensor.device.type == "meta":
        return "has no values: it is on the meta device"
    if not to_write:
        return None
    if tensor.is_inference():
        return "cannot be written: it was made in inference mode; give a clone"
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    if tensor.numel() and any(size > 1 and stride == 0 for size, stride in strides):
        return "cannot be written: it was expanded, so its elements share memory; give a clone"
    return None


def read(tensor: Tensor, part: Array, *, non_blocking: bool) -> None:
    """Overwrite part, 1-D and of any float dtype, with the tensor's values."""
    seen = _seen(part).view(tensor.shape)
    seen.copy_(tensor.detach(), non_blocking=non_blocking and tensor.is_cuda)


def write(tensor: Tensor, part: Array, *, non_blocking: bool) -> None:
    """Overwrite the tensor, which may need a gradient, with the values of part."""
    seen = _seen(part).view(tensor.shape)
    tensor.detach().copy_(seen, non_blocking=non_blocking and tensor.is_cuda)


def view(tensor: Tensor) -> Array | None:
    """The tensor's own memory, 1-D, or None where it is not one plain piece of the host's."""
    plain = tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_neg()
    if not plain or tensor.dtype == torch.bfloat16:
        return None
    memory: Array = tensor.detach().view(-1).numpy()
    return memory


def convert(source: Array, source_dtype: str, out: Array, out_dtype: str) -> None:
    """Overwrite out with the values of source; bfloat16 is stored as uint16."""
    _seen(out, out_dtype).copy_(_seen(source, source_dtype))


def pinned(element_count: int, dtype: np.dtype[Any]) -> Array:
    """Host memory that GPUs read and write while the host does something else."""
    memory: Array = torch.empty(
        element_count, dtype=getattr(torch, dtype.name), pin_memory=True
    ).numpy()
    return memory


class SideStreams:
    """A stream of our own on each GPU, so that copies and computing do not wait for each other."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    @contextmanager
    def copying(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """Copies within the block are only queued; when it is left, all have been made."""
        devices = list(dict.fromkeys(tensor.device for tensor in tensors))
        with ExitStack() as current:
            for device in devices:
                if device not in self._streams:
                    self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
                # The caller's thread may have queued work on the tensors on any stream.
                torch.cuda.synchronize(device)
                current.enter_context(torch.cuda.stream(self._streams[device]))
            try:
                yield
            finally:
                for device in devices:
                    self._streams[device].synchronize()


def _seen(array: Array, dtype: str | None = None) -> Tensor:
    """The array's memory as a tensor."""
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


class _Writable:
    """Read-only memory under the name of writable memory; we only read it.

    PyTorch has no read-only tensors and warns about each such array, so that the user would see a
    warning that is not his.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
