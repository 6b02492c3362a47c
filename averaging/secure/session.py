"""One group as one member sees it: runs the cores, and moves what they want moved."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import trio
from blake3 import blake3

from averaging.allreduce.bell import Bell
from averaging.heavy import run_heavy
from averaging.matchmaking.group import Group
from averaging.secure import signing
from averaging.secure.config import SecureConfig
from averaging.secure.contributors import Contributors
from averaging.secure.coordinator import Coordinator, Tell
from averaging.secure.masks import MaskKeys, add_masks
from averaging.secure.member import Member
from averaging.secure.parts import Array, Parts
from averaging.secure.ring import Ring, SumInvalid
from averaging.secure.schema import (
    AllKeys,
    AllShares,
    Certificate,
    Complete,
    Failed,
    FromCoordinator,
    Plan,
    Secrets,
    SignNow,
    SumEnd,
    Survivors,
    ToCoordinator,
)
from averaging.secure.shamir import Draw
from averaging.secure.stages import Stage
from averaging.secure.streams import Ended, Outbox, Uplink, spans_of
from p2p import MessageInvalid, Node, Path, PeerId, short

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Messages that wait for the coordinator's attention; whoever brings more has to wait.
_HEARD_MAX = 64


class Session:
    """Everything about one group; the cores decide, the tasks around act.

    Args:
        ring: of the group, for all its members.
        masked: our vector and its weight in the ring, shape (elements + 1,); changed in place.
        dtype: of the mean.
        draw: gives random bytes.
    """

    def __init__(
        self,
        node: Node,
        group: Group,
        ring: Ring,
        masked: Array,
        dtype: np.dtype[Any],
        config: SecureConfig,
        draw: Draw,
    ) -> None:
        self.node = node
        self.config = config
        self.group = group
        self.peers = group.peer_ids
        self.me = self.peers.index(node.peer_id)
        self.spans, owners = spans_of(group)
        self.aggregators = tuple(sorted(set(owners)))
        self.coordinator_index = owners[0]
        self.contributors = Contributors.of(group, config.contributors_min)
        self.ring = ring
        self.masked = masked
        self.mean: Array = np.empty(0, dtype)
        self.weight_sum = 0.0
        self.sums: Array = np.empty(0, ring.dtype)
        self.member = Member(
            me=self.me,
            peers=self.peers,
            group_id=group.group_id,
            owners=owners,
            sign=node.identity.sign,
            draw=draw,
        )
        self.coordinator: Coordinator | None = None
        if self.me == self.coordinator_index:
            self.coordinator = Coordinator(
                peers=self.peers,
                group_id=group.group_id,
                me=self.me,
                owners=owners,
                contributors=self.contributors,
                patience_s=config.patience_s,
                now_s=trio.current_time(),
            )
        self.parts = Parts(self.spans, ring.dtype)
        self.masked_sums: dict[tuple[int, int], tuple[Array, SumEnd]] = {}
        """What we added up, by plan and span."""
        self.masking: list[trio.Event] = [trio.Event() for _ in self.spans]
        """Set when our part of the span is masked."""
        self._delivered: set[tuple[int, int]] = set()
        self.uplinks = {peer: Uplink() for peer in self.aggregators if peer != self.me}
        self.links: dict[int, Outbox] = {}
        self.link_changed = Bell()
        self.sent_bytes: Counter[Path] = Counter()
        self.received_bytes: Counter[Path] = Counter()
        self.ended: Ended | None = None
        self.done = trio.Event()
        self.timer_changed = Bell()
        self.start_task: Callable[..., None] = lambda *args: None
        self._orders_in, self._orders = trio.open_memory_channel[FromCoordinator | str](np.inf)
        self._heard_in, self._heard = trio.open_memory_channel[tuple[int, ToCoordinator | str]](
            _HEARD_MAX
        )

    # --- the coordinator ----------------------------------------------------------------------

    async def lead(self) -> None:
        """Hear members, one after the other, and tell them what comes next."""
        assert self.coordinator is not None
        async for sender, said in self._heard:
            now_s = trio.current_time()
            if isinstance(said, str):
                self._tell(self.coordinator.on_lost(sender, said, now_s))
                continue
            try:
                tells = self.coordinator.on_message_untrusted(sender, said, now_s)
            except MessageInvalid as exc:
                tells = self.coordinator.on_lost(sender, str(exc), now_s)
            self._tell(tells)

    async def keep_time(self) -> None:
        """Wake the coordinator when it asked to be."""
        assert self.coordinator is not None
        while True:
            with trio.move_on_at(self.coordinator.deadline_s) as due:
                await self.timer_changed.wait()
            if due.cancelled_caught:
                self._tell(self.coordinator.on_deadline(trio.current_time()))

    def _tell(self, tells: Sequence[Tell]) -> None:
        for tell in tells:
            for member in tell.to:
                if member == self.me:
                    self.obey_soon(tell.message)
                elif member in self.links:
                    self.links[member].put(tell.message)
        self.timer_changed.ring()

    async def hear(self, sender: int, said: ToCoordinator | str) -> None:
        """A member's message to the coordinator, that is us; or why it is lost."""
        await self._heard_in.send((sender, said))

    async def _say(self, message: ToCoordinator) -> None:
        if self.coordinator is not None:
            await self.hear(self.me, message)
        else:
            self.uplinks[self.coordinator_index].outbox.put(message)

    # --- the member ---------------------------------------------------------------------------

    def obey_soon(self, message: FromCoordinator) -> None:
        """The coordinator's next word."""
        self._orders_in.send_nowait(message)

    def obey_lost(self, cause: str) -> None:
        """The coordinator's stream is gone; what it said before still counts."""
        self._orders_in.send_nowait(cause)

    async def obey(self) -> None:
        """Do what the coordinator asks for, one after the other, while it keeps the rules."""
        await self._say(self.member.begin())
        leader = short(self.peers[self.coordinator_index])
        async for message in self._orders:
            if isinstance(message, str):
                self.end(f"the coordinator {leader} is lost: {message}", self.coordinator_index)
                return
            try:
                await self._obey_untrusted(message)
            except MessageInvalid as exc:
                self.end(f"the coordinator {leader} broke a rule: {exc}", self.coordinator_index)
            if self.ended is not None:
                return

    async def _obey_untrusted(self, message: FromCoordinator) -> None:
        member = self.member
        # What is offloaded changes nothing of the member that other tasks use meanwhile: the plan,
        # the survivors and the sums have their own messages, which wait for this one.
        match message:
            case AllKeys():
                await self._say(await self.node.offload(member.on_all_keys_untrusted, message))
            case AllShares():
                complaint = await self.node.offload(member.on_all_shares_untrusted, message)
                if complaint is not None:
                    await self._say(complaint)
                else:
                    self.start_task(self._mask, member.mask_keys())
            case Plan():
                for span in member.on_plan_untrusted(message):
                    self.start_task(self._deliver, span)
                await self._take_over()
            case Survivors():
                too_few = self.contributors.complaint(message.members)
                if too_few is not None:
                    raise MessageInvalid(f"among its survivors {too_few}")
                member.on_survivors_untrusted(message)
                if self.me not in message.members:
                    self.end("left out of the survivors", self.me)
                    return
                for span, owner in enumerate(member.owners):
                    if owner == self.me:
                        self.start_task(self._add_up, span, message)
                await self.look_at_sums()
            case SignNow():
                await self._say(member.on_sign_untrusted(message))
            case Certificate():
                reveal = member.on_certificate_untrusted(message)
                if reveal is not None:
                    await self._say(reveal)
            case Secrets():
                keys = await self.node.offload(member.on_secrets_untrusted, message)
                await self._unmask(keys)
            case Failed():
                self.end(message.reason, *message.blamed)

    async def _mask(self, keys: MaskKeys) -> None:
        """Put masks on our vector, span by span, each ready to be sent as soon as it has them."""
        order = (*range(self.me, len(self.spans)), *range(min(self.me, len(self.spans))))
        for span in order:
            start, stop = self.spans[span].start, self.spans[span].stop
            part = self.masked[start:stop]
            work = part.nbytes * len(self.peers)
            await self.heavy(work, add_masks, part, start, keys)
            self.masking[span].set()
            self.start_task(self._deliver, span)

    async def _deliver(self, span: int) -> None:
        """See that our part of a span comes to its owner."""
        await self.masking[span].wait()
        owner = self.member.owners[span]
        if (span, owner) in self._delivered:
            return
        self._delivered.add((span, owner))
        if owner != self.me:
            self.uplinks[owner].outbox.put_bulk(span)
            return
        self.parts.put(span, self.me, self.masked[self.spans[span].start : self.spans[span].stop])
        await self._say(Complete(span, self.me))

    async def _unmask(self, keys: MaskKeys) -> None:
        work = self.sums.nbytes * (len(keys.added) + len(keys.subtracted) + 1)
        try:
            await self.heavy(work, self._unmask_in_place, keys)
        except SumInvalid as exc:
            self.end(str(exc))
            return
        self.end("")

    def _unmask_in_place(self, keys: MaskKeys) -> None:
        add_masks(self.sums, 0, keys)
        mean = np.empty(len(self.sums) - 1, self.mean.dtype)
        self.weight_sum = self.ring.decode(self.sums, mean)
        self.mean = mean

    # --- sums ---------------------------------------------------------------------------------

    async def on_part(self, sender: int, span: int) -> None:
        """All of a member's part of a span has come."""
        if self.member.owners[span] == self.me:
            await self._say(Complete(span, sender))

    async def _take_over(self) -> None:
        """Parts of spans that are newly ours may have come before the plan did."""
        for span, owner in enumerate(self.member.owners):
            if owner == self.me:
                for sender in self.parts.whole(span):
                    await self._say(Complete(span, sender))

    async def _add_up(self, span: int, told: Survivors) -> None:
        """Add up the survivors' parts of a span, and send the sum to all that have a stream."""
        where = self.spans[span]
        work = (where.stop - where.start) * self.ring.dtype.itemsize * len(told.members)
        if not set(told.members) <= set(self.parts.whole(span)):
            reason = "the coordinator names survivors whose parts are not here"
            self.end(reason, self.coordinator_index)
            return
        total, digest = await self.heavy(work, self._add_up_and_hash, span, told.members)
        if self.member.plan != told.plan:
            return
        survivors = signing.survivors_digest(told.members)
        end = SumEnd(told.plan, span, self.me, survivors, digest, bytes(64))
        end = signing.signed_end(self.group.group_id, end, self.node.identity.sign)
        self.masked_sums[told.plan, span] = total, end
        for link in self.links.values():
            link.put_bulk((told.plan, span))
        await self._hold(end, total, digest)

    def _add_up_and_hash(self, span: int, survivors: Sequence[int]) -> tuple[Array, bytes]:
        total = self.parts.masked_sum(span, survivors)
        return total, _digest(total)

    async def look_at_sums(self) -> None:
        """Take those masked sums that have come and that are wanted now."""
        for owner, uplink in self.uplinks.items():
            try:
                while uplink.ends and self._wanted(uplink.ends[0]):
                    await self._take_sum_untrusted(owner, uplink, uplink.ends.pop(0))
            except MessageInvalid as exc:
                # The coordinator sees that its sum does not come to us.
                uplink.cause = f"{short(self.peers[owner])} broke a rule: {exc}"
                uplink.scope.cancel()

    async def _take_sum_untrusted(self, owner: int, uplink: Uplink, end: SumEnd) -> None:
        arriving = uplink.sums.pop((end.plan, end.span), None)
        if end.plan < self.member.plan or self.member.stage is not Stage.PARTS:
            return
        if arriving is None or not arriving.whole or end.owner != owner:
            raise MessageInvalid("a span's end without all of its sum")
        digest = await self.heavy(arriving.place.nbytes, _digest, arriving.place)
        await self._hold(end, arriving.place, digest)

    def _wanted(self, end: SumEnd) -> bool:
        """Whether a sum is wanted or too old, and not one of a plan that we are yet to hear of."""
        member = self.member
        known = end.plan == member.plan and member.survivors is not None
        return end.plan < member.plan or known

    async def _hold(self, end: SumEnd, total: Array, digest: bytes) -> None:
        held = self.member.on_sum_untrusted(end, digest)
        if held is not None:
            if not len(self.sums):
                self.sums = np.empty_like(self.masked)
            where = self.spans[end.span]
            self.sums[where.start : where.stop] = total
            await self._say(held)

    # --- the rest -----------------------------------------------------------------------------

    def end(self, reason: str, *blamed: int) -> None:
        """The session is over; the first reason counts."""
        if self.ended is None:
            self.ended = Ended(reason=reason, blamed=blamed)
            self.done.set()

    def blame(self, ended: Ended) -> tuple[PeerId, ...]:
        """Who is not to be waited for in the next attempt."""
        return tuple(self.peers[number] for number in ended.blamed if number != self.me)

    async def heavy(self, size_bytes: int, function: Callable[..., T], *args: Any) -> T:
        """Run numeric work on so many bytes: in a thread when it pays."""
        return await run_heavy(self.node, size_bytes, function, *args)


def _digest(values: Array) -> bytes:
    return blake3(values.view(np.uint8).data).digest()
