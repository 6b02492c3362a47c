"""Which ports can be listened on, and who has those that cannot."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from tools.doctor.facts import PortFacts

_LISTEN = "0A"
_PROC = Path("/proc")


def port_facts(address: str) -> PortFacts:
    """Try to listen on a TCP multiaddress for a moment."""
    parts = address.split("/")
    kind, host, port = parts[1], parts[2], int(parts[4])
    family = socket.AF_INET6 if kind in ("ip6", "dns6") else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            user = _user_of(port)
            ours = "manyhands" in user
            return PortFacts(address=address, state="ours" if ours else "taken", used_by=user)
        forbidden = exc.errno in (errno.EACCES, errno.EPERM)
        return PortFacts(address=address, state="forbidden" if forbidden else "not-here")
    return PortFacts(address=address, state="free")


def on_a_free_port(address: str) -> str:
    """The same address with a port that the system picks."""
    parts = address.split("/")
    return "/".join([*parts[:4], "0"])


def _user_of(port: int) -> str:
    """The program that listens at a port, as far as this user may see it (Linux only)."""
    inodes = {
        fields[9]
        for table in ("tcp", "tcp6")
        for fields in _sockets(table)
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port
    }
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in _PROC.glob("[0-9]*"):
        if _holds(process, wanted):
            return f"{_name_of(process)} (process {process.name})"
    return ""


def _sockets(table: str) -> list[list[str]]:
    try:
        lines = (_PROC / "net" / table).read_text("ascii").splitlines()
    except OSError:
        return []
    return [line.split() for line in lines[1:] if len(line.split()) > 9]


def _holds(process: Path, wanted: set[str]) -> bool:
    try:
        return any(os.readlink(entry) in wanted for entry in (process / "fd").iterdir())
    except OSError:
        # Another user's, or gone by now.
        return False


def _name_of(process: Path) -> str:
    """What runs there; our own commands by their own name, whatever starts them."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "a program"
    text = [word.decode("utf-8", "replace") for word in words if word]
    if any(word.endswith("/manyhands") or word == "tools.cli" for word in text[:4]):
        return "manyhands"
    return Path(text[0]).name if text else "a program"
