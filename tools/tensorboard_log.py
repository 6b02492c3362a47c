"""What `manyhands train --tensorboard` writes: a run's events as curves over the global step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tools.failures import MISUSED, CommandError


class Writer(Protocol):
    """What this needs of torch.utils.tensorboard.SummaryWriter."""

    def add_scalar(
        self, tag: str, scalar_value: float, global_step: int, walltime: float
    ) -> None: ...


class TensorBoardLog:
    """Turns the events of training.run_log into curves."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._progress: Mapping[str, Any] = {}
        self._failed = 0

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Write what an event says, if it says anything that is drawn."""
        match event["event"]:
            case "progress":
                self._progress = event
            case "round_failed":
                self._failed += 1
                self._write(event, {"rounds/failed": self._failed})
            case "privacy":
                self._write(event, {"privacy/epsilon": event["epsilon"]})
            case "step":
                self._write(event, self._curves(event))

    def _curves(self, event: Mapping[str, Any]) -> dict[str, float]:
        curves = {
            "global_step": event["step"],
            "samples/ours": event["samples"],
            "rounds/failed": self._failed,
        }
        if event["loss"] is not None:
            curves["loss"] = event["loss"]
        if self._progress:
            curves |= {
                "samples_per_s/here": self._progress["samples_per_s"],
                "samples_per_s/swarm": self._progress["swarm_samples_per_s"],
                "samples/global_batch": self._progress["global_batch"],
                "peers": self._progress["peers"],
            }
        if event["round"] is not None:
            curves |= {
                "rounds/seconds": event["round"]["seconds"],
                "rounds/members": len(event["round"]["members"]),
            }
        return curves

    def _write(self, event: Mapping[str, Any], curves: Mapping[str, float]) -> None:
        for tag, value in curves.items():
            self._writer.add_scalar(tag, value, event["step"], event["time_s"])


def check_tensorboard() -> None:
    """Raise CommandError, which says what to install, where TensorBoard is not there."""
    if find_spec("tensorboard") is None:
        raise CommandError(
            "--tensorboard needs the package tensorboard, which is not installed",
            next_step="Install it with: pip install 'manyhands[tensorboard]'",
            exit_code=MISUSED,
        )


@contextmanager
def open_tensorboard(folder: Path | None) -> Iterator[TensorBoardLog | None]:
    """Curves in a folder; None if none was asked for.

    Raises:
        CommandError: nothing can be written there.
    """
    if folder is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    try:
        writer: Any = SummaryWriter(folder)
    except OSError as exc:
        raise CommandError(
            f"The folder {folder} cannot be written: {exc.strerror}",
            next_step="Give --tensorboard a folder that you may write.",
            exit_code=MISUSED,
        ) from exc
    try:
        yield TensorBoardLog(writer)
    finally:
        writer.close()
