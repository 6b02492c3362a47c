"""Guessing words that were hidden in a text: masked language modelling.

    B  samples in a batch        L  places in a sample

Of each sample 15 % of the places are to be guessed: 80 % of those show a mask, 10 % another piece
at random, 10 % what was there. How many they are follows from the sample's length alone, and the
loss is a mean over samples of the mean over a sample's places; so the swarm's average is what one
machine would compute.

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", 2019, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from training.data import ShuffledOrder, sample_generator
from training.data.streamed import StreamedText, StreamedWalk
from training.data.text_windows import TextWindows
from training.data.vocabulary import Vocabulary
from training.errors import RecipeError

IntArray = npt.NDArray[np.int64]

GUESSED_SHARE = 0.15
MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1
LENGTH_MIN = 4  # the marks at both ends, and something to guess from
NOT_GUESSED = -100  # the label that PyTorch's cross entropy passes over

# Text is read for two windows, so that also one of long words fills a sample.
_WINDOWS_READ = 2
_EVALUATED_AT_ONCE = 32


@dataclass(frozen=True)
class MaskedBatch:
    """Samples with hidden pieces."""

    shown_BL: torch.Tensor
    """int64: what the model sees."""
    attention_BL: torch.Tensor
    """int64: 1 where there is text or a mark, 0 where a short sample was filled up."""
    labels_BL: torch.Tensor
    """int64: what was there, or NOT_GUESSED."""


def hide(
    pieces_L: IntArray, vocabulary: Vocabulary, chance: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Hide some pieces of one sample; returns what is shown and the labels, both (L)."""
    text = np.flatnonzero(~np.isin(pieces_L, sorted(vocabulary.marks)))
    shown, labels = pieces_L.copy(), np.full_like(pieces_L, NOT_GUESSED)
    if len(text) == 0:
        return shown, labels
    chosen = chance.choice(text, size=max(1, round(GUESSED_SHARE * len(text))), replace=False)
    labels[chosen] = pieces_L[chosen]
    fate = chance.random(len(chosen))
    shown[chosen[fate < MASKED_SHARE]] = vocabulary.mask
    replaced = chosen[(fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE)]
    words = np.setdiff1d(np.arange(vocabulary.size), sorted(vocabulary.marks))
    shown[replaced] = chance.choice(words, size=len(replaced))
    return shown, labels


class Samples:
    """Windows of text as samples of one length, between marks of their beginning and end."""

    def __init__(self, windows: TextWindows, vocabulary: Vocabulary, length: int) -> None:
        self._windows = windows
        self._vocabulary = vocabulary
        self._length = length

    def __len__(self) -> int:
        return len(self._windows)

    def pieces(self, index: int) -> IntArray:
        """The sample of a window, (L), filled up with the mark for that."""
        size_bytes = _WINDOWS_READ * self._windows.stride_bytes
        words = self._vocabulary
        text = words.encode(self._windows.read(index, size_bytes=size_bytes))[: self._length - 2]
        pieces = np.full(self._length, words.pad, dtype=np.int64)
        pieces[: len(text) + 2] = [words.begin, *text, words.end]
        return pieces


class WindowWalk:
    """A peer's own order of the windows."""

    def __init__(self, samples: Samples, order: ShuffledOrder) -> None:
        self._samples = samples
        self._order = order

    @property
    def drawn(self) -> int:
        """How many samples were drawn."""
        return self._order.drawn

    def next_samples(self, size: int) -> list[IntArray]:
        """So many samples, (L) each, read and encoded now."""
        return [self._samples.pieces(int(index)) for index in self._order.next_batch(size)]


class Walk(Protocol):
    """Where a peer's samples come from."""

    @property
    def drawn(self) -> int:
        """How many samples were drawn since the run began."""

    def next_samples(self, size: int) -> list[IntArray]:
        """So many samples, (L) each."""


def masked_batch(
    samples: Sequence[IntArray], vocabulary: Vocabulary, chances: Sequence[np.random.Generator]
) -> MaskedBatch:
    """Samples, (L) each, with hidden pieces, each by its own chance."""
    hidden = [
        hide(sample, vocabulary, chance) for sample, chance in zip(samples, chances, strict=True)
    ]
    return MaskedBatch(
        shown_BL=torch.from_numpy(np.stack([shown for shown, _ in hidden])),
        attention_BL=torch.from_numpy((np.stack(samples) != vocabulary.pad).astype(np.int64)),
        labels_BL=torch.from_numpy(np.stack([labels for _, labels in hidden])),
    )


class MaskedBatches:
    """A peer's samples, and its own chance of what is hidden in them."""

    def __init__(self, walk: Walk, vocabulary: Vocabulary, *, seed: int, peer_id: str) -> None:
        self._walk = walk
        self._vocabulary = vocabulary
        self._seed = seed
        self._peer_id = peer_id

    @property
    def drawn(self) -> int:
        """How many samples were drawn."""
        return self._walk.drawn

    @property
    def share(self) -> StreamedWalk | None:
        """Of a stream, what divides its shards with the other peers."""
        return self._walk if isinstance(self._walk, StreamedWalk) else None

    def next_batch(self, size: int) -> MaskedBatch:
        """So many samples."""
        first = self._walk.drawn
        chances = [
            sample_generator(seed=self._seed, peer_id=self._peer_id, drawn=first + place)
            for place in range(size)
        ]
        return masked_batch(self._walk.next_samples(size), self._vocabulary, chances)


class MaskedLanguage:
    """The task of a masked language model of Hugging Face's kind.

    Args:
        train: windows, which each peer walks through in an order of its own; or a stream, whose
            shards the peers divide.
        test: windows, or for a stream None: then it is the part that the stream holds back.
        length: places in a sample, the marks at both ends included.
        test_count_max: so many test samples are judged at most, spread over the test windows, or
            from the beginning of the stream's.

    Raises:
        ValueError: the length is too short for a sample.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        train: TextWindows | StreamedText,
        test: TextWindows | None,
        length: int,
        test_count_max: int = 256,
    ) -> None:
        if length < LENGTH_MIN or test_count_max < 1:
            raise ValueError(f"no samples of {length} places, or no {test_count_max} test samples")
        self.vocabulary = vocabulary
        self._train: Samples | StreamedText
        if isinstance(train, StreamedText):
            self._train = train
            self._tested = train.test_samples(test_count_max)
            self._seeds = list(range(len(self._tested)))
        else:
            if test is None:
                raise ValueError("windows to train on need windows to test on")
            self._train = Samples(train, vocabulary, length)
            judged = Samples(test, vocabulary, length)
            count = min(len(judged), test_count_max)
            self._seeds = np.linspace(0, len(judged) - 1, count).astype(np.int64).tolist()
            self._tested = [judged.pieces(index) for index in self._seeds]

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> MaskedBatches:
        """All samples again and again, shuffled anew for each pass, with new hidden places."""
        walk: Walk
        if isinstance(self._train, StreamedText):
            walk = self._train.walk(seed=seed, peer_id=peer_id, drawn=drawn)
        else:
            count = len(self._train)
            order = ShuffledOrder(example_count=count, seed=seed, peer_id=peer_id, drawn=drawn)
            walk = WindowWalk(self._train, order)
        return MaskedBatches(walk, self.vocabulary, seed=seed, peer_id=peer_id)

    def loss(self, model: nn.Module, batch: MaskedBatch) -> torch.Tensor:
        """Cross entropy in nats: over samples, the mean of that over a sample's hidden places."""
        loss_B, _, _ = self._guess(model, batch)
        return loss_B.mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss, and the share of hidden pieces guessed rightly; always the same are hidden."""
        losses, right, guessed = 0.0, 0, 0
        for begin in range(0, len(self._tested), _EVALUATED_AT_ONCE):
            samples = self._tested[begin : begin + _EVALUATED_AT_ONCE]
            seeds = self._seeds[begin : begin + _EVALUATED_AT_ONCE]
            chances = [np.random.default_rng(seed) for seed in seeds]
            batch = masked_batch(samples, self.vocabulary, chances)
            loss_B, right_here, guessed_here = self._guess(model, batch)
            losses += float(loss_B.sum())
            right += right_here
            guessed += guessed_here
        return {"masked_accuracy": right / max(1, guessed), "loss": losses / len(self._tested)}

    def _guess(self, model: nn.Module, batch: MaskedBatch) -> tuple[torch.Tensor, int, int]:
        """The loss of each sample, and how many hidden pieces were guessed rightly, of how many."""
        scores_BLV = model(input_ids=batch.shown_BL, attention_mask=batch.attention_BL).logits
        if scores_BLV.shape[-1] < self.vocabulary.size:
            raise RecipeError(
                f"model_options: the model knows {scores_BLV.shape[-1]} pieces, but the vocabulary "
                f"of the data has {self.vocabulary.size}; give both the same"
            )
        loss_BL = nn.functional.cross_entropy(
            scores_BLV.transpose(1, 2), batch.labels_BL, ignore_index=NOT_GUESSED, reduction="none"
        )
        guessed_BL = batch.labels_BL != NOT_GUESSED
        loss_B = loss_BL.sum(dim=1) / guessed_BL.sum(dim=1).clamp(min=1)
        right = int((scores_BLV.argmax(dim=-1) == batch.labels_BL)[guessed_BL].sum())
        return loss_B, right, int(guessed_BL.sum())
