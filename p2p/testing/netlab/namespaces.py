"""Network namespaces, through iproute2; named after their process, so that none is forgotten."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

_NAME = re.compile(r"manyhands-(\d+)-(\d+)-")
_COMMAND_S_MAX = 30.0


class NetlabUnavailable(Exception):
    """This machine does not let us make network namespaces; the text says what is missing."""


def owner_prefix() -> str:
    """How our namespaces' names begin; the start tells us from a later process of this number."""
    return f"manyhands-{os.getpid()}-{_started_ticks(os.getpid())}-"


def require() -> None:
    """Raises NetlabUnavailable where namespaces cannot be had."""
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise NetlabUnavailable(f"there is no command {tool}; install the package iproute2")
    if os.geteuid() != 0:
        raise NetlabUnavailable("making network namespaces needs root")
    probe = f"{owner_prefix()}probe"
    try:
        run("ip", "netns", "add", probe)
    except RuntimeError as exc:
        raise NetlabUnavailable(f"this machine forbids network namespaces: {exc}") from exc
    remove(probe)


def add(name: str) -> None:
    """Make a namespace in which only its own loopback interface is up."""
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "dev", "lo", "up")


def remove(name: str) -> None:
    """Kill what still runs in a namespace and remove it; its links go with it."""
    # A process that outlives its name would keep the namespace and its links alive unseen.
    for pid in run("ip", "netns", "pids", name, check=False).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "delete", name, check=False)


def names(prefix: str = "") -> list[str]:
    """The namespaces of this machine whose names begin so."""
    lines = run("ip", "netns", "list").splitlines()
    return sorted(line.split()[0] for line in lines if line.startswith(prefix) and line.strip())


def sweep() -> None:
    """Remove what processes left behind that are no more: killed ones cannot tidy up."""
    for name in names("manyhands-"):
        match = _NAME.match(name)
        if match and _started_ticks(int(match[1])) != int(match[2]):
            remove(name)


def run(*command: str, check: bool = True) -> str:
    """What a command says; raises RuntimeError with its complaint when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_COMMAND_S_MAX
        )
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(f"{' '.join(command)}: no end in {_COMMAND_S_MAX:g} s") from exc
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _started_ticks(pid: int) -> int | None:
    """When a process was started, in ticks since boot; None for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may hold anything; the start is the 20th field after.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
