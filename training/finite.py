"""Whether numbers are finite, without a copy of them: gradients are looked at in every step."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all numbers of these tensors are finite; a device is asked once.

    The smallest and the largest say it, since what is no number comes out of both: one pass, where
    isfinite() writes a truth value for each number and takes twenty times as long.
    """
    ends = [end for tensor in tensors for end in _ends(tensor)]
    if not ends:
        return True
    device = ends[0].device
    return bool(torch.stack([end.isfinite().to(device) for end in ends]).all())


def _ends(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    values = (tensor.coalesce().values() if tensor.is_sparse else tensor).detach()
    return tuple(torch.aminmax(values)) if values.numel() else ()
