"""Shards divided among the peers that are there, by a rule that each of them works out alone.

Each pass over the data has its shards in an order that all know, and in each pass a shard belongs
to the live peer with the largest hash of seed, pass, shard and peer (rendezvous hashing). So when a
peer comes or goes, only its own shards change hands. A peer takes the first shard in the order that
is its own, is not known to be done, and is not under way at another; keeps it until it is done,
whoever it belongs to by then; and tells the others. Where the rest of a pass belongs to others, it
goes on with the next one, up to PASSES_OPEN passes ahead; then it gives the oldest pass up.

What is repeated: the shard that was under way where a peer left, and what was done but not yet
heard of; also, where peers are more than PASSES_OPEN passes apart, as with fewer shards than peers,
some of what was done there. What is left out: shards of a pass that was given up, since their owner
is so much slower.

What others tell is believed within limits, for nobody can check it.
- Only a live peer is believed. What was believed stays so for that pass.
- Of the shards that it says to have done itself, at most as many as chance would give it: with n
  peers and N shards m + 4·√m, m = N / n (n is the smallest number of peers during that pass).
- Of others' shards, and without that limit, only in passes that were open when we came: there is
  no other way to know what was done before.
- The pass to be in is the lower median over all peers that have begun, ourselves included, or else
  over the others.
So a liar can hide shards from others in a pass, but not stop anybody: there is always a next pass.
Only where at least half of those who have begun lie, or a newcomer hears of nobody else, can they
lead others to a pass of their choice, which costs no more than repeats.

Source: Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM
Transactions on Networking 6 (1998): rendezvous hashing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

SHARDS_MAX = 1024
"""What is told of a pass then fits into 128 bytes."""
PASSES_OPEN = 4
"""A peer that is so many times as fast as its share is the first to leave shards to nobody."""

GONE_MAX = 64
"""So many of those who left last are remembered."""

HashArray = npt.NDArray[np.uint64]


@dataclass(frozen=True, order=True)
class Turn:
    """A shard in one pass over the data."""

    pass_index: int
    shard: int


@dataclass(frozen=True)
class ShardNews:
    """What a peer tells of its work; bit s of a number stands for shard s."""

    first: int
    """The first pass that is not over, as it knows.

    What follows begins PASSES_OPEN passes earlier, or with pass 0: others may not know yet that
    those are over.
    """
    current: Turn | None = None
    """What it has under way."""
    done: tuple[int, ...] = ()
    """The shards it did itself, pass by pass."""
    known: tuple[int, ...] = ()
    """The same, with those that others did as far as it knows."""


@dataclass
class _Pass:
    """A pass that is not over."""

    cap: int | None
    """So many shards of one peer are believed; None believes all: we were not there."""
    done: int = 0
    own: int = 0
    believed: dict[str, int] = field(default_factory=dict)
    """By peer."""


class ShardShare:
    """One peer's part of the shards: a core, told of who is there and what they did."""

    def __init__(self, *, shard_count: int, seed: int, peer_id: str) -> None:
        if not 1 <= shard_count <= SHARDS_MAX:
            raise ValueError(f"1 to {SHARDS_MAX} shards can be divided, not {shard_count}")
        self._count = shard_count
        self._seed = seed
        self._peer_id = peer_id
        self._live: tuple[str, ...] = (peer_id,)
        self._news: dict[str, ShardNews] = {}
        self._gone: dict[str, ShardNews] = {}
        """The last news of those who left: they may be of passes that are not open yet."""
        self._first = 0
        self._passes = [_Pass(cap=None) for _ in range(PASSES_OPEN)]
        self._over: list[_Pass] = []
        """The last passes that are over; of the first of all passes there are fewer."""
        self._current: Turn | None = None
        self._has_begun = False
        self._owned: dict[int, tuple[int, ...]] = {}

    # --- what happens ---

    def on_peers(self, live: Iterable[str]) -> None:
        """Who is there; we are, in any case."""
        now = tuple(sorted({*live, self._peer_id}))
        if now == self._live:
            return
        self._live = now
        self._owned = {}
        for peer in sorted(self._news.keys() - set(now)):
            self._gone[peer] = self._news.pop(peer)
        self._gone = dict(list(self._gone.items())[-GONE_MAX:])
        cap = self._cap()
        for one in self._passes:
            if one.cap is not None:
                one.cap = max(one.cap, cap)

    def on_news(self, peer_id: str, news: ShardNews) -> None:
        """A live peer tells of its work; its earlier news are outdated."""
        if peer_id == self._peer_id or peer_id not in self._live:
            return
        self._news[peer_id] = news
        self._follow_the_others()
        self._settle()

    def next_turn(self) -> Turn:
        """What to work on: the shard under way, or else one that is under way from now on."""
        self._has_begun = True
        while self._current is None:
            taken = {news.current for news in self._news.values()}
            for index, one in enumerate(self._passes, start=self._first):
                free = (s for s in self._own_shards(index) if not one.done >> s & 1)
                turn = next((t for t in (Turn(index, s) for s in free) if t not in taken), None)
                if turn is not None:
                    self._current = turn
                    break
            else:
                self._move_on()
                self._settle()
        return self._current

    def on_done(self) -> None:
        """The shard under way is done."""
        assert self._current is not None, "nothing is under way"
        place = self._current.pass_index - self._first
        if 0 <= place < PASSES_OPEN:
            self._passes[place].done |= 1 << self._current.shard
            self._passes[place].own |= 1 << self._current.shard
        self._current = None
        self._settle()

    # --- what is told and kept ---

    def news(self) -> ShardNews:
        """What the others should hear."""
        told = [*self._over, *self._passes]
        return ShardNews(
            first=self._first,
            current=self._current,
            done=tuple(one.own for one in told),
            known=tuple(one.done for one in told),
        )

    def heard(self) -> dict[str, ShardNews]:
        """What each live peer told last."""
        return dict(self._news)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, from which load_state_dict() goes on."""
        current = self._current
        return {
            "shard_count": self._count,
            "first": self._first,
            "current": [current.pass_index, current.shard] if current else None,
            "done": [one.done for one in (*self._over, *self._passes)],
            "own": [one.own for one in (*self._over, *self._passes)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, as one who was away for a while and believes what was done since.

        Raises:
            ValueError: it is of other shards.
        """
        if state["shard_count"] != self._count:
            raise ValueError(f"{state['shard_count']} shards were divided, and now {self._count}")
        self._first = state["first"]
        self._current = Turn(*state["current"]) if state["current"] else None
        self._has_begun = self._current is not None
        passes = [
            _Pass(cap=None, done=done, own=own)
            for done, own in zip(state["done"], state["own"], strict=True)
        ]
        self._over, self._passes = passes[:-PASSES_OPEN], passes[-PASSES_OPEN:]

    # --- the rules ---

    def _follow_the_others(self) -> None:
        """Be where most are, if that is further on."""
        firsts = [news.first for news in self._news.values() if news.current is not None]
        if self._has_begun:
            firsts.append(self._first)
        # Who has not begun only says where those were that it heard of.
        firsts = firsts or [news.first for news in self._news.values()]
        median = sorted(firsts)[(len(firsts) - 1) // 2]
        if median >= self._first + PASSES_OPEN:
            cap = self._cap() if self._has_begun else None
            self._first = median
            self._over = [_Pass(cap=None) for _ in range(PASSES_OPEN)]
            self._passes = [_Pass(cap=cap) for _ in range(PASSES_OPEN)]
            self._owned = {}
        while median > self._first:
            self._move_on()

    def _believe(self, peer_id: str, news: ShardNews) -> None:
        """Take over what a peer did, within the limits."""
        for index, one in enumerate(self._passes, start=self._first):
            place = index - max(0, news.first - PASSES_OPEN)
            if place < 0:
                continue
            done = news.done[place] if place < len(news.done) else 0
            before = one.believed.get(peer_id, 0)
            allowed = None if one.cap is None else one.cap - before.bit_count()
            believed = before | _lowest(done & self._all & ~before, allowed)
            one.believed[peer_id] = believed
            one.done |= believed
            if one.cap is None and place < len(news.known):
                one.done |= news.known[place] & self._all

    def _settle(self) -> None:
        """Believe what was told of the open passes, and close those that are done."""
        while True:
            for teller, news in sorted((self._gone | self._news).items()):
                self._believe(teller, news)
            if self._passes[0].done != self._all:
                return
            self._move_on()

    def _move_on(self) -> None:
        """The oldest pass is over; one more opens."""
        self._owned.pop(self._first, None)
        self._first += 1
        self._over = [*self._over, self._passes[0]][-PASSES_OPEN:]
        # Who has not begun was not there for the passes that others are in.
        self._passes = [*self._passes[1:], _Pass(cap=self._cap() if self._has_begun else None)]

    @property
    def _all(self) -> int:
        """All shards of a pass."""
        return (1 << self._count) - 1

    def _cap(self) -> int:
        """How many shards of a pass one peer can be believed to do by itself."""
        mean = self._count / len(self._live)
        return math.ceil(mean + 4 * math.sqrt(mean))

    def _own_shards(self, pass_index: int) -> tuple[int, ...]:
        """Those that belong to us among the live peers, in the order of the pass."""
        if pass_index not in self._owned:
            prefix = f"{self._seed}/{pass_index}"
            numbers: HashArray = np.arange(self._count, dtype=np.uint64)
            shards = _mixed(np.add(_hash_of(prefix), numbers, dtype=np.uint64))
            peers = np.array([_hash_of(peer)[0] for peer in self._live], dtype=np.uint64)
            owners = _mixed(shards[:, None] ^ peers[None, :]).argmax(axis=1)
            me = self._live.index(self._peer_id)
            order = np.argsort(_mixed(shards), kind="stable")
            self._owned[pass_index] = tuple(int(s) for s in order[owners[order] == me])
        return self._owned[pass_index]


def _hash_of(text: str) -> HashArray:
    """64 bits of a text, as an array of one, whose sums wrap around."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.array([int.from_bytes(digest[:8])], dtype=np.uint64)


def _mixed(values: HashArray) -> HashArray:
    """Each value's 64 bits, well mixed.

    Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014: the
    finalizer of SplitMix64.
    """
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _lowest(bits: int, count: int | None) -> int:
    """The lowest so many bits of a number that are set; all of them for None."""
    if count is None or bits.bit_count() <= count:
        return bits
    kept = 0
    for _ in range(max(0, count)):
        lowest = bits & -bits
        kept |= lowest
        bits ^= lowest
    return kept
