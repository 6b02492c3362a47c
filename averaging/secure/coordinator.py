"""The coordinator of a secure aggregation: who is still in it, and what comes next (core).

It is the group's first aggregator. Members need not trust it with more than the attempt's success:
it sees shares only sealed or after the certificate, and cannot make two sets of survivors agree.

    state       event                                         then
    KEYS        all there gave keys                           SHARES: everybody's keys to all
    SHARES      all there dealt                               PARTS: to each what is dealt to it
    PARTS       a complaint before any part is there          FAILED: it names both
    PARTS       every span has parts of all there             SUMS: they are the survivors
    PARTS       the same, and too few brought a vector        FAILED
    PARTS       an owner of spans is lost                     a plan gives them to others
    SUMS        an owner is lost whose sum somebody lacks     PARTS: a plan, then other survivors
    SUMS        an owner signed two sums                      FAILED: it names the owner
    SUMS        all survivors there hold all masked sums      SIGNATURES: they are asked to sign
    SIGNATURES  as many as the threshold signed the same      REVEALS: the certificate to all
    REVEALS     as many revealed their shares                 DONE: the secrets to all
    REVEALS     shares of another secret than committed to    FAILED: it names the dealer
    any         somebody is too late, lost, or breaks a rule  go on without it; it is told
    any         too few are left                              FAILED

*Too late* is who needs more than the patience for a small message; for parts and sums, more than
twice as long as most need, and the patience.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from averaging.secure import signing
from averaging.secure.board import Board
from averaging.secure.contributors import Contributors
from averaging.secure.dealers import Dealers
from averaging.secure.schema import (
    Agreement,
    AllKeys,
    AllShares,
    Certificate,
    Complaint,
    Complete,
    Failed,
    FromCoordinator,
    Held,
    Keys,
    Plan,
    Reveal,
    Secrets,
    Shares,
    SignNow,
    SumEnd,
    Survivors,
    ToCoordinator,
)
from averaging.secure.shares import check_reveal_untrusted, secret_untrusted
from averaging.secure.stages import Phase
from p2p import MessageInvalid, PeerId, short

logger = logging.getLogger(__name__)

_SLOWER_MAX: Final = 2.0


@dataclass(frozen=True)
class Tell:
    """Send this to these members, ourselves perhaps among them."""

    to: tuple[int, ...]
    message: FromCoordinator


class Coordinator:
    """Leads one group through its phases.

    Args:
        me: our index.
        owners: for each span the index of the aggregator that adds it up.
        contributors: those without whom there is no sum.
        patience_s: how much later than most a member may be, beside as long again as they took.
    """

    def __init__(
        self,
        *,
        peers: Sequence[PeerId],
        group_id: bytes,
        me: int,
        owners: Sequence[int],
        contributors: Contributors,
        patience_s: float,
        now_s: float,
    ) -> None:
        self.phase = Phase.KEYS
        self.deadline_s = now_s + patience_s
        """When on_deadline() is due."""
        self.lost: dict[int, str] = {}
        """Who is out of it, and why."""
        self._peers = tuple(peers)
        self._me = me
        self._group_id = group_id
        self._patience_s = patience_s
        self._began_s = now_s
        self._need = signing.survivors_min(len(peers))
        self._contributors = contributors
        self._dealers = Dealers(group_id, peers)
        self._board = Board(owners, self._need)
        self._survivors: tuple[int, ...] = ()
        self._agreements: dict[int, Agreement] = {}
        self._revealed: dict[int, dict[int, bytes]] = {}

    def on_message_untrusted(self, sender: int, message: ToCoordinator, now_s: float) -> list[Tell]:
        """A member says something; whoever breaks a rule is out of it.

        Raises:
            MessageInvalid: the sender broke a rule; call on_lost() for what comes of it.
        """
        if sender in self.lost or self.phase in (Phase.DONE, Phase.FAILED):
            return []
        match message:
            case Keys():
                self._dealers.on_keys_untrusted(sender, message, wanted=self.phase is Phase.KEYS)
            case Shares():
                if self.phase is Phase.KEYS:
                    raise MessageInvalid("shares before everybody's keys")
                self._dealers.on_shares_untrusted(
                    sender, message, wanted=self.phase is Phase.SHARES
                )
            case Complaint():
                return self._on_complaint(sender, message)
            case Complete():
                self._on_complete_untrusted(sender, message)
            case Held():
                tells = self._on_held_untrusted(sender, message.end)
                if tells:
                    return tells
            case Agreement():
                self._on_agreement_untrusted(sender, message)
            case Reveal():
                self._on_reveal_untrusted(sender, message)
        return self._advance(now_s)

    def on_lost(self, member: int, reason: str, now_s: float) -> list[Tell]:
        """A member's stream ended, or it broke a rule."""
        if member in self.lost or self.phase in (Phase.DONE, Phase.FAILED):
            return []
        return self._lose([member], reason, now_s)

    def on_deadline(self, now_s: float) -> list[Tell]:
        """Whoever is not as far as most are is out of it."""
        if now_s < self.deadline_s or self.phase in (Phase.DONE, Phase.FAILED):
            return []
        late: list[int] = []
        if self.phase in (Phase.PARTS, Phase.SUMS):
            late = self._board.slow_owners(self._gathered)
        if not late:
            delivered = self._delivered()
            late = [member for member in self._there() if member not in delivered]
        if self._me in late:
            return self._fail("the coordinator itself is too slow", (self._me,))
        self.deadline_s = float("inf")
        return self._lose(late, f"too late with its {self.phase.value}", now_s)

    # --- what members say ---------------------------------------------------------------------

    def _on_complaint(self, sender: int, complaint: Complaint) -> list[Tell]:
        # Nothing is masked yet. Which of both lies nobody can tell.
        if self.phase is not Phase.PARTS or any(self._board.complete):
            raise MessageInvalid("a complaint about shares after others have used theirs")
        dealer = complaint.dealer
        if dealer not in self._dealers.shares or dealer == sender:
            raise MessageInvalid("a complaint about one who dealt nothing")
        one, other = short(self._peers[sender]), short(self._peers[dealer])
        reason = f"{one} says that the shares which {other} dealt to it are bad"
        return self._fail(reason, (dealer, sender))

    def _on_complete_untrusted(self, sender: int, complete: Complete) -> None:
        board, span, member = self._board, complete.span, complete.sender
        if span >= len(board.owners) or member not in self._dealers.shares:
            raise MessageInvalid("a part of no span, or of one who dealt no shares")
        # What an earlier owner says is of no use.
        if self.phase is Phase.PARTS and board.owners[span] == sender:
            board.complete[span].add(member)

    def _on_held_untrusted(self, sender: int, end: SumEnd) -> list[Tell]:
        board = self._board
        if end.plan != board.plan or self.phase is not Phase.SUMS:
            return []
        known = board.ends.get(end.span)
        if end != known:
            if end.span >= len(board.owners) or end.owner != board.owners[end.span]:
                raise MessageInvalid("a masked sum of another than the span's owner")
            if end.survivors != signing.survivors_digest(self._survivors):
                raise MessageInvalid("a masked sum of others than the survivors")
            signing.check_end_untrusted(self._group_id, self._peers, end)
            if known is not None:
                owner = short(self._peers[end.owner])
                return self._fail(f"{owner} told members different sums", (end.owner,))
            board.ends[end.span] = end
        board.holders[end.span].add(sender)
        return []

    def _on_agreement_untrusted(self, sender: int, agreement: Agreement) -> None:
        if agreement.member != sender:
            raise MessageInvalid("an agreement of somebody else")
        signing.check_agreement_untrusted(self._group_id, self._peers, agreement)
        known = self._agreements.get(sender)
        if known is not None and signing.contradict(known, agreement):
            raise MessageInvalid(f"{short(self._peers[sender])} signed two sets of survivors")
        told = (agreement.plan, agreement.survivors, agreement.digest)
        if self._phase_before(Phase.SIGNATURES) or told != self._to_sign:
            raise MessageInvalid("an agreement to another sum than the one that was asked for")
        self._agreements[sender] = agreement

    def _on_reveal_untrusted(self, sender: int, reveal: Reveal) -> None:
        if self._phase_before(Phase.REVEALS) or reveal.member != sender:
            raise MessageInvalid("shares revealed before the certificate, or of somebody else")
        if self.phase is not Phase.REVEALS or sender in self._revealed:
            return
        if sender not in self._survivors:
            raise MessageInvalid("shares revealed by one who is no survivor")
        hashes = self._dealers.hashes_of(sender)
        shares = check_reveal_untrusted(self._group_id, reveal, self._survivors, hashes)
        self._revealed[sender] = shares

    # --- what comes next ----------------------------------------------------------------------

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose vectors are in the sum, once that is proposed."""
        return self._survivors

    @property
    def _to_sign(self) -> tuple[int, tuple[int, ...], bytes]:
        board = self._board
        digests = [board.ends[span].digest for span in range(len(board.owners))]
        return board.plan, self._survivors, signing.sums_digest(self._dealers.transcript, digests)

    def _phase_before(self, phase: Phase) -> bool:
        order = list(Phase)
        return order.index(self.phase) < order.index(phase)

    def _there(self) -> list[int]:
        """Who can still deliver what this phase gathers."""
        match self.phase:
            case Phase.KEYS:
                able: Collection[int] = range(len(self._peers))
            case Phase.SHARES:
                able = self._dealers.keys
            case Phase.PARTS:
                able = self._dealers.shares
            case _:
                able = self._survivors
        return [member for member in sorted(able) if member not in self.lost]

    def _delivered(self) -> set[int]:
        """Who has delivered all that this phase gathers."""
        match self.phase:
            case Phase.KEYS:
                return set(self._dealers.keys)
            case Phase.SHARES:
                return set(self._dealers.shares)
            case Phase.PARTS:
                return set.intersection(*self._board.complete)
            case Phase.SUMS:
                return set.intersection(*self._board.holders)
            case Phase.SIGNATURES:
                return set(self._agreements)
            case _:
                return set(self._revealed)

    @property
    def _gathered(self) -> list[set[int]]:
        """For each span, who is done with what this phase gathers of it."""
        return self._board.complete if self.phase is Phase.PARTS else self._board.holders

    def _advance(self, now_s: float) -> list[Tell]:
        """Go on to the next phase as often as this one is over."""
        tells: list[Tell] = []
        while self.phase not in (Phase.DONE, Phase.FAILED):
            there, delivered = self._there(), self._delivered()
            # Signatures and shares of the threshold do; more would only cost time.
            enough = self.phase in (Phase.SIGNATURES, Phase.REVEALS)
            possible = delivered.union(there) if enough else set(there)
            if len(possible) < self._need:
                return tells + self._fail_with_too_few(len(possible))
            if len(delivered) < self._need if enough else not delivered.issuperset(there):
                self._set_deadline(now_s)
                return tells
            tells += self._next_phase()
            self._began_s, self.deadline_s = now_s, float("inf")
        return tells

    def _set_deadline(self, now_s: float) -> None:
        if self.phase not in (Phase.PARTS, Phase.SUMS):
            self.deadline_s = self._began_s + self._patience_s
        elif self._board.mostly(self._gathered) and self.deadline_s == float("inf"):
            took_s = now_s - self._began_s
            self.deadline_s = now_s + (_SLOWER_MAX - 1) * took_s + self._patience_s

    def _next_phase(self) -> list[Tell]:
        there = self._there()
        match self.phase:
            case Phase.KEYS:
                self.phase = Phase.SHARES
                return [Tell(tuple(there), AllKeys(self._dealers.all_keys))]
            case Phase.SHARES:
                self.phase = Phase.PARTS
                dealt = [
                    Tell((member,), AllShares(self._dealers.dealt_to(member))) for member in there
                ]
                return dealt + self._replan()
            case Phase.PARTS:
                complaint = self._contributors.complaint(there)
                if complaint is not None:
                    return self._fail(complaint, self.lost)
                self.phase = Phase.SUMS
                self._survivors = tuple(there)
                return self._tell_all(Survivors(self._board.plan, self._survivors))
            case Phase.SUMS:
                self.phase = Phase.SIGNATURES
                return [Tell(tuple(there), SignNow(self._board.plan))]
            case Phase.SIGNATURES:
                self.phase = Phase.REVEALS
                return self._tell_all(self._certificate())
            case _:
                return self._tell_secrets_untrusted()

    def _certificate(self) -> Certificate:
        signers = tuple(sorted(self._agreements))
        signatures = tuple(self._agreements[signer].signature for signer in signers)
        return Certificate(*self._to_sign, signers, signatures)

    def _tell_secrets_untrusted(self) -> list[Tell]:
        seeds: list[bytes] = []
        keys: list[bytes] = []
        for dealer in sorted(self._dealers.shares):
            survived = dealer in self._survivors
            shares = {member: revealed[dealer] for member, revealed in self._revealed.items()}
            try:
                secret = secret_untrusted(
                    self._group_id,
                    self._peers,
                    self._dealers.keys[dealer],
                    survived=survived,
                    shares=shares,
                )
            except MessageInvalid as exc:
                return self._fail(str(exc), (dealer,))
            (seeds if survived else keys).append(secret)
        self.phase = Phase.DONE
        return self._tell_all(Secrets(tuple(seeds), tuple(keys)))

    # --- losses -------------------------------------------------------------------------------

    def _lose(self, members: Sequence[int], reason: str, now_s: float) -> list[Tell]:
        """Go on without them; they are told, in case that they still listen."""
        for member in members:
            logger.info("member_lost peer=%s cause=%s", short(self._peers[member]), reason)
            self.lost[member] = reason
        told = Failed(f"left out by the coordinator: {reason}"[:300], tuple(members))
        farewell = [Tell(tuple(members), told)]
        replanned = self._replan()
        if replanned:
            self._began_s, self.deadline_s = now_s, float("inf")
        return farewell + replanned + self._advance(now_s)

    def _replan(self) -> list[Tell]:
        """Give the spans of lost owners to others, who get all parts of them anew.

        Owners lost before there are masks are replaced with the first plan.
        """
        holding = self._there() if self.phase is Phase.SUMS else None
        if self.phase not in (Phase.PARTS, Phase.SUMS):
            return []
        if not self._board.replan(self.lost, holding):
            return []
        self._survivors = ()
        self.phase = Phase.PARTS
        return self._tell_all(Plan(self._board.plan, tuple(self._board.owners)))

    def _tell_all(self, message: FromCoordinator) -> list[Tell]:
        there = tuple(member for member in sorted(self._dealers.shares) if member not in self.lost)
        return [Tell(there, message)]

    def _fail_with_too_few(self, left: int) -> list[Tell]:
        lost = "; ".join(f"{short(self._peers[one])} {why}" for one, why in self.lost.items())
        return self._fail(f"{left} members are left of the {self._need} needed: {lost}", self.lost)

    def _fail(self, reason: str, blamed: Iterable[int]) -> list[Tell]:
        self.phase = Phase.FAILED
        self.deadline_s = float("inf")
        there = (member for member in range(len(self._peers)) if member not in self.lost)
        return [Tell(tuple(there), Failed(reason[:300], tuple(blamed)))]
