"""Which examples are held out, and the order in which each peer draws the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import ShuffledOrder, dirichlet_shards, stratified_fifth


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = np.array([0] * 50 + [1] * 25 + [7] * 5)
    held_out = stratified_fifth(labels)
    assert np.unique(labels[held_out], return_counts=True)[1].tolist() == [10, 5, 1]
    assert held_out.tolist() == stratified_fifth(labels).tolist()
    assert held_out.tolist() == sorted(set(held_out.tolist()))


@given(
    example_count=st.integers(1, 40),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12),
)
def test_each_pass_draws_every_example_once(example_count: int, sizes: list[int]) -> None:
    order = ShuffledOrder(example_count=example_count, seed=1, peer_id="alice")
    drawn = np.concatenate([order.next_batch(size) for size in sizes])
    assert len(drawn) == order.drawn == sum(sizes)
    for begin in range(0, len(drawn) - example_count + 1, example_count):
        assert sorted(drawn[begin : begin + example_count]) == list(range(example_count))


@given(before=st.integers(0, 100), size=st.integers(1, 60))
def test_goes_on_where_a_checkpoint_stopped(before: int, size: int) -> None:
    whole = ShuffledOrder(example_count=17, seed=3, peer_id="alice")
    if before:
        whole.next_batch(before)
    resumed = ShuffledOrder(example_count=17, seed=3, peer_id="alice", drawn=before)
    assert resumed.next_batch(size).tolist() == whole.next_batch(size).tolist()


def test_peers_passes_and_seeds_differ() -> None:
    def first(seed: int, peer_id: str, drawn: int = 0) -> list[int]:
        order = ShuffledOrder(example_count=100, seed=seed, peer_id=peer_id, drawn=drawn)
        return order.next_batch(100).tolist()

    walks = [first(0, "alice"), first(0, "bob"), first(1, "alice"), first(0, "alice", drawn=100)]
    assert len({tuple(walk) for walk in walks}) == 4
    assert first(0, "alice") == walks[0]


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(ValueError, match="0 examples"):
        ShuffledOrder(example_count=0, seed=0, peer_id="alice")
    with pytest.raises(ValueError, match="at least one"):
        ShuffledOrder(example_count=1, seed=0, peer_id="alice").next_batch(0)


@given(concentration=st.sampled_from([0.1, 1.0, 100.0]), workers=st.integers(1, 6))
def test_dirichlet_shards_are_a_partition(concentration: float, workers: int) -> None:
    labels = np.arange(120) % 6
    shards = dirichlet_shards(labels, workers=workers, concentration=concentration, seed=3)
    assert len(shards) == workers
    assert sorted(np.concatenate(shards).tolist()) == list(range(120))
    again = dirichlet_shards(labels, workers=workers, concentration=concentration, seed=3)
    assert [shard.tolist() for shard in shards] == [shard.tolist() for shard in again]


def test_a_small_concentration_makes_shards_of_few_classes() -> None:
    labels = np.arange(2000) % 10

    def largest_share(concentration: float) -> float:
        shards = dirichlet_shards(
            labels, workers=5, concentration=concentration, seed=0, smallest=50
        )
        assert min(len(shard) for shard in shards) >= 50
        counts = [np.bincount(labels[shard], minlength=10) / len(shard) for shard in shards]
        return float(np.mean([count.max() for count in counts]))

    assert largest_share(1000.0) < 0.13
    assert largest_share(0.1) > 0.3


def test_shards_that_cannot_be_are_refused() -> None:
    labels = np.arange(20) % 2
    with pytest.raises(ValueError, match="cannot be split among 3 workers with 7 each"):
        dirichlet_shards(labels, workers=3, concentration=1.0, seed=0, smallest=7)
    with pytest.raises(ValueError, match=r"in each of 1000 draws.*a larger concentration"):
        dirichlet_shards(labels, workers=4, concentration=0.01, seed=0, smallest=5)
