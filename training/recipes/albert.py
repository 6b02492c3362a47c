"""ALBERT, a language model whose layers share their parameters: in full size, and a tiny one.

The full size is that of DeDLOC's experiments. There the model also learnt to tell which of two
sentences comes first; here it only guesses hidden words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from training.data.stdlib_text import standard_library_text
from training.data.text_windows import Span, TextWindows, spans_of_files, split_off_test
from training.data.vocabulary import Vocabulary, learn_vocabulary, read_vocabulary
from training.errors import RecipeError
from training.extra import load_extra
from training.tasks.masked_language import LENGTH_MIN, MaskedLanguage

# Learning a vocabulary from more takes long and hardly changes it.
LEARNT_FROM_BYTES = 16_000_000
_READ_AT_ONCE_BYTES = 100_000


def make_model(
    vocabulary: int = 30_000,
    length: int = 512,
    embedding: int = 128,
    hidden: int = 1024,
    inner: int = 4096,
    heads: int = 16,
    layers: int = 24,
    spread: float = 0.02,
) -> nn.Module:
    """A masked language model with random parameters; by default it is as large as ALBERT-large v2.

    Like that one it has no dropout, so a sample's gradient is the same on every peer.

    Args:
        spread: the standard deviation of the weights at the beginning.

    It has 16.8 million parameters: the pooler, which hidden words do not need, is left out.

    Source: Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language
    Representations", 2020, table 1.

    Raises:
        RecipeError: transformers is not installed.
    """
    transformers = load_extra("transformers")
    config = transformers.AlbertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=length,
        embedding_size=embedding,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        hidden_act="gelu_new",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=spread,
    )
    model: nn.Module = transformers.AlbertForMaskedLM(config)
    return model


def load_tiny_data(vocabulary: int = 1000, length: int = 64, tokenizer: str = "") -> MaskedLanguage:
    """The sources of Python's standard library.

    Args:
        vocabulary: pieces at most.
        length: places in a sample.
        tokenizer: a file tokenizer.json, for peers whose Pythons differ; without one the vocabulary
            is learnt from the training text.

    Raises:
        RecipeError: tokenizers is not installed, or this Python has no sources.
    """
    text = standard_library_text()
    train = [Span(text.train, 0, len(text.train))]
    words = _vocabulary(tokenizer, vocabulary, train)
    return _task(words, train, [Span(text.test, 0, len(text.test))], length)


def load_data(
    text: str = "", vocabulary: int = 30_000, length: int = 512, tokenizer: str = ""
) -> MaskedLanguage:
    """Text of your own, read while it is trained on; the last hundredth is held out for testing.

    Args:
        text: a text file in UTF-8, or a folder of such files. All peers need the same.
        vocabulary: pieces at most.
        length: places in a sample.
        tokenizer: a file tokenizer.json; without one the vocabulary is learnt from the beginning of
            the text.

    Raises:
        RecipeError: there is no text, or it cannot be read; or tokenizers is not installed.
    """
    if not text:
        raise RecipeError(
            "data_options: text: is missing; it must be the path of a text file, or of a folder "
            "of text files"
        )
    train, test = split_off_test(spans_of_files(Path(text).expanduser()))
    if not train:
        raise RecipeError(f"{text}: holds too little text to train on")
    return _task(_vocabulary(tokenizer, vocabulary, train), train, test, length)


def _vocabulary(tokenizer: str, size_max: int, train: Sequence[Span]) -> Vocabulary:
    """Read the vocabulary from a file, or learn it from the beginning of the text."""
    if not tokenizer:
        return learn_vocabulary(_beginning(train, LEARNT_FROM_BYTES), size=size_max)
    words = read_vocabulary(Path(tokenizer).expanduser())
    if words.size > size_max:
        raise RecipeError(
            f"{tokenizer}: has {words.size} pieces, more than the vocabulary of {size_max}"
        )
    return words


def _task(
    words: Vocabulary, train: Sequence[Span], test: Sequence[Span], length: int
) -> MaskedLanguage:
    """Windows of such a size that a sample holds about one, so that all of the text is seen."""
    if length < LENGTH_MIN:
        raise RecipeError(f"data_options: length: must be at least {LENGTH_MIN}, not {length}")
    text = "".join(_beginning(train, _READ_AT_ONCE_BYTES))
    bytes_per_piece = len(text.encode()) / max(1, len(words.encode(text)))
    stride_bytes = max(1, int(length * bytes_per_piece))
    return MaskedLanguage(
        words,
        train=TextWindows(train, stride_bytes=stride_bytes),
        test=TextWindows(test, stride_bytes=stride_bytes),
        length=length,
    )


def _beginning(spans: Sequence[Span], size_bytes: int) -> list[str]:
    """About so many bytes from the beginning of a text, in parts."""
    windows = TextWindows(spans, stride_bytes=_READ_AT_ONCE_BYTES)
    count = min(len(windows), size_bytes // _READ_AT_ONCE_BYTES)
    return [windows.read(index, size_bytes=_READ_AT_ONCE_BYTES) for index in range(count)]
