"""ALBERT, a language model whose layers share their parameters: in full size, and a tiny one.

The full size is that of DeDLOC's experiments. There the model also learnt to tell which of two
sentences comes first; here it only guesses hidden words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from training.data.hugging_face import open_dataset
from training.data.sources import JSON_ENDINGS, Source, open_files
from training.data.stdlib_text import standard_library_text
from training.data.streamed import StreamedText, train_texts
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
    text: str | list[str] = "",
    vocabulary: int = 30_000,
    length: int = 512,
    tokenizer: str = "",
    dataset: str = "",
    split: str = "train",
    column: str = "text",
) -> MaskedLanguage:
    """Text of your own, read while it is trained on, some of it held out for testing.

    One path is read in windows, in an order of each peer's own, and its last hundredth is held out.
    Anything else is a stream: its shards are divided among the peers, and of the first of them a
    tenth is held out.

    Args:
        text: a text file in UTF-8, or a folder of such files, or an address that begins with
            http:// or https://, or a list of these. Files whose names end with .jsonl, .ndjson or
            .json have an object in each line. All peers need the same.
        vocabulary: pieces at most.
        length: places in a sample.
        tokenizer: a file tokenizer.json; without one the vocabulary is learnt from the beginning of
            the text.
        dataset: instead of text, for Hugging Face's datasets: training/data/hugging_face.py.
        split: the data set's part to train on.
        column: where the text is, in a data set and in files of JSON.

    Raises:
        RecipeError: there is no text, or it cannot be read; or tokenizers or datasets is not
            installed.
    """
    if bool(text) == bool(dataset):
        raise RecipeError(
            f"data_options: text: is {'given twice' if text else 'missing'}; give either text, the "
            "path or address of a text file, of a folder of text files, or a list of these; or "
            "dataset"
        )
    _check_length(length)
    if dataset:
        return _streamed(
            open_dataset(dataset, split=split, column=column), vocabulary, length, tokenizer
        )
    places = text if isinstance(text, list) else [text]
    if not all(isinstance(place, str) for place in places):
        raise RecipeError("data_options: text: must be a path, an address or a list of these")
    if isinstance(text, list) or "://" in text or text.lower().endswith(JSON_ENDINGS):
        return _streamed(open_files(places, column=column), vocabulary, length, tokenizer)
    train, test = split_off_test(spans_of_files(Path(text).expanduser()))
    if not train:
        raise RecipeError(f"{text}: holds too little text to train on")
    return _task(_vocabulary(tokenizer, vocabulary, train), train, test, length)


def _streamed(source: Source, size_max: int, length: int, tokenizer: str) -> MaskedLanguage:
    """The task of a stream; without a tokenizer its beginning is read now."""
    if tokenizer:
        words = _read_tokenizer(tokenizer, size_max)
    else:
        words = learn_vocabulary(_first_texts(source, LEARNT_FROM_BYTES), size=size_max)
    stream = StreamedText(source, words, length=length)
    return MaskedLanguage(words, train=stream, test=None, length=length)


def _first_texts(source: Source, size_bytes: int) -> list[str]:
    """About so many bytes from the beginning of a stream."""
    texts = []
    for shard in range(source.shard_count):
        for text in train_texts(source, shard):
            texts.append(text)
            size_bytes -= len(text.encode())
            if size_bytes <= 0:
                return texts
    return texts


def _vocabulary(tokenizer: str, size_max: int, train: Sequence[Span]) -> Vocabulary:
    """Read the vocabulary from a file, or learn it from the beginning of the text."""
    if not tokenizer:
        return learn_vocabulary(_beginning(train, LEARNT_FROM_BYTES), size=size_max)
    return _read_tokenizer(tokenizer, size_max)


def _read_tokenizer(tokenizer: str, size_max: int) -> Vocabulary:
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
    _check_length(length)
    text = "".join(_beginning(train, _READ_AT_ONCE_BYTES))
    bytes_per_piece = len(text.encode()) / max(1, len(words.encode(text)))
    stride_bytes = max(1, int(length * bytes_per_piece))
    return MaskedLanguage(
        words,
        train=TextWindows(train, stride_bytes=stride_bytes),
        test=TextWindows(test, stride_bytes=stride_bytes),
        length=length,
    )


def _check_length(length: int) -> None:
    if length < LENGTH_MIN:
        raise RecipeError(f"data_options: length: must be at least {LENGTH_MIN}, not {length}")


def _beginning(spans: Sequence[Span], size_bytes: int) -> list[str]:
    """About so many bytes from the beginning of a text, in parts."""
    windows = TextWindows(spans, stride_bytes=_READ_AT_ONCE_BYTES)
    count = min(len(windows), size_bytes // _READ_AT_ONCE_BYTES)
    return [windows.read(index, size_bytes=_READ_AT_ONCE_BYTES) for index in range(count)]
