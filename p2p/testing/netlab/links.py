"""Links of the laboratory: what they carry each way, how long it takes, and cuts.

A link is a pair of virtual Ethernet devices of the kernel, or, when it delays or loses, a pair of
devices with the emulator between them. Its rates are token buckets before either end.

Cut, it swallows whatever is sent at either end and reports success; the interfaces stay up. No
socket learns of it: a black hole, as when a cable is pulled far away.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from p2p.testing.netlab import namespaces
from p2p.testing.netlab.namespaces import NetlabUnavailable

_EMULATOR = Path(__file__).with_name("emulator.py")
_BURST_BYTES_MIN = 16_384
_BURSTS_PER_S = 250
_QUEUE_S = 0.05
_BYTES_PER_MBIT = 125_000
_NETNS = Path("/run/netns")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """What a link does to packets; by default nothing, at the speed of the kernel."""

    up_mbit_per_s: float | None = None
    """The rate towards the internet; None for no limit."""
    down_mbit_per_s: float | None = None
    """The rate from the internet; None for no limit."""
    delay_ms: float = 0.0
    """How long a packet takes, one way."""
    jitter_ms: float = 0.0
    """The delay varies by so much to either side; packets stay in order."""
    loss: float = 0.0
    """The share of packets that is lost, each way."""
    emulated: bool = False
    """Lay it so that it can delay and lose later, though it does not yet."""

    def __post_init__(self) -> None:
        for rate in (self.up_mbit_per_s, self.down_mbit_per_s):
            if rate is not None and not rate > 0:
                raise ValueError("a rate must be positive; cut() lets nothing through")
        if not (0 <= self.delay_ms <= 60_000 and 0 <= self.jitter_ms <= 60_000):
            raise ValueError("a delay and its jitter are of 0 to 60 000 ms")
        if not 0 <= self.loss < 1:
            raise ValueError("a loss is a share of 0 or more and below 1")

    @property
    def needs_emulator(self) -> bool:
        """Whether the kernel alone cannot do this."""
        return self.emulated or bool(self.delay_ms or self.jitter_ms or self.loss)


@dataclasses.dataclass(frozen=True)
class End:
    """One end of a link: a device in a namespace."""

    namespace: str
    device: str
    mac: str


class Emulator:
    """The process that carries packets over links that delay or lose; started at the first."""

    def __init__(self, namespace: str, seed: int) -> None:
        self._namespace = namespace
        self._seed = seed
        self._process: subprocess.Popen[str] | None = None

    def lay(self, name: str, near: End, far: End, link: Link) -> None:
        """Make the two devices of a link."""
        ends = [(str(_NETNS / end.namespace), end.device) for end in (near, far)]
        self._ask({"do": "lay", "link": name, "ends": ends, **_quality(link)})

    def change(self, name: str, link: Link) -> None:
        """Let a link delay and lose otherwise."""
        self._ask({"do": "change", "link": name, **_quality(link)})

    def close(self) -> None:
        """End the process, and its devices with it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, command: dict[str, object]) -> None:
        if self._process is None:
            # In a namespace of the laboratory, so that sweeping finds it there.
            inside = ["ip", "netns", "exec", self._namespace, sys.executable, "-I", str(_EMULATOR)]
            self._process = subprocess.Popen(
                [*inside, str(self._seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # Ctrl-C is for who made the laboratory, who ends this in order.
                start_new_session=True,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps(command), file=stdin, flush=True)
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the emulator ended with {self._process.wait()}")
        if error := json.loads(line).get("error"):
            raise NetlabUnavailable(f"this machine gives us no TAP devices: {error}")


class Uplink:
    """The link of a host or router to the network that it is attached to.

    near is its own end, far the end in the internet or in the router that it is behind.
    """

    def __init__(self, name: str, near: End, far: End, link: Link, emulator: Emulator) -> None:
        self.near, self.far = near, far
        self.link = link
        self.is_cut = False
        self._name = name
        self._emulator = emulator
        if link.needs_emulator:
            emulator.lay(name, near, far, link)
        else:
            namespaces.run(
                "ip", "link", "add", "name", near.device, "netns", near.namespace, "type", "veth",
                "peer", "name", far.device, "netns", far.namespace,
            )  # fmt: skip
        for end in (near, far):
            up = [f"link set dev {end.device} address {end.mac}", f"link set dev {end.device} up"]
            namespaces.ip(end.namespace, *up)
        self._is_emulated = link.needs_emulator
        self._set_queues(before=Link())

    def change(self, link: Link) -> None:
        """Carry otherwise from now on; rates always, delay and loss where the link was laid so.

        Raises:
            ValueError: the link was laid without the emulator, which delay and loss need.
        """
        if link.needs_emulator and not self._is_emulated:
            raise ValueError("to delay or lose later, a link must be laid with Link(emulated=True)")
        before, self.link = self.link, link
        if self._is_emulated:
            self._emulator.change(self._name, link)
        if not self.is_cut:
            self._set_queues(before)

    def cut(self) -> None:
        """From now on nothing gets through in either direction, and nobody is told."""
        if not self.is_cut:
            for end in (self.near, self.far):
                _qdisc(end, "replace", "blackhole")
            self.is_cut = True

    def heal(self) -> None:
        """From now on everything gets through; what was dropped stays lost."""
        if self.is_cut:
            for end in (self.near, self.far):
                _qdisc(end, "delete")
            self.is_cut = False
            self._set_queues(before=Link())

    def _set_queues(self, before: Link) -> None:
        for end, rate, old_rate in (
            (self.near, self.link.up_mbit_per_s, before.up_mbit_per_s),
            (self.far, self.link.down_mbit_per_s, before.down_mbit_per_s),
        ):
            if rate is None:
                if old_rate is not None:
                    _qdisc(end, "delete")
            elif rate != old_rate:
                _limit(end, rate * _BYTES_PER_MBIT)


def _quality(link: Link) -> dict[str, float]:
    return {
        "delay_s": link.delay_ms / 1e3,
        "jitter_s": link.jitter_ms / 1e3,
        "loss": link.loss,
    }


def _limit(end: End, bytes_per_s: float) -> None:
    burst = max(_BURST_BYTES_MIN, int(bytes_per_s / _BURSTS_PER_S))
    queue = burst + int(bytes_per_s * _QUEUE_S)
    # tc writes bits per second as bit.
    rate = f"{max(8, round(bytes_per_s * 8))}bit"
    _qdisc(end, "replace", "tbf", "rate", rate, "burst", str(burst), "limit", str(queue))


def _qdisc(end: End, verb: str, *what: str) -> None:
    namespaces.run("tc", "-n", end.namespace, "qdisc", verb, "dev", end.device, "root", *what)
