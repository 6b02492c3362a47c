"""Drives the keeper of port mappings through time, as its service does."""

from __future__ import annotations

import random

from p2p.nat.portmap.answers import LIFETIME_S, Failed, Failure, Granted
from p2p.nat.portmap.jobs import Ask, Job, Look, Network
from p2p.nat.portmap.keeper import PREFERENCE, Keeper, State
from p2p.nat.portmap.mapping import PortMapping, PortMappingProtocol

HOME = Network("192.168.7.1", "192.168.7.20")
CAFE = Network("10.0.0.1", "10.0.0.9")
PORT = 31_337
SILENT = Failed(Failure.SILENT, "no answer")
REFUSED = Failed(Failure.REFUSED, "its table is full")


class Driver:
    """A keeper, its time, and the jobs that are out."""

    def __init__(self, network: Network | None = HOME, seed: int = 0) -> None:
        self.now_s = 1_000.0
        self.keeper = Keeper(PORT, random.Random(seed), self.now_s)
        self.out: dict[tuple[Ask, PortMappingProtocol], Job] = {}
        self.network = network
        self.collect()

    def collect(self) -> tuple[str, ...]:
        """Take the jobs that are due now, in words; looks are answered at once."""
        words = []
        while self.keeper.deadline_s is not None and self.keeper.deadline_s <= self.now_s:
            for job in self.keeper.next_jobs(self.now_s):
                if isinstance(job, Look):
                    self.keeper.on_network(self.network, self.now_s)
                else:
                    self.out[job.ask, job.protocol] = job
                    words.append(f"{job.ask.value} {job.protocol}")
        return tuple(words)

    def wait(self, seconds: float) -> tuple[str, ...]:
        """Let time pass and take what fell due meanwhile."""
        end_s = self.now_s + seconds
        words: tuple[str, ...] = ()
        while (at_s := self.keeper.deadline_s) is not None and at_s <= end_s:
            self.now_s = max(self.now_s, at_s)
            words += self.collect()
        self.now_s = end_s
        return words

    def found(self, protocol: PortMappingProtocol) -> tuple[str, ...]:
        self.keeper.on_found(self.out.pop((Ask.SEARCH, protocol)), self.now_s)
        return self.collect()

    def failed(self, ask: Ask, protocol: PortMappingProtocol, why: Failed) -> tuple[str, ...]:
        self.keeper.on_failed(self.out.pop((ask, protocol)), why, self.now_s)
        return self.collect()

    def granted(
        self,
        ask: Ask,
        protocol: PortMappingProtocol,
        *,
        host: str = "5.6.7.10",
        lifetime_s: int = LIFETIME_S,
        epoch_s: int | None = None,
    ) -> tuple[str, ...]:
        job = self.out.pop((ask, protocol))
        granted = Granted(host, job.external_port, lifetime_s, epoch_s)
        self.keeper.on_granted(job, granted, self.now_s)
        return self.collect()

    @property
    def mapping(self) -> PortMapping | None:
        return self.keeper.mapping(self.now_s)


def holding(protocol: PortMappingProtocol, *, lifetime_s: int = LIFETIME_S) -> Driver:
    """A keeper that holds a mapping by this protocol, the only one there."""
    driver = Driver()
    for other in PREFERENCE:
        if other != protocol:
            driver.failed(Ask.SEARCH, other, SILENT)
    assert driver.found(protocol) == (f"map {protocol}",)
    driver.granted(
        Ask.MAP, protocol, lifetime_s=lifetime_s, epoch_s=None if protocol == "upnp" else 100
    )
    assert driver.keeper.state is State.HOLDING
    return driver


def lose(driver: Driver) -> None:
    """Every question that is out stays without an answer, until nothing is asked any more."""
    while driver.out:
        ask, protocol = next(iter(driver.out))
        driver.failed(ask, protocol, SILENT)
