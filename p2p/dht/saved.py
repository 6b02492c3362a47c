"""Saved: keeps a node's snapshot in a file, written now and then and once more at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import trio

from p2p.dht import snapshot
from p2p.dht.snapshot import Snapshot
from p2p.dht.state import DhtState
from p2p.errors import MessageInvalid

logger = logging.getLogger(__name__)

_SAVE_S = 60.0


class SavedState:
    """The file of one node; None for a node that remembers nothing."""

    def __init__(self, state: DhtState, path: Path | None) -> None:
        self._state = state
        self._path = path.expanduser() if path is not None else None
        self._before = Snapshot()

    async def load(self) -> Snapshot:
        """What was known before the last stop; nothing if there is no file, or none of ours."""
        if self._path is None:
            return Snapshot()
        try:
            data = await self._state.node.offload(_read, self._path)
            self._before = snapshot.from_bytes_untrusted(data)
            return self._before
        except FileNotFoundError:
            return Snapshot()
        except (OSError, MessageInvalid) as exc:
            # To know nobody costs a second or two; not to start would cost more.
            logger.warning("dht_state_unreadable file=%s cause=%s", self._path, exc)
            return Snapshot()

    async def save(self, sequence: int) -> None:
        """Write down what is known now."""
        if self._path is None:
            return
        state = self._state
        data = snapshot.to_bytes(
            sequence, state.own_key, state.table.confirmed, self._before.contacts
        )
        try:
            await state.node.offload(_write, self._path, data)
        except OSError as exc:
            logger.warning("dht_state_not_saved file=%s cause=%s", self._path, exc)

    async def save_often(self, sequence: Callable[[], int]) -> None:
        """Write it down again and again, until cancelled."""
        while self._path is not None:
            await trio.sleep(_SAVE_S)
            await self.save(sequence())


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        # One byte more shows that it is too long.
        return file.read(snapshot.SIZE_BYTES_MAX + 1)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # Whoever reads it sees the old or the new, never a half.
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
