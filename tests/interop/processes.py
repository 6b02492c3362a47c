"""Foreign peers as processes, where they are installed; ended whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".venv" / "interop"
NODE_MODULES = INSTALLED / "js" / "node_modules"
P2PD = INSTALLED / "go" / "p2pd"
ECHO = "/test/echo/1"
SIZE_BYTES = 16 << 20
PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
JS: tuple[Path | str, ...] = ("node", NODE_MODULES)
GO: tuple[Path | str, ...] = (P2PD,)
_RUNNING: list[trio.Process] = []


def require(*needed: Path | str) -> None:
    """Skip the test loudly, or in continuous integration fail it, when a tool is missing."""
    missing = [
        str(tool)
        for tool in needed
        if not (tool.exists() if isinstance(tool, Path) else shutil.which(tool))
    ]
    if not missing:
        return
    text = f"not installed: {', '.join(missing)}; run scripts/interop-setup"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(f"INTEROPERABILITY NOT TESTED, {text}")


def pattern(size_bytes: int) -> bytes:
    """A counter in 32-bit words, so that lost or swapped parts show; peer.mjs makes the same."""
    return b"".join(number.to_bytes(4, "little") for number in range(size_bytes // 4))


@asynccontextmanager
async def open_process(
    command: Sequence[str | Path], **options: int
) -> AsyncIterator[trio.Process]:
    """A process that is killed and reaped when the block ends."""
    process = await trio.lowlevel.open_process([str(part) for part in command], **options)
    _RUNNING.append(process)
    try:
        yield process
    finally:
        _RUNNING.remove(process)
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


def kill_what_is_left() -> None:
    """A test that ran into pytest's timeout never left its blocks."""
    while _RUNNING:
        process = _RUNNING.pop()
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
