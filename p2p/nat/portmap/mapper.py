"""Port mapper: keeps the node's port mapped in the router, as long as the block lasts."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import trio

from p2p.errors import RefusedError
from p2p.nat.portmap import igd, natpmp, pcp
from p2p.nat.portmap.answers import LIFETIME_S, Failed, Failure, Granted
from p2p.nat.portmap.exchange import ask, find_gateway_device
from p2p.nat.portmap.gateway import find_network
from p2p.nat.portmap.jobs import Ask, Job, Look, Network
from p2p.nat.portmap.keeper import Keeper
from p2p.nat.portmap.mapping import PortMapping
from p2p.nursery import open_service_nursery

logger = logging.getLogger(__name__)

T = TypeVar("T")
JOB_S_MAX = 8.0
"""No question takes longer, whatever the router does."""
_FAREWELL_S = 2.0
_THREADS_MAX = 2

OnChange = Callable[[PortMapping | None], None]


class Offload(Protocol):
    """Runs blocking work in a thread that a cancellation may leave behind."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """The function's result."""


async def offload_abandonable(function: Callable[..., T], *args: Any) -> T:
    """Run it in one of two threads of its own; a cancellation leaves the thread to its end.

    Miniupnpc reads HTTP without a limit on the whole: a router that sends a byte now and then
    would hold whoever waits for it. Its calls touch nothing of ours.
    """
    # Some dependency brings stubs of an older trio, which lack the argument's new name.
    return await trio.to_thread.run_sync(  # type: ignore[call-arg]
        function, *args, abandon_on_cancel=True, limiter=_thread_limiter()
    )


_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("_igd_limiter")


def _thread_limiter() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_THREADS_MAX)
        _limiter.set(limiter)
        return limiter


class PortMapper:
    """A TCP port of ours and what the router says of it."""

    def __init__(
        self,
        internal_port: int,
        on_change: OnChange,
        offload: Offload,
        rng: random.Random,
        find_network: Callable[[], Awaitable[Network | None]],
    ) -> None:
        self._keeper = Keeper(internal_port, rng, trio.current_time())
        self._on_change = on_change
        self._offload = offload
        self._find_network = find_network
        # It proves that a mapping of PCP is ours: nobody may guess it.
        self._nonce = secrets.token_bytes(pcp.NONCE_SIZE_BYTES)
        self._locations: dict[Network, str] = {}
        self._told: tuple[object, ...] | None = None
        self._wake = trio.Event()

    @property
    def mapping(self) -> PortMapping | None:
        """What is mapped now, though it may be of no use; None if nothing is."""
        return self._keeper.mapping(trio.current_time())

    @property
    def problem(self) -> str | None:
        """Why no outsider comes in by a mapping, and what to do, in one sentence; or None."""
        return self._keeper.problem

    @property
    def has_no_address(self) -> bool:
        """Whether the router says that it has no outer address: it is behind another one."""
        return self._keeper.has_no_address

    def on_network_changed(self) -> None:
        """Addresses or routes of this machine may have changed: look, and ask again at once."""
        self._keeper.on_network_changed(trio.current_time())
        self._wake.set()

    def check_observed(self, observed_host: str) -> None:
        """Outside peers see us come from this address: if it is not the router's, say so."""
        self._keeper.on_observed(observed_host)
        self._wake.set()

    async def run(self) -> None:
        """Ask, wait, renew, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._tell()
                for job in self._keeper.next_jobs(trio.current_time()):
                    if isinstance(job, Look):
                        nursery.start_soon(self.look)
                    else:
                        nursery.start_soon(self._answer, job)
                deadline_s = self._keeper.deadline_s
                with trio.move_on_at(float("inf") if deadline_s is None else deadline_s):
                    await self._wake.wait()
                self._wake = trio.Event()

    async def look(self) -> None:
        """Find out which network this is."""
        network = await self._find_network()
        self._keeper.on_network(network, trio.current_time())
        self._wake.set()

    async def release(self) -> None:
        """Give the port back, if the router listens; at most for a moment."""
        job = self._keeper.release()
        if job is None:
            return
        with trio.move_on_after(_FAREWELL_S) as scope:
            scope.shield = True
            try:
                await self._do(job)
                logger.info("port-mapping-released protocol=%s", job.protocol)
            except RefusedError as exc:
                # It goes by itself when its hour is over.
                logger.info("port-mapping-left protocol=%s reason=%r", job.protocol, str(exc))

    def _tell(self) -> None:
        """Call on_change if what there is to tell has changed; a renewal changes nothing."""
        mapping = self.mapping
        told = (mapping.protocol, mapping.external, mapping.useless_because) if mapping else None
        if told == self._told:
            return
        self._told = told
        if mapping is None:
            logger.info("port-mapping-lost problem=%r", self.problem)
        else:
            logger.info(
                "port-mapped protocol=%s external=%s internal=%d useless_because=%r",
                mapping.protocol,
                mapping.external,
                mapping.internal_port,
                mapping.useless_because,
            )
        self._on_change(mapping)

    async def _answer(self, job: Job) -> None:
        """Do a job and hand its outcome to the keeper."""
        outcome: Granted | Failed | None = Failed(Failure.SILENT, "no answer in time")
        with trio.move_on_after(JOB_S_MAX):
            try:
                outcome = await self._do(job)
            except RefusedError as exc:
                outcome = Failed(Failure(exc.code), exc.message)
        now_s = trio.current_time()
        if isinstance(outcome, Failed):
            logger.debug(
                "port-mapping-failed ask=%s protocol=%s reason=%s said=%r",
                job.ask.value,
                job.protocol,
                outcome.failure.value,
                outcome.said,
            )
            self._keeper.on_failed(job, outcome, now_s)
        elif outcome is None:
            self._keeper.on_found(job, now_s)
        else:
            self._keeper.on_granted(job, outcome, now_s)
        self._wake.set()

    async def _do(self, job: Job) -> Granted | None:
        """What the router grants; None where nothing is asked for."""
        if job.protocol == "pcp":
            return await self._do_pcp(job)
        if job.protocol == "nat-pmp":
            return await _do_natpmp(job)
        return await self._do_upnp(job)

    async def _do_pcp(self, job: Job) -> Granted | None:
        router, local = job.network.router_host, job.network.local_host
        if job.ask is Ask.SEARCH:
            request = pcp.announce_request(local)
            await ask(router, natpmp.PORT, request, pcp.parse_announced_untrusted)
            return None
        ours, nonce = job.internal_port, self._nonce
        if job.ask is Ask.RELEASE:
            request = pcp.map_request(nonce, local, ours, job.external_port, 0)
            await ask(
                router,
                natpmp.PORT,
                request,
                lambda data: pcp.parse_released_untrusted(data, nonce, ours),
            )
            return None
        request = pcp.map_request(nonce, local, ours, job.external_port, LIFETIME_S)
        return await ask(
            router,
            natpmp.PORT,
            request,
            lambda data: pcp.parse_mapped_untrusted(data, nonce, ours),
        )

    async def _do_upnp(self, job: Job) -> Granted | None:
        router = job.network.router_host
        if job.ask is Ask.SEARCH:
            location = await find_gateway_device(router, job.network.local_host)
            self._locations = {job.network: location}
            return None
        work = {
            Ask.MAP: igd.map_port,
            Ask.CHECK: igd.check_port,
            Ask.RELEASE: igd.release_port,
        }[job.ask]
        location = self._locations[job.network]
        return await self._offload(work, location, router, job.internal_port, job.external_port)


async def _do_natpmp(job: Job) -> Granted | None:
    router, ours = job.network.router_host, job.internal_port
    if job.ask is Ask.RELEASE:
        # RFC 6886 §3.4: the suggested outer port must be 0.
        await ask(
            router,
            natpmp.PORT,
            natpmp.map_request(ours, 0, 0),
            lambda data: natpmp.parse_released_untrusted(data, ours),
        )
        return None
    address = await ask(
        router, natpmp.PORT, natpmp.address_request(), natpmp.parse_address_untrusted
    )
    if job.ask is Ask.SEARCH:
        return None
    mapped = await ask(
        router,
        natpmp.PORT,
        natpmp.map_request(ours, job.external_port, LIFETIME_S),
        lambda data: natpmp.parse_mapped_untrusted(data, ours),
    )
    return Granted(address.host, mapped.port, mapped.lifetime_s, mapped.epoch_s)


@asynccontextmanager
async def open_port_mapper(
    internal_port: int,
    *,
    on_change: OnChange,
    offload: Offload = offload_abandonable,
    rng: random.Random | None = None,
    find_network: Callable[[], Awaitable[Network | None]] = find_network,
) -> AsyncIterator[PortMapper]:
    """Ask the router to lead one of its ports to ours, and keep it so until the block ends.

    Entering does not wait for the router. IPv4 and TCP only.

    Args:
        internal_port: where we listen, on the address that our default route leaves from.
        on_change: called with each new mapping, and with None when it is lost; not for renewals,
            and not for the release at the end.
        offload: runs miniupnpc's calls; one that waits for its thread when cancelled lets a
            malicious router hold up the end of the block.
        find_network: tells the default gateway.
    """
    mapper = PortMapper(internal_port, on_change, offload, rng or random.Random(), find_network)
    await mapper.look()
    try:
        async with open_service_nursery() as nursery:
            nursery.start_soon(mapper.run)
            yield mapper
    finally:
        await mapper.release()
