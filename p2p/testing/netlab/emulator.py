"""The process that carries a laboratory's packets over the links that delay or lose them.

The kernel that tests run on may lack netem, so such a link is a pair of TAP devices, one at each
end, and this process between them: it reads a frame, decides by `Wire` whether and when it
arrives, and writes it into the other device when it is due. Frames are as large as the kernel
makes them (64 KiB of TCP with a virtio header, IFF_VNET_HDR), which is what makes Python fast
enough; a link with loss carries frames of one packet each, since a lost frame of 44 packets would
be no loss that a network knows. Rates are not its business: the kernel's token buckets stand
before the devices.

It is a program of the standard library alone, started by its path, because a laboratory must not
wait for the rest of the package. It reads one JSON object a line and answers each with one, and
ends with its stdin: when who made the laboratory was killed, its end of the pipe is closed.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

# From linux/if_tun.h.
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_OFFLOAD_CHECKSUM = 0x01
_OFFLOAD_ALL = 0x0F  # checksums, TCP segments over IPv4 and IPv6, with ECN
_CLONE_NEWNET = 0x40000000

_VIRTIO_HEADER_BYTES = 10
_ETHERTYPE = slice(_VIRTIO_HEADER_BYTES + 12, _VIRTIO_HEADER_BYTES + 14)
_ARP = b"\x08\x06"
_FRAME_BYTES_MAX = 65_536 + 64
# One device may not keep the others, nor frames that are due, waiting for long.
_FRAMES_PER_TURN = 32
IN_FLIGHT_BYTES_MAX = 64_000_000
"""What one direction of a link holds at most; 10 Gbit/s over 50 ms."""


class Wire:
    """One direction of a link: says of each frame whether it arrives, and when.

    Frames never overtake each other, whatever the jitter: reordering is rare in the internet, and
    TCP would take it for loss.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._delay_s = 0.0
        self._jitter_s = 0.0
        self._loss = 0.0
        self._last_due_s = 0.0
        self._in_flight_bytes = 0

    def change(self, *, delay_s: float, jitter_s: float, loss: float) -> None:
        """Delay frames by delay_s ± jitter_s from now on, and lose this share of them."""
        self._delay_s, self._jitter_s, self._loss = delay_s, jitter_s, loss

    def on_frame(self, size_bytes: int, now_s: float) -> float | None:
        """When a frame arrives that was sent now; None when it never does."""
        if self._loss and self._rng.random() < self._loss:
            return None
        if self._in_flight_bytes + size_bytes > IN_FLIGHT_BYTES_MAX:
            return None
        self._in_flight_bytes += size_bytes
        jitter_s = self._rng.uniform(-self._jitter_s, self._jitter_s) if self._jitter_s else 0.0
        self._last_due_s = max(self._last_due_s, now_s + max(0.0, self._delay_s + jitter_s))
        return self._last_due_s

    def on_arrived(self, size_bytes: int) -> None:
        """A frame has left the link."""
        self._in_flight_bytes -= size_bytes


class Emulator:
    """The devices of all links, and the frames on their way."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._numbers = itertools.count()
        self._ways: dict[int, tuple[int, Wire]] = {}
        """By the device read from: the device written to, and the wire between."""
        self._links: dict[str, tuple[int, int]] = {}
        self._under_way: list[tuple[float, int, int, Wire, bytes]] = []
        """A heap of (due, number, device, wire, frame)."""

    @property
    def devices(self) -> list[int]:
        """What to wait for; reading one of them is `on_readable`."""
        return list(self._ways)

    @property
    def deadline_s(self) -> float | None:
        """When the next frame is due; None while there is none under way."""
        return self._under_way[0][0] if self._under_way else None

    def lay(self, link: str, ends: list[list[str]], **quality: float) -> None:
        """Make the two devices of a link, each given as (path of a namespace, name)."""
        near, far = (_open_tap(path, name) for path, name in ends)
        self._links[link] = (near, far)
        self._ways[near] = (far, Wire(self._rng))
        self._ways[far] = (near, Wire(self._rng))
        self.change(link, **quality)

    def change(self, link: str, **quality: float) -> None:
        """From now on a link delays and loses so."""
        for device in self._links[link]:
            # A device hands out single packets where one may be lost and the next not.
            offload = _OFFLOAD_CHECKSUM if quality["loss"] else _OFFLOAD_ALL
            fcntl.ioctl(device, _TUNSETOFFLOAD, offload)
            self._ways[device][1].change(**quality)

    def on_readable(self, device: int) -> None:
        """Take the frames that a device has to send."""
        other, wire = self._ways[device]
        for _ in range(_FRAMES_PER_TURN):
            try:
                frame = os.read(device, _FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            if frame[_ETHERTYPE] == _ARP:
                # Who answers at which address is the laboratory's wiring, not its traffic.
                _write(other, frame)
                continue
            due_s = wire.on_frame(len(frame), time.monotonic())
            if due_s is not None:
                entry = (due_s, next(self._numbers), other, wire, frame)
                heapq.heappush(self._under_way, entry)

    def on_deadline(self) -> None:
        """Hand over the frames that are due."""
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            _, _, device, wire, frame = heapq.heappop(self._under_way)
            wire.on_arrived(len(frame))
            _write(device, frame)


def _write(device: int, frame: bytes) -> None:
    try:
        os.write(device, frame)
    except OSError:
        # The device is down or its queue is full: the frame is lost, as frames are.
        return


def _open_tap(namespace_path: str, name: str) -> int:
    """A new TAP device in a namespace; this process itself stays where it is."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    inside = os.open(namespace_path, os.O_RDONLY)
    try:
        _enter(inside)
        # A file of this device belongs to the namespace that it was opened in.
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        try:
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        except OSError:
            os.close(device)
            raise
        return device
    finally:
        _enter(home)
        os.close(home)
        os.close(inside)


def _enter(namespace: int) -> None:
    # os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def _answer(commands: dict[str, Callable[..., None]], line: str) -> str:
    command: dict[str, Any] = json.loads(line)
    try:
        commands[command.pop("do")](**command)
    except OSError as exc:
        return json.dumps({"error": str(exc)})
    return json.dumps({})


def main(seed: str) -> None:
    """Carry until stdin ends."""
    emulator = Emulator(random.Random(int(seed)))
    commands: dict[str, Callable[..., None]] = {"lay": emulator.lay, "change": emulator.change}
    stdin = sys.stdin.fileno()
    while True:
        deadline_s = emulator.deadline_s
        wait_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        readable, _, _ = select.select([stdin, *emulator.devices], [], [], wait_s)
        for device in readable:
            if device != stdin:
                emulator.on_readable(device)
                continue
            # One command is answered before the next one is written: none waits in a buffer.
            line = sys.stdin.readline()
            if not line:
                return
            print(_answer(commands, line), flush=True)
        emulator.on_deadline()


if __name__ == "__main__":
    main(*sys.argv[1:])
