"""What codecs and error feedback do in one round: parts, results, and what is kept of both (core).

Parts are encoded before the first is sent: the norm that a member declares is of what others will
read, and a part that is sent again to a new owner has the same bytes. So what an encoding lost can
be computed when the round has succeeded, from the values, which have not changed, and the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

import numpy as np
import torch

from averaging.codecs.coded import CodedWire, as_float32
from averaging.codecs.feedback import DownlinkResidual, Ef21, Feedback
from averaging.codecs.floating import Array, Payload, Span, convert
from averaging.memory import MEMORY


class Fate(Enum):
    """What became of a part in a round that succeeded."""

    INCLUDED = "included"
    LEFT_OUT = "left out"
    """It did not come, or not in time: all of it is owed."""
    REFUSED = "refused"
    """For what it said: to say it again, and more, would be of no use."""


def encoded_parts(
    wire: CodedWire,
    feedback: Feedback | None,
    flat: Array,
    spans: Iterable[Span],
    weight: float,
    seed_of: Callable[[int], int],
) -> tuple[dict[int, Payload], float]:
    """A member's parts by their first elements, and the L2 norm of what they say.

    Where a value is not finite there are no parts, and the norm is infinite.

    Args:
        flat: the whole vector; the parts may be views of it where it travels as it is.
        spans: the chunks.
        weight: above 0.
        seed_of: the seed for the part that starts at an element.
    """
    parts: dict[int, Payload] = {}
    squares = 0.0
    for start, stop in spans:
        values = flat[start:stop]
        head = _outgoing(wire, feedback, values, start, weight)
        measured = wire.encode_measured(head, values[len(head) :], start, seed_of(start))
        if measured is None:
            return {}, math.inf
        parts[start], square_sum = measured
        squares += square_sum
    return parts, math.sqrt(squares)


def settle_parts(
    wire: CodedWire,
    feedback: Feedback,
    flat: Array,
    parts: Mapping[int, Payload],
    fates: Iterable[tuple[Span, Fate]],
    weight: float,
) -> int:
    """Keep what the round lacks of our values; returns of how many elements it is given up.

    Args:
        flat, parts, weight: as they were sent, unchanged.
        fates: of every chunk.
    """
    dropped = 0
    room = torch.empty(0, dtype=torch.float32)
    for (start, stop), fate in fates:
        count = wire.coded_in(start, stop)
        if not count:
            continue
        if fate is Fate.REFUSED:
            dropped += feedback.drop(start, start + count)
            continue
        decoded = None
        if fate is Fate.INCLUDED:
            room = room if count <= len(room) else torch.empty(count, dtype=torch.float32)
            decoded = room[:count]
            wire.decode_head(parts[start], start, stop, decoded)
        feedback.settle(as_float32(flat[start : start + count]), start, weight, decoded)
    return dropped


def encoded_result(
    wire: CodedWire, residual: DownlinkResidual | None, mean: Array, start: int, seed: int
) -> tuple[Payload, torch.Tensor | None]:
    """The frame of an aggregator's result, and what it lost; None where that is not kept.

    Args:
        mean: of the elements from start on, finite.
    """
    count = wire.coded_in(start, start + len(mean))
    if residual is None or not count:
        return wire.encode_values(mean, start, seed), None
    head = residual.outgoing(as_float32(mean[:count]), start)
    payload = wire.encode_keeping_rest(head, mean[count:], start, seed)
    return payload, head


def apply_differences(
    wire: CodedWire,
    feedback: Ef21,
    result: Array,
    start: int,
    *,
    included_weight: float,
    weight: float,
) -> None:
    """Overwrite the decoded result of a chunk, the mean of differences, with what is to be applied.

    Args:
        wire: of the parts.
        result: the elements from start on, of the vector's dtype.
        included_weight, weight: of those who are in it, and of all.
    """
    count = wire.coded_in(start, start + len(result))
    if count:
        head = MEMORY.empty(count, np.float32)
        convert(result[:count], head)
        applied = feedback.applied(torch.from_numpy(head), start, included_weight, weight)
        convert(applied.numpy(), result[:count])


def _outgoing(
    wire: CodedWire, feedback: Feedback | None, values: Array, start: int, weight: float
) -> torch.Tensor:
    """What goes into the frame of these values."""
    head = as_float32(values[: wire.coded_in(start, start + len(values))])
    return head if feedback is None else feedback.outgoing(head, start, weight)
