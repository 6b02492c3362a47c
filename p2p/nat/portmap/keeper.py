"""Keeper: which protocol to ask for the port, when to renew it, when to give up (core).

    SEARCHING   all three protocols are asked whether they are there. The best that is (PCP before
                NAT-PMP before UPnP) is chosen once the better ones have said no, or half a second
                after the first yes                                           -> MAPPING
                none is there                                                 -> WAITING
    MAPPING     granted                                                       -> HOLDING
                taken: another outer port, eight times; else the next protocol that is there
    HOLDING     every 25 s, or at half of the lifetime if that is sooner: renewed (PCP, NAT-PMP),
                or looked up in the router's table and renewed at half of the lifetime (UPnP)
                the router forgot it, by its epoch or its table: mapped again at once
                a renewal fails: SEARCHING at once; the mapping counts until that fails, too
    WAITING     5 s, then twice as long each time, at most 5 min, or 30 s where there was a mapping
    IDLE        no gateway, or our own address is public: nobody is asked

A renewal doubles as the check: it tells the epoch and the outer address, and puts right at once
what a restarted router forgot. It is one datagram each way. At every 25 s the network is looked
at, too; another gateway or another address of our own starts all over.

Source of the half: RFC 6886 §3.3 and RFC 6887 §11.2.1.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from p2p.nat.portmap import verdict
from p2p.nat.portmap.answers import Failed, Failure, Granted
from p2p.nat.portmap.epoch import Epoch
from p2p.nat.portmap.jobs import Ask, Job, Look, Network
from p2p.nat.portmap.mapping import PortMapping, PortMappingProtocol

PREFERENCE: tuple[PortMappingProtocol, ...] = ("pcp", "nat-pmp", "upnp")
CHECK_S = 25.0
"""A lost mapping is noticed within it and the time that three unanswered questions take."""
GRACE_S = 0.5
MAP_GAP_S = 4.0
"""Between two requests to map, whatever the router says. Source: RFC 6887 §11.2.1."""
PORT_TRIES = 8
FIRST_PAUSE_S = 5.0
PAUSE_S_MAX = 300.0
PAUSE_AFTER_MAPPING_S_MAX = 30.0
_JITTER = 0.1
# Below the ports that systems hand out to outgoing connections.
_OTHER_PORTS = range(20_000, 32_768)


class State(Enum):
    """See the table atop."""

    SEARCHING = "searching"
    MAPPING = "mapping"
    HOLDING = "holding"
    WAITING = "waiting"
    IDLE = "idle"


@dataclass(frozen=True)
class _Held:
    protocol: PortMappingProtocol
    granted: Granted
    renew_at_s: float
    expires_at_s: float


class Keeper:
    """Keeps one TCP port mapped."""

    def __init__(self, internal_port: int, rng: random.Random, now_s: float) -> None:
        self._internal_port = internal_port
        self._rng = rng
        self._state = State.IDLE
        self._network: Network | None = None
        self._observed_host: str | None = None
        self._held: _Held | None = None
        self._epochs: dict[PortMappingProtocol, Epoch] = {}
        self._number = 0
        self._waiting_for: dict[int, Job] = {}
        self._there: dict[PortMappingProtocol, bool | None] = {}
        self._failures: dict[PortMappingProtocol, Failed] = {}
        self._forget_network()
        # Deadlines; None for never.
        self._look_at_s: float | None = now_s
        self._next_at_s: float | None = None
        self._due: list[Job] = []

    def _forget_network(self) -> None:
        self._held = None
        self._last_failures: dict[PortMappingProtocol, Failed] | None = None
        self._epochs = {
            "pcp": Epoch(may_jump_ahead=False),
            "nat-pmp": Epoch(may_jump_ahead=True),
        }
        self._pauses = 0
        self._had_mapping = False
        self._port = self._internal_port
        self._port_tries = 0
        self._last_map_s = float("-inf")

    # --- what is known ------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where in the table it stands."""
        return self._state

    def mapping(self, now_s: float) -> PortMapping | None:
        """The mapping that is held."""
        if self._held is None:
            return None
        granted = self._held.granted
        return PortMapping(
            self._held.protocol,
            f"/ip4/{granted.host}/tcp/{granted.port}",
            self._internal_port,
            max(0.0, self._held.expires_at_s - now_s),
            verdict.useless_because(granted.host, self._observed_host),
        )

    @property
    def problem(self) -> str | None:
        """Why there is no mapping of use, in one plain sentence with the next step."""
        if self._held is not None:
            reason = verdict.useless_because(self._held.granted.host, self._observed_host)
            return verdict.useless_problem(reason) if reason else None
        if self._network is None:
            return verdict.no_gateway_problem()
        if self._state is State.IDLE:
            return verdict.needless_problem(self._network.local_host)
        router_host = self._network.router_host
        if self._last_failures is None:
            return verdict.searching_problem(router_host)
        # It stands while the router is asked again.
        return verdict.failed_problem(router_host, self._internal_port, self._last_failures)

    @property
    def has_no_address(self) -> bool:
        """Whether the router says that it has no outer address that it would map."""
        failures = self._last_failures or {}
        return self._held is None and any(
            failed.failure is Failure.NO_ADDRESS for failed in failures.values()
        )

    # --- what happens -------------------------------------------------------------------------

    def on_network_changed(self, now_s: float) -> None:
        """Addresses or routes of this machine may have changed: look, and try again at once."""
        self._look_at_s = now_s
        self._pauses = 0
        if self._state is State.WAITING:
            self._next_at_s = now_s
        elif self._state is State.HOLDING and not self._waiting_for:
            self._next_at_s = max(now_s, self._last_map_s + MAP_GAP_S)

    def on_network(self, network: Network | None, now_s: float) -> None:
        """The answer to Look; None means that there is no default gateway."""
        self._look_at_s = now_s + CHECK_S
        if network == self._network:
            return
        self._network = network
        self._observed_host = None
        self._forget_network()
        self._drop_jobs()
        if network is None or verdict.is_public(network.local_host):
            self._state, self._next_at_s = State.IDLE, None
        else:
            self._search()

    def on_observed(self, host: str) -> None:
        """Outside peers see us come from this address; only public IPv4 ones tell anything."""
        if verdict.is_public(host):
            self._observed_host = host

    def on_found(self, job: Job, now_s: float) -> None:
        """The answer to SEARCH: the router speaks the protocol."""
        if self._take(job):
            self._there[job.protocol] = True
            if self._state is State.SEARCHING:
                if self._next_at_s is None:
                    self._next_at_s = now_s + GRACE_S
                self._choose(now_s)

    def on_granted(self, job: Job, granted: Granted, now_s: float) -> None:
        """The answer to MAP or CHECK: the port leads to us."""
        if not self._take(job):
            return
        half_at_s = now_s + granted.lifetime_s / 2
        renew_at_s = half_at_s
        if job.ask is Ask.CHECK and self._held is not None:
            renew_at_s = min(half_at_s, self._held.renew_at_s)
        self._held = _Held(job.protocol, granted, renew_at_s, now_s + granted.lifetime_s)
        self._port, self._port_tries = granted.port, 0
        self._state, self._had_mapping, self._pauses = State.HOLDING, True, 0
        self._next_at_s = max(now_s + MAP_GAP_S, min(half_at_s, now_s + CHECK_S))
        epoch = self._epochs.get(job.protocol)
        if (
            epoch is not None
            and granted.epoch_s is not None
            and epoch.on_told(granted.epoch_s, now_s)
        ):
            self._next_at_s = max(now_s, self._last_map_s + MAP_GAP_S)

    def on_failed(self, job: Job, failed: Failed, now_s: float) -> None:
        """There was no good answer, or none in time."""
        if not self._take(job):
            return
        if job.ask is Ask.CHECK:
            self._map(job.protocol, now_s)
        elif job.ask is Ask.SEARCH:
            self._failures[job.protocol] = failed
            self._there[job.protocol] = False
            if self._state is State.SEARCHING:
                self._choose(now_s)
        elif failed.failure is Failure.TAKEN and self._port_tries < PORT_TRIES:
            self._port_tries += 1
            self._port = self._rng.choice(_OTHER_PORTS)
            self._map(job.protocol, now_s)
        elif self._state is State.HOLDING:
            # The router may have come back with another of its protocols.
            self._search()
        else:
            self._failures[job.protocol] = failed
            self._there[job.protocol] = False
            # The others may not have said yet whether they are there.
            self._state = State.SEARCHING
            self._choose(now_s)

    # --- what to do ---------------------------------------------------------------------------

    @property
    def deadline_s(self) -> float | None:
        """When next_jobs() has something new, unless an answer comes first."""
        if self._due:
            return float("-inf")
        times = [at_s for at_s in (self._look_at_s, self._next_at_s) if at_s is not None]
        return min(times, default=None)

    def next_jobs(self, now_s: float) -> tuple[Job | Look, ...]:
        """What to ask now, all of it at once; each job must be answered, in a bounded time."""
        if self._next_at_s is not None and self._next_at_s <= now_s:
            self._next_at_s = None
            self._on_due(now_s)
        jobs: list[Job | Look] = list(self._due)
        self._due.clear()
        if self._look_at_s is not None and self._look_at_s <= now_s:
            self._look_at_s = None
            jobs.append(Look())
        return tuple(jobs)

    def release(self) -> Job | None:
        """We leave: what to take back; nothing is asked any more after it."""
        protocols: list[PortMappingProtocol] = [
            job.protocol for job in self._waiting_for.values() if job.ask is Ask.MAP
        ]
        if self._held is not None:
            protocols.insert(0, self._held.protocol)
        network = self._network
        self._drop_jobs()
        self._state, self._next_at_s, self._look_at_s, self._held = State.IDLE, None, None, None
        if not protocols or network is None:
            return None
        return Job(0, Ask.RELEASE, protocols[0], network, self._internal_port, self._port)

    # --- helpers ------------------------------------------------------------------------------

    def _on_due(self, now_s: float) -> None:
        if self._state is State.WAITING:
            self._search()
        elif self._state is State.SEARCHING:
            self._choose(now_s, is_grace_over=True)
        elif self._held is not None:
            # The lookup in the table of UPnP renews nothing.
            if self._held.protocol == "upnp" and now_s < self._held.renew_at_s:
                self._ask(Ask.CHECK, self._held.protocol)
            else:
                self._map(self._held.protocol, now_s)

    def _search(self) -> None:
        self._drop_jobs()
        self._state, self._next_at_s = State.SEARCHING, None
        self._there = dict.fromkeys(PREFERENCE)
        self._failures = {}
        for protocol in PREFERENCE:
            self._ask(Ask.SEARCH, protocol)

    def _choose(self, now_s: float, *, is_grace_over: bool = False) -> None:
        """Map by the best protocol that is there, if that is known already."""
        for protocol in PREFERENCE:
            if self._there[protocol]:
                self._state = State.MAPPING
                self._map(protocol, now_s)
                return
            if self._there[protocol] is None and not is_grace_over:
                return
        if None not in self._there.values():
            self._give_up(now_s)

    def _map(self, protocol: PortMappingProtocol, now_s: float) -> None:
        self._ask(Ask.MAP, protocol)
        self._last_map_s = now_s
        self._next_at_s = None

    def _give_up(self, now_s: float) -> None:
        self._held = None
        self._last_failures = self._failures
        self._port, self._port_tries = self._internal_port, 0
        self._state = State.WAITING
        limit_s = PAUSE_AFTER_MAPPING_S_MAX if self._had_mapping else PAUSE_S_MAX
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._pauses, 20), limit_s)
        self._pauses += 1
        self._next_at_s = now_s + pause_s * (1 + self._rng.uniform(-_JITTER, _JITTER))

    def _ask(self, ask: Ask, protocol: PortMappingProtocol) -> None:
        assert self._network is not None
        self._number += 1
        job = Job(self._number, ask, protocol, self._network, self._internal_port, self._port)
        self._waiting_for[job.number] = job
        self._due.append(job)

    def _take(self, job: Job) -> bool:
        """Whether an answer to the job is still awaited; from now on it is not."""
        return self._waiting_for.pop(job.number, None) is not None

    def _drop_jobs(self) -> None:
        self._waiting_for.clear()
        self._due.clear()
