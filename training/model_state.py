"""A model and its optimizer as named arrays, to be sent to other peers or averaged.

    parameter/<name>       every parameter of the model, frozen ones too
    buffer/<name>          every buffer, such as the running means of a batch norm
    moment/<name>/<key>    what the optimizer keeps for a parameter: momentum, second moment, step

Hyperparameters such as the learning rate are no part of the state: they are the recipe's, and the
same at each peer. bfloat16 travels as the bits of uint16, which NumPy knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from averaging import StateTable
from training.progress import Sketch
from training.sketch import sketch_of

Array = np.ndarray[Any, Any]
Scalar = bool | int | float | str | None
Scalars = tuple[tuple[str, str, Scalar], ...]
"""What the optimizer keeps beside tensors: (parameter's name, key, value)."""

# AdamW with amsgrad keeps four things for a parameter; nothing common keeps more.
_MOMENTS_MAX = 8
# Of some hundred float32 operations in another order.
_ROUNDING_MIN = 1e-6
_KEY_LENGTH_MAX = 64


class ModelState:
    """Reads and writes a model and its optimizer; only the thread that trains may use it."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = dict(sorted(model.named_parameters()))
        self._buffers = dict(sorted(model.named_buffers()))
        name_of = {id(parameter): name for name, parameter in self._parameters.items()}
        self._optimized: list[str] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in name_of:
                    raise ValueError(
                        "the optimizer holds a parameter that is not the model's; give the "
                        "model whose parameters it optimizes"
                    )
                self._optimized.append(name_of[id(parameter)])

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer changes, by name, in order of names."""
        return {
            name: self._parameters[name]
            for name in sorted(self._optimized)
            if self._parameters[name].requires_grad
        }

    # --- reading ---

    def arrays(self) -> dict[str, Array]:
        """Copies of everything, in order of names."""
        arrays = {f"parameter/{name}": to_array(p) for name, p in self._parameters.items()}
        arrays |= {f"buffer/{name}": to_array(buffer) for name, buffer in self._buffers.items()}
        for name, key, value in self._kept():
            if isinstance(value, torch.Tensor):
                arrays[f"moment/{name}/{key}"] = to_array(value)
        return dict(sorted(arrays.items()))

    def scalars(self) -> Scalars:
        """What the optimizer keeps beside tensors."""
        kept = [(name, key, value) for name, key, value in self._kept() if _is_scalar(value)]
        return tuple(sorted(kept, key=lambda item: item[:2]))

    def float_arrays(self) -> dict[str, Array]:
        """Copies of what can be averaged, as float32, or float64 where the tensor is."""
        tensors: dict[str, torch.Tensor] = {}
        tensors |= {f"parameter/{name}": p for name, p in self._parameters.items()}
        tensors |= {f"buffer/{name}": buffer for name, buffer in self._buffers.items()}
        for name, key, value in self._kept():
            if isinstance(value, torch.Tensor):
                tensors[f"moment/{name}/{key}"] = value
        return {
            name: _widened(tensor).numpy()
            for name, tensor in sorted(tensors.items())
            if tensor.is_floating_point()
        }

    def parameter_hash(self) -> str:
        """SHA-256 of the parameters' bytes in order of their names, in hex."""
        digest = hashlib.sha256()
        for parameter in self._parameters.values():
            digest.update(to_array(parameter).data)
        return digest.hexdigest()

    def sketch(self) -> Sketch:
        """Of all parameters, in order of names."""
        return sketch_of(self._parameters.values())

    @property
    def rounding(self) -> float:
        """How far rounding may lead the parameters, as a part of their norm."""
        coarsest = max(
            (torch.finfo(p.dtype).eps for p in self._parameters.values() if p.is_floating_point()),
            default=0.0,
        )
        return max(coarsest / 4, _ROUNDING_MIN)

    def digest(self) -> bytes:
        """SHA-256 of everything: names, kinds and values."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(f"{name}\0{array.dtype.name}{array.shape}\0".encode())
            digest.update(array.data)
        digest.update(repr(self.scalars()).encode())
        return digest.digest()

    # --- writing ---

    def complaint(self, table: StateTable) -> str | None:
        """Why a state with these tensors is not one of this model, or None."""
        own = {f"parameter/{name}": to_array(p) for name, p in self._parameters.items()}
        own |= {f"buffer/{name}": to_array(buffer) for name, buffer in self._buffers.items()}
        offered = {
            name: (shape, dtype)
            for name, shape, dtype in zip(table.names, table.shapes, table.dtypes, strict=True)
        }
        for name, array in own.items():
            if name not in offered:
                return f"lacks {name}"
            if offered[name] != (tuple(array.shape), array.dtype.name):
                return f"has {name} as {offered[name]}, not {(array.shape, array.dtype.name)}"
        moments = dict.fromkeys(self._optimized, 0)
        for name in offered.keys() - own.keys():
            parameter, key = _moment(name)
            if parameter not in moments or not key.isidentifier() or len(key) > _KEY_LENGTH_MAX:
                return f"has {name[:100]!r}, which is not this model's"
            moments[parameter] += 1
            shape, _ = offered[name]
            size = self._parameters[parameter].numel()
            if moments[parameter] > _MOMENTS_MAX or _count(shape) > max(1, size):
                return f"keeps more for {parameter} than an optimizer may"
        return None

    def load(self, arrays: Mapping[str, Array], scalars: Scalars) -> None:
        """Overwrite the model and the optimizer's state in place."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                _fill(parameter, arrays[f"parameter/{name}"])
            for name, buffer in self._buffers.items():
                _fill(buffer, arrays[f"buffer/{name}"])
        kept: dict[str, dict[str, Any]] = {}
        for name, array in arrays.items():
            parameter_name, key = _moment(name)
            if parameter_name:
                tensor = self._as_moment(parameter_name, array)
                kept.setdefault(parameter_name, {})[key] = tensor
        for name, key, value in scalars:
            if name in self._optimized:
                kept.setdefault(name, {})[key] = value
        # The optimizer itself knows which of them belong on which device.
        self._optimizer.load_state_dict(
            {
                "state": {i: kept[name] for i, name in enumerate(self._optimized) if name in kept},
                "param_groups": self._optimizer.state_dict()["param_groups"],
            }
        )
        # It also casts them to the parameter's dtype, which loses bits of what is kept wider.
        for name, values in kept.items():
            state = self._optimizer.state[self._parameters[name]]
            for key, value in values.items():
                if isinstance(value, torch.Tensor) and state[key].dtype != value.dtype:
                    state[key] = value.to(state[key].device)

    def load_floats(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite in place what float_arrays() gave."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if f"parameter/{name}" in arrays:
                    _fill(parameter, arrays[f"parameter/{name}"])
            for name, buffer in self._buffers.items():
                if f"buffer/{name}" in arrays:
                    _fill(buffer, arrays[f"buffer/{name}"])
            for name, key, value in self._kept():
                if isinstance(value, torch.Tensor) and f"moment/{name}/{key}" in arrays:
                    _fill(value, arrays[f"moment/{name}/{key}"])

    def _kept(self) -> list[tuple[str, str, Any]]:
        """All that the optimizer keeps, as (parameter's name, key, value)."""
        kept = []
        for name in self._optimized:
            for key, value in self._optimizer.state.get(self._parameters[name], {}).items():
                if not isinstance(value, torch.Tensor) and not _is_scalar(value):
                    kind = type(self._optimizer).__name__
                    raise ValueError(
                        f"{kind} keeps {key!r} as {type(value).__name__}, which cannot be sent "
                        "to other peers; use an optimizer that keeps tensors and numbers"
                    )
                kept.append((name, str(key), value))
        return kept

    def _as_moment(self, parameter_name: str, array: Array) -> torch.Tensor:
        """A tensor of its own; bits of uint16 are bfloat16 where the parameter is."""
        tensor = torch.from_numpy(np.array(array))
        bits = tensor.dtype == torch.uint16
        if bits and self._parameters[parameter_name].dtype == torch.bfloat16:
            tensor = tensor.view(torch.bfloat16)
        return tensor


def to_array(tensor: torch.Tensor) -> Array:
    """A C-contiguous copy on the CPU; bfloat16 as the bits of uint16."""
    copy = tensor.detach().to("cpu", copy=True).contiguous()
    if copy.dtype == torch.bfloat16:
        copy = copy.view(torch.uint16)
    array: Array = copy.numpy()
    return array


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU in a dtype that can be averaged without loss."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _fill(tensor: torch.Tensor, array: Array) -> None:
    """Overwrite a tensor in place, whatever its device and kind."""
    source = torch.from_numpy(np.ascontiguousarray(array)).reshape(tensor.shape)
    if tensor.dtype == torch.bfloat16 and source.dtype == torch.uint16:
        source = source.view(torch.bfloat16)
    tensor.copy_(source)


def _moment(name: str) -> tuple[str, str]:
    """The parameter and the key of a moment's name; empty for other names."""
    kind, _, rest = name.partition("/")
    parameter, _, key = rest.rpartition("/")
    return (parameter, key) if kind == "moment" else ("", "")


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
