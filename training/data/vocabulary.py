"""The vocabulary of a language model: pieces of words, learnt from its text or read from a file.

It is learnt by byte-pair encoding, where each byte is a piece to begin with, so that no text is
unknown. Peers that learn it from the same text have the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.cache import cached
from training.errors import RecipeError
from training.extra import load_extra

PIECES_MIN = 300  # 256 bytes, the marks below, and something learnt
# Names of the marks in the vocabularies of BERT and of ALBERT.
_MARKS = {"pad": ("[PAD]", "<pad>"), "begin": ("[CLS]",), "end": ("[SEP]",), "mask": ("[MASK]",)}


@dataclass(frozen=True)
class Vocabulary:
    """Turns text into numbers; the marks are numbers that no text has."""

    tokenizer: Any
    """A tokenizers.Tokenizer."""
    size: int
    """All numbers are below."""
    pad: int
    begin: int
    end: int
    mask: int

    @property
    def marks(self) -> frozenset[int]:
        """All numbers that stand for no text."""
        return frozenset({self.pad, self.begin, self.end, self.mask})

    def encode(self, text: str) -> list[int]:
        """The numbers of a text, without marks."""
        numbers: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return numbers


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a file `tokenizer.json` of Hugging Face's tokenizers.

    Raises:
        RecipeError: it cannot be read, or lacks a mark.
    """
    tokenizers = load_extra("tokenizers")
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise RecipeError(f"{path}: the tokenizer cannot be read ({exc})") from exc
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as exc:
        # The library raises nothing more special for a file that is none of its own.
        raise RecipeError(f"{path}: is no file of a tokenizer ({exc})") from exc
    return _vocabulary(tokenizer, str(path))


def learn_vocabulary(texts: Sequence[str], *, size: int) -> Vocabulary:
    """Learn at most so many pieces from texts, marks included; kept among cached files.

    A short text may have fewer.

    Raises:
        RecipeError: the size is too small, or tokenizers is not installed.
    """
    if size < PIECES_MIN:
        raise RecipeError(f"vocabulary: {size} pieces are too few; at least {PIECES_MIN}")
    tokenizers = load_extra("tokenizers")
    digest = hashlib.sha256(f"{size}\0{tokenizers.__version__}\0".encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    name = f"vocabulary-{digest.hexdigest()[:32]}.json"
    content = cached(name, lambda: _learn(tokenizers, texts, size))
    return _vocabulary(tokenizers.Tokenizer.from_str(content.decode()), name)


def _learn(tokenizers: Any, texts: Sequence[str], size: int) -> bytes:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[names[0] for names in _MARKS.values()],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    content: str = tokenizer.to_str()
    return content.encode()


def _vocabulary(tokenizer: Any, source: str) -> Vocabulary:
    numbers = {}
    for mark, names in _MARKS.items():
        found = [tokenizer.token_to_id(name) for name in names]
        known = [number for number in found if number is not None]
        if not known:
            raise RecipeError(f"{source}: the tokenizer lacks the token {' or '.join(names)}")
        numbers[mark] = known[0]
    return Vocabulary(tokenizer=tokenizer, size=tokenizer.get_vocab_size(), **numbers)
