"""PowerSGD of one flat vector of gradients, in numpy, as an averager works with it.

Shapes: E = elements of the flat vector; F = elements of a round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import numpy as np
import torch

from averaging.codecs.floating import Array, Span
from averaging.codecs.power_sgd import PowerSgd, PowerSgdConfig


@final
class Factors:
    """Turns gradients into what two rounds average, and that into gradients; see PowerSgd.

    Args:
        shapes: of the gradients, in the order of the flat vector.
        config: the same at all peers.

    Attributes:
        core: what computes.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], config: PowerSgdConfig) -> None:
        self.core = PowerSgd(shapes, config)
        sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self.core.shapes]
        self._cuts = np.cumsum(sizes)[:-1]

    @property
    def queries(self) -> Array:
        """What all peers begin the next step with: float32, 1-D, a copy."""
        return self.core.queries.numpy()

    def take_over(self, queries: Array | None) -> None:
        """Begin with these queries, None for those of a run's beginning, and owe nothing.

        Raises:
            ValueError: they are of other tensors, or not finite.
        """
        self.core.abandon()
        if queries is None:
            self.core.begin()
        else:
            self.core.load_queries(torch.from_numpy(np.array(queries)), self.core.step)

    def first(self, flat_E: Array, weight: float, number: int) -> Array:
        """What the first round averages, float32, shape (F,).

        Args:
            flat_E: float32; copied.
            number: of the step, the same at all peers, whenever they came.
        """
        # Directions that vanish are drawn by it, and a newcomer has not counted the steps.
        self.core.step = number
        parts = map(torch.from_numpy, np.split(flat_E, self._cuts))
        shapes = self.core.shapes
        gradients = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return self.core.first(gradients, weight).numpy()

    def second(self, mean_F: Array) -> Array:
        """What the second round averages, float32, shape (F,); raises as PowerSgd does."""
        return self.core.second(torch.from_numpy(mean_F)).numpy()

    def finish(self, mean_F: Array, left_out: Iterable[Span]) -> Array:
        """The averaged gradients, float32, shape (E,); raises as PowerSgd does.

        Args:
            mean_F: of the second round.
            left_out: where it lacks our values.
        """
        included: torch.Tensor | None = None
        for start, stop in left_out:
            if included is None:
                included = torch.ones(len(mean_F), dtype=torch.bool)
            included[start:stop] = False
        gradients = self.core.finish(torch.from_numpy(mean_F), included=included)
        return torch.cat([gradient.reshape(-1) for gradient in gradients]).numpy()
