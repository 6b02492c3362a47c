"""Where a command that runs others keeps their logs and events."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.failures import MISUSED, CommandError


@dataclass
class LogFolder:
    """A folder, and whether it stays."""

    path: Path
    keep: bool


@contextmanager
def open_log_folder(wanted: Path | None, prefix: str) -> Iterator[LogFolder]:
    """The folder asked for, or a temporary one that vanishes unless `keep` is set meanwhile.

    Raises:
        CommandError: the folder cannot be used, or holds something.
    """
    if wanted is None:
        logs = LogFolder(Path(tempfile.mkdtemp(prefix=prefix)), keep=False)
        try:
            yield logs
        finally:
            if not logs.keep:
                shutil.rmtree(logs.path, ignore_errors=True)
        return
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        occupied = any(wanted.iterdir())
    except OSError as exc:
        raise CommandError(
            f"Logs cannot be kept in {wanted}: {exc.strerror}",
            next_step="Give --keep-logs a folder that you may write.",
            exit_code=MISUSED,
        ) from exc
    if occupied:
        raise CommandError(
            f"The folder {wanted} is not empty",
            next_step="Give --keep-logs an empty or a new folder.",
            exit_code=MISUSED,
        )
    yield LogFolder(wanted.resolve(), keep=True)
