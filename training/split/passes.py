"""A forward pass whose backward pass comes later, when others may have stepped meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call

ParameterGradients = list[tuple[nn.Parameter, torch.Tensor | None]]


class HeldPass:
    """What a module made of some inputs, and the graph behind it.

    Gradients are given back, not accumulated, so passes that are held at the same time do not mix.

    Args:
        stash: compute on a copy of the parameters, for when an optimizer may change them in place
            before the backward pass; the gradient is then that of the parameters as they were.
            Source of the idea: Narayanan et al., "PipeDream", 2019, section 3.3, weight stashing.
    """

    def __init__(self, module: nn.Module, inputs: torch.Tensor, *, stash: bool) -> None:
        named = {name: one for name, one in module.named_parameters() if one.requires_grad}
        self._parameters = list(named.values())
        if stash:
            copies = {name: one.detach().clone().requires_grad_() for name, one in named.items()}
            self._used: Sequence[torch.Tensor] = list(copies.values())
            self.output: torch.Tensor = functional_call(module, copies, (inputs,))
        else:
            self._used = self._parameters
            self.output = module(inputs)

    def gradients(
        self,
        outputs: Sequence[torch.Tensor],
        output_gradients: Sequence[torch.Tensor | None],
        inputs: Sequence[torch.Tensor] = (),
    ) -> tuple[list[torch.Tensor], ParameterGradients]:
        """Gradients with respect to leaves that were the inputs, and to the parameters.

        Args:
            outputs: the output, or what was computed from it.
            output_gradients: of each; None for a scalar that is a loss itself.
        """
        wanted = [*inputs, *self._used]
        pairs = zip(outputs, output_gradients, strict=True)
        known = [(one, gradient) for one, gradient in pairs if one.requires_grad]
        if not wanted or not known:
            return [torch.zeros_like(one) for one in inputs], []
        all_gradients: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
            [one for one, _ in known],
            wanted,
            [gradient for _, gradient in known],
            allow_unused=True,
        )
        of_inputs = [
            torch.zeros_like(one) if gradient is None else gradient
            for one, gradient in zip(inputs, all_gradients[: len(inputs)], strict=True)
        ]
        return of_inputs, list(zip(self._parameters, all_gradients[len(inputs) :], strict=True))


def take_step(optimizer: torch.optim.Optimizer | None, gradients: ParameterGradients) -> None:
    """Let the optimizer step with these gradients and no others; None leaves all as it is."""
    if optimizer is None:
        return
    optimizer.zero_grad()
    for parameter, gradient in gradients:
        parameter.grad = gradient
    optimizer.step()


def are_finite(tensors: Sequence[torch.Tensor | None]) -> bool:
    """Whether there is neither NaN nor infinity in any of them."""
    return all(one is None or bool(torch.isfinite(one).all()) for one in tensors)
