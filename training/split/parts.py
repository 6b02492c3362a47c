"""A model in parts: what clients compute, what the server computes, and where it is cut.

one cut    front (client) ──▶ body (server)                       labels go to the server
two cuts   front (client) ──▶ body (server) ──▶ tail (client)     labels stay: U-shaped
several    front₁ … frontₖ ──▶ concatenated along dim 1 ──▶ body  one party has the labels
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

Shape = tuple[int, ...]
_HASH_SIZE_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a split model, or those of them that this side has, and the cuts.

    Make it with cut() or pair(), or by hand where a side knows only its own part.
    """

    cut_shapes: tuple[Shape, ...]
    """Of the activations of one sample, for each party."""
    fronts: tuple[nn.Module | None, ...] = ()
    """What each party computes first; None, or none at all, where it is not on this side."""
    body: nn.Module | None = None
    """What the server computes."""
    tail: nn.Module | None = None
    """What comes last, at the client that has the labels; None where labels go to the server."""
    output_shape: Shape = ()
    """Of the body's output for one sample where it goes back to the client; else empty."""
    model_hash: bytes = bytes(_HASH_SIZE_BYTES)
    """Both sides must have the same; zeros compare nothing but the cuts."""

    def __post_init__(self) -> None:
        if not self.cut_shapes or not all(self.cut_shapes):
            raise ValueError("each party needs a cut shape, such as (32,)")
        if self.fronts and len(self.fronts) != len(self.cut_shapes):
            raise ValueError("there must be as many fronts as cut shapes, None for absent ones")
        if len(self.model_hash) != _HASH_SIZE_BYTES:
            raise ValueError(f"a model hash has {_HASH_SIZE_BYTES} bytes")
        if self.tail is not None and not self.output_shape:
            raise ValueError("where there is a tail, output_shape says what goes back to it")

    @property
    def parties(self) -> int:
        """How many clients put in activations for one step."""
        return len(self.cut_shapes)

    @property
    def is_u_shaped(self) -> bool:
        """Whether the output goes back to the client, with whom the labels stay."""
        return bool(self.output_shape)


def cut(model: nn.Sequential, at: int | tuple[int, int], *, example: torch.Tensor) -> Parts:
    """Cut a sequence of layers once, or twice so that the last ones stay with the client too.

    Args:
        at: the first layer of the server; or that and the first one after it.
        example: inputs (N, …) of any values, on the model's device; the model runs on them once,
            without gradients and in evaluation mode.

    Raises:
        ValueError: a part would have no layer.
    """
    places = (at,) if isinstance(at, int) else at
    edges = (0, *places, len(model))
    if any(start >= stop for start, stop in itertools.pairwise(edges)):
        raise ValueError(
            f"cuts at {places} leave a part of {len(model)} layers empty; "
            f"choose numbers from 1 to {len(model) - 1}"
        )
    pieces = [model[start:stop] for start, stop in itertools.pairwise(edges)]
    tail = pieces[2] if len(pieces) == 3 else None
    return pair(pieces[0], pieces[1], tail, examples=[example])


def pair(
    fronts: nn.Module | Sequence[nn.Module],
    body: nn.Module,
    tail: nn.Module | None = None,
    *,
    examples: Sequence[torch.Tensor],
) -> Parts:
    """Parts from modules as they are.

    Args:
        fronts: the client's, or each party's.
        body: the server's.
        tail: what comes after it at the client, if labels are to stay there.
        examples: inputs (N, …) of each front, as for cut().

    Raises:
        ValueError: not one example for each front, or activations that cannot be concatenated.
    """
    several = (fronts,) if isinstance(fronts, nn.Module) else tuple(fronts)
    if len(examples) != len(several):
        raise ValueError(f"{len(several)} fronts need as many examples, not {len(examples)}")
    modules = [*several, body, *([tail] if tail is not None else [])]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            activations = [one(x) for one, x in zip(several, examples, strict=True)]
            output = body(joined(activations)) if tail is not None else None
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)
    return Parts(
        cut_shapes=tuple(tuple(one.shape[1:]) for one in activations),
        fronts=several,
        body=body,
        tail=tail,
        output_shape=() if output is None else tuple(output.shape[1:]),
        model_hash=architecture_hash(modules),
    )


def joined(activations: Sequence[torch.Tensor]) -> torch.Tensor:
    """What all parties put in, side by side: (N, A, …), (N, B, …) to (N, A + B, …)."""
    return activations[0] if len(activations) == 1 else torch.cat(tuple(activations), dim=1)


def architecture_hash(modules: Sequence[nn.Module]) -> bytes:
    """SHA-256 of the layers and of the shapes of what they hold, whatever the values."""
    digest = hashlib.sha256()
    for part, module in enumerate(modules):
        for name, layer in module.named_modules():
            kind = f"{part}/{name}:{type(layer).__name__}({layer.extra_repr()})\n"
            digest.update(kind.encode())
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
    return digest.digest()
