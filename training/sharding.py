"""How a tensor is divided over the ranks of a peer, put together at rank 0, and divided again.

FSDP cuts along one dimension: of n rows and P ranks the first ranks have ceil(n / P) rows each, the
last ones what is left, perhaps nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard


def mesh_of(sharded: Mapping[str, DTensor], trained: Mapping[str, nn.Parameter]) -> DeviceMesh:
    """The one mesh that a model is sharded over.

    Args:
        sharded: its parameters that are divided, by name.
        trained: those that must be.

    Raises:
        ValueError: there are several, or something is sharded in another way, or not at all.
    """
    mesh = next(iter(sharded.values())).device_mesh
    for name, parameter in sharded.items():
        if parameter.device_mesh != mesh:
            raise ValueError(
                f"parameter {name!r} is sharded over another mesh than the others; shard all of "
                "the model over the ranks of one peer"
            )
        if mesh.ndim != 1 or not isinstance(parameter.placements[0], Shard):
            raise ValueError(
                f"parameter {name!r} is placed as {parameter.placements}; only what "
                "fully_shard() makes of a mesh of one dimension can be trained in a swarm"
            )
    for name in trained:
        if name not in sharded:
            raise ValueError(
                f"parameter {name!r} is trained but not sharded, so FSDP does not average its "
                "gradient; call fully_shard() on the whole model, after its parts"
            )
    return mesh


def slice_of(whole: DTensor, own: torch.Tensor) -> DTensor:
    """A rank's slice of another tensor that is sharded as this one is."""
    return DTensor.from_local(
        own, whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride()
    )


def gather(tensor: DTensor) -> torch.Tensor:
    """The whole tensor at rank 0, on its device; of no use elsewhere. All ranks call it."""
    local, dim = tensor.to_local().detach(), _dim_of(tensor)
    group, source = group_of(tensor)
    rows = local.movedim(dim, 0)
    own = rows.new_zeros((_height(tensor), *rows.shape[1:]))
    own[: len(rows)] = rows
    if distributed.get_rank(group) != 0:
        distributed.gather(bytes_of(own), None, source, group=group)
        return own
    whole = rows.new_empty((len(own) * distributed.get_world_size(group), *rows.shape[1:]))
    slices = [bytes_of(one) for one in torch.split(whole, len(own))]
    distributed.gather(bytes_of(own), slices, source, group=group)
    return whole[: tensor.shape[dim]].movedim(0, dim)


def scatter(like: DTensor, dtype: torch.dtype, source: torch.Tensor | None) -> torch.Tensor:
    """This rank's slice of what rank 0 has whole. All ranks call it.

    Args:
        like: a tensor of that shape, whose division and device are taken.
        dtype: of the result.
        source: the whole at rank 0, on any device; None elsewhere.
    """
    local, dim = like.to_local(), _dim_of(like)
    group, first = group_of(like)
    height = _height(like)
    shape = local.movedim(dim, 0).shape
    own = torch.empty((height, *shape[1:]), dtype=dtype, device=local.device)
    slices = None
    if source is not None:
        rows = source.movedim(dim, 0)
        padded = own.new_zeros((height * distributed.get_world_size(group), *shape[1:]))
        padded[: len(rows)] = rows
        slices = [bytes_of(one) for one in torch.split(padded, height)]
    distributed.scatter(bytes_of(own), slices, first, group=group)
    return own[: shape[0]].movedim(0, dim).contiguous()


def check_kept(optimizer: torch.optim.Optimizer, parameters: Mapping[str, DTensor]) -> None:
    """Look whether rank 0 could gather all that an optimizer keeps.

    Args:
        parameters: those that are divided, by name.

    Raises:
        ValueError: it could not.
    """
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, DTensor):
                well = value.shape == parameter.shape and value.placements == parameter.placements
            else:
                well = not isinstance(value, torch.Tensor) or value.numel() <= 1
            if not well:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key!r} of {name!r} otherwise than the "
                    "parameter is sharded, so it cannot be sent to other peers; use an optimizer "
                    "that keeps tensors of the parameter's shape, and numbers"
                )


def group_of(tensor: DTensor) -> tuple[distributed.ProcessGroup, int]:
    """The group that a tensor is divided over, and its rank 0 as a rank of all processes."""
    group = tensor.device_mesh.get_group()
    return group, distributed.get_global_rank(group, 0)


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory of a contiguous tensor as bytes, which any backend moves."""
    return tensor.reshape(-1).view(torch.uint8)


def _dim_of(tensor: DTensor) -> int:
    """The dimension along which it is cut."""
    placement = tensor.placements[0]
    assert isinstance(placement, Shard)
    return placement.dim


def _height(tensor: DTensor) -> int:
    """So many rows have the slices of the first ranks."""
    return -(-tensor.shape[_dim_of(tensor)] // tensor.device_mesh.size())
