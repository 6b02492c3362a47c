"""Vocabularies: learnt the same each time, read from files, and what is none is told."""

from pathlib import Path

import pytest

from training.data.vocabulary import learn_vocabulary, read_vocabulary
from training.errors import RecipeError

TEXTS = ["the cat sat on the mat, and the dog sat on the cat; " * 20, "naïve façade: no other " * 9]


def test_it_is_the_same_each_time_and_knows_all_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = learn_vocabulary(TEXTS, size=300)
    # Without the cache it is learnt once more.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = learn_vocabulary(TEXTS, size=300)
    assert learnt.tokenizer.to_str() == again.tokenizer.to_str()
    assert 260 < learnt.size <= 300
    assert len(learnt.marks) == 4
    for text in ("the cat", "Ελληνικά 🙂", "\x00\t"):
        numbers = learnt.encode(text)
        assert learnt.tokenizer.decode(numbers) == text
        assert not learnt.marks & set(numbers)
    assert len(learnt.encode("the cat")) < 7


def test_a_file_is_read(tmp_path: Path) -> None:
    learnt = learn_vocabulary(TEXTS, size=300)
    path = tmp_path / "tokenizer.json"
    path.write_text(learnt.tokenizer.to_str(), "utf-8")
    read = read_vocabulary(path)
    assert (read.size, read.mask) == (learnt.size, learnt.mask)
    assert read.encode("sat on") == learnt.encode("sat on")


def test_what_is_no_vocabulary_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(RecipeError, match="the tokenizer cannot be read"):
        read_vocabulary(path)
    path.write_text("{}", "utf-8")
    with pytest.raises(RecipeError, match="is no file of a tokenizer"):
        read_vocabulary(path)
    learnt = learn_vocabulary(TEXTS, size=300)
    path.write_text(learnt.tokenizer.to_str().replace("[MASK]", "[OTHER]"), "utf-8")
    with pytest.raises(RecipeError, match=r"lacks the token \[MASK\]"):
        read_vocabulary(path)


def test_a_size_without_room_for_anything_learnt_is_refused() -> None:
    with pytest.raises(RecipeError, match="20 pieces are too few"):
        learn_vocabulary(TEXTS, size=20)
