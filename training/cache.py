"""What takes long to make and is the same each time, kept among the user's cached files.

A file holds the SHA-256 of its content, then the content. It is written under another name and
then renamed, so that several peers on one machine may make it at the same time. A file that is
damaged is made anew, and a folder that cannot be written only costs time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

logger = logging.getLogger(__name__)

_DIGEST_SIZE = 32


def cached(name: str, make: Callable[[], bytes]) -> bytes:
    """The content of this name, from the cache or made now.

    Args:
        name: a file name that says all that the content depends on.
        make: called where the cache has no such content.
    """
    path = platformdirs.user_cache_path("manyhands") / "recipes" / name
    with contextlib.suppress(OSError):
        stored = path.read_bytes()
        digest, content = stored[:_DIGEST_SIZE], stored[_DIGEST_SIZE:]
        if hashlib.sha256(content).digest() == digest:
            return content
        logger.warning("cache_damaged path=%s", path)
    content = make()
    try:
        _write(path, hashlib.sha256(content).digest() + content)
    except OSError as exc:
        logger.warning("cache_not_written path=%s cause=%s", path, exc)
    return content


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
