"""A model and its optimizer as named arrays, to be sent to other peers or averaged.

    parameter/<name>       every parameter of the model, frozen ones too
    buffer/<name>          every buffer, such as the running means of a batch norm
    moment/<name>/<key>    what the optimizer keeps for a parameter: momentum, second moment, step

Hyperparameters such as the learning rate are no part of the state: they are the recipe's, and the
same at each peer. bfloat16 travels as the bits of uint16, which NumPy knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from averaging import StateTable
from training.progress import Sketch
from training.sketch import Sketcher

if TYPE_CHECKING:
    from training.shards import Shards

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Scalar = bool | int | float | str | None
Scalars = tuple[tuple[str, str, Scalar], ...]
"""What the optimizer keeps beside tensors: (parameter's name, key, value)."""
Kept = dict[str, dict[str, Any]]
"""What an optimizer keeps, whole, by the parameter's name and the key."""

# AdamW with amsgrad keeps four things for a parameter; nothing common keeps more.
_MOMENTS_MAX = 8
# Of some hundred float32 operations in another order.
_ROUNDING_MIN = 1e-6
_KEY_LENGTH_MAX = 64


class ModelState:
    """Reads and writes a model and its optimizer; only the thread that trains may use it.

    Args:
        shards: of a model that is sharded over the ranks of this peer.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, shards: Shards | None = None
    ) -> None:
        if shards is None and is_sharded(model):
            raise ValueError(
                "a model that fully_shard() has divided is trained with a global batch, by "
                "RankedOptimizer on all ranks"
            )
        self._optimizer = optimizer
        self._shards = shards
        self._parameters = dict(sorted(model.named_parameters()))
        self._buffers = dict(sorted(model.named_buffers()))
        self._optimized = optimized_names(optimizer, self._parameters)

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
        return self._each(self._tensors(), to_array)

    def scalars(self) -> Scalars:
        """What the optimizer keeps beside tensors."""
        kept = [(name, key, value) for name, key, value in self._kept() if is_scalar(value)]
        return tuple(sorted(kept, key=lambda item: item[:2]))

    def float_arrays(self) -> dict[str, Array]:
        """Copies of what can be averaged, as float32, or float64 where the tensor is."""
        return self._each(self._float_tensors(), lambda tensor: _widened(tensor).numpy())

    def parameter_hash(self) -> str:
        """SHA-256 of the parameters' bytes in order of their names, in hex."""
        digest = hashlib.sha256()
        self._each(self._parameter_tensors(), lambda tensor: digest.update(to_array(tensor).data))
        return digest.hexdigest()

    def sketch(self) -> Sketch:
        """Of all parameters, in order of names."""
        sketcher = Sketcher()
        self._each(self._parameter_tensors(), sketcher.add)
        return sketcher.sketch

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
        own = {
            name: (tuple(tensor.shape), _dtype_name(tensor))
            for name, tensor in (self._parameter_tensors() | self._buffer_tensors()).items()
        }
        offered = {
            name: (shape, dtype)
            for name, shape, dtype in zip(table.names, table.shapes, table.dtypes, strict=True)
        }
        for name, kind in own.items():
            if name not in offered:
                return f"lacks {name}"
            if offered[name] != kind:
                return f"has {name} as {offered[name]}, not {kind}"
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
            whole = shape == tuple(self._parameters[parameter].shape)
            if self._shards is not None and not whole and _count(shape) > 1:
                return f"keeps {key} for {parameter} as {shape}, which cannot be sharded"
        return None

    def load(self, arrays: Mapping[str, Array], scalars: Scalars) -> None:
        """Overwrite the model and the optimizer's state in place."""
        self._fill(self._parameter_tensors() | self._buffer_tensors(), arrays)
        kept: Kept = {}
        for name, array in arrays.items():
            parameter_name, key = _moment(name)
            if parameter_name:
                tensor = self._as_moment(parameter_name, array)
                kept.setdefault(parameter_name, {})[key] = tensor
        for name, key, value in scalars:
            if name in self._optimized:
                kept.setdefault(name, {})[key] = value
        if self._shards is not None:
            self._shards.load_kept(kept)
        else:
            load_kept(self._optimizer, self._optimized, self._parameters, kept)

    def load_floats(self, arrays: Mapping[str, Array]) -> None:
        """Overwrite in place what float_arrays() gave."""
        tensors = self._float_tensors()
        self._fill({name: tensors[name] for name in tensors if name in arrays}, arrays)

    # --- helpers ---

    def _each(
        self, tensors: Mapping[str, torch.Tensor], function: Callable[[torch.Tensor], T]
    ) -> dict[str, T]:
        """What a function says of each tensor, which it is given whole."""
        if self._shards is not None:
            return self._shards.each(tensors, function)
        return {name: function(tensor) for name, tensor in tensors.items()}

    def _fill(self, tensors: Mapping[str, torch.Tensor], arrays: Mapping[str, Array]) -> None:
        """Overwrite tensors in place, whatever their device and kind."""
        sources = {name: _source(tensor, arrays[name]) for name, tensor in tensors.items()}
        if self._shards is not None:
            self._shards.fill(sources)
            return
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(sources[name])

    def _parameter_tensors(self) -> dict[str, torch.Tensor]:
        return {f"parameter/{name}": parameter for name, parameter in self._parameters.items()}

    def _buffer_tensors(self) -> dict[str, torch.Tensor]:
        return {f"buffer/{name}": buffer for name, buffer in self._buffers.items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Everything, as it lies, in order of names."""
        tensors = self._parameter_tensors() | self._buffer_tensors()
        for name, key, value in self._kept():
            if isinstance(value, torch.Tensor):
                tensors[f"moment/{name}/{key}"] = value
        return dict(sorted(tensors.items()))

    def _float_tensors(self) -> dict[str, torch.Tensor]:
        """What can be averaged."""
        return {n: tensor for n, tensor in self._tensors().items() if tensor.is_floating_point()}

    def _kept(self) -> list[tuple[str, str, Any]]:
        """All that the optimizer keeps, as (parameter's name, key, value)."""
        kept = []
        for name in self._optimized:
            for key, value in self._optimizer.state.get(self._parameters[name], {}).items():
                if not isinstance(value, torch.Tensor) and not is_scalar(value):
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


def optimized_names(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> list[str]:
    """The names of an optimizer's parameters, in its order.

    Raises:
        ValueError: one of them is not among these.
    """
    name_of = {id(parameter): name for name, parameter in parameters.items()}
    optimized = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(parameter) not in name_of for parameter in optimized):
        raise ValueError(
            "the optimizer holds a parameter that is not the model's; give the model whose "
            "parameters it optimizes, and make the optimizer after what replaces them, such as "
            "fully_shard()"
        )
    return [name_of[id(parameter)] for parameter in optimized]


def load_kept(
    optimizer: torch.optim.Optimizer,
    optimized: Sequence[str],
    parameters: Mapping[str, nn.Parameter],
    kept: Kept,
) -> None:
    """Replace all that an optimizer keeps.

    Args:
        optimized: as optimized_names() gave them.
        parameters: the model's, by name.
    """
    # The optimizer itself knows which of them belong on which device.
    optimizer.load_state_dict(
        {
            "state": {i: kept[name] for i, name in enumerate(optimized) if name in kept},
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
    # It also casts them to the parameter's dtype, which loses bits of what is kept wider.
    for name, values in kept.items():
        state = optimizer.state[parameters[name]]
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and state[key].dtype != value.dtype:
                state[key] = value.to(state[key].device)


def is_sharded(model: nn.Module) -> bool:
    """Whether fully_shard() has divided the model, or a part of it, over processes.

    Raises:
        ValueError: it is wrapped in FullyShardedDataParallel, which hides its parameters.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ValueError(
            "FullyShardedDataParallel is not supported, since it makes one parameter of many; "
            "shard the model with torch.distributed.fsdp.fully_shard()"
        )
    # Only a DTensor has one; its class takes long to import.
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


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


def _source(tensor: torch.Tensor, array: Array) -> torch.Tensor:
    """What a tensor is to be filled with; it shares the array's memory."""
    source = torch.from_numpy(np.ascontiguousarray(array)).reshape(tensor.shape)
    if tensor.dtype == torch.bfloat16 and source.dtype == torch.uint16:
        source = source.view(torch.bfloat16)
    return source


def _dtype_name(tensor: torch.Tensor) -> str:
    """As to_array() would have it."""
    name: str = to_array(torch.empty(0, dtype=tensor.dtype)).dtype.name
    return name


def _moment(name: str) -> tuple[str, str]:
    """The parameter and the key of a moment's name; empty for other names."""
    kind, _, rest = name.partition("/")
    parameter, _, key = rest.rpartition("/")
    return (parameter, key) if kind == "moment" else ("", "")


def is_scalar(value: object) -> bool:
    """Whether it is sent beside tensors."""
    return value is None or isinstance(value, bool | int | float | str)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
