"""Network namespaces, through iproute2; named after their process, so that none is forgotten."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

_NAME = re.compile(r"manyhands-(\d+)-(\d+)-")
_COMMAND_S_MAX = 30.0
_COMMANDS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables-legacy-restore": "iptables",
    "conntrack": "conntrack",
    "miniupnpd": "miniupnpd-iptables",
}

_numbers = itertools.count()


class NetlabUnavailable(Exception):
    """This machine does not let us make network namespaces; the text says what is missing."""


def owner_prefix() -> str:
    """How our namespaces' names begin; the start tells us from a later process of this number."""
    return f"manyhands-{os.getpid()}-{_started_ticks(os.getpid())}-"


def new_prefix() -> str:
    """How the names of a new laboratory's namespaces begin."""
    return f"{owner_prefix()}{next(_numbers)}-"


def require() -> None:
    """Raises NetlabUnavailable where a laboratory cannot be had."""
    for command, package in _COMMANDS.items():
        if shutil.which(command) is None:
            raise NetlabUnavailable(f"there is no command {command}; install the package {package}")
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
        if match and _is_gone(match):
            remove(name)
    for folder in Path(tempfile.gettempdir()).glob("manyhands-*-*-*"):
        match = _NAME.match(folder.name)
        if match and _is_gone(match):
            shutil.rmtree(folder, ignore_errors=True)


def ip(namespace: str, *lines: str) -> None:
    """Run commands of `ip` in a namespace, in order, without a process for each."""
    run("ip", "-n", namespace, "-batch", "-", stdin="\n".join(lines) + "\n")


def run(*command: str, check: bool = True, stdin: str = "") -> str:
    """What a command says; raises RuntimeError with its complaint when it fails."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_S_MAX,
        )
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(f"{' '.join(command)}: no end in {_COMMAND_S_MAX:g} s") from exc
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _is_gone(owner: re.Match[str]) -> bool:
    """Whether the process is no more that a name says to be the owner."""
    return _started_ticks(int(owner[1])) != int(owner[2])


def _started_ticks(pid: int) -> int | None:
    """When a process was started, in ticks since boot; None for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may hold anything; the start is the 20th field after.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
