"""A secure aggregation without a network: the cores of all members, and every message kept.

Messages are carried one at a time in a random order (those of one pair in theirs), and each is
decoded from its own bytes, as in life. A member that drops says and hears nothing more.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from averaging.secure import schema, signing
from averaging.secure.contributors import Contributors
from averaging.secure.coordinator import Coordinator, Tell
from averaging.secure.masks import MaskKeys, add_masks
from averaging.secure.member import Member
from averaging.secure.parts import Parts, Span
from averaging.secure.ring import Ring
from averaging.secure.sealing import commit
from p2p import Identity, MessageInvalid, decode_untrusted, encode

Array = np.ndarray[Any, Any]

IDENTITIES = [Identity.generate(random.Random(1000 + number)) for number in range(16)]
PHASES = ("keys", "shares", "part", "held", "agreement", "reveal")
"""What a member was about to say when it dropped."""
_TAGS = {
    schema.Keys: "keys",
    schema.Shares: "shares",
    schema.Part: "part",
    schema.Held: "held",
    schema.Agreement: "agreement",
    schema.Reveal: "reveal",
}


def flipped(data: bytes, place: int = 0) -> bytes:
    """The same bytes but for one bit."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@dataclass(frozen=True)
class Sent:
    """A message on its way; the payload of a part or a sum is an array."""

    sender: int
    receiver: int
    message: Any
    payload: Array | None = None


class World:
    """So many members, some of whom are aggregators, and what each of them came to."""

    def __init__(
        self, seed: int, count: int = 16, aggregators: int = 5, elements: int = 23
    ) -> None:
        self.rng = random.Random(seed)
        self.count = count
        self.group_id = self.rng.randbytes(32)
        self.peers = [identity.peer_id for identity in IDENTITIES[:count]]
        self.ring = Ring(bits=32, members=count, value_max=4.0, weight_max=2.0)
        cuts = [(elements + 1) * part // aggregators for part in range(aggregators + 1)]
        both = itertools.pairwise(cuts)
        self.spans = tuple(Span(start, stop) for start, stop in both)
        self.owners = tuple(range(aggregators))
        numbers = np.random.default_rng(seed)
        self.vectors = numbers.uniform(-4, 4, (count, elements)).astype(np.float32)
        self.weights = [round(self.rng.uniform(0.1, 2.0), 3) for _ in range(count)]
        self.plain = np.empty((count, elements + 1), self.ring.dtype)
        for number in range(count):
            self.ring.encode(self.vectors[number], self.weights[number], self.plain[number])
        self.masked = self.plain.copy()
        self.sums = np.zeros_like(self.plain)
        self.drawn: list[list[bytes]] = [[] for _ in range(count)]
        """What each member drew, in order."""
        self.members = [self._member(number) for number in range(count)]
        self.parts = [Parts(self.spans, self.ring.dtype) for _ in range(count)]
        self.coordinator = Coordinator(
            peers=self.peers,
            group_id=self.group_id,
            me=0,
            owners=self.owners,
            contributors=Contributors(frozenset(range(count)), 3),
            patience_s=1.0,
            now_s=0.0,
        )
        self.now_s = 0.0
        self.time_passes = True
        """Whether the coordinator loses its patience when nothing is left to carry."""
        self.gone: dict[int, str] = {}
        self.drops: dict[int, tuple[str, int]] = {}
        """Who drops when about to say this, having said it so many times."""
        self.said: Counter[tuple[int, str]] = Counter()
        self.tamper: Callable[[Sent], list[Sent]] = lambda sent: [sent]
        """What becomes of a message that a liar sends."""
        self.queues: dict[tuple[int, int], deque[Sent]] = {}
        self.transcript: list[Sent] = []
        self.done: dict[int, Array] = {}
        """The sum in the ring, at each member that has it."""
        self.failed: dict[int, str] = {}

    def _member(self, number: int) -> Member:
        def draw(size_bytes: int) -> bytes:
            drawn = self.rng.randbytes(size_bytes)
            self.drawn[number].append(drawn)
            return drawn

        return Member(
            me=number,
            peers=self.peers,
            group_id=self.group_id,
            owners=self.owners,
            sign=IDENTITIES[number].sign,
            draw=draw,
        )

    # --- carrying -----------------------------------------------------------------------------

    def run(self) -> None:
        """Until nothing is left to carry and nobody waits for the time."""
        for number, member in enumerate(self.members):
            self.say(number, member.begin())
        self.run_on()

    def run_on(self) -> None:
        """From where it stands."""
        while True:
            while any(self.queues.values()):
                ready = sorted(pair for pair, queue in self.queues.items() if queue)
                self.carry(self.queues[self.rng.choice(ready)].popleft())
            waits = self.coordinator.deadline_s < float("inf") and 0 not in self.gone
            if not waits or not self.time_passes:
                return
            self.now_s = self.coordinator.deadline_s
            self.tell(self.coordinator.on_deadline(self.now_s))

    def send(self, sent: Sent) -> None:
        """Put a message on its way, unless the sender drops just before."""
        tag = _TAGS.get(type(sent.message), "")
        if self.drops.get(sent.sender) == (tag, self.said[sent.sender, tag]):
            self.drop(sent.sender, tag)
        self.said[sent.sender, tag] += 1
        if sent.sender not in self.gone:
            for told in self.tamper(sent):
                self.transcript.append(told)
                self.queues.setdefault((told.sender, told.receiver), deque()).append(told)

    def drop(self, number: int, why: str) -> None:
        """A member is gone; the coordinator sees its stream end."""
        if number not in self.gone:
            self.gone[number] = why
            self.tell(self.coordinator.on_lost(number, "left", self.now_s))

    def say(self, number: int, message: Any) -> None:
        """A member's word to the coordinator."""
        self.send(Sent(number, 0, message))

    def tell(self, tells: list[Tell]) -> None:
        """The coordinator's words to members."""
        for tell in tells:
            for number in tell.to:
                self.send(Sent(0, number, tell.message))

    def carry(self, sent: Sent) -> None:
        """Deliver a message, by its bytes, to who is still there."""
        if sent.receiver in self.gone:
            return
        message = decode_untrusted(
            encode(sent.message), type(sent.message), size_bytes_max=1_000_000
        )
        if isinstance(message, schema.Part):
            self.on_part(sent, message)
        elif isinstance(message, schema.SumEnd):
            self.on_sum(sent, message)
        elif isinstance(message, schema.ToCoordinator):
            self.on_said(sent.sender, message)
        else:
            try:
                self.obey(sent.receiver, message)
            except MessageInvalid as exc:
                self.failed[sent.receiver] = str(exc)

    def on_said(self, sender: int, message: Any) -> None:
        """The coordinator hears a member."""
        try:
            tells = self.coordinator.on_message_untrusted(sender, message, self.now_s)
        except MessageInvalid as exc:
            tells = self.coordinator.on_lost(sender, str(exc), self.now_s)
        self.tell(tells)

    # --- what a service does ------------------------------------------------------------------

    def obey(self, number: int, message: Any) -> None:
        """A member does what the coordinator asks for."""
        member = self.members[number]
        match message:
            case schema.AllKeys():
                self.say(number, member.on_all_keys_untrusted(message))
            case schema.AllShares():
                complaint = member.on_all_shares_untrusted(message)
                if complaint is not None:
                    self.say(number, complaint)
                    return
                keys = member.mask_keys()
                add_masks(self.masked[number], 0, keys)
                self.send_parts(number, range(len(self.spans)))
            case schema.Plan():
                self.send_parts(number, member.on_plan_untrusted(message))
                for span, owner in enumerate(member.owners):
                    for sender in self.parts[number].whole(span) if owner == number else ():
                        self.say(number, schema.Complete(span, sender))
            case schema.Survivors():
                member.on_survivors_untrusted(message)
                for span, owner in enumerate(member.owners):
                    if owner == number:
                        self.send_sum(number, span, message)
            case schema.SignNow():
                self.say(number, member.on_sign_untrusted(message))
            case schema.Certificate():
                reveal = member.on_certificate_untrusted(message)
                if reveal is not None:
                    self.say(number, reveal)
            case schema.Secrets():
                self.unmask(number, member.on_secrets_untrusted(message))
            case schema.Failed():
                self.failed[number] = message.reason

    def send_parts(self, number: int, spans: Iterable[int]) -> None:
        """Our masked part of these spans to their owners."""
        for span in spans:
            where, owner = self.spans[span], self.members[number].owners[span]
            part = self.masked[number][where.start : where.stop].copy()
            self.send(Sent(number, owner, schema.Part(span, where.start), part))

    def on_part(self, sent: Sent, part: schema.Part) -> None:
        """An aggregator gets a part."""
        assert sent.payload is not None
        parts = self.parts[sent.receiver]
        parts.put(part.span, sent.sender, sent.payload)
        if self.members[sent.receiver].owners[part.span] == sent.receiver:
            self.say(sent.receiver, schema.Complete(part.span, sent.sender))

    def send_sum(self, number: int, span: int, told: schema.Survivors) -> None:
        """An aggregator adds up a span, for all."""
        total = self.parts[number].masked_sum(span, told.members)
        end = schema.SumEnd(
            told.plan,
            span,
            number,
            signing.survivors_digest(told.members),
            blake3(total.tobytes()).digest(),
            bytes(64),
        )
        end = signing.signed_end(self.group_id, end, IDENTITIES[number].sign)
        for receiver in range(self.count):
            self.send(Sent(number, receiver, end, total))

    def on_sum(self, sent: Sent, end: schema.SumEnd) -> None:
        """A member gets a span's masked sum; one that comes too early waits."""
        assert sent.payload is not None
        member = self.members[sent.receiver]
        if end.plan > member.plan or (end.plan == member.plan and member.survivors is None):
            if sent.receiver not in self.failed:
                self.queues[sent.sender, sent.receiver].appendleft(sent)
                self.bring_orders(sent.receiver)
            return
        try:
            held = member.on_sum_untrusted(end, blake3(sent.payload.tobytes()).digest())
        except MessageInvalid as exc:
            self.failed[sent.receiver] = str(exc)
            return
        if held is not None:
            where = self.spans[end.span]
            self.sums[sent.receiver][where.start : where.stop] = sent.payload
            self.say(sent.receiver, held)

    def bring_orders(self, number: int) -> None:
        """Let the coordinator's next word to a member overtake the others'."""
        queue = self.queues.get((0, number))
        if queue:
            self.carry(queue.popleft())
        else:
            self.queues.clear()

    def unmask(self, number: int, keys: MaskKeys) -> None:
        """Take the masks off the sum."""
        add_masks(self.sums[number], 0, keys)
        self.done[number] = self.sums[number]

    # --- what is asked of it afterwards -------------------------------------------------------

    def sent(self, kind: type[Any]) -> list[Sent]:
        """All messages of a kind, in order."""
        return [sent for sent in self.transcript if isinstance(sent.message, kind)]

    def survivors_sum(self) -> Array:
        """What the survivors' plain vectors add up to, in the ring."""
        survivors = list(self.coordinator.survivors)
        total: Array = self.plain[survivors].sum(axis=0, dtype=self.ring.dtype)
        return total

    def revealed(self) -> dict[int, set[str]]:
        """For each dealer, of which of its secrets shares were revealed, by whomever.

        Found out from the bytes: which of all commitments each revealed share fits.
        """
        hashes = {
            sent.message.hashes[place : place + 32]
            for sent in self.sent(schema.Shares)
            for place in range(0, len(sent.message.hashes), 32)
        }
        dealers = sorted({sent.sender for sent in self.sent(schema.Shares)})
        kinds: dict[int, set[str]] = {}
        for sent in self.sent(schema.Reveal):
            for share in (*sent.message.seeds, *sent.message.keys):
                for dealer in dealers:
                    for kind in ("seed", "key"):
                        names = bytes([dealer, sent.sender])
                        if commit(f"{kind}-share", self.group_id, names, share) in hashes:
                            kinds.setdefault(dealer, set()).add(kind)
        return kinds
