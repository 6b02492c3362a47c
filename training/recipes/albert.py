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
from training.data.vocabulary import learn_vocabulary, read_vocabulary
from training.errors import RecipeError
from training.extra import load_extra
from training.tasks.masked_language import STRIDE_BYTES_PER_PIECE, MaskedLanguage

# Learning a vocabulary from more takes long and hardly changes it.
LEARNT_FROM_BYTES = 16_000_000
_LEARNT_AT_ONCE_BYTES = 100_000


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


def load_tiny_data(vocabulary: int = 1000, length: int = 64) -> MaskedLanguage:
    """The sources of Python's standard library, with a vocabulary learnt from its training part.

    Raises:
        RecipeError: tokenizers is not installed, or this Python has no sources.
    """
    text = standard_library_text()
    words = learn_vocabulary([text.train.decode()], size=vocabulary)
    stride = STRIDE_BYTES_PER_PIECE * length
    return MaskedLanguage(
        words,
        train=TextWindows([Span(text.train, 0, len(text.train))], stride_bytes=stride),
        test=TextWindows([Span(text.test, 0, len(text.test))], stride_bytes=stride),
        length=length,
    )


def load_data(
    text: str = "",
    tokenizer: str = "",
    vocabulary: int = 30_000,
    length: int = 512,
) -> MaskedLanguage:
    """Text of your own, read while it is trained on; the last hundredth is held out for testing.

    Args:
        text: a text file in UTF-8, or a folder of such files. All peers need the same.
        tokenizer: a file tokenizer.json of at most so many pieces as `vocabulary` says; without one
            the vocabulary is learnt from the beginning of the text.

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
    if tokenizer:
        words = read_vocabulary(Path(tokenizer).expanduser())
        if words.size > vocabulary:
            raise RecipeError(
                f"{tokenizer}: has {words.size} pieces, more than the vocabulary of {vocabulary}"
            )
    else:
        words = learn_vocabulary(_beginning(train), size=vocabulary)
    stride = STRIDE_BYTES_PER_PIECE * length
    return MaskedLanguage(
        words,
        train=TextWindows(train, stride_bytes=stride),
        test=TextWindows(test, stride_bytes=stride),
        length=length,
    )


def _beginning(spans: Sequence[Span]) -> list[str]:
    """The first megabytes of a text, in pieces."""
    windows = TextWindows(spans, stride_bytes=_LEARNT_AT_ONCE_BYTES)
    count = min(len(windows), LEARNT_FROM_BYTES // _LEARNT_AT_ONCE_BYTES)
    return [windows.read(index, size_bytes=_LEARNT_AT_ONCE_BYTES) for index in range(count)]
