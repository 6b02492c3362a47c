"""Gradient leakage: a sample read back from the gradient that it made.

Whoever sees the gradient of one sample by the parameters can see the sample: of a linear layer it
is a quotient, of other networks it can be searched for. What helps is averages over many samples,
noise, and sums that hide their terms.

    O  outputs of a layer      D  numbers of an input      K  labels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

STARTS = 4
"""A search may end in a wrong valley; so many begin elsewhere, and the best fit counts."""


def input_of_linear_layer(
    weight_gradient: torch.Tensor, bias_gradient: torch.Tensor
) -> torch.Tensor:
    """The input (D) of a linear layer with a bias, from the gradient of one sample: exact.

    The gradient of an output's weights is the input times that of its bias. Of a batch the answer
    is a mixture of its inputs.

    Args:
        weight_gradient: (O, D).
        bias_gradient: (O).

    Raises:
        ValueError: the bias has no gradient, so nothing can be read.

    Source: Phong et al., "Privacy-preserving deep learning via additively homomorphic encryption",
    2018, section 3.
    """
    strongest = bias_gradient.abs().argmax()
    if bias_gradient[strongest] == 0:
        raise ValueError("a gradient of 0 tells nothing about the input")
    return weight_gradient[strongest] / bias_gradient[strongest]


@dataclass(frozen=True)
class GradientLeak:
    """A sample that makes about the gradient that was seen."""

    input: torch.Tensor
    """In the shape that was asked for."""
    label: int
    """The likeliest."""
    mismatch: float
    """The squared distance between its gradient and the one seen, in the squared length of that."""


def search_input(
    model: nn.Module,
    gradient: Sequence[torch.Tensor],
    *,
    input_shape: tuple[int, ...],
    label_count: int,
    iterations: int = 100,
    starts: int = STARTS,
    seed: int = 0,
) -> GradientLeak:
    """Deep leakage from gradients: search for an input and label whose gradient is the one seen.

    Args:
        model: what made the gradient, with its parameters of then; must be twice differentiable
            (tanh or sigmoid rather than ReLU), and a classifier trained by cross-entropy.
        gradient: of the loss of one sample, by each of the model's parameters in their order.
        input_shape: of one sample.
        label_count: K.
        iterations: of L-BFGS, at most, for each start.
        starts: how many searches.
        seed: decides where they begin.

    Source: Zhu, Liu, Han, "Deep leakage from gradients", 2019, algorithm 1.
    """
    parameters = list(model.parameters())
    if len(parameters) != len(gradient) or starts < 1:
        raise ValueError(
            f"{len(parameters)} parameters need as many gradients, not {len(gradient)}, and a start"
        )
    seen = [one.detach() for one in gradient]
    size = sum(one.square().sum().item() for one in seen)
    generator = torch.Generator().manual_seed(seed)
    best = GradientLeak(torch.zeros(input_shape), 0, math.inf)
    for _ in range(starts):
        guess = torch.randn((1, *input_shape), generator=generator).to(seen[0])
        scores = torch.randn((1, label_count), generator=generator).to(seen[0])
        mismatch = _search(model, parameters, seen, guess, scores, iterations) / size
        if mismatch < best.mismatch:
            best = GradientLeak(guess.detach()[0], int(scores.argmax()), mismatch)
    return best


def _search(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    seen: Sequence[torch.Tensor],
    guess: torch.Tensor,
    scores: torch.Tensor,
    iterations: int,
) -> float:
    """Move guess and scores, in place, to where the gradient is nearest; how near it is."""
    guess.requires_grad_()
    scores.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [guess, scores], max_iter=iterations, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def distance() -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(guess), scores.softmax(dim=1))
        made = torch.autograd.grad(loss, parameters, create_graph=True)
        pairs = zip(made, seen, strict=True)
        return torch.stack([(one - other).square().sum() for one, other in pairs]).sum()

    def closure() -> torch.Tensor:
        apart = distance()
        # Not backward(): it would add to the gradients of the model's own parameters.
        guess.grad, scores.grad = torch.autograd.grad(apart, (guess, scores))
        return apart.detach()

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return distance().item()
