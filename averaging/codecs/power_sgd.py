"""PowerSGD: gradients as products of two thin matrices, which are averaged as plain vectors.

It is no codec of frames: a matrix product in the middle of a round would round differently on each
machine. Instead two rounds average plain numbers, and each peer multiplies what both of them gave.

    each peer           M = gradient + residual,  P = M Q
    first round         P := mean of all P
    each peer           P := orthonormal columns of P,  Q = Mᵀ P
    second round        Q := mean of all Q, and of all tensors that are not worth two factors
    each peer           gradient = P Qᵀ,  residual = M − P Qᵀ,  and Q is kept for the next step

Everything that follows from an average is computed from elementwise operations in a fixed order,
which every machine rounds the same: so peers with equal bits of both averages have equal bits of
the gradient, whatever their hardware. Only M Q and Mᵀ P are ordinary products; they are a peer's
own.

P is a basis and no more: whoever is in its mean, the gradient is the mean M of those who are in
that of Q, projected on it. So what a peer is owed follows from the second round alone.

Source: T. Vogels, S. P. Karimireddy and M. Jaggi, "PowerSGD: Practical Low-Rank Gradient
Compression for Distributed Optimization", 2019, algorithms 1 and 2.

Shapes: N, M = rows and columns of a tensor as a matrix; R = its rank; K = columns that are done;
F = elements of a round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, final

import numpy as np
import torch

from averaging.codecs.draws import seed_of, uniforms
from averaging.codecs.naming import whole_of

KIND: Final = "powersgd"
"""What its names begin with; a colon and the rank may follow."""
_VANISHED: Final = 1e-6
"""A column that is left with less than this share of itself is rounding, and no direction."""


@dataclass(frozen=True, kw_only=True)
class PowerSgdConfig:
    """How far gradients are compressed; the same at all peers."""

    rank: int = 4
    """Columns of the factors; 4 is what the paper trains language models with."""
    min_ratio: float = 2.0
    """Tensors that would not shrink at least so many times are averaged as they are."""
    seed: int = 0
    """Of the first Q."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")
        if not (self.min_ratio >= 0 and math.isfinite(self.min_ratio)):
            raise ValueError(f"min_ratio must be 0 or more, and finite, not {self.min_ratio}")

    @classmethod
    def named(cls, name: str) -> PowerSgdConfig:
        """What `powersgd` or `powersgd:RANK` stands for.

        Raises:
            ValueError: the rank is no whole number above 0.
        """
        kind, colon, rank = name.partition(":")
        assert kind == KIND
        return cls(rank=whole_of("the rank of powersgd", rank)) if colon else cls()

    @property
    def name(self) -> str:
        """What reports and refusals call it."""
        return f"{KIND}:{self.rank}"


class _Phase(Enum):
    """Which call is due."""

    FIRST = "first"
    SECOND = "second"
    FINISH = "finish"


@final
class PowerSgd:
    """One peer's side of PowerSGD: two rounds a step, with an average after each.

        first(gradients) ──► mean ──► second(mean) ──► mean ──► finish(mean) ──► gradients

    A step whose rounds fail is given up with `abandon`: nothing has changed then. A peer that
    missed a step of the others, or joins, takes over their `queries`: all must begin with the same.

    Args:
        shapes: of the gradients, in order.
        config: the same at all peers.
        device: of the gradients.

    Attributes:
        shapes: of the gradients.
        step: how many steps have been finished; of directions that vanish the next ones are drawn
            by it, so it must be the same at all peers.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        config: PowerSgdConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._config = config or PowerSgdConfig()
        self.shapes = [tuple(shape) for shape in shapes]
        self._device = torch.device(device)
        self._ranks = [factor_rank(shape, self._config) for shape in self.shapes]
        self.step = 0
        self._queries: list[torch.Tensor] = []
        self._residuals: list[torch.Tensor] = []
        self._inputs: list[torch.Tensor] = []
        self._plain: list[torch.Tensor] = []
        self._bases: list[torch.Tensor] = []
        self._weight = 1.0
        self._phase = _Phase.FIRST
        self.begin()

    def begin(self) -> None:
        """Begin a run: the first Q, and nothing owed."""
        assert self._phase is _Phase.FIRST, "not in the middle of a step"
        self.step = 0
        self._queries = [self._fresh_query(number) for number in self._low_rank]
        self.owe_nothing()

    def owe_nothing(self) -> None:
        """Forget what the averages lack of our gradients."""
        self._residuals = [
            torch.zeros(_as_matrix(self.shapes[number]), dtype=torch.float32, device=self._device)
            for number in self._low_rank
        ]

    @property
    def element_counts(self) -> tuple[int, int]:
        """How many numbers the first and the second round average."""
        first = second = 0
        for shape, rank in zip(self.shapes, self._ranks, strict=True):
            rows, columns = _as_matrix(shape)
            first += rows * rank
            second += columns * rank if rank else rows * columns
        return first, second

    @property
    def factored_count(self) -> int:
        """Of how many numbers the gradients are that have factors."""
        return sum(math.prod(self.shapes[number]) for number in self._low_rank)

    @property
    def queries(self) -> torch.Tensor:
        """All Q, float32, 1-D: what a peer that joins must copy, since all start a step with it."""
        return _joined(self._queries, self._device)

    def load_queries(self, queries: torch.Tensor, step: int) -> None:
        """Take over the Q of a peer that has finished so many steps; the residuals become 0."""
        assert self._phase is _Phase.FIRST, "not in the middle of a step"
        self._queries = _cut(queries, [query.shape for query in self._queries], self._device)
        self.step = step
        self.owe_nothing()

    def first(self, gradients: Sequence[torch.Tensor], weight: float = 1.0) -> torch.Tensor:
        """What the first round averages: all P, float32, shape (F,).

        Args:
            gradients: float32, of the shapes agreed; copied.
            weight: what this peer counts in both averages. A residual came from another step's
                weight, and counts as much now as it did then. With 0 both rounds get zeros, and
                what is owed stays owed.
        """
        assert self._phase is _Phase.FIRST, f"{self._phase.value} is due"
        assert [tuple(gradient.shape) for gradient in gradients] == self.shapes
        self._inputs = [
            gradients[number].detach().reshape(residual.shape) + residual / weight
            if weight
            else torch.zeros_like(residual)
            for number, residual in zip(self._low_rank, self._residuals, strict=True)
        ]
        self._plain = [
            gradient.detach().clone()
            for gradient, rank in zip(gradients, self._ranks, strict=True)
            if not rank
        ]
        self._weight = weight
        self._phase = _Phase.SECOND
        factors = [
            matrix @ query for matrix, query in zip(self._inputs, self._queries, strict=True)
        ]
        return _joined(factors, self._device)

    def second(self, averaged: torch.Tensor) -> torch.Tensor:
        """What the second round averages: all Q, and what has no factors, float32, shape (F,).

        Raises:
            ValueError: the average has another size, or is not finite.
        """
        assert self._phase is _Phase.SECOND, f"{self._phase.value} is due"
        shapes = [
            (matrix.shape[0], query.shape[1])
            for matrix, query in zip(self._inputs, self._queries, strict=True)
        ]
        self._bases = [orthonormal(factor) for factor in _cut(averaged, shapes, self._device)]
        self._phase = _Phase.FINISH
        factors = [matrix.T @ base for matrix, base in zip(self._inputs, self._bases, strict=True)]
        return _joined([*factors, *self._plain], self._device)

    def finish(
        self, averaged: torch.Tensor, *, included: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The averaged gradients, float32, in their shapes; the residuals are what they lack.

        Args:
            averaged: what the second round gave.
            included: bool, shape (F,): which elements of that average contain this peer's; None:
                all of them. Of the others its input is what the average lacks.

        Raises:
            ValueError: the average has another size, or is not finite; the step is still open.
        """
        assert self._phase is _Phase.FINISH, f"{self._phase.value} is due"
        shapes = [tuple(query.shape) for query in self._queries]
        parts = _cut(averaged, [*shapes, *(part.shape for part in self._plain)], self._device)
        queries, plain = parts[: len(shapes)], iter(parts[len(shapes) :])
        products = map(product, self._bases, queries)
        gradients = []
        self.step += 1
        for shape, rank in zip(self.shapes, self._ranks, strict=True):
            gradients.append((next(products) if rank else next(plain)).reshape(shape))
        if self._weight:
            self._settle(gradients, queries, included)
        for place, number in enumerate(self._low_rank):
            # A direction that vanished would stay 0 for ever.
            vanished = (queries[place] == 0).all(dim=0)
            fresh = self._fresh_query(number)
            self._queries[place] = torch.where(vanished, fresh, queries[place])
        self._forget()
        return gradients

    def _settle(
        self,
        gradients: list[torch.Tensor],
        queries: list[torch.Tensor],
        included: torch.Tensor | None,
    ) -> None:
        """Keep what the averages lack of our inputs, in units of their weight."""
        taken = [gradients[number] for number in self._low_rank]
        if included is not None:
            shapes = [query.shape for query in queries]
            count = sum(query.numel() for query in queries)
            masks = _cut(included[:count].float(), shapes, self._device)
            taken = [
                product(base, query * mask)
                for base, query, mask in zip(self._bases, queries, masks, strict=True)
            ]
        self._residuals = [
            (matrix - part.reshape(matrix.shape)) * self._weight
            for matrix, part in zip(self._inputs, taken, strict=True)
        ]

    def abandon(self) -> None:
        """Give up the step that is open, if one is: as if it had never begun."""
        self._forget()

    def _forget(self) -> None:
        self._inputs, self._plain, self._bases = [], [], []
        self._phase = _Phase.FIRST

    @property
    def _low_rank(self) -> list[int]:
        """The numbers of the tensors that have factors."""
        return [number for number, rank in enumerate(self._ranks) if rank]

    def _fresh_query(self, number: int) -> torch.Tensor:
        """Random numbers from −1 to 1, shape (M, R): the same at all peers at this step."""
        columns, rank = _as_matrix(self.shapes[number])[1], self._ranks[number]
        seed = seed_of(seed_of(self._config.seed, self.step), number)
        drawn = 2 * uniforms(seed, np.arange(columns * rank)) - 1
        return torch.from_numpy(drawn.astype(np.float32).reshape(columns, rank)).to(self._device)


def factor_rank(shape: Sequence[int], config: PowerSgdConfig) -> int:
    """The rank of a tensor's factors; 0 if it is not worth two."""
    rows, columns = _as_matrix(shape)
    rank = min(config.rank, rows, columns)
    worth = len(shape) > 1 and rows * columns >= config.min_ratio * rank * (rows + columns)
    return rank if worth else 0


def orthonormal(factor_NR: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns of the same span, by Gram and Schmidt, twice, in float64.

    A column that depends on those before it becomes 0.

    Returns:
        float32, shape (N, R), on the factor's device; the same bits on every machine.
    """
    done_NK = factor_NR.new_empty((len(factor_NR), 0), dtype=torch.float64)
    for column_N in factor_NR.double().T:
        length = ordered_sum(column_N * column_N).sqrt()
        # Divided first, so that no square vanishes or overflows later.
        left_N = column_N / length if length > 0 else column_N
        for _ in range(2 if done_NK.shape[1] else 0):
            shares_K = ordered_sum(done_NK * left_N[:, None])
            left_N = left_N - ordered_sum((done_NK * shares_K).T)
        length = ordered_sum(left_N * left_N).sqrt()
        left_N = left_N / length if length > _VANISHED else torch.zeros_like(left_N)
        done_NK = torch.cat((done_NK, left_N[:, None]), dim=1)
    return done_NK.float()


def ordered_sum(numbers: torch.Tensor) -> torch.Tensor:
    """The sum over the first dimension, by halves: in an order that no machine changes."""
    while len(numbers) > 1:
        half = len(numbers) // 2
        pairs = numbers[:half] + numbers[half : 2 * half]
        numbers = torch.cat((pairs, numbers[2 * half :]))
    return numbers[0]


def product(left_NR: torch.Tensor, right_MR: torch.Tensor) -> torch.Tensor:
    """left rightᵀ, shape (N, M), column by column: the same bits on every machine."""
    result_NM = left_NR[:, :1] * right_MR[:, 0]
    for rank in range(1, left_NR.shape[1]):
        result_NM += left_NR[:, rank, None] * right_MR[:, rank]
    return result_NM


def _as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns: the first dimension, and all others."""
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


def _joined(parts: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """All parts in one 1-D tensor of their own memory."""
    return torch.cat(
        [torch.empty(0, dtype=torch.float32, device=device), *(part.reshape(-1) for part in parts)]
    )


def _cut(
    flat: torch.Tensor, shapes: Sequence[Sequence[int]], device: torch.device
) -> list[torch.Tensor]:
    """The parts of these shapes that a flat vector is joined of, copied to the device."""
    sizes = [math.prod(shape) for shape in shapes]
    if flat.shape != (sum(sizes),):
        raise ValueError(f"an average of shape {tuple(flat.shape)}, not {(sum(sizes),)}")
    if not bool(flat.isfinite().all()):
        raise ValueError("the average is not finite")
    return [
        part.to(device, torch.float32, copy=True).reshape(tuple(shape))
        for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)
    ]
