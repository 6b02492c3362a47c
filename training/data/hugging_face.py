"""Data sets of Hugging Face's `datasets`, read as a stream: from its hub, or from files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.data.shares import SHARDS_MAX
from training.data.sources import text_of
from training.errors import RecipeError
from training.extra import load_extra

# Formats that the package reads by itself; what follows the colon are then files.
FORMATS = ("arrow", "csv", "json", "parquet", "text")


class DatasetSource:
    """A data set's rows of text; a shard is one or more of its files."""

    def __init__(self, rows: Any, *, name: str, column: str) -> None:
        self._rows = rows
        self._name = name
        self._column = column
        self._shard_count = min(SHARDS_MAX, int(rows.num_shards))

    @property
    def name(self) -> str:
        """As the recipe has it."""
        return self._name

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return self._shard_count

    def texts(self, shard: int) -> Iterator[str]:
        """As Source.texts."""
        rows = iter(self._rows.shard(num_shards=self._shard_count, index=shard))
        where = f"{self._name}: a row of shard {shard}"
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as exc:
                # Each format's reader has errors of its own.
                raise RecipeError(
                    f"{self._name}: shard {shard} cannot be read ({_words(exc)}); look at its files"
                ) from exc
            yield text_of(row, self._column, where=where)


def open_dataset(dataset: str, *, split: str, column: str) -> DatasetSource:
    """A data set by its name, `OWNER/NAME` or `OWNER/NAME:CONFIGURATION`, or files, `FORMAT:FILES`.

    Args:
        dataset: FILES is a path or an address, and may have asterisks in it.

    Raises:
        RecipeError: datasets is not installed, there is no such data set, or it has no such column.
    """
    datasets = load_extra("datasets", extra="datasets")
    name, _, rest = dataset.partition(":")
    options = {"data_files": rest} if name in FORMATS else {"name": rest or None}
    if name in FORMATS and not rest:
        raise RecipeError(f"data_options: dataset: {dataset}: name the files, as {name}:PATH")
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True, **options)
        columns = rows.column_names
    except Exception as exc:
        # Missing files, an unknown name and a wrong split are errors of many kinds.
        raise RecipeError(
            f"data_options: dataset: {dataset} cannot be opened ({_words(exc)}); give the name of "
            f"a data set on the hub or one of {', '.join(FORMATS)} with :PATH, and one of its "
            "splits as split"
        ) from exc
    if columns is not None:
        text_of(dict.fromkeys(columns, ""), column, where=f"data_options: dataset: {dataset}")
    return DatasetSource(rows, name=dataset, column=column)


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
