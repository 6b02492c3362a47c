"""How much activations tell about their inputs, as a loss and as a figure: distance correlation.

    N  samples      D  numbers of an input      L  numbers of an activation      B  rows of a block

With a_ij = ‖x_i − x_j‖ and b_ij = ‖z_i − z_j‖ of inputs x and activations z, and A and B what they
become when centred so that each row and each column sums to 0:

    DCOR(x, z) = sqrt( Σ A_ij B_ij / sqrt( Σ A_ij² · Σ B_ij² ) )

It is 1 when the activations are the inputs, turned, moved and scaled, and small when distances
between activations say little about those between inputs. NoPeek trains on α DCOR + (1 − α) task.

What the number hides:

- **A floor.** Of a sample it is above 0 even for independent data, the more so the fewer samples
  and the more dimensions: with 64 and 32 of them, 0.76 for 128 samples. `measure_leakage`
  therefore gives the bias-corrected statistic and a baseline of shuffled pairs beside it, on as
  many samples each time.
- **Scale.** Activations that are not normalised can make it small by collapsing: the larger α, the
  more units of a ReLU die, and the accuracy with them. End the client's part in a LayerNorm. For
  the same reason an attack must not divide each activation by its own deviation, which may be 0.
- **No guarantee.** It is a heuristic: what lowers this number makes some attacks worse.

Memory is that of B × N distances, forward and backward: they are computed anew, not kept.

Source: Vepakomma, Singh, Gupta, Raskar, "NoPeek: Information leakage reduction to share activations
in distributed deep learning", 2020; Székely, Rizzo, Bakirov, "Measuring and testing dependence by
correlation of distances", 2007.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

SQUARED_DISTANCE_MIN = 1e-7
"""Squared distances count as this at least: the root's slope at 0 is infinite.

Source: the code of NoPeek's authors.
"""
BLOCK_ROWS = 256
"""Rows of distances that are held at a time; a usual batch is one block."""
_DISTANCE_MIN = math.sqrt(SQUARED_DISTANCE_MIN)


def distance_correlation(
    inputs: torch.Tensor, activations: torch.Tensor, *, block_rows: int = BLOCK_ROWS
) -> torch.Tensor:
    """The sample distance correlation (V-statistic) of inputs and activations, from 0 to 1.

    Differentiable once, in both. 0, with no gradient, where all inputs or all activations are
    equal. Computed in 32 bits or more, under autocast too.

    Args:
        inputs: (N, …) any shape and type, flattened to (N, D).
        activations: (N, …) of the same samples, on the same device.
        block_rows: how many of the N rows of distances are held at a time.

    Returns:
        A scalar in the wider of both types.

    Raises:
        ValueError: not as many activations as inputs, or fewer than two.
    """
    x_ND, z_NL = _as_rows(inputs, activations, samples_min=2)
    if block_rows < 1:
        raise ValueError(f"block_rows must be at least 1, not {block_rows}")
    value: torch.Tensor = _DistanceCorrelation.apply(x_ND, z_NL, block_rows)  # type: ignore[no-untyped-call]
    return value


def bias_corrected_correlation(
    inputs: torch.Tensor, activations: torch.Tensor, *, block_rows: int = BLOCK_ROWS
) -> float:
    """The distance correlation without the floor of the V-statistic: near 0 for independent data.

    The statistic estimates a square and may be below 0; this is its root with its sign, on the
    scale of `distance_correlation`. From −1 to 1; 0 where all inputs or all activations are equal.

    Raises:
        ValueError: not as many activations as inputs, or fewer than four.

    Source: Székely, Rizzo, "Partial distance correlation with methods for dissimilarities", 2014,
    section 2 (U-centring).
    """
    x_ND, z_NL = _as_rows(inputs, activations, samples_min=4)
    with torch.no_grad():
        x, z = _Distances(x_ND, block_rows), _Distances(z_NL, block_rows)
        sums_3 = x_ND.new_zeros(3)
        for rows in x.blocks():
            sums_3 += _products(x.u_centred(rows), z.u_centred(rows))
    both, own_x, own_z = sums_3.tolist()
    if own_x <= 0 or own_z <= 0:
        return 0.0
    square = both / math.sqrt(own_x * own_z)
    return math.copysign(math.sqrt(min(1.0, abs(square))), square)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What distance correlation says of activations; compare only figures of as many samples."""

    distance_correlation: float
    """The V-statistic, which NoPeek lowers; from 0 to 1, with a floor above 0."""
    bias_corrected: float
    """The same without the floor; from −1 to 1."""
    shuffled: float
    """The V-statistic of activations with the inputs of other samples: the floor, measured."""
    samples: int
    """How many samples were looked at."""


def measure_leakage(
    inputs: torch.Tensor,
    activations: torch.Tensor,
    *,
    samples: int = 256,
    shuffles: int = 5,
    seed: int = 0,
) -> Leakage:
    """All three figures of a fixed number of samples, drawn without replacement.

    Args:
        inputs: (N, …).
        activations: (N, …) of the same samples.
        samples: how many are drawn.
        shuffles: the baseline is the mean of so many.
        seed: decides the draw and the shuffles.

    Raises:
        ValueError: there are not as many samples.
    """
    if not 4 <= samples <= len(inputs) or len(inputs) != len(activations) or shuffles < 1:
        raise ValueError(
            f"cannot draw {samples} samples (4 at least) of {len(inputs)} inputs and "
            f"{len(activations)} activations, and shuffle them {shuffles} times"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(inputs), generator=generator)[:samples]
    x, z = inputs[drawn].detach(), activations[drawn].detach()
    floors = [
        float(distance_correlation(x, z[torch.randperm(samples, generator=generator)]))
        for _ in range(shuffles)
    ]
    return Leakage(
        distance_correlation=float(distance_correlation(x, z)),
        bias_corrected=bias_corrected_correlation(x, z),
        shuffled=sum(floors) / shuffles,
        samples=samples,
    )


def nopeek_loss(
    task_loss: torch.Tensor, inputs: torch.Tensor, activations: torch.Tensor, *, alpha: float
) -> torch.Tensor:
    """α · DCOR + (1 − α) · task loss: what one process that holds both parts trains on.

    Args:
        task_loss: a scalar.
        inputs: (N, …) of the batch.
        activations: (N, …) that the client's part made of them.
        alpha: how much hiding counts, from 0 to below 1. At 0 it is the task loss.
    """
    _check_alpha(alpha)
    if alpha == 0:
        return task_loss
    return alpha * distance_correlation(inputs, activations) + (1 - alpha) * task_loss


def nopeek_gradient(
    task_gradient: torch.Tensor, inputs: torch.Tensor, activations: torch.Tensor, *, alpha: float
) -> torch.Tensor:
    """What a client passes back into its part: (1 − α) · the server's gradient + α · DCOR's own.

    So the server never needs the inputs, and the term costs no message. It is the gradient of
    `nopeek_loss`, if the server scales the gradients of its own parameters by 1 − α as well.

    Args:
        task_gradient: (N, …) of the task loss by the activations, as the server sent it.
        inputs: (N, …) of the batch.
        activations: (N, …); a graph that hangs on them is left alone.
        alpha: as in `nopeek_loss`.

    Returns:
        A new tensor like task_gradient.
    """
    _check_alpha(alpha)
    if alpha == 0:
        return task_gradient.clone()
    leaf = activations.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(distance_correlation(inputs.detach(), leaf), leaf)
    return (1 - alpha) * task_gradient + alpha * gradient.to(task_gradient.dtype)


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be from 0 to below 1, not {alpha}")


def _as_rows(
    inputs: torch.Tensor, activations: torch.Tensor, *, samples_min: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as (N, numbers) in one type of 32 bits or more."""
    if len(inputs) != len(activations) or len(inputs) < samples_min:
        raise ValueError(
            f"as many activations as inputs are needed, and at least {samples_min}; "
            f"got {len(activations)} and {len(inputs)}"
        )
    dtype = torch.promote_types(torch.promote_types(inputs.dtype, activations.dtype), torch.float32)
    return inputs.to(dtype).reshape(len(inputs), -1), activations.to(dtype).reshape(len(inputs), -1)


class _Distances:
    """The distances between all N rows, in blocks of rows, and their means.

    All are less by the least distance, so that equal rows are at 0. Centring takes away
    what is the same everywhere, so the statistics are those of the distances themselves.
    """

    def __init__(
        self, rows_ND: torch.Tensor, block_rows: int, means_N: torch.Tensor | None = None
    ) -> None:
        self.block_rows = block_rows
        # Nearer to 0, the squares below lose fewer digits in their difference.
        self.rows_ND = rows_ND - rows_ND.mean(dim=0)
        self.squares_N = self.rows_ND.square().sum(dim=1)
        if means_N is None:
            means_N = torch.empty_like(self.squares_N)
            for rows in self.blocks():
                means_N[rows] = self.block(rows).mean(dim=1)
        self.means_N = means_N

    def blocks(self) -> Iterator[slice]:
        """Which rows are in each block."""
        count = len(self.rows_ND)
        for start in range(0, count, self.block_rows):
            yield slice(start, min(start + self.block_rows, count))

    def block(self, rows: slice) -> torch.Tensor:
        """(B, N)."""
        with torch.autocast(self.rows_ND.device.type, enabled=False):
            products_BN = self.rows_ND[rows] @ self.rows_ND.T
        squares_BN = self.squares_N[rows, None] + self.squares_N - 2 * products_BN
        squares_BN.diagonal(rows.start).zero_()
        return squares_BN.clamp_(min=SQUARED_DISTANCE_MIN).sqrt_() - _DISTANCE_MIN

    def centre(self, block_BN: torch.Tensor, rows: slice) -> torch.Tensor:
        """A block less the means of its rows and columns, (B, N)."""
        return block_BN - self.means_N[rows, None] - self.means_N + self.means_N.mean()

    def u_centred(self, rows: slice) -> torch.Tensor:
        """A block centred so that products of independent data are 0 on average, (B, N)."""
        n = len(self.rows_ND)
        means_N = self.means_N * (n / (n - 2))
        total = self.means_N.mean() * (n * n / ((n - 1) * (n - 2)))
        centred_BN = self.block(rows) - means_N[rows, None] - means_N + total
        centred_BN.diagonal(rows.start).zero_()
        return centred_BN


def _products(a_BN: torch.Tensor, b_BN: torch.Tensor) -> torch.Tensor:
    """Σ ab, Σ aa, Σ bb, (3)."""
    return torch.stack([(a_BN * b_BN).sum(), a_BN.square().sum(), b_BN.square().sum()])


class _DistanceCorrelation(torch.autograd.Function):
    """The V-statistic, with a backward pass that keeps no distances.

    With S for the sums of products, and A and B constant under centring,

        ∂DCOR / ∂b_ij = DCOR / 2 · (A_ij / S_xz − B_ij / S_zz)

    and b_ij pulls z_i and z_j along the unit vector between them.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, z_NL: torch.Tensor, block_rows: int) -> torch.Tensor:
        x, z = _Distances(x_ND, block_rows), _Distances(z_NL, block_rows)
        sums_3 = x_ND.new_zeros(3)
        for rows in x.blocks():
            sums_3 += _products(x.centre(x.block(rows), rows), z.centre(z.block(rows), rows))
        both, own_x, own_z = sums_3.clamp(min=0)
        # Not of the product, which may be too large or small for 32 bits.
        below = own_x.sqrt() * own_z.sqrt()
        value = torch.where(below > 0, both / below, 0).sqrt()
        ctx.block_rows = block_rows
        ctx.save_for_backward(x_ND, z_NL, x.means_N, z.means_N, sums_3, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x_ND, z_NL, x_means_N, z_means_N, (both, own_x, own_z), value = ctx.saved_tensors
        x = _Distances(x_ND, ctx.block_rows, x_means_N)
        z = _Distances(z_NL, ctx.block_rows, z_means_N)
        scale = gradient * value
        x_gradient = _pull(x, z, own_x, both) * scale if ctx.needs_input_grad[0] else None
        z_gradient = _pull(z, x, own_z, both) * scale if ctx.needs_input_grad[1] else None
        return x_gradient, z_gradient, None


def _pull(
    own: _Distances, other: _Distances, own_sum: torch.Tensor, both_sum: torch.Tensor
) -> torch.Tensor:
    """Where each row is pulled by all others, for a correlation of 1, (N, D)."""
    if both_sum <= 0 or own_sum <= 0:
        return torch.zeros_like(own.rows_ND)
    # Written in place: small results kept between large blocks would split the freed memory, and
    # every block would need new.
    pulls_ND = torch.empty_like(own.rows_ND)
    for rows in own.blocks():
        block_BN = own.block(rows)
        slope_BN = other.centre(other.block(rows), rows) / both_sum
        slope_BN -= own.centre(block_BN, rows) / own_sum
        # Where the distance was raised to the least, it does not change with the rows.
        weight_BN = torch.where(block_BN > 0, slope_BN / (block_BN + _DISTANCE_MIN), 0)
        with torch.autocast(own.rows_ND.device.type, enabled=False):
            towards_BD = weight_BN @ own.rows_ND
        pulls_ND[rows] = weight_BN.sum(dim=1, keepdim=True) * own.rows_ND[rows] - towards_BD
    return pulls_ND
