"""Text that is on every machine: the sources of Python's own standard library.

Peers with the same version of Python read the same text. With another version most of it is the
same; what a model needs to agree on, such as a vocabulary, is then to be given as a file.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from training.cache import cached
from training.errors import RecipeError

SIZE_BYTES_MAX = 1_000_000
TEST_EVERY = 10  # of the chosen files, every tenth is for testing


@dataclass(frozen=True)
class PlainText:
    """UTF-8 text to train and to test on, from different files."""

    train: bytes
    test: bytes


def standard_library_text() -> PlainText:
    """About a megabyte of Python, the same on each machine with this version of Python.

    Raises:
        RecipeError: this Python comes without its sources.
    """
    content = json.loads(cached(f"python-{platform.python_version()}.json", _collect))
    return PlainText(content["train"].encode(), content["test"].encode())


def _collect() -> bytes:
    """Read top-level modules in an order that is unrelated to what they are about."""
    folder = Path(sysconfig.get_path("stdlib"))
    by_hash = {hashlib.sha256(path.name.encode()).digest(): path for path in folder.glob("*.py")}
    texts: list[str] = []
    left_bytes = SIZE_BYTES_MAX
    for _, path in sorted(by_hash.items()):
        try:
            content = path.read_bytes()
            text = content.decode()
        except (OSError, UnicodeDecodeError):
            continue
        if 0 < len(content) <= left_bytes:
            left_bytes -= len(content)
            texts.append(text)
    test = [text for index, text in enumerate(texts) if index % TEST_EVERY == TEST_EVERY - 1]
    if not test:
        raise RecipeError(
            f"{folder}: this Python comes without the sources of its standard library; "
            "install them, or give a text of your own"
        )
    train = [text for index, text in enumerate(texts) if index % TEST_EVERY != TEST_EVERY - 1]
    return json.dumps({"train": "".join(train), "test": "".join(test)}).encode()
