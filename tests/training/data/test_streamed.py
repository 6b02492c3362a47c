"""Samples of a stream: all of the text, shuffled, resumed in the middle of a shard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from training.data import streamed
from training.data.streamed import StreamedText, StreamedWalk, held_out_texts, pooled, train_texts
from training.data.vocabulary import Vocabulary, learn_vocabulary
from training.errors import CheckpointError, RecipeError

LENGTH = 8
LINES = [f"{shard} {line} the quick brown fox; " for shard in range(3) for line in range(20)]


class Lines:
    """A source of three shards with twenty texts each."""

    name = "lines"

    def __init__(self, shards: int = 3, lines: tuple[str, ...] = tuple(LINES)) -> None:
        self.shard_count = shards
        self.lines = lines

    def texts(self, shard: int) -> Iterator[str]:
        size = len(self.lines) // self.shard_count
        yield from self.lines[shard * size : (shard + 1) * size]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return learn_vocabulary(LINES, size=300)


def walk(
    vocabulary: Vocabulary, peer_id: str = "alice", source: Lines | None = None
) -> StreamedWalk:
    text = StreamedText(source or Lines(), vocabulary, length=LENGTH)
    return text.walk(seed=1, peer_id=peer_id, drawn=0)


def text_of(vocabulary: Vocabulary, samples: list[np.ndarray]) -> str:
    pieces = [int(p) for sample in samples for p in sample if int(p) not in vocabulary.marks]
    text = vocabulary.tokenizer.decode(pieces)
    assert isinstance(text, str)
    return text


def test_a_tenth_of_the_first_shard_is_for_testing() -> None:
    source = Lines()
    assert list(held_out_texts(source)) == [LINES[1], LINES[11]]
    rest = [text for shard in range(3) for text in train_texts(source, shard)]
    assert rest == [line for line in LINES if line not in (LINES[1], LINES[11])]


def test_samples_hold_all_of_the_text(vocabulary: Vocabulary) -> None:
    stream = StreamedText(Lines(), vocabulary, length=LENGTH)
    samples = list(stream.samples(iter(LINES)))
    assert {len(sample) for sample in samples} == {LENGTH}
    assert all(sample[0] == vocabulary.begin for sample in samples)
    assert all(sample[-1] == vocabulary.end for sample in samples[:-1])
    assert text_of(vocabulary, samples) == "".join(LINES)
    few = stream.test_samples(3)
    assert len(few) == 3
    assert text_of(vocabulary, stream.test_samples(1000)) == LINES[1] + LINES[11]


def test_a_pass_draws_each_sample_once_in_an_order_of_its_own(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "POOL_SAMPLES", 16)
    stream = StreamedText(Lines(), vocabulary, length=LENGTH)
    whole = [
        tuple(sample.tolist())
        for shard in range(3)
        for sample in stream.samples(train_texts(Lines(), shard))
    ]
    alice = walk(vocabulary)
    passes = [[tuple(s.tolist()) for s in alice.next_samples(len(whole))] for _ in range(2)]
    assert alice.drawn == 2 * len(whole)
    for drawn in passes:
        assert sorted(drawn) == sorted(whole)
        assert drawn != whole
    assert passes[0] != passes[1]


def test_the_pool_only_changes_the_order() -> None:
    samples = [np.array([number]) for number in range(5000)]
    drawn = [int(sample[0]) for sample in pooled(iter(samples), np.random.default_rng(0))]
    assert sorted(drawn) == list(range(5000))
    assert abs(np.mean(np.abs(np.diff(drawn))) - 1200) < 400, "neighbours are far apart"


@pytest.mark.parametrize("drawn", [1, 37, 200])
def test_a_resumed_peer_draws_the_same(vocabulary: Vocabulary, drawn: int) -> None:
    whole = walk(vocabulary)
    whole.next_samples(drawn)
    state = whole.state_dict()
    later = whole.next_samples(150)
    resumed = StreamedText(Lines(), vocabulary, length=LENGTH).walk(
        seed=1, peer_id="alice", drawn=drawn
    )
    resumed.load_state_dict(state)
    assert np.array_equal(resumed.next_samples(150), later)
    assert resumed.drawn == drawn + 150
    assert resumed.state_dict() == whole.state_dict()
    # Under another name, too, a shard that was begun is gone on with.
    renamed = walk(vocabulary, "bob")
    renamed.load_state_dict(state)
    assert np.array_equal(renamed.next_samples(1), later[:1])


def test_two_peers_share_a_pass(vocabulary: Vocabulary) -> None:
    walks = {name: walk(vocabulary, name, Lines(20)) for name in ("alice", "bob")}
    begun = set()
    for _ in range(600):
        for name, one in walks.items():
            other = "bob" if name == "alice" else "alice"
            one.on_peers(["alice", "bob"])
            one.on_news(other, walks[other].news())
            one.next_samples(1)
            begun.add((one.news().current, name))
    turns = [turn for turn, _ in begun if turn is not None]
    assert len(turns) == len(set(turns)) > 40, "no shard was begun by both"


def test_a_state_of_other_data_and_text_that_is_missing_are_told(vocabulary: Vocabulary) -> None:
    with pytest.raises(CheckpointError, match=r"other data than lines \(3 shards were divided"):
        walk(vocabulary, source=Lines(2)).load_state_dict(walk(vocabulary).state_dict())
    with pytest.raises(CheckpointError, match="was made with other data"):
        walk(vocabulary).load_state_dict({"place": 3})
    with pytest.raises(RecipeError, match="lines: holds no text to train on"):
        walk(vocabulary, source=Lines(3, ())).next_samples(1)
    with pytest.raises(RecipeError, match="holds too little text; its first shard needs two"):
        StreamedText(Lines(1, ("one",)), vocabulary, length=LENGTH).test_samples(4)
