"""Run a soak and judge it: `python -m tests.soak --seconds 600 --seed 1`, or `make soak`.

Content is compared in the processes themselves. Here their memory and descriptors are looked at
every second: from the second fifth of the time to the last, memory must stay flat, and at the
end, with all works over, there may be no more descriptors than at the beginning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from tests.processes.command import ENVIRONMENT, ROOT

SAMPLE_S = 1.0
GROWTH_MB_MAX = 16.0
"""What buffers, caches and the allocator's mood are allowed; a leak of long runs is beyond."""
WORKS = ("bulk_bytes", "cancelled_writes", "cancelled_reads", "calls", "reconnects")


class Watched:
    """One process, its words, and what it used over time."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        self._looked_at = psutil.Process(process.pid)
        self.memory_bytes: list[int] = []
        self.descriptors_first = 0

    def next(self, event: str) -> dict[str, Any]:
        """What it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} ended early: its words are above")
        said: dict[str, Any] = json.loads(line)
        assert said["event"] == event
        return said

    def begin(self) -> None:
        """Let it go to work."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def sample(self) -> None:
        """Look once."""
        self.memory_bytes.append(self._looked_at.memory_info().rss)

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return int(self._looked_at.num_fds())

    def complaints(self, growth_bytes_max: float) -> list[str]:
        """What has grown."""
        fifth = max(len(self.memory_bytes) // 5, 1)
        found = []
        early, late = self.memory_bytes[fifth : 2 * fifth], self.memory_bytes[-fifth:]
        growth = statistics.median(late) - statistics.median(early)
        print(
            f"{self.name}: memory {statistics.median(early) / 1e6:.1f} MB early, "
            f"{statistics.median(late) / 1e6:.1f} MB late, at most "
            f"{max(self.memory_bytes) / 1e6:.1f} MB; descriptors {self.descriptors_first} first, "
            f"{self.descriptors()} last"
        )
        if growth > growth_bytes_max:
            found.append(f"the {self.name}'s memory grew by {growth / 1e6:.1f} MB")
        if self.descriptors() > self.descriptors_first:
            found.append(f"the {self.name} keeps descriptors open")
        return found


@contextmanager
def watched(name: str, *arguments: str) -> Iterator[Watched]:
    """A process that is gone when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.peer", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Watched(name, process)
    finally:
        process.kill()
        process.communicate()


def soak(seconds: float, seed: int, growth_mb_max: float) -> list[str]:
    """Everything that went wrong in a soak of so long."""
    with watched("listener", "listen") as listener:
        address = listener.next("listening")["address"]
        with watched("dialer", "dial", address, str(seconds), str(seed)) as dialer:
            dialer.next("connected")
            both = (listener, dialer)
            for one in both:
                one.descriptors_first = one.descriptors()
            dialer.begin()
            over = threading.Event()
            sampler = threading.Thread(target=_sample, args=(both, over), daemon=True)
            sampler.start()
            try:
                done = dialer.next("done")
            finally:
                over.set()
                sampler.join()
            print(", ".join(f"{work} {count:,}" for work, count in done.items() if work != "event"))
            found = [f"no {work} in all the time" for work in WORKS if not done.get(work)]
            for one in both:
                found += one.complaints(growth_mb_max * 1e6)
            return found


def _sample(both: tuple[Watched, Watched], over: threading.Event) -> None:
    while not over.wait(SAMPLE_S):
        for one in both:
            one.sample()


def main() -> None:
    """Run it; exit 1 when something went wrong."""
    parser = argparse.ArgumentParser(description="Soak the connection layer.")
    parser.add_argument("--seconds", type=float, default=600.0, help="5 or more")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth-mb-max", type=float, default=GROWTH_MB_MAX)
    options = parser.parse_args()
    print(f"soaking for {options.seconds:g} s with seed {options.seed}", flush=True)
    found = soak(options.seconds, options.seed, options.growth_mb_max)
    for text in found:
        print(f"WRONG: {text}")
    print("nothing was lost and nothing grew" if not found else "the soak failed")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
