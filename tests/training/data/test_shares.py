"""Shards among peers that come, work and go: what is done once, what again, and who is believed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.shares import PASSES_OPEN, SHARDS_MAX, ShardNews, ShardShare, Turn

SEED = 7
PEERS = ("alice", "bob", "carol", "dave")


class World:
    """Peers with shares, and what travels between them."""

    def __init__(self, shard_count: int) -> None:
        self.shard_count = shard_count
        self.shares: dict[str, ShardShare] = {}
        self.in_the_post: list[tuple[str, str, ShardNews]] = []
        self.begun: list[Turn] = []
        self.done: Counter[Turn] = Counter()
        self.lost: Counter[Turn] = Counter()
        """What was under way where a peer left."""
        self.far_ahead: set[Turn] = set()
        """What was done in a pass that was not yet open at somebody."""
        self.knows: dict[str, set[Turn]] = {}
        """What each did, or was told by who did it."""

    def join(self, name: str) -> None:
        self.shares[name] = ShardShare(shard_count=self.shard_count, seed=SEED, peer_id=name)
        self.knows[name] = set()
        self._tell_who_is_there()
        for other in sorted(self.shares):
            self.post(other)

    def leave(self, name: str) -> None:
        current = self.shares.pop(name).news().current
        if current is not None:
            self.lost[current] += 1
        self._tell_who_is_there()

    def work(self, name: str) -> None:
        """Finish the shard under way, if there is one, and begin the next."""
        share = self.shares[name]
        current = share.news().current
        if current is not None:
            share.on_done()
            self.done[current] += 1
            firsts = [one.news().first for one in self.shares.values()]
            if current.pass_index >= min(firsts) + PASSES_OPEN:
                self.far_ahead.add(current)
            self.knows[name].add(current)
        turn = share.next_turn()
        assert turn not in self.knows[name] - self.far_ahead
        assert share.next_turn() == turn
        self.begun.append(turn)
        self.post(name)

    def post(self, sender: str) -> None:
        news = self.shares[sender].news()
        self.in_the_post += [(sender, to, news) for to in sorted(self.shares) if to != sender]

    def deliver(self, count: int | None = None) -> None:
        """The oldest so many letters arrive, or all of them and those they lead to.

        What is for somebody who has left does not arrive.
        """
        while self.in_the_post and count != 0:
            count = None if count is None else count - 1
            sender, to, news = self.in_the_post.pop(0)
            if to not in self.shares:
                continue
            before = self.shares[to].news()
            self.shares[to].on_news(sender, news)
            if self.shares[to].news() != before:
                self.post(to)
            if sender in self.shares:
                self.knows[to] |= {
                    Turn(max(0, news.first - PASSES_OPEN) + place, shard)
                    for place, bits in enumerate(news.done)
                    for shard in range(self.shard_count)
                    if bits >> shard & 1
                }

    def repeats(self) -> Counter[Turn]:
        """How often each was begun again."""
        return Counter(self.begun) - Counter(set(self.begun))

    def _tell_who_is_there(self) -> None:
        for share in self.shares.values():
            share.on_peers(self.shares)


EVENTS = st.lists(
    st.tuples(st.sampled_from(("work", "work", "work", "come or go")), st.sampled_from(PEERS)),
    min_size=20,
    max_size=40,
)


@settings(max_examples=40)
@given(shard_count=st.integers(len(PEERS), 8), events=EVENTS)
def test_with_prompt_news_only_what_was_under_way_is_repeated(
    shard_count: int, events: list[tuple[str, str]]
) -> None:
    world = World(shard_count)
    world.join("alice")
    for kind, name in events:
        if kind == "work" and name in world.shares:
            world.work(name)
        elif kind == "come or go" and name not in world.shares:
            world.join(name)
        elif kind == "come or go" and len(world.shares) > 1:
            world.leave(name)
        world.deliver()
    repeats = world.repeats() - world.lost
    assert repeats.keys() <= world.far_ahead


@settings(max_examples=40)
@given(shard_count=st.integers(len(PEERS), 8), events=EVENTS, delays=st.lists(st.integers(0, 9)))
def test_with_news_on_the_way_nobody_repeats_what_it_heard_of(
    shard_count: int, events: list[tuple[str, str]], delays: list[int]
) -> None:
    """World.work() checks it before each shard."""
    world = World(shard_count)
    world.join("alice")
    for step, (kind, name) in enumerate(events):
        if kind == "work" and name in world.shares:
            world.work(name)
        elif kind == "come or go" and name not in world.shares:
            world.join(name)
        elif kind == "come or go" and len(world.shares) > 1:
            world.leave(name)
        world.deliver(delays[step % len(delays)] if delays else 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_all_of_a_pass_is_done_before_it_is_over(seed: int) -> None:
    """Peers of about the same speed, of which one comes and one goes on the way."""
    world = World(40)
    for name in PEERS[:3]:
        world.join(name)
    world.deliver()
    for step in range(500):
        names = sorted(world.shares)
        world.work(names[(step + step // 7 * seed) % len(names)])
        if step == 30 + seed:
            world.join("dave")
        if step == 90 + seed:
            world.leave("bob")
        world.deliver()
    over = min(share.news().first for share in world.shares.values())
    assert over >= 10
    for pass_index in range(over):
        assert {t.shard for t in world.done if t.pass_index == pass_index} == set(range(40))
    assert sum(world.repeats().values()) <= 1, "one has left"


def test_only_the_shards_of_who_came_or_went_change_hands() -> None:
    def owners(names: tuple[str, ...]) -> dict[int, str]:
        owned: dict[int, str] = {}
        for name in names:
            share = ShardShare(shard_count=300, seed=SEED, peer_id=name)
            share.on_peers(names)
            owned |= dict.fromkeys(share._own_shards(0), name)
        return owned

    three, four = owners(PEERS[:3]), owners(PEERS)
    assert sorted(three) == sorted(four) == list(range(300))
    assert all(four[shard] in (three[shard], "dave") for shard in range(300))
    counts = Counter(four.values())
    assert min(counts.values()) > 50


def test_the_order_is_another_in_each_pass_and_for_each_seed() -> None:
    def order(seed: int, pass_index: int) -> tuple[int, ...]:
        return ShardShare(shard_count=30, seed=seed, peer_id="alice")._own_shards(pass_index)

    assert order(1, 0) == order(1, 0)
    assert len({order(1, 0), order(1, 1), order(2, 0)}) == 3
    assert sorted(order(2, 1)) == list(range(30))


def test_a_state_goes_on_where_it_was() -> None:
    share = ShardShare(shard_count=5, seed=SEED, peer_id="alice")
    for _ in range(7):
        share.next_turn()
        share.on_done()
    share.next_turn()
    again = ShardShare(shard_count=5, seed=SEED, peer_id="alice")
    again.load_state_dict(share.state_dict())
    assert again.news() == share.news()
    for _ in range(12):
        assert again.next_turn() == share.next_turn()
        again.on_done()
        share.on_done()
    with pytest.raises(ValueError, match="5 shards were divided, and now 6"):
        ShardShare(shard_count=6, seed=SEED, peer_id="alice").load_state_dict(share.state_dict())


def alone_with(liar_news: ShardNews, *, shard_count: int, begun: bool) -> ShardShare:
    share = ShardShare(shard_count=shard_count, seed=SEED, peer_id="alice")
    share.on_peers(["alice", "mallory"])
    if begun:
        # Through the passes that were open when it came.
        for _ in range(PASSES_OPEN * shard_count):
            share.next_turn()
            share.on_done()
    share.on_news("mallory", liar_news)
    return share


def test_a_liar_hides_no_more_than_it_could_have_done() -> None:
    everything = (1 << 200) - 1
    newest = alone_with(ShardNews(0), shard_count=200, begun=True).news().first
    lie = ShardNews(newest, done=(everything,) * 8, known=(everything,) * 8)
    place = alone_with(lie, shard_count=200, begun=True).news()
    hidden = (place.known[-1] & ~place.done[-1]).bit_count()
    assert 100 < hidden <= 100 + 4 * 10 < 200 - place.done[-1].bit_count()


def test_who_was_not_there_believes_what_was_done_before() -> None:
    told = ShardNews(0, done=(0b0011, 0), known=(0b0111, 0))
    share = alone_with(told, shard_count=4, begun=False)
    assert share.news().known[0] == 0b0111
    assert share.news().done[0] == 0


def test_the_absent_are_not_believed_and_wrong_places_do_no_harm() -> None:
    share = ShardShare(shard_count=4, seed=SEED, peer_id="alice")
    share.on_peers(["bob"])
    before = share.news()
    share.on_news("mallory", ShardNews(5, done=(15,)))
    share.on_news("alice", ShardNews(5, done=(15,)))
    assert share.news() == before
    share.on_news("bob", ShardNews(0, current=Turn(9, 500), done=(1 << 900,), known=(1 << 999,)))
    assert share.news() == before
    share.on_news("bob", ShardNews(2**40, done=(15,) * 4))
    assert share.news().first == 2**40
    share.on_news("bob", ShardNews(2**40, current=Turn(2**40, 0), done=(15,) * 4))
    assert share.next_turn().pass_index >= 2**40
    for count in (0, SHARDS_MAX + 1):
        with pytest.raises(ValueError, match="can be divided"):
            ShardShare(shard_count=count, seed=SEED, peer_id="alice")
