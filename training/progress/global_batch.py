"""Where the swarm stands, from what live peers say: which step, how many samples, who is there.

Peers that name the same next round hold the same parameters, so their samples add up.

    what arrives                     what it does
    record with a newer sequence     replaces the peer's older one and starts its life anew
    record with no newer sequence    ignored
    contact lost                     the peer does not count until a newer record comes
    missing or lost in a round       the peer does not count until it has moved
    a round of ours succeeded        what each member delivered is remembered; members are presumed
                                     where the round led, until their own word comes
    we follow without a state        the same is presumed of those who stood one round before
    life over                        the peer is forgotten

Where peers disagree, those who hold a state and are neither where we are nor in our past are
*elsewhere*. We go there
    - when more than half of the weight is there: a claim weighs what we saw the peer deliver in the
      last rounds, at most a quarter of all, so strangers and one loud peer move nobody;
    - or when more peers than here are there, or as many with more samples behind them, ties by
      digest: two swarms of one run that grew apart unseen thus become one, and one side moves.
Of several rounds claimed there the upper weighted median counts. Who holds no state, or has done
nothing yet, goes where most are; before the first round that is the smallest initial digest.

Source: M. Diskin et al., Distributed Deep Learning in Open Collaborations (2021), section 3.1, for
a global batch gathered by whoever is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from averaging import RoundId
from p2p import PeerId
from training.progress.drift import Sketch, agreeing
from training.progress.position import PeerProgress, PeerRecord, Position

# Long enough that one bad round makes nobody a stranger, short enough to forget who left.
_ROUNDS_REMEMBERED = 10
# No peer's word counts more than this share of all, however much it delivers.
_WEIGHT_SHARE_MAX = 0.25
# Who lags by more rounds than this has to download the state anyway.
_HISTORY = 256
# A change of the own count smaller than this part of the peer's share of the batch is not told.
_TOLD_PART_OF_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class BatchView:
    """The swarm as seen from here at one moment."""

    samples: int
    """Accumulated for the next step by all who stand where we do, ourselves included."""
    expected: tuple[PeerId, ...]
    """Who is to be in the next round: live, same model, where we are, or following without a
    state; ourselves included."""
    computing: tuple[tuple[PeerId, float], ...]
    """Those of them who do not wait for the round yet, and how long they compute at a time."""
    somebody_waits: bool
    """Whether another of them waits for the round."""
    ahead: Position | None
    """Where the swarm is, when we are elsewhere and should go there."""
    donors: tuple[PeerId, ...]
    """Who says to hold the state of `ahead`."""
    strangers: tuple[tuple[PeerId, PeerRecord], ...]
    """Live peers under this run's name that train something else."""
    peers: tuple[PeerProgress, ...]
    """All live peers that train the same, ourselves included."""


@dataclass
class _Peer:
    said: PeerRecord
    expires_at_s: float
    unreachable: bool = False
    presumed: Position | None = None
    absent_at: tuple[RoundId, int] | None = None

    @property
    def record(self) -> PeerRecord:
        """What it said, or where the last round must have led it."""
        behind = self.presumed and self.said.position.round.number < self.presumed.round.number
        if self.presumed is None or not behind:
            return self.said
        waits = self.said.waits and not self.said.holds_state
        return replace(self.said, position=self.presumed, samples=0, waits=waits, sketch=())


class GlobalBatch:
    """Sums up the swarm's progress: when to step, with whom, and when to catch up."""

    def __init__(self, own_id: PeerId, own: PeerRecord) -> None:
        self.own_id = own_id
        self._own = own
        self._peers: dict[PeerId, _Peer] = {}
        self._delivered: deque[dict[PeerId, float]] = deque(maxlen=_ROUNDS_REMEMBERED)
        self._history: deque[RoundId] = deque(maxlen=_HISTORY)

    @property
    def own(self) -> PeerRecord:
        """What we say of ourselves."""
        return self._own

    # --- events ---

    def on_own(self, own: PeerRecord) -> None:
        """Our own progress changed."""
        self._own = own

    def on_record(
        self, peer_id: PeerId, record: PeerRecord, *, life_s: float, now_s: float
    ) -> bool:
        """A record arrived, from the peer itself or by way of others; True if it is news."""
        known = self._peers.get(peer_id)
        if peer_id == self.own_id or (known and record.sequence <= known.said.sequence):
            return False
        peer = _Peer(record, now_s + life_s)
        if known is not None:
            peer.presumed = known.presumed
            if known.absent_at == (record.position.round, record.samples):
                # Alive, but unmoved since it was missing in a round: nobody waits for it.
                peer.absent_at = known.absent_at
        self._peers[peer_id] = peer
        return True

    def on_contact_lost(self, peer_id: PeerId, *, sequence: int) -> None:
        """The peer cannot be reached: what it said up to this sequence number is void."""
        peer = self._peers.get(peer_id)
        if peer is not None and peer.said.sequence <= sequence:
            peer.unreachable = True

    def on_absent(self, peers: Collection[PeerId]) -> None:
        """These were missing or lost in a round."""
        for peer_id in sorted(peers):
            peer = self._peers.get(peer_id)
            if peer is not None:
                peer.presumed = None
                peer.absent_at = (peer.said.position.round, peer.said.samples)

    def on_round(self, delivered: Mapping[PeerId, float], position: Position) -> None:
        """A round that we were in succeeded and led here.

        Args:
            delivered: samples that each member brought into the result.
        """
        self._delivered.append({peer: max(0.0, count) for peer, count in delivered.items()})
        self._history.append(self._own.position.round)
        for peer_id in sorted(delivered):
            peer = self._peers.get(peer_id)
            if peer is not None:
                peer.presumed = position
                peer.absent_at = None

    def on_claimed(self, position: Position) -> None:
        """We follow from here on, without having been in the round that led here.

        Who was last heard of before that round was in it, most likely, and is on the way here, too.
        Else the group that we may have to lead would close without it.
        """
        for peer in self._peers.values():
            if peer.said.holds_state and not peer.unreachable:
                behind = peer.record.position.round.number == position.round.number - 1
                if behind and peer.absent_at is None:
                    peer.presumed = position

    def on_moved(self, past: Iterable[RoundId]) -> None:
        """We took over another state; these rounds led to it, as far as we know."""
        self._history.clear()
        self._history.extend(past)

    @property
    def deadline_s(self) -> float | None:
        """When the next record's life is over."""
        return min((peer.expires_at_s for peer in self._peers.values()), default=None)

    def on_deadline(self, now_s: float) -> tuple[PeerId, ...]:
        """Forget who was not heard of for its life's time; returns them."""
        gone = tuple(sorted(p for p, peer in self._peers.items() if peer.expires_at_s <= now_s))
        for peer_id in gone:
            del self._peers[peer_id]
        return gone

    # --- answers ---

    def sequence_of(self, peer_id: PeerId) -> int:
        """The newest sequence number heard of a peer; -1 for none."""
        peer = self._peers.get(peer_id)
        return peer.said.sequence if peer is not None else -1

    def known(self) -> tuple[PeerId, ...]:
        """All peers that are not forgotten yet, reachable or not, whatever they train."""
        return tuple(sorted(self._peers))

    def view(self) -> BatchView:
        """The swarm at this moment."""
        live = {
            peer_id: peer.record
            for peer_id, peer in sorted(self._peers.items())
            if not peer.unreachable
        }
        same = {p: record for p, record in live.items() if record.spec_hash == self._own.spec_hash}
        here = {
            peer_id: record
            for peer_id, record in same.items()
            # Who follows without a state comes to whichever round is next.
            if record.position.round == self._own.position.round or not record.holds_state
            if self._peers[peer_id].absent_at is None
        }
        ahead = self._ahead({p: r.position for p, r in same.items() if r.holds_state})
        return BatchView(
            samples=self._own.samples
            + sum(record.samples for record in here.values() if record.holds_state),
            expected=tuple(sorted([*here, self.own_id])),
            computing=tuple(
                (p, r.period_s) for p, r in here.items() if r.holds_state and not r.waits
            ),
            somebody_waits=any(r.waits and r.holds_state for r in here.values()),
            ahead=ahead,
            donors=tuple(
                peer_id
                for peer_id, record in same.items()
                if ahead is not None and record.holds_state
                if record.position.round == ahead.round
            ),
            strangers=tuple((p, record) for p, record in live.items() if p not in same),
            peers=tuple(
                PeerProgress.of(peer_id, record, is_me=peer_id == self.own_id)
                for peer_id, record in sorted({**same, self.own_id: self._own}.items())
            ),
        )

    def holders(self, number: int) -> tuple[Position, tuple[PeerId, ...]] | None:
        """Where most of those are that hold a state of this round or a later one, and who."""
        claims = {
            peer_id: peer.record.position
            for peer_id, peer in sorted(self._peers.items())
            if not peer.unreachable and peer.record.holds_state
            if peer.record.spec_hash == self._own.spec_hash
            if peer.record.position.round.number >= number
        }
        if not claims:
            return None
        newest = _agreed(claims, dict.fromkeys(claims, 1.0))
        return newest, tuple(p for p, claim in claims.items() if claim.round == newest.round)

    def agreeing(self, reference: Sketch, rounding: float) -> tuple[PeerId, ...]:
        """Who holds the same parameters where we are, if most do and we do not.

        Args:
            reference, rounding: as `drift.agreeing` takes them.
        """
        here = {
            peer_id: peer.record.sketch
            for peer_id, peer in sorted(self._peers.items())
            if not peer.unreachable and peer.record.holds_state
            if peer.record.spec_hash == self._own.spec_hash
            if peer.record.position == self._own.position
        }
        sketches = {**here, self.own_id: self._own.sketch}
        return agreeing(
            self.own_id,
            sketches,
            self._weights(sketches),
            reference=reference,
            rounding=rounding,
        )

    def _ahead(self, others: dict[PeerId, Position]) -> Position | None:
        """Where to go, if the swarm is elsewhere than we are."""
        mine = self._own.position
        claims = {**others, self.own_id: mine} if self._own.holds_state else others
        if any(claim.round.number > 0 for claim in claims.values()):
            # Who has done nothing yet has no say.
            claims = {p: claim for p, claim in claims.items() if claim.round.number > 0}
        if not claims:
            return None
        if self.own_id not in claims or mine.round.number == 0:
            there = _agreed(claims, dict.fromkeys(claims, 1.0))
            return there if there.round != mine.round or not self._own.holds_state else None
        past = {*self._history, mine.round}
        elsewhere = {
            peer_id: claim
            for peer_id, claim in claims.items()
            if claim.round not in past
            if claim.round.number >= mine.round.number or claim.samples > mine.samples
        }
        if not elsewhere:
            return None
        weights = self._weights(claims)
        if 2 * sum(weights[peer_id] for peer_id in elsewhere) > sum(weights.values()):
            return _agreed(elsewhere, {p: weights[p] for p in elsewhere})
        there = _agreed(elsewhere, dict.fromkeys(elsewhere, 1.0))
        heads_there, heads_here = len(elsewhere), len(claims) - len(elsewhere)
        if (-heads_there, -there.samples, there.round.parent) < (
            -heads_here,
            -mine.samples,
            mine.round.parent,
        ):
            return there
        return None

    def _weights(self, claims: Collection[PeerId]) -> dict[PeerId, float]:
        """How much each peer's word counts."""
        seen = {
            peer_id: sum(delivered.get(peer_id, 0.0) for delivered in self._delivered)
            for peer_id in claims
        }
        cap = _weight_cap(list(seen.values()))
        return {peer_id: min(count, cap) for peer_id, count in seen.items()}


def worth_telling(own: PeerRecord, told: PeerRecord | None, *, target: int, peers: int) -> bool:
    """Whether others should hear of our progress now, or at the next regular time.

    Args:
        told: what they heard last.
        target: the global batch.
        peers: how many gather it.
    """
    if told is None or own.position != told.position:
        return True
    if (own.holds_state, own.waits) != (told.holds_state, told.waits):
        return True
    share = target / max(1, peers)
    return abs(own.samples - told.samples) > _TOLD_PART_OF_SHARE * share


def _weight_cap(weights: list[float]) -> float:
    """The largest cap such that none exceeds its share of all that is left after capping."""
    falling = sorted((weight for weight in weights if weight > 0), reverse=True)
    cap = 0.0
    for capped in range(len(falling)):
        if 1 - _WEIGHT_SHARE_MAX * capped <= 0:
            break
        cap = _WEIGHT_SHARE_MAX * sum(falling[capped:]) / (1 - _WEIGHT_SHARE_MAX * capped)
        if falling[capped] <= cap:
            return cap
    # Too few for anybody to have a smaller share: all count the same.
    return falling[-1] if falling else 0.0


def _agreed(claims: Mapping[PeerId, Position], weights: Mapping[PeerId, float]) -> Position:
    """The position that the claims point to."""
    number = _upper_median({p: claim.round.number for p, claim in claims.items()}, weights)
    support: dict[Position, float] = {}
    for peer_id in sorted(claims):
        if claims[peer_id].round.number == number:
            support[claims[peer_id]] = support.get(claims[peer_id], 0.0) + weights[peer_id]
    if number == 0:
        return min(support)
    return min(support, key=lambda position: (-support[position], position))


def _upper_median(numbers: Mapping[PeerId, int], weights: Mapping[PeerId, float]) -> int:
    """The largest number such that half of the weight says it or more."""
    half = sum(weights.values()) / 2
    reached = 0.0
    for peer_id in sorted(numbers, key=lambda p: (-numbers[p], p)):
        reached += weights[peer_id]
        if reached >= half:
            return numbers[peer_id]
    raise AssertionError("all weights together are at least half of them")
