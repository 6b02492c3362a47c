"""Contacts: what one member knows of the others in a group, and when to ask them again (core)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from averaging.allreduce.outputs import Hold
from averaging.allreduce.schema import Answer

Peer = TypeVar("Peer", bound=Hashable)

# A holder that failed to give a piece so often is as good as one that has lost it.
_FETCHES_MAX = 3
_HELD = int(Hold.HELD)


@dataclass
class _Contact:
    answer: Answer | None = None
    """The last one; None when the last question failed."""
    reachable: bool | None = None
    """None while the first question is out."""
    asking: bool = False
    hurried: bool = False
    """The question that is out does not say what we have to tell now."""
    ask_at_s: float = float("-inf")
    interval_s: float = 0.0


class Contacts(Generic[Peer]):
    """The members that can be asked, in group order.

    Args:
        interval_s: first pause before a member is asked again; it doubles with each question.
        interval_s_max: the longest such pause.
    """

    def __init__(self, peers: Sequence[Peer], *, interval_s: float, interval_s_max: float) -> None:
        self._contacts = {peer: _Contact(interval_s=interval_s) for peer in peers}
        self._interval_s = interval_s
        self._interval_s_max = interval_s_max
        self._fetch_failures: Counter[tuple[int, Peer]] = Counter()
        self._slow: dict[Peer, None] = {}

    def due(self, now_s: float) -> list[Peer]:
        """Whom to ask now; an answer or a failure must follow for each."""
        due = [
            peer
            for peer, contact in self._contacts.items()
            if not contact.asking and contact.ask_at_s <= now_s
        ]
        for peer in due:
            self._contacts[peer].asking = True
        return due

    @property
    def due_at_s(self) -> float | None:
        """When somebody is to be asked next; None while all questions are out."""
        waiting = [contact.ask_at_s for contact in self._contacts.values() if not contact.asking]
        return min(waiting, default=None)

    def hurry(self, now_s: float) -> None:
        """Something new is to be told: ask everyone again at once."""
        for contact in self._contacts.values():
            contact.ask_at_s = now_s
            contact.interval_s = self._interval_s
            contact.hurried = contact.asking

    def on_answer(self, peer: Peer, answer: Answer, now_s: float) -> None:
        """The member answered."""
        contact = self._contacts[peer]
        contact.answer = answer
        contact.reachable = True
        self._wait(contact, now_s)

    def on_no_answer(self, peer: Peer, now_s: float) -> None:
        """The member could not be asked, or said nothing that counts."""
        contact = self._contacts[peer]
        contact.answer = None
        contact.reachable = False
        self._wait(contact, now_s)

    def on_silent(self, peer: Peer) -> None:
        """The member has been silent for too long: nobody waits for its answer once more."""
        self._contacts[peer].answer = None
        self._contacts[peer].reachable = False

    def on_slow(self, peer: Peer) -> None:
        """The member takes too long: what it holds is as good as lost."""
        self._slow[peer] = None

    def forgive_slowness(self, pieces: int) -> None:
        """Better late than never: from now on slow members are asked, after the others."""
        for peer in self._slow:
            for piece in range(pieces):
                self._fetch_failures[piece, peer] += 1
        self._slow.clear()

    def _failures(self, piece: int, peer: Peer) -> int:
        return _FETCHES_MAX if peer in self._slow else self._fetch_failures[piece, peer]

    def on_fetch_failed(self, peer: Peer, piece: int, now_s: float) -> None:
        """The member did not give us a piece; what it last said no longer counts."""
        self._fetch_failures[piece, peer] += 1
        contact = self._contacts[peer]
        contact.answer = None
        contact.reachable = None
        contact.ask_at_s = now_s

    def holder_of(self, piece: int, digest: bytes | None, plan: int) -> tuple[Peer, bytes] | None:
        """A member that holds the piece, and its digest.

        Args:
            digest: which version; None takes any that will last under this plan.
        """
        holders = []
        for number, (peer, contact) in enumerate(self._contacts.items()):
            answer = contact.answer
            if answer is None or not _holds(answer, piece):
                continue
            failures = self._failures(piece, peer)
            if failures >= _FETCHES_MAX:
                continue
            held = answer.pieces[piece].digest
            if held == digest or (digest is None and not _outdated(answer, plan)):
                voted = answer.vote is not None
                holders.append((not voted, failures, number, peer, held))
        if not holders:
            return None
        *_, peer, held = min(holders, key=lambda holder: holder[:3])
        return peer, held

    def nobody_has(
        self, piece: int, plan: int, *, rumours: bool, digest: bytes | None = None
    ) -> bool:
        """Whether no reachable member holds the piece or may still get it.

        Args:
            plan: the newest that we know; who has yet to hear of it may get the piece.
            rumours: whether to hope for what members heard from others. Not when we pass our
                hopes on ourselves, or two members would keep each other's hopes up for ever.
            digest: which version; None for any.
        """
        hopeless = (Hold.LOST,) if rumours else (Hold.LOST, Hold.RUMOUR)
        return all(
            self._lacks(contact, self._failures(piece, peer), piece, plan, hopeless, digest)
            for peer, contact in self._contacts.items()
        )

    def _lacks(
        self,
        contact: _Contact,
        failures: int,
        piece: int,
        plan: int,
        hopeless: tuple[Hold, ...],
        digest: bytes | None,
    ) -> bool:
        if contact.reachable is None:
            return False
        if contact.answer is None or failures >= _FETCHES_MAX:
            return True
        if _outdated(contact.answer, plan):
            return False
        status = contact.answer.pieces[piece]
        if status.state == Hold.HELD:
            return digest not in (None, status.digest)
        return status.state in hopeless

    def let_go(self, piece: int, digest: bytes) -> bool:
        """Whether a member that voted for this version of the piece holds it no more."""
        return any(
            contact.answer is not None
            and contact.answer.vote is not None
            and contact.answer.vote.pieces[piece] == digest
            and contact.answer.pieces[piece].state == Hold.LOST
            for contact in self._contacts.values()
        )

    def known_unreachable(self, peer: Peer) -> bool:
        """Whether the member was asked and did not answer."""
        contact = self._contacts.get(peer)
        return contact is not None and contact.reachable is False

    def can_ask(self, peer: Peer) -> bool:
        """Whether the member may still answer."""
        contact = self._contacts.get(peer)
        return contact is not None and contact.reachable is not False

    def heard(self, voters: Sequence[Peer]) -> bool:
        """Whether those that voted had the chance to show us what they were given."""
        return all(
            (answer := self._contacts[peer].answer) is not None and answer.vote is not None
            for peer in voters
            if self.can_ask(peer)
        )

    def known_reachable(self, peer: Peer) -> bool:
        """Whether the member was asked and answered."""
        contact = self._contacts.get(peer)
        return contact is not None and contact.reachable is True

    def unreachable(self, peer: Peer, *, suspected: bool) -> bool:
        """Whether the member is lost: it did not answer, or is suspected and has not yet."""
        contact = self._contacts.get(peer)
        if contact is None or contact.reachable is None:
            return suspected
        return not contact.reachable

    def _wait(self, contact: _Contact, now_s: float) -> None:
        contact.asking = False
        contact.ask_at_s = now_s if contact.hurried else now_s + contact.interval_s
        contact.hurried = False
        contact.interval_s = min(2 * contact.interval_s, self._interval_s_max)


def _holds(answer: Answer, piece: int) -> bool:
    return answer.pieces[piece].state == _HELD


def _outdated(answer: Answer, plan: int) -> bool:
    """Whether the member will change its mind as soon as it hears of the plan."""
    return answer.open and (answer.plan.number if answer.plan is not None else 0) < plan
