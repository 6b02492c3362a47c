"""Workers of one process that send vectors through a codec, as real frames that are counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from averaging.codecs.codec import Codec
from averaging.codecs.feedback import Ef21, feedback_named
from averaging.codecs.registry import codec_named

DENSE = "dense"
"""Instead of a codec: float32 as it is."""
_FLOAT_BYTES = 4


class Uplinks:
    """What each worker sends in a step, and the mean of what arrives.

    Args:
        codec: by its name, or `DENSE`.
        feedback: one of `averaging.codecs.feedback.FEEDBACK_KINDS`.
        workers: all weigh the same.
        count: elements of each vector.
        seed: of the codec's chance.
    """

    def __init__(self, codec: str, feedback: str, workers: int, count: int, seed: int = 0) -> None:
        self._codec = None if codec == DENSE else codec_named(codec)
        self._feedbacks = [feedback_named(feedback, count) for _ in range(workers)]
        # What all know of each other, the same at everybody.
        shared = feedback_named(feedback, count)
        self._shared = shared if isinstance(shared, Ef21) else None
        self._count = count
        self._seed = seed << 32
        self.sent_bytes = 0
        """By all workers so far."""

    @property
    def sent_bits_per_worker(self) -> float:
        """So far."""
        return 8 * self.sent_bytes / len(self._feedbacks)

    def mean(self, vectors: Sequence[torch.Tensor]) -> torch.Tensor:
        """What all apply: shape (count,), float32.

        Args:
            vectors: one for each worker, float32, shape (count,), finite.
        """
        total = torch.zeros(self._count)
        for worker, vector in enumerate(vectors):
            total += self._arrives(worker, vector)
        result = total / len(vectors)
        if self._shared is None:
            return result
        return self._shared.applied(result, 0, len(vectors), len(vectors))

    def compensated(self, worker: int, vector: torch.Tensor) -> torch.Tensor:
        """What the worker would encode for this vector: with what it still owes."""
        feedback = self._feedbacks[worker]
        return vector if feedback is None else feedback.outgoing(vector, 0, 1.0)

    def _arrives(self, worker: int, vector: torch.Tensor) -> torch.Tensor:
        if self._codec is None:
            self.sent_bytes += _FLOAT_BYTES * self._count
            return vector
        self._seed += 1
        decoded = torch.empty(self._count)
        self.sent_bytes += through(
            self._codec, self.compensated(worker, vector), self._seed, decoded
        )
        feedback = self._feedbacks[worker]
        if feedback is not None:
            feedback.settle(vector, 0, 1.0, decoded.clone())
        return decoded


def through(codec: Codec, values: torch.Tensor, seed: int, out: torch.Tensor) -> int:
    """Encode values, decode them to out, and return the size of the frame in bytes."""
    frame = codec.encode(values, seed)
    codec.decode(frame, out)
    return frame.numel()


def missed(decoded: torch.Tensor, values: torch.Tensor) -> float:
    """‖C(x) − x‖² / ‖x‖², in float64."""
    exact = values.double()
    return float((decoded.double() - exact).square().sum() / exact.square().sum())
