"""The Moshpit grid: which peers of a large swarm meet in one round, so that repeated rounds mix.

A peer has a row of bits, its coordinates. The last `depth` of them name its bucket, and the peers
of one bucket average together. Afterwards each appends its index in the group to its row, so that
the members of one group go to different buckets, and the oldest bits fall off the bucket's name:
that is the dimension along which the next groups lie. In a full grid of d dimensions everyone
has the exact mean of all after d rounds; elsewhere each round leaves about one part in the
group's size of the variance, and any round keeps the mean.

    bucket 01, index 1 of 2  ->  row ...01|1  ->  bucket 11

Source: Ryabinin, Gorbunov, Plokhotnyuk, Pekhimenko, Moshpit SGD: Communication-Efficient
Decentralized Training on Heterogeneous Unreliable Devices, 2021, algorithm 1.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from typing import Final

from averaging.matchmaking import schema
from averaging.round_id import RoundId

DEPTH_MAX: Final = schema.BUCKET_TEXT_MAX
"""Bits of a bucket's name: 65 536 buckets."""

# A bucket's expected size lies between these parts of the largest group: below, groups mix slowly;
# above, chance alone fills too many buckets. Twice one size fits under the other with half to
# spare, so a swarm must grow or shrink by a third before its depth changes back.
_LOAD_MIN: Final = 1 / 4
_LOAD_MAX: Final = 3 / 4
_ROUND_CONTEXT: Final = b"manyhands/matchmaking/grid/1\0"


class Grid:
    """Where one peer stands in the grid, from round to round."""

    def __init__(
        self, group_size_max: int, rng: random.Random, *, coordinates: str = "", depth: int = 0
    ) -> None:
        """Begin somewhere.

        Args:
            coordinates: the first bits, newest last; chance fills what is missing before them.
            depth: how many bits name a bucket until the swarm's size is known.
        """
        self.depth = depth
        """How many bits name a bucket; 0: one bucket holds everybody."""
        self.swarm_size = 1
        """The newest estimate."""
        self._group_size_max = group_size_max
        missing = DEPTH_MAX - len(coordinates)
        self._row = "".join(rng.choice("01") for _ in range(missing)) + coordinates
        # As many bits as the index in a group of usual size has.
        self._index_bits = max(1, group_size_max.bit_length() - 2)

    @property
    def bucket(self) -> str:
        """The name of our bucket; empty in a grid of one."""
        return self._row[DEPTH_MAX - self.depth :]

    @property
    def bucket_size(self) -> int:
        """How many peers a bucket holds on average, rounded down."""
        return self.swarm_size >> self.depth

    def on_round(self, group_id: bytes, size: int, index: int) -> None:
        """We were the member of this index in a group: move on along the averaged dimension.

        Members spread evenly over the places, also when there are more or fewer of them than
        places; the group's id shifts them all, so that no place is favoured.
        """
        bits = min(self._index_bits, self.depth) or self._index_bits
        places = 1 << bits
        shift = int.from_bytes(hashlib.sha256(group_id).digest()[:4], "big")
        place = ((index << 32) + shift) * places // (size << 32)
        self._row = (self._row + f"{place:0{bits}b}")[-DEPTH_MAX:]

    def on_swarm_size(self, count: int, depths: Iterable[int] = ()) -> None:
        """Choose the depth for a swarm of this many peers, ourselves included.

        Two or three depths fit a size. If others of the swarm are known, the one that most of them
        use is taken; else ours stays as long as it fits, so that it does not flap.

        Args:
            depths: of others, as far as known; they see about the same count.
        """
        self.swarm_size = max(count, 1)
        fitting = [
            depth
            for depth in range(DEPTH_MAX + 1)
            if fits(self.swarm_size, depth, self._group_size_max)
        ]
        if not fitting:
            fitting = [DEPTH_MAX]
        used = Counter(depth for depth in depths if depth in fitting)
        if used:
            used[self.depth] += 1 if self.depth in fitting else 0
            self.depth = min(used, key=lambda depth: (-used[depth], depth))
        elif self.depth not in fitting:
            self.depth = fitting[0]


def fits(count: int, depth: int, group_size_max: int) -> bool:
    """Whether a grid of this depth suits a swarm of this size."""
    if depth == 0:
        return count <= group_size_max
    load = count / (1 << depth) / group_size_max
    return count > _LOAD_MAX * group_size_max and _LOAD_MIN <= load <= _LOAD_MAX


def grid_round(number: int, bucket: str) -> RoundId:
    """The round of a bucket: its parent names no result, since each group of a grid has its own."""
    named = _ROUND_CONTEXT + number.to_bytes(8, "big") + bucket.encode()
    return RoundId(number, hashlib.sha256(named).digest())


def in_bucket(bucket: str) -> str:
    """Where a peer is, in words."""
    return f"is in bucket {bucket} of the grid" if bucket else "is in a grid of one bucket"
