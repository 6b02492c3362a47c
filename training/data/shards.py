"""Which examples are held out for testing, and in which order a peer draws the others.

Nobody hands out work in a swarm of strangers, so no list of "whose turn is which image" exists.
(Text that is too large for that is divided: training/data/shares.py.)
Each peer walks through all training images in an order of its own, seeded by its peer id: with
many peers the global batch is then close to a random draw, and losing a peer loses no images.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

IndexArray = npt.NDArray[np.int64]
_DRAWS_MAX = 1000


def stratified_fifth(labels: npt.NDArray[np.integer]) -> IndexArray:
    """Indices of a fixed fifth of the examples: every fifth one of each class, in order.

    No randomness: whoever holds the same labels holds out the same examples. Taking every fifth
    also spreads the choice over whatever the examples are sorted by, such as their writer.
    """
    chosen = [np.flatnonzero(labels == label)[2::5] for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def dirichlet_shards(
    labels: npt.NDArray[np.integer],
    *,
    workers: int,
    concentration: float,
    seed: int,
    smallest: int = 1,
) -> tuple[IndexArray, ...]:
    """Indices of each worker's examples, of other kinds for each, as an experiment needs them.

    Each class is split among the workers in shares drawn from a symmetric Dirichlet distribution:
    at a concentration of 0.1 most workers have one or two classes, at 100 all have nearly the same.

    Args:
        smallest: the shares are drawn anew until each worker has so many examples.

    Raises:
        ValueError: that cannot be.

    Source: T.-M. H. Hsu, H. Qi, M. Brown, Measuring the Effects of Non-Identical Data Distribution
    for Federated Visual Classification (2019).
    """
    if workers * smallest > len(labels) or not concentration > 0:
        raise ValueError(
            f"{len(labels)} examples cannot be split among {workers} workers with {smallest} each "
            f"at a concentration of {concentration}"
        )
    chance = np.random.default_rng(seed)
    for _ in range(_DRAWS_MAX):
        pieces: list[list[IndexArray]] = [[] for _ in range(workers)]
        for label in np.unique(labels):
            members = chance.permutation(np.flatnonzero(labels == label))
            shares = chance.dirichlet(np.full(workers, concentration))
            cuts = (np.cumsum(shares)[:-1] * len(members)).round().astype(int)
            for worker, piece in enumerate(np.split(members, cuts)):
                pieces[worker].append(piece)
        shards = tuple(np.sort(np.concatenate(one)).astype(np.int64) for one in pieces)
        if min(len(shard) for shard in shards) >= smallest:
            return shards
    raise ValueError(
        f"in each of {_DRAWS_MAX} draws some worker had fewer than {smallest} examples; take "
        "a larger concentration or fewer workers"
    )


class ShuffledOrder:
    """An endless walk over all examples: a new permutation for each pass, seeded by the peer.

    The place in the walk is one number, `drawn`, so that a checkpoint can go on where it stopped.
    """

    def __init__(self, *, example_count: int, seed: int, peer_id: str, drawn: int = 0) -> None:
        if example_count < 1 or drawn < 0:
            raise ValueError(f"no order over {example_count} examples after {drawn} drawn")
        self._example_count = example_count
        self._seed = seed
        self._peer_id = peer_id
        self._drawn = drawn
        self._pass_index = -1
        self._permutation: IndexArray = np.empty(0, dtype=np.int64)

    @property
    def drawn(self) -> int:
        """How many indices were drawn since the run began."""
        return self._drawn

    def next_batch(self, size: int) -> IndexArray:
        """The next `size` indices; a batch may run over the end of a pass into the next one."""
        if size < 1:
            raise ValueError(f"a batch has at least one example, not {size}")
        pieces: list[IndexArray] = []
        lacking = size
        while lacking:
            pass_index, offset = divmod(self._drawn, self._example_count)
            piece = self._pass(pass_index)[offset : offset + lacking]
            pieces.append(piece)
            lacking -= len(piece)
            self._drawn += len(piece)
        return np.concatenate(pieces)

    def _pass(self, index: int) -> IndexArray:
        """The permutation of one pass; the latest is kept."""
        if index != self._pass_index:
            chance = _generator(f"{self._seed}/{self._peer_id}/{index}")
            self._permutation = chance.permutation(self._example_count)
            self._pass_index = index
        return self._permutation


def sample_generator(*, seed: int, peer_id: str, drawn: int) -> np.random.Generator:
    """The chance that belongs to one drawn sample, such as what is hidden or cut away in it.

    Args:
        drawn: how many samples the peer drew before this one.
    """
    return _generator(f"{seed}/{peer_id}/sample/{drawn}")


def _generator(text: str) -> np.random.Generator:
    """Chance that the text decides."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))
