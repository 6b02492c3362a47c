"""The task of guessing characters: its samples, its figure, and batches that resume."""

import math

import pytest
import torch
from torch import nn

from training.task import evaluate
from training.tasks.next_character import ALPHABET, CHARACTER_COUNT, NextCharacter, encode


class Certain(nn.Module):
    """Says that the next character is the last one plus one, with any confidence."""

    def __init__(self, confidence: float) -> None:
        super().__init__()
        self.confidence = nn.Parameter(torch.tensor(confidence))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        following = (codes + 1) % len(ALPHABET)
        return self.confidence * nn.functional.one_hot(following, CHARACTER_COUNT).float()


def test_bytes_become_places_in_the_alphabet() -> None:
    codes = encode("\nAz~\té".encode())
    known = [ALPHABET.index(character) for character in "\nAz~"]
    other = len(ALPHABET)
    assert codes.tolist() == [*known, other, other, other]
    assert codes.max() < CHARACTER_COUNT


def test_a_sample_is_a_piece_and_the_character_after_it() -> None:
    task = NextCharacter(b"abcdefghij", b"abcd", length=3)
    batches = task.batches(seed=0, peer_id="alice", drawn=0)
    pieces = batches.next_batch(3) - int(encode(b"a")[0])
    assert sorted(pieces.tolist()) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert batches.drawn == 3


def test_a_resumed_peer_draws_what_it_would_have_drawn() -> None:
    task = NextCharacter(bytes(range(32, 127)) * 3, b"abcdef", length=5)
    whole = task.batches(seed=1, peer_id="alice", drawn=0)
    whole.next_batch(7)
    resumed = task.batches(seed=1, peer_id="alice", drawn=7)
    assert torch.equal(resumed.next_batch(4), whole.next_batch(4))


def test_the_figure_is_in_bits() -> None:
    task = NextCharacter(b"abcdef", b"abcdefabcdef", length=2)
    uniform = evaluate(task, Certain(0.0))
    assert uniform == {"bits_per_character": pytest.approx(math.log2(CHARACTER_COUNT), abs=1e-5)}
    # Of ten characters that are judged, one is not the next in the alphabet: a after f.
    sure = math.log(1 + (CHARACTER_COUNT - 1) * math.exp(-5.0))
    expected = (9 * sure + (5.0 + sure)) / 10 / math.log(2)
    assert evaluate(task, Certain(5.0))["bits_per_character"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("text", "length"), [(b"", 3), (b"abc", 3), (b"abc", 0)])
def test_too_little_text_is_refused(text: bytes, length: int) -> None:
    with pytest.raises(ValueError, match="has no sample"):
        NextCharacter(text, b"abcdef", length=length)
