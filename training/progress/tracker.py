"""The service behind GlobalBatch: tells our progress to others, and hears theirs.

Peers that know each other report directly, so a dozen of them react within milliseconds: each known
peer has a courier, which tells it our newest record whenever there is news. A peer that cannot be
told, or from which no sign of life has come for a while, does not count until it speaks again.
Strangers find each other through the DHT.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

from averaging import RoundId
from p2p import (
    Dht,
    Entry,
    MessageInvalid,
    Node,
    P2PError,
    PeerId,
    RefusedError,
    RpcCall,
    RpcService,
    encode,
    open_service_nursery,
    owned_subkey,
    rpc_client,
    short,
    wall_time_s,
)
from training.progress import schema
from training.progress.courier import Courier
from training.progress.drift import Sketch
from training.progress.global_batch import BatchView, GlobalBatch, worth_telling
from training.progress.position import PeerRecord, Position
from training.progress.schema import Progress, ProgressAnswer

logger = logging.getLogger(__name__)

# The first looks into the DHT follow each other quickly: peers often start together.
_FIRST_POLL_S = 0.5
_POLL_GROWTH = 1.5
_WATCH_EVERY_S = 1.0
# Who is woken so much later than it asked for was held up itself.
_LATE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ProgressConfig:
    """How progress is told and heard."""

    life_s: float = 30.0
    """A peer that is not heard of for this long is forgotten; its record is renewed thrice."""
    heartbeat_s: float = 2.0
    """A known peer hears of us at least this often, so that a frozen one is noticed."""
    report_timeout_s: float = 2.5
    """A peer that does not answer for this long, or whose sign of life is so late, does not count
    until it speaks."""
    poll_s: float = 10.0
    """How often the DHT is asked for strangers, once the first ones are found."""
    introduction_s: float = 3.0
    """How long joining waits for the answers of peers that the DHT names."""
    couriers_max: int = 64
    """Peers told directly; further ones read the DHT."""
    peers_max: int = 1024
    """Records held at once."""

    def __post_init__(self) -> None:
        times = (self.life_s, self.heartbeat_s, self.report_timeout_s, self.poll_s)
        if min(times) <= 0 or self.introduction_s < 0:
            raise ValueError("times must be positive")
        if not self.heartbeat_s < self.life_s <= schema.LIFE_S_MAX:
            raise ValueError(f"life_s must exceed heartbeat_s, at most {schema.LIFE_S_MAX:g}")
        if self.couriers_max < 1 or self.peers_max < self.couriers_max:
            raise ValueError("couriers_max must be at least 1, and at most peers_max")


class Tracker:
    """Our own progress, told; the progress of others, heard. Used from trio's thread only."""

    def __init__(
        self,
        node: Node,
        run: str,
        own: PeerRecord,
        config: ProgressConfig,
        nursery: trio.Nursery,
    ) -> None:
        self.polled = trio.Event()
        """Set when the DHT was looked at for the first time."""
        self._node = node
        self._run = run
        self._config = config
        self._nursery = nursery
        self._client = rpc_client(node, schema.service_name(run), schema.MAJOR)
        self._core = GlobalBatch(node.peer_id, own)
        self._told: PeerRecord | None = None
        self._takes_part = False
        self._sequence = 0
        self._couriers: dict[PeerId, Courier] = {}
        self._callers: dict[PeerId, tuple[RpcCall[ProgressAnswer, Progress], float]] = {}
        self._news = trio.Event()
        self._joined = trio.Event()
        self._strangers: set[PeerId] = set()

    # --- what the session asks and says ---

    @property
    def own(self) -> PeerRecord:
        """What we say of ourselves."""
        return self._core.own

    def view(self) -> BatchView:
        """The swarm at this moment."""
        return self._core.view()

    def holders(self, number: int) -> tuple[Position, tuple[PeerId, ...]] | None:
        """Where most of those are that hold a state of this round or a later one, and who."""
        return self._core.holders(number)

    def agreeing(self, reference: Sketch, rounding: float) -> tuple[PeerId, ...]:
        """As GlobalBatch.agreeing()."""
        return self._core.agreeing(reference, rounding)

    def on_own(self, own: PeerRecord) -> None:
        """Our progress changed; nothing is told yet."""
        self._core.on_own(own)

    def report(self, own: PeerRecord, *, target: int) -> None:
        """Our progress changed; others are told if it matters for a batch of `target` samples."""
        self._core.on_own(own)
        if not self._takes_part:
            return
        peers = len(self._couriers) + 1
        if worth_telling(own, self._told, target=target, peers=peers):
            self._tell()

    def on_round(self, delivered: dict[PeerId, float], own: PeerRecord) -> None:
        """A round that we were in succeeded and led to where `own` stands; all are told."""
        self._core.on_round(delivered, own.position)
        self._core.on_own(own)
        self.meet(delivered)
        self._tell()

    def on_claimed(self, own: PeerRecord, *, target: int) -> None:
        """We follow the others from where `own` stands."""
        self._core.on_claimed(own.position)
        self.report(own, target=target)

    def on_absent(self, peers: Iterable[PeerId]) -> None:
        """These were missing or lost in a round."""
        self._core.on_absent(tuple(peers))

    def on_moved(self, own: PeerRecord, past: Iterable[RoundId]) -> None:
        """We took over another state."""
        self._core.on_moved(past)
        self._core.on_own(own)
        self._tell()

    def meet(self, peers: Iterable[PeerId]) -> None:
        """Begin to exchange progress with peers that the caller knows of."""
        for peer_id in sorted(peers):
            new = peer_id != self._node.peer_id and peer_id not in self._couriers
            if new and len(self._couriers) < self._config.couriers_max:
                courier = Courier(
                    peer_id,
                    self,
                    self._node,
                    self._client,
                    heartbeat_s=self._config.heartbeat_s,
                    timeout_s=self._config.report_timeout_s,
                    forget_s=self._config.life_s,
                )
                self._couriers[peer_id] = courier
                self._nursery.start_soon(self._run_courier, courier)

    async def introduce(self) -> None:
        """Take part from now on, and hear first from those who are there already."""
        self._takes_part = True
        self._joined.set()
        with trio.move_on_after(self._config.introduction_s):
            await self.polled.wait()
            for courier in list(self._couriers.values()):
                await courier.introduced.wait()

    async def wait_news(self) -> None:
        """Until something was heard or a peer was lost."""
        await self._news.wait()

    # --- what couriers ask and say ---

    def message(self) -> Progress:
        """Our newest record, numbered above all before it, also those before a restart."""
        self._sequence = max(self._sequence + 1, int(wall_time_s() * 1000))
        record = replace(self._core.own, sequence=self._sequence)
        return schema.message_of(record, life_s=self._config.life_s, addresses=self._node.addresses)

    def on_answer(self, peer_id: PeerId, record: Progress) -> None:
        """A peer that we told of us says where it is."""
        self._hear(peer_id, record, life_s=record.life_s)

    def on_unreachable(self, peer_id: PeerId, *, sequence: int, cause: str) -> None:
        """A peer cannot be told."""
        self._core.on_contact_lost(peer_id, sequence=sequence)
        self._on_news()

    def sequence_of(self, peer_id: PeerId) -> int:
        """The newest sequence number heard of a peer; -1 for none."""
        return self._core.sequence_of(peer_id)

    def _tell(self) -> None:
        self._told = self._core.own
        for courier in self._couriers.values():
            courier.on_news()

    async def _run_courier(self, courier: Courier) -> None:
        await self._joined.wait()
        await courier.run(self._on_courier_end)

    def _on_courier_end(self, peer_id: PeerId) -> None:
        del self._couriers[peer_id]

    # --- hearing ---

    async def on_reports(self, call: RpcCall[ProgressAnswer, Progress]) -> None:
        """A peer tells us of its progress; we answer once with our own."""
        caller = call.peer_id
        message: Progress = call.request
        self._hear(caller, message, life_s=message.life_s)
        self.meet([caller])
        if (courier := self._couriers.get(caller)) is None:
            raise RefusedError("busy", "too many peers are told directly already")
        courier.on_sign_of_life()
        await call.send(ProgressAnswer(self.message() if self._takes_part else None))
        self._callers[caller] = (call, trio.current_time())
        try:
            while (received := await call.receive()) is not None:
                self._hear(caller, received[0], life_s=received[0].life_s)
                self._callers[caller] = (call, trio.current_time())
        finally:
            if self._callers.get(caller, (None,))[0] is call:
                del self._callers[caller]
                if not courier.reached:
                    # It came to us, and we cannot go to it: nothing else tells that it is gone.
                    self._core.on_contact_lost(caller, sequence=self.sequence_of(caller))
                    self._on_news()

    def _hear(self, peer_id: PeerId, message: Progress, *, life_s: float) -> None:
        known = self.sequence_of(peer_id) >= 0
        if not known and len(self._core.known()) >= self._config.peers_max:
            raise RefusedError("busy", "too many peers are known already")
        self._node.add_addresses(peer_id, message.addresses)
        record = schema.record_of(message)
        if not self._core.on_record(peer_id, record, life_s=life_s, now_s=trio.current_time()):
            return
        self._on_news()
        if record.spec_hash != self._core.own.spec_hash and peer_id not in self._strangers:
            self._strangers.add(peer_id)
            logger.warning(
                "peer_differs run=%s peer=%s their_spec=%s our_spec=%s",
                self._run,
                short(peer_id),
                record.spec_hash.hex()[:12],
                self._core.own.spec_hash.hex()[:12],
            )

    def _on_news(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def watch(self) -> None:
        """Notice who falls silent, and forget whose life is over, for ever."""
        while True:
            now_s = trio.current_time()
            silent_since_s = now_s - self._config.heartbeat_s - self._config.report_timeout_s
            for peer_id, (_, heard_at_s) in sorted(self._callers.items()):
                if heard_at_s < silent_since_s:
                    logger.info("peer_silent peer=%s", short(peer_id))
                    self._core.on_contact_lost(peer_id, sequence=self.sequence_of(peer_id))
                    self._on_news()
            if gone := self._core.on_deadline(now_s):
                self._strangers.difference_update(gone)
                self._on_news()
            await trio.sleep(_WATCH_EVERY_S)
            if trio.current_time() > now_s + _WATCH_EVERY_S + _LATE_S:
                # What came while we were frozen, or our machine busy, is read first.
                await trio.sleep(_LATE_S)

    # --- the DHT ---

    async def publish(self, dht: Dht) -> None:
        """Keep our record in the DHT, for strangers, for ever."""
        await self._joined.wait()
        key, subkey = schema.dht_key(self._run), owned_subkey(self._node.peer_id)
        while True:
            try:
                await dht.put(key, encode(self.message()), subkey=subkey, ttl_s=self._config.life_s)
            except P2PError as exc:
                logger.warning("progress_put_failed cause=%s", exc)
            await trio.sleep(self._config.life_s / 3)

    async def poll(self, dht: Dht) -> None:
        """Look for strangers in the DHT, for ever."""
        interval_s = _FIRST_POLL_S
        while True:
            try:
                for subkey, entry in (await dht.get_dictionary(schema.dht_key(self._run))).items():
                    if entry.owner is not None and subkey == owned_subkey(entry.owner):
                        self._find_untrusted(entry.owner, entry)
            except P2PError as exc:
                logger.warning("progress_poll_failed cause=%s", exc)
            self.polled.set()
            await trio.sleep(interval_s)
            interval_s = min(interval_s * _POLL_GROWTH, self._config.poll_s)

    def _find_untrusted(self, owner: PeerId, entry: Entry) -> None:
        if owner == self._node.peer_id:
            return
        try:
            message = schema.decode_record_untrusted(entry.value)
            self._hear(owner, message, life_s=min(entry.remaining_s, schema.LIFE_S_MAX))
        except (MessageInvalid, RefusedError) as exc:
            logger.debug("progress_record_ignored peer=%s cause=%s", short(owner), exc)
            return
        self.meet([owner])


@asynccontextmanager
async def open_tracker(
    node: Node,
    run: str,
    own: PeerRecord,
    *,
    dht: Dht | None,
    config: ProgressConfig | None = None,
) -> AsyncIterator[Tracker]:
    """Hear the progress of a run while the block lasts; introduce() begins to tell ours."""
    config = config or ProgressConfig()
    async with open_service_nursery() as nursery:
        tracker = Tracker(node, run, own, config, nursery)
        service = RpcService(schema.service_name(run), schema.MAJOR)
        handler: Any = tracker.on_reports
        service.stream(schema.REPORTS, handler)
        async with service.serving(node):
            nursery.start_soon(tracker.watch)
            if dht is None:
                tracker.polled.set()
            else:
                nursery.start_soon(tracker.publish, dht)
                nursery.start_soon(tracker.poll, dht)
            yield tracker
