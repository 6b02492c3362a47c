"""The gradient of one micro-batch, or the reason why it must not be used.

A single value that is not finite would spoil the average of the whole swarm. So such a micro-batch
is dropped where it arises: it leaves neither a gradient nor a trace in the model's buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.finite import all_finite
from training.task import Task


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What came of one micro-batch."""

    loss: float
    """The mean over its samples."""
    complaint: str = ""
    """Why it was dropped; empty when the parameters hold its gradient."""


def compute_gradient(task: Task, model: nn.Module, batch: Any) -> MicroBatch:
    """Leave the gradient of a batch's mean loss in the parameters, or nothing if it is unusable."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss = task.loss(model, batch)
    value = float(loss.detach())
    if not torch.isfinite(loss.detach()).all():
        complaint = f"its loss is {value}"
    else:
        loss.backward()  # type: ignore[no-untyped-call]
        complaint = _complaint(model)
    if complaint:
        model.zero_grad(set_to_none=True)
        # Such as the running means of a batch norm, which has seen the batch by now.
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
    return MicroBatch(loss=value, complaint=complaint)


def _complaint(model: nn.Module) -> str:
    """The first parameter whose gradient is not finite, in words."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not all_finite([parameter.grad]):
            return f"the gradient of {name} is not finite"
    return ""
