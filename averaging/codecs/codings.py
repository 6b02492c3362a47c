"""Codings: the coding of each vector that one averager averages, and what is owed of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from averaging.codecs.coding import Coding

if TYPE_CHECKING:
    from averaging import torch_tensors

VECTORS_MAX: Final = 65_536
"""So many may be averaged in turn; each keeps as much as it has coded elements."""


class Codings:
    """What codecs lost is kept apart for vectors that are averaged in turn, such as fragments.

    Args:
        begin: a coding with nothing kept.
    """

    def __init__(self, begin: Callable[[], Coding]) -> None:
        self._begin = begin
        self._codings = {0: begin()}

    def of(self, vector: int) -> Coding:
        """The coding of a vector, by its number.

        Raises:
            ValueError: the number is out of range.
        """
        if not 0 <= vector < VECTORS_MAX:
            raise ValueError(f"vectors are numbered from 0 to {VECTORS_MAX - 1}, not {vector}")
        if vector not in self._codings:
            self._codings[vector] = self._begin()
        return self._codings[vector]

    def reset(self) -> None:
        """Forget what is owed: call it after a state download, which does not lack it."""
        for coding in self._codings.values():
            coding.reset()

    def snapshot(self) -> dict[str, torch_tensors.Tensor]:
        """What codecs lost of our values and is owed, copied, for a checkpoint; perhaps nothing.

        It goes with the values that come next, so it is of use to whoever goes on from here. What
        results lost that we averaged is not in it: others may average them when we are back.
        """
        return {
            f"{vector}/{name}": tensor
            for vector, coding in sorted(self._codings.items())
            if coding.feedback is not None
            for name, tensor in coding.feedback.snapshot().items()
        }

    def restore(self, kept: Mapping[str, torch_tensors.Tensor]) -> None:
        """Go on with what a snapshot says is owed, and nothing else.

        Raises:
            ValueError: it is of another vector or method, or of codecs where there are none;
                then it may be restored in part.
        """
        by_vector: dict[int, dict[str, torch_tensors.Tensor]] = {}
        for name, tensor in kept.items():
            vector, slash, rest = name.partition("/")
            if not (slash and vector.isascii() and vector.isdecimal()):
                raise ValueError(f"{name!r} is no name of a snapshot")
            by_vector.setdefault(int(vector), {})[rest] = tensor
        self.reset()
        for number, parts in by_vector.items():
            feedback = self.of(number).feedback
            if feedback is None:
                raise ValueError("nothing is compressed here, so nothing can be owed")
            feedback.restore(parts)
