"""What is hidden, how the loss weighs it, and batches that resume."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from training.data.text_windows import Span, TextWindows
from training.data.vocabulary import Vocabulary, learn_vocabulary
from training.errors import RecipeError
from training.task import evaluate
from training.tasks.masked_language import (
    NOT_GUESSED,
    MaskedBatch,
    MaskedLanguage,
    Samples,
    hide,
    masked_batch,
)

TEXT = b"the quick brown fox jumps over the lazy dog and the cat; " * 40
LENGTH = 16


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return learn_vocabulary([TEXT.decode()], size=300)


def make_task(vocabulary: Vocabulary, length: int = LENGTH) -> MaskedLanguage:
    train = TextWindows([Span(TEXT, 0, len(TEXT))], stride_bytes=40)
    test = TextWindows([Span(TEXT, 0, 400)], stride_bytes=40)
    return MaskedLanguage(vocabulary, train=train, test=test, length=length, test_count_max=6)


def make_samples(vocabulary: Vocabulary) -> Samples:
    windows = TextWindows([Span(TEXT, 0, len(TEXT))], stride_bytes=40)
    return Samples(windows, vocabulary, LENGTH)


class Constant(nn.Module):
    """Gives each piece the same score at each place, but one."""

    def __init__(self, size: int, favourite: int, score: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(size))
        with torch.no_grad():
            self.scores[favourite] = score

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        assert input_ids.shape == attention_mask.shape
        return SimpleNamespace(logits=self.scores.expand(*input_ids.shape, -1))


def test_shares_of_what_is_hidden(vocabulary: Vocabulary) -> None:
    chance = np.random.default_rng(0)
    text = chance.integers(4, vocabulary.size, 20_000)
    pieces = np.concatenate([[vocabulary.begin], text, [vocabulary.end], [vocabulary.pad] * 50])
    shown, labels = hide(pieces, vocabulary, chance)
    guessed = labels != NOT_GUESSED
    assert guessed.sum() == 3000
    assert (labels[guessed] == pieces[guessed]).all()
    assert (shown[~guessed] == pieces[~guessed]).all()
    assert not np.isin(pieces[guessed], sorted(vocabulary.marks)).any()
    masked = (shown == vocabulary.mask) & guessed
    kept = (shown == pieces) & guessed
    replaced = guessed & ~masked & ~kept
    for share, expected in ((masked, 0.8), (replaced, 0.1), (kept, 0.1)):
        assert share.sum() / 3000 == pytest.approx(expected, abs=0.025)
    assert not np.isin(shown[replaced], sorted(vocabulary.marks)).any()


def test_short_samples_hide_one_piece_and_empty_ones_none(vocabulary: Vocabulary) -> None:
    chance = np.random.default_rng(0)
    short = np.array([vocabulary.begin, 9, 10, vocabulary.end, vocabulary.pad])
    assert (hide(short, vocabulary, chance)[1] != NOT_GUESSED).sum() == 1
    empty = np.array([vocabulary.begin, vocabulary.end, vocabulary.pad])
    shown, labels = hide(empty, vocabulary, chance)
    assert shown.tolist() == empty.tolist()
    assert (labels == NOT_GUESSED).all()


def test_samples_are_whole_and_attention_ends_with_the_text(vocabulary: Vocabulary) -> None:
    train = make_samples(vocabulary)
    row = train.pieces(0)
    assert (len(row), row[0], row[-1]) == (LENGTH, vocabulary.begin, vocabulary.end)
    last = train.pieces(len(train) - 1)
    assert last[-1] == vocabulary.pad
    batch = masked_batch([last], vocabulary, [np.random.default_rng(0)])
    assert batch.attention_BL.tolist() == [(last != vocabulary.pad).astype(int).tolist()]


def test_each_sample_weighs_the_same(vocabulary: Vocabulary) -> None:
    """However many places of it are hidden: so micro-batches of any size add up right."""
    labels = torch.full((2, 5), NOT_GUESSED)
    labels[0, 1:4] = 7
    labels[1, 2] = 8
    batch = MaskedBatch(torch.full((2, 5), 9), torch.ones(2, 5, dtype=torch.int64), labels)
    model = Constant(vocabulary.size, favourite=7, score=3.0)
    total = math.log(math.exp(3.0) + vocabulary.size - 1)
    loss = make_task(vocabulary).loss(model, batch)
    assert float(loss.detach()) == pytest.approx(((total - 3.0) + total) / 2, rel=1e-5)


def test_a_resumed_peer_hides_the_same(vocabulary: Vocabulary) -> None:
    task = make_task(vocabulary)
    whole = task.batches(seed=5, peer_id="alice", drawn=0)
    whole.next_batch(3)
    later = whole.next_batch(2)
    resumed = task.batches(seed=5, peer_id="alice", drawn=3)
    # In batches of another size, too: the chance belongs to the sample.
    parts = [resumed.next_batch(1), resumed.next_batch(1)]
    assert torch.equal(torch.cat([part.shown_BL for part in parts]), later.shown_BL)
    assert torch.equal(torch.cat([part.labels_BL for part in parts]), later.labels_BL)
    assert resumed.drawn == whole.drawn == 5
    bob = task.batches(seed=5, peer_id="bob", drawn=3).next_batch(2)
    assert not torch.equal(bob.shown_BL, later.shown_BL)


def test_figures_are_the_same_each_time(vocabulary: Vocabulary) -> None:
    task = make_task(vocabulary)
    model = Constant(vocabulary.size, favourite=0, score=0.0)
    figures = evaluate(task, model)
    assert sorted(figures) == ["loss", "masked_accuracy"]
    assert figures["loss"] == pytest.approx(math.log(vocabulary.size), rel=1e-5)
    test = Samples(TextWindows([Span(TEXT, 0, 400)], stride_bytes=40), vocabulary, LENGTH)
    shares = [
        evaluate(task, Constant(vocabulary.size, favourite=piece, score=9.0))["masked_accuracy"]
        for piece in sorted({int(p) for i in range(len(test)) for p in test.pieces(i)})
    ]
    assert sum(shares) == pytest.approx(1, abs=1e-4), "each hidden piece is one of the text's"


def test_a_model_with_too_few_pieces_is_told(vocabulary: Vocabulary) -> None:
    task = make_task(vocabulary)
    batch = task.batches(seed=0, peer_id="alice", drawn=0).next_batch(1)
    with pytest.raises(RecipeError, match="the model knows 100 pieces"):
        task.loss(Constant(100, favourite=0, score=0.0), batch)
    with pytest.raises(ValueError, match="no samples of 3 places"):
        make_task(vocabulary, length=3)
