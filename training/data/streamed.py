"""Samples made of a source's texts while it is read: tokenised, cut to length, shuffled.

    L  places in a sample

A peer reads one shard of its share after another. The texts of a shard follow one another, with no
mark between them, and are cut into samples of L places. Samples pass through a pool out of which
they are drawn by chance, so that those next to each other in the text are apart; the pool ends with
the shard. A resumed peer reads its shard again up to the place where it was.

Of the first shard every tenth text is for testing, the same for all peers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.shards import sample_generator
from training.data.shares import ShardNews, ShardShare, Turn
from training.data.sources import Source
from training.data.vocabulary import Vocabulary
from training.errors import CheckpointError, RecipeError

IntArray = npt.NDArray[np.int64]

POOL_SAMPLES = 2048
_TEST_EVERY = 10
_TEST_PLACE = 1  # not the first, so that the first text, which may be the only one, is trained on


def train_texts(source: Source, shard: int) -> Iterator[str]:
    """A shard's texts without those for testing."""
    for place, text in enumerate(source.texts(shard)):
        if shard or place % _TEST_EVERY != _TEST_PLACE:
            yield text


def held_out_texts(source: Source) -> Iterator[str]:
    """The texts that nobody trains on."""
    for place, text in enumerate(source.texts(0)):
        if place % _TEST_EVERY == _TEST_PLACE:
            yield text


class StreamedText:
    """A source and how it becomes samples.

    Args:
        length: L, the marks at both ends included.
    """

    def __init__(self, source: Source, vocabulary: Vocabulary, *, length: int) -> None:
        self.source = source
        self._vocabulary = vocabulary
        self._length = length

    def samples(self, texts: Iterator[str]) -> Iterator[IntArray]:
        """The texts one after another, cut into samples, (L) each; the last is filled up."""
        words, size = self._vocabulary, self._length - 2
        pending: list[int] = []
        for text in texts:
            pending += words.encode(text)
            whole = len(pending) // size * size
            for begin in range(0, whole, size):
                yield self._sample(pending[begin : begin + size])
            pending = pending[whole:]
        if pending:
            yield self._sample(pending)

    def test_samples(self, count_max: int) -> list[IntArray]:
        """At most so many samples of the texts for testing.

        Raises:
            RecipeError: there are none.
        """
        found = self.samples(held_out_texts(self.source))
        samples = [sample for sample, _ in zip(found, range(count_max), strict=False)]
        if not samples:
            raise RecipeError(
                f"{self.source.name}: holds too little text; its first shard needs two texts, one "
                "of them to test on"
            )
        return samples

    def walk(self, *, seed: int, peer_id: str, drawn: int) -> StreamedWalk:
        """A peer's way through its share."""
        return StreamedWalk(self, seed=seed, peer_id=peer_id, drawn=drawn)

    def _sample(self, pieces: Sequence[int]) -> IntArray:
        words = self._vocabulary
        sample = np.full(self._length, words.pad, dtype=np.int64)
        sample[: len(pieces) + 2] = [words.begin, *pieces, words.end]
        return sample


class StreamedWalk:
    """One peer's samples, shard by shard; what it needs to go on is in its state_dict()."""

    def __init__(self, text: StreamedText, *, seed: int, peer_id: str, drawn: int) -> None:
        self._text = text
        self._seed = seed
        self._peer_id = peer_id
        self._drawn = drawn
        self._share = ShardShare(shard_count=text.source.shard_count, seed=seed, peer_id=peer_id)
        self._shard: Iterator[IntArray] | None = None
        self._place = 0
        self._reader = peer_id

    @property
    def drawn(self) -> int:
        """How many samples were drawn since the run began."""
        return self._drawn

    def next_samples(self, size: int) -> list[IntArray]:
        """So many samples, (L) each.

        Raises:
            RecipeError: the source cannot be read, or holds no text.
        """
        samples: list[IntArray] = []
        empty = 0
        while len(samples) < size:
            if self._shard is None:
                self._shard = self._open(self._share.next_turn())
            sample = next(self._shard, None)
            if sample is not None:
                samples.append(sample)
                self._place += 1
                continue
            empty = 0 if self._place else empty + 1
            if empty > 2 * self._text.source.shard_count:
                raise RecipeError(f"{self._text.source.name}: holds no text to train on")
            self._share.on_done()
            self._shard, self._place, self._reader = None, 0, self._peer_id
        self._drawn += size
        return samples

    def on_peers(self, live: Sequence[str]) -> None:
        """Who is there to divide the shards with."""
        self._share.on_peers(live)

    def on_news(self, peer_id: str, news: ShardNews) -> None:
        """What another peer tells of its work."""
        self._share.on_news(peer_id, news)

    def news(self) -> ShardNews:
        """What the others should hear."""
        return self._share.news()

    def state_dict(self) -> dict[str, Any]:
        """The share, and the place in the shard under way."""
        return {"share": self._share.state_dict(), "place": self._place, "reader": self._reader}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            CheckpointError: it is of other data.
        """
        try:
            self._share.load_state_dict(state["share"])
            self._place, self._reader = state["place"], state["reader"]
        except (ValueError, KeyError, TypeError) as exc:
            raise CheckpointError(
                f"the checkpoint was made with other data than {self._text.source.name} ({exc}); "
                "give the same data, or another checkpoint folder"
            ) from exc
        self._shard = None

    def _open(self, turn: Turn) -> Iterator[IntArray]:
        """The shard's samples from the place on, in this pass's order."""
        chance = sample_generator(
            seed=self._seed, peer_id=f"{self._reader}/{turn.pass_index}", drawn=turn.shard
        )
        samples = self._text.samples(train_texts(self._text.source, turn.shard))
        shuffled = pooled(samples, chance)
        for _ in range(self._place):
            next(shuffled, None)
        return shuffled


def pooled(samples: Iterator[IntArray], chance: np.random.Generator) -> Iterator[IntArray]:
    """All samples, shuffled in a pool of POOL_SAMPLES."""
    pool: list[IntArray] = []
    for sample in samples:
        if len(pool) < POOL_SAMPLES:
            pool.append(sample)
            continue
        place = int(chance.integers(POOL_SAMPLES))
        yield pool[place]
        pool[place] = sample
    for place in chance.permutation(len(pool)):
        yield pool[place]
