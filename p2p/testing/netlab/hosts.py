"""Machines of the laboratory on which programs run."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from p2p.testing.netlab.links import Uplink
from p2p.testing.netlab.networks import Attachment

_BYTES_PER_MBIT = 125_000


class Host:
    """A machine of the laboratory: one namespace with one interface and one address."""

    def __init__(
        self,
        name: str,
        namespace: str,
        attachment: Attachment,
        on_address: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.namespace = namespace
        """The name of its network namespace, for commands of your own."""
        self._attachment = attachment
        self._on_address = on_address
        self._processes: list[subprocess.Popen[str]] = []

    @property
    def address(self) -> str:
        """Its own IPv4 address; behind a NAT a private one."""
        return self._attachment.address

    @property
    def uplink(self) -> Uplink:
        """Its link, to cut, heal and change."""
        return self._attachment.uplink

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        errors: IO[str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program on the host, with pipes of text to its stdin and from its stdout.

        Args:
            errors: where its stderr goes; by default to ours.
        """
        inside = ["ip", "netns", "exec", self.namespace, *arguments]
        process = subprocess.Popen(
            inside,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        self._processes.append(process)
        return process

    @property
    def is_cut(self) -> bool:
        """Whether its link is cut."""
        return self.uplink.is_cut

    def cut(self) -> None:
        """From now on nothing gets through in either direction, and nobody is told."""
        self.uplink.cut()

    def heal(self) -> None:
        """From now on everything gets through; what was dropped stays lost."""
        self.uplink.heal()

    def limit_rate(
        self,
        *,
        upload_bytes_per_s: float | None = None,
        download_bytes_per_s: float | None = None,
    ) -> None:
        """Limit what the link carries each way, with 50 ms worth of queue; None lifts the limit."""
        up, down = (
            None if rate is None else rate / _BYTES_PER_MBIT
            for rate in (upload_bytes_per_s, download_bytes_per_s)
        )
        link = dataclasses.replace(self.uplink.link, up_mbit_per_s=up, down_mbit_per_s=down)
        self.uplink.change(link)

    def change_address(self) -> str:
        """Take a new address in the same network, as after a new lease; returns it.

        Nothing reaches the old one any more, and no socket is told.
        """
        self._attachment.change_address()
        if self._on_address is not None:
            self._on_address()
        return self.address

    def stop_processes(self) -> None:
        """Kill what was started on the host and is still there."""
        for process in self._processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close_quietly(pipe)
            process.wait()
        self._processes.clear()


def _close_quietly(pipe: IO[str]) -> None:
    """Close a pipe whose reader may be gone with bytes still unwritten."""
    try:
        pipe.close()
    except BrokenPipeError:
        return
