"""Logs of a command: to stderr when asked for, and to a file when one is given."""

from __future__ import annotations

import logging
from pathlib import Path

from tools.failures import MISUSED, CommandError

FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
OUR_LOGGERS = ("p2p", "averaging", "training", "tools")


def set_up_logs(*, verbose: bool, log_file: Path | None) -> None:
    """Send our logs (INFO and worse) to the file, and to stderr: all if verbose, else nothing.

    Raises:
        CommandError: the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if verbose:
        handlers.append(logging.StreamHandler())
    if log_file is not None:
        try:
            handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
        except OSError as exc:
            raise CommandError(
                f"The log file {log_file} cannot be written: {exc.strerror}",
                next_step="Give --log-file a path in a folder that you may write.",
                exit_code=MISUSED,
            ) from exc
    # Without a handler Python prints warnings bare; people read our own sentences instead.
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(logging.Formatter(FORMAT))
        logging.getLogger().addHandler(handler)
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
