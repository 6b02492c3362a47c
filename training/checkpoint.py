"""Checkpoints on disk: written whole or not at all, checked when read, the last two kept.

A checkpoint is one file `step-000000300.pt` in a folder of its peer. It is written under another
name, flushed to the disk and then renamed, so that a crash or a full disk never harms an older
one. It is a plain PyTorch file; its checksums (CRC-32 of each record) are verified before any of
it is used, and reading it runs no code from it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.errors import CheckpointError

FORMAT = 1
KEPT_COUNT = 2  # the newest, and one more in case the newest is harmed later

FILE_NAME = re.compile(r"step-(\d{9,})\.pt")
TEMPORARY_NAME = re.compile(r"\.step-\d{9,}\.pt\.\d+\.tmp")


# What readers of zip files, pickles and tensors raise when bytes are not what they should be.
DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a peer needs to go on where it stopped."""

    run: str
    """The name of the run it belongs to."""
    step: int
    """The global step that was reached."""
    samples: int
    """How many samples this peer has put into the run."""
    drawn: int
    """How many training examples this peer has drawn from its order."""
    model: dict[str, Any]
    """The model's state_dict."""
    optimizer: dict[str, Any]
    """The swarm optimizer's state_dict: the optimizer's own, and the global step."""
    ema: dict[str, Any] = field(default_factory=dict)
    """The state_dict of the running mean of the parameters; empty without one."""
    share: dict[str, Any] = field(default_factory=dict)
    """The state_dict of this peer's share of the data; empty where each peer walks through all."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into the folder and drop all but the last two; returns its path.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full.
    """
    path = folder / f"step-{checkpoint.step:09d}.pt"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    content = {"format": FORMAT, **vars(checkpoint)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(folder)
        _drop_old(folder)
    except (OSError, RuntimeError) as exc:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({exc}); "
            "make room or give another folder; older checkpoints are unharmed"
        ) from exc
    return path


def load_newest_checkpoint(folder: Path, *, run: str) -> Checkpoint | None:
    """Read the newest checkpoint in the folder, or return None if there is none.

    Raises:
        CheckpointError: it is damaged, of another run, or not a checkpoint. Nothing older is
            taken in its place unasked: the message says which file to remove for that.
    """
    paths = _checkpoints(folder)
    if not paths:
        return None
    path = paths[-1]
    advice = (
        f"remove it to go on from {paths[-2].name}"
        if len(paths) > 1
        else "remove it to begin anew, or copy a whole one in its place"
    )
    content = _read(path, advice)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of this version; {advice}")
    try:
        checkpoint = Checkpoint(**content)
    except TypeError as exc:
        raise CheckpointError(f"{path}: is not a whole checkpoint; {advice}") from exc
    if checkpoint.run != run:
        raise CheckpointError(
            f"{path}: belongs to the run {checkpoint.run!r}, not to {run!r}; "
            "give each run a checkpoint folder of its own"
        )
    return checkpoint


def holds_checkpoints(folder: Path) -> bool:
    """Whether there is any checkpoint in the folder."""
    return bool(_checkpoints(folder))


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint into the model and the optimizer, both changed in place.

    Raises:
        CheckpointError: it was made by another model or optimizer.
    """
    try:
        model.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError, KeyError, TypeError) as exc:
        raise CheckpointError(
            f"the checkpoint of step {checkpoint.step} was made by another model or optimizer "
            f"than the recipe's ({_first_line(exc)}); use the recipe that it was made with, or "
            "another checkpoint folder"
        ) from exc


def flush_folder(folder: Path) -> None:
    """Make the renaming itself last, where the system lets a folder be flushed."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path, advice: str) -> object:
    """The content of a file whose checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise CheckpointError(f"{path}: is damaged (a checksum is wrong); {advice}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as exc:
        raise CheckpointError(f"{path}: may not be read by this user; change its rights") from exc
    except DAMAGE as exc:
        raise CheckpointError(f"{path}: is damaged ({_first_line(exc)}); {advice}") from exc


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if FILE_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))


def _drop_old(folder: Path) -> None:
    """Remove all checkpoints but the last ones, and what a crash while writing left behind."""
    for path in _checkpoints(folder)[:-KEPT_COUNT]:
        path.unlink(missing_ok=True)
    for path in folder.iterdir():
        if TEMPORARY_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
