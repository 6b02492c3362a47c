"""Guessing the next character of a text, judged in bits per character.

B  samples in a batch        L  characters in a sample that are guessed
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from training.data import ShuffledOrder

Codes = npt.NDArray[np.uint8]

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""What is told apart; all other bytes count as one more character."""
CHARACTER_COUNT = len(ALPHABET) + 1

_CODE_OF_BYTE = np.full(256, len(ALPHABET), dtype=np.uint8)
_CODE_OF_BYTE[list(ALPHABET.encode())] = np.arange(len(ALPHABET))
_EVALUATED_AT_ONCE = 256


def encode(text: bytes) -> Codes:
    """The place of each byte in the alphabet."""
    return _CODE_OF_BYTE[np.frombuffer(text, dtype=np.uint8)]


class CharacterBatches:
    """Pieces of a text in a peer's own order."""

    def __init__(self, codes_NL: npt.NDArray[np.uint8], order: ShuffledOrder) -> None:
        self._codes_NL = codes_NL
        self._order = order

    @property
    def drawn(self) -> int:
        """How many pieces were drawn."""
        return self._order.drawn

    def next_batch(self, size: int) -> torch.Tensor:
        """Pieces of text, (size, L + 1) int64."""
        chosen = self._codes_NL[self._order.next_batch(size)]
        return torch.from_numpy(chosen.astype(np.int64))


class NextCharacter:
    """The task of a language model over single characters.

    Args:
        length: characters of a sample that are guessed, each from those before it in the sample.

    Raises:
        ValueError: a text is shorter than one sample.
    """

    def __init__(self, train: bytes, test: bytes, *, length: int) -> None:
        self._train = _pieces(encode(train), length)
        self._test = _pieces(encode(test), length)

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> CharacterBatches:
        """All pieces again and again, shuffled anew for each pass."""
        order = ShuffledOrder(
            example_count=len(self._train), seed=seed, peer_id=peer_id, drawn=drawn
        )
        return CharacterBatches(self._train, order)

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Cross entropy in nats, the mean over all guessed characters."""
        scores_BLC = model(batch[:, :-1])
        return nn.functional.cross_entropy(scores_BLC.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Bits per character on the test text."""
        total = 0.0
        for begin in range(0, len(self._test), _EVALUATED_AT_ONCE):
            pieces = self._test[begin : begin + _EVALUATED_AT_ONCE].astype(np.int64)
            total += float(self.loss(model, torch.from_numpy(pieces))) * len(pieces)
        return {"bits_per_character": total / len(self._test) / math.log(2)}


def _pieces(codes: Codes, length: int) -> npt.NDArray[Any]:
    """The text cut into rows of length + 1; each begins with the character that ends the last."""
    count = (len(codes) - 1) // length if length > 0 else 0
    if count < 1:
        raise ValueError(
            f"a text of {len(codes)} bytes has no sample of {length} characters and one more"
        )
    return np.lib.stride_tricks.sliding_window_view(codes, length + 1)[::length][:count]
