"""Error feedback: what encodings lost is carried to later rounds, by who was included (core).

A member gives each run of its vector through `outgoing()` before it is encoded. When the round has
succeeded it says, run by run, whether the frame is part of the result, with `settle()`; a round
that failed or is undecided settles nothing, so that nothing has changed. What is to be kept of a
run is a function of its values and of what was kept before, so nothing else need be remembered.

    method          outgoing (x the values)     included: c the decoded frame   not included
    EF              u = x + e / w               e := e + w·(x − c)              e := e + w·x
    EF21            x − s / w                   s := s + w·c                    s unchanged
    EF21, momentum  v + η(x − v) − s / w        s := s + w·c; v moves           v moves

w is the member's weight in the round. What is kept is weighted, so that it counts for as much in a
later round of another weight. With EF the result is the mean of the frames. With EF21 s is what the
others know of w·x, and all members hold the same reference, the sum of all s: they add to it what
the frames of a round sum up to, and apply it divided by the sum of the weights, see `applied()`.

An aggregator does the same as EF with the frames of results, in `DownlinkResidual`.

Sources: F. Seide et al., "1-Bit Stochastic Gradient Descent", 2014 (EF); A. Beznosikov et al., "On
Biased Compression for Distributed Learning", 2020, section 5 (the step inside); P. Richtárik et
al., "EF21: A New, Simpler, Theoretically Better, and Practically Faster Error Feedback", 2021, and
I. Fatkhullin et al., "EF21 with Bells & Whistles", 2021 (members left out); I. Fatkhullin et al.,
"Momentum Provably Improves Error Feedback!", 2023.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import torch

FEEDBACK_KINDS: Final = ("none", "ef", "ef21", "ef21-momentum")
"""What error feedback may be; none: what an encoding lost is lost."""
MOMENTUM: Final = 0.1
"""η of EF21 with momentum: the share of the newest values, as in the paper's experiments."""

_Run: TypeAlias = tuple[int, torch.Tensor]
"""A first element, and the values from there on."""


class Feedback(ABC):
    """What one member keeps for one vector, from round to round.

    Values are float32, 1-D, on the CPU; runs are named by the element that they start at. Memory
    is taken when the first run is settled.

    Args:
        count: elements of the vector.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    @abstractmethod
    def outgoing(self, values: torch.Tensor, start: int, weight: float) -> torch.Tensor:
        """What to encode for these values, to be read only: it may be the values themselves.

        Args:
            weight: the member's in this round, above 0.
        """

    @abstractmethod
    def settle(
        self, values: torch.Tensor, start: int, weight: float, decoded: torch.Tensor | None
    ) -> None:
        """The round succeeded; keep for later what it lacks of these values.

        Args:
            values, start, weight: as outgoing() had them.
            decoded: what the frame says, if the result contains it; may be overwritten.
        """

    @abstractmethod
    def drop(self, start: int, stop: int) -> int:
        """Forget what is owed for these elements; returns how many of them were owed something."""

    @abstractmethod
    def snapshot(self) -> dict[str, torch.Tensor]:
        """All that is kept, copied, for a checkpoint; empty when nothing is."""

    @abstractmethod
    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Keep what a snapshot says.

        Raises:
            ValueError: it is of another vector or method.
        """

    def reset(self) -> None:
        """Forget everything: after a state download, which contains nothing that we owe."""
        self.restore({})


class ErrorFeedback(Feedback):
    """EF with the step inside: what was lost is added to what comes next, before it is encoded."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._owed: torch.Tensor | None = None
        """Weight × error, shape (count,)."""

    def outgoing(self, values: torch.Tensor, start: int, weight: float) -> torch.Tensor:
        """See Feedback."""
        if self._owed is None:
            return values
        return torch.add(values, self._owed[start : start + len(values)], alpha=1 / weight)

    def settle(
        self, values: torch.Tensor, start: int, weight: float, decoded: torch.Tensor | None
    ) -> None:
        """See Feedback."""
        owed = self._owed = _zeros_unless(self._owed, self.count)
        # In place, which spares memory that would be fresh.
        left = owed[start : start + len(values)]
        lacking = values if decoded is None else torch.sub(values, decoded, out=decoded)
        left.add_(lacking, alpha=weight)

    def drop(self, start: int, stop: int) -> int:
        """See Feedback."""
        if self._owed is None:
            return 0
        dropped = int(torch.count_nonzero(self._owed[start:stop]))
        self._owed[start:stop] = 0
        return dropped

    def snapshot(self) -> dict[str, torch.Tensor]:
        """See Feedback."""
        return _copies(owed=self._owed)

    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """See Feedback."""
        _check_kept(kept, ("owed",), self.count)
        self._owed = _copies(owed=kept.get("owed")).get("owed")


class Ef21(Feedback):
    """EF21: members send how their values differ from what all know of them; see the file's table.

    The reference is the sum of what each member has told, so it holds for the members that told it:
    they begin anew together whenever the group is another.

    Args:
        momentum: η, the share of the newest values; 1 is EF21 without momentum.
    """

    def __init__(self, count: int, *, momentum: float = 1.0) -> None:
        super().__init__(count)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be above 0 and at most 1, not {momentum}")
        self._momentum = momentum
        self._told: torch.Tensor | None = None
        """s, shape (count,)."""
        self._reference: torch.Tensor | None = None
        """The sum of what each member has told, the same at all of them, shape (count,)."""
        self._smooth: torch.Tensor | None = None
        """v, shape (count,); None without momentum, and before the first round."""
        self.agreed = b""
        """Digest of the result that the reference is of; empty while there is none."""
        self.weights: Mapping[Any, float] = {}
        """What each contributing member of that group last weighed, 0 where nobody knows."""

    def anew(self) -> Ef21:
        """The same method with nothing kept."""
        return Ef21(self.count, momentum=self._momentum)

    def become(self, other: Ef21) -> None:
        """Keep what the other one keeps, which must not be used any more."""
        self._told, self._reference, self._smooth = other._told, other._reference, other._smooth
        self.agreed, self.weights = other.agreed, other.weights

    def outgoing(self, values: torch.Tensor, start: int, weight: float) -> torch.Tensor:
        """See Feedback."""
        wanted = self._smoothed(values, start)
        if self._told is not None:
            wanted.sub_(self._told[start : start + len(values)] / weight)
        return wanted

    def settle(
        self, values: torch.Tensor, start: int, weight: float, decoded: torch.Tensor | None
    ) -> None:
        """See Feedback."""
        run = slice(start, start + len(values))
        if self._momentum < 1:
            smoothed = self._smoothed(values, start)
            if self._smooth is None:
                # What was never seen begins as it is first seen, not at 0.
                self._smooth = torch.full_like(_zeros_unless(None, self.count), torch.nan)
            self._smooth[run] = smoothed
        if decoded is not None:
            told = self._told = _zeros_unless(self._told, self.count)
            told[run] += decoded.mul_(weight)

    def applied(
        self, result: torch.Tensor, start: int, included_weight: float, weight: float
    ) -> torch.Tensor:
        """What everybody applies when the mean of a round's frames is this; once for each run.

        Each operation is rounded by itself, in this order, so all get the same bits.

        Args:
            result: decoded; overwritten.
            included_weight: of those who are in it.
            weight: of all, above 0; who is left out counts with what it told before.
        """
        reference = self._reference = _zeros_unless(self._reference, self.count)
        run = reference[start : start + len(result)]
        run += result.mul_(included_weight)
        return run / weight

    def drop(self, start: int, stop: int) -> int:
        """Nothing is owed: what was not told is in the next difference."""
        del start, stop
        return 0

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Nothing: who comes back after a restart makes another group, which begins anew."""
        return {}

    def restore(self, kept: Mapping[str, torch.Tensor]) -> None:
        """See Feedback."""
        _check_kept(kept, (), self.count)
        self.become(self.anew())

    def _smoothed(self, values: torch.Tensor, start: int) -> torch.Tensor:
        if self._momentum == 1 or self._smooth is None:
            return values.clone()
        before = self._smooth[start : start + len(values)]
        before = torch.where(before.isnan(), values, before)
        return before.lerp(values, self._momentum)


class DownlinkResidual:
    """What the frames of an aggregator's results lost, of the elements that it averaged last.

    It belongs to whoever averages those elements: what the next agreed round takes from this
    aggregator is dropped, and counted.
    """

    def __init__(self) -> None:
        # Replaced as a whole: a worker thread may still read it when its round is over.
        self._runs: list[_Run] = []
        """In order of their first elements, apart from each other."""

    def outgoing(self, mean: torch.Tensor, start: int) -> torch.Tensor:
        """What to encode for this mean of the elements from start on: a new tensor, finite."""
        total = mean.clone()
        for first, lost in _within(self._runs, start, start + len(mean)):
            total[first - start : first - start + len(lost)] += lost
        largest = torch.finfo(torch.float32).max
        return total.clamp_(-largest, largest)

    def settle(self, lost: Sequence[_Run]) -> int:
        """The round succeeded; what our frames in it lost is owed from now on.

        Args:
            lost: of each of our runs, its first element and what Codec.encode_keeping_rest() left;
                apart from each other.

        Returns:
            Of how many elements a residual was dropped, since others average them now.
        """
        ours = sorted(lost, key=_first)
        dropped = 0
        for first, owed in self._runs:
            end = first
            for start, part in _within(ours, first, first + len(owed)):
                dropped += int(torch.count_nonzero(owed[end - first : start - first]))
                end = start + len(part)
            dropped += int(torch.count_nonzero(owed[end - first :]))
        self._runs = ours
        return dropped

    def reset(self) -> None:
        """Forget everything."""
        self._runs = []


def feedback_named(kind: str, count: int) -> Feedback | None:
    """The error feedback of that name for a vector of so many elements; None for none.

    Raises:
        ValueError: there is none of that name.
    """
    match kind:
        case "none":
            return None
        case "ef":
            return ErrorFeedback(count)
        case "ef21":
            return Ef21(count)
        case "ef21-momentum":
            return Ef21(count, momentum=MOMENTUM)
    raise ValueError(f"error feedback is one of {', '.join(FEEDBACK_KINDS)}, not {kind!r}")


def _first(run: _Run) -> int:
    return run[0]


def _within(runs: Sequence[_Run], start: int, stop: int) -> Iterator[_Run]:
    """The parts of these runs that lie between two elements."""
    for first, values in runs[max(bisect_right(runs, start, key=_first) - 1, 0) :]:
        if first >= stop:
            return
        low, high = max(first, start), min(first + len(values), stop)
        if low < high:
            yield low, values[low - first : high - first]


def _zeros_unless(kept: torch.Tensor | None, count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.float32, device="cpu") if kept is None else kept


def _copies(**kept: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in kept.items() if tensor is not None}


def _check_kept(kept: Mapping[str, torch.Tensor], names: Sequence[str], count: int) -> None:
    for name, tensor in kept.items():
        if name not in names:
            raise ValueError(f"a snapshot of another method: it has {name!r}")
        if tensor.shape != (count,) or tensor.dtype != torch.float32:
            raise ValueError(f"{name!r} of a snapshot does not fit {count} elements of float32")
