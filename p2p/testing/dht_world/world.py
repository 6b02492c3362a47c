"""DhtWorld: a swarm that grows, churns, is lied to and cut in two, while its records are read."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from p2p.dht.contact import Contact
from p2p.dht.core import DhtCore
from p2p.dht.key import node_key
from p2p.dht.record import owned_subkey
from p2p.peer_id import PeerId
from p2p.testing.dht_world.heap import EventHeap
from p2p.testing.dht_world.latency import random_place
from p2p.testing.dht_world.liar import FORGED_VALUE, FalseFriends, Liar, Lie
from p2p.testing.dht_world.network import SimulatedCalls
from p2p.testing.dht_world.peer import SimulatedPeer
from p2p.testing.dht_world.plan import SwarmPlan
from p2p.testing.dht_world.signing import StandInSigning
from p2p.testing.dht_world.steps import Steps
from p2p.testing.dht_world.tally import PhaseFigures, SwarmFigures, calls_by_name, spread_of

_INITIAL_PEERS = 3
# Whoever found nobody to join through is started again by its user after so long.
_REJOIN_S = 10.0
# An owner puts its record within this time of joining.
_FIRST_PUT_S = 60.0
# A record about to expire is not asked for: it may be gone when the answer comes.
_LIFE_LEFT_S_MIN = 60.0
# After a partition the two sides have this time to find together again.
HEALING_S = 120.0


@dataclass(slots=True)
class _Truth:
    """A record that at least one node said to have stored, as its owner knows it."""

    key: str
    subkey: str
    sequence: int
    expires_at_s: float


class DhtWorld:
    """All peers and their records; run() lets time pass."""

    def __init__(self, plan: SwarmPlan) -> None:
        self.plan = plan
        self.heap = EventHeap()
        self.peers: list[SimulatedPeer] = []
        """Everybody alive."""
        self._rng = random.Random(plan.seed)
        self.calls = SimulatedCalls(
            self.heap, self._rng, loss=plan.loss, timeout_s=plan.config.call_timeout_s
        )
        self._signing = StandInSigning(plan.seed)
        self._friends = FalseFriends()
        self._born = 0
        self._truths: dict[str, _Truth] = {}
        self._keys: list[str] = []
        self._phase: PhaseFigures | None = None
        self._phases: list[PhaseFigures] = []
        self._puts = self._put_replicas = 0
        self._departures = self._failed_joins = 0
        for index in range(plan.nodes):
            self.heap.after(plan.growth_s * index / plan.nodes, self._arrive)
        self.heap.after(plan.begins_s, self._begin)

    # --- coming and going ---------------------------------------------------------------------

    def _new_contact(self) -> Contact:
        """An id, and an address anywhere in a public part of the internet."""
        self._born += 1
        peer_id = PeerId(f"simulated{self._born:07d}")
        octets = self._rng.randint(20, 99), *self._rng.randbytes(3)
        host = ".".join(map(str, octets))
        return Contact(peer_id, node_key(peer_id), (f"/ip4/{host}/tcp/4001",))

    def _arrive(self) -> None:
        plan, rng = self.plan, self._rng
        contact = self._new_contact()
        liar = None
        # The first one is the honest stranger by whom all others come in.
        if self.peers and rng.random() < plan.liars:
            liar = Liar(rng.choice(list(Lie)), self._friends)
            self._make_friends(contact)
        share = plan.partition.share if plan.partition is not None else 0.0
        peer = SimulatedPeer(
            contact,
            random_place(rng),
            int(rng.random() < share),
            DhtCore(contact.peer_id, plan.config, check_signature=self._signing.check),
            self.calls,
            self._signing,
            rng,
            [one.contact for one in self._acquaintances()],
            liar,
        )
        self.calls.hosts[contact.peer_id] = peer
        peer.index = len(self.peers)
        self.peers.append(peer)
        peer.start(self._live(peer))

    def _acquaintances(self) -> list[SimulatedPeer]:
        """Whom a newcomer has heard of: some of those who have joined."""
        if self._born == 1:
            return []
        found: dict[PeerId, SimulatedPeer] = {}
        for _ in range(10 * _INITIAL_PEERS):
            peer = self._rng.choice(self.peers)
            if peer.joined:
                found[peer.contact.peer_id] = peer
            if len(found) == _INITIAL_PEERS:
                break
        return list(found.values()) or self.peers[:1]

    def _make_friends(self, contact: Contact) -> None:
        """A new liar brings an invented peer, and a true one's false address."""
        self._friends.add(contact)
        self._friends.add(self._new_contact())
        victim = self._rng.choice(self.peers).contact
        self._friends.add(replace(victim, addresses=self._new_contact().addresses))

    def _live(self, peer: SimulatedPeer) -> Steps[None]:
        while not (yield from peer.join()):
            self._failed_joins += 1
            yield _REJOIN_S
            peer.meet([one.contact for one in self._acquaintances() if one is not peer])
        if peer.liar is not None:
            return
        key = f"of/{peer.contact.peer_id}"
        # Of a swarm that is a hundred times larger a minute later nothing is to be learnt.
        growing_s = max(0.0, self.plan.growth_s - self.heap.now_s)
        yield growing_s + self._rng.random() * _FIRST_PUT_S
        version = 0
        while True:
            begun_s = self.heap.now_s
            version += 1
            record, report = yield from peer.put(
                key, b"version %d" % version, self.plan.record_life_s
            )
            self._puts += 1
            self._put_replicas += report.replicas
            if report.replicas:
                if key not in self._truths:
                    self._keys.append(key)
                self._truths[key] = _Truth(
                    key,
                    owned_subkey(peer.contact.peer_id),
                    record.sequence,
                    begun_s + self.plan.record_life_s,
                )
            yield self.plan.put_every_s * self._rng.uniform(0.9, 1.1)

    def _depart(self) -> None:
        """One leaves, another comes; and so on."""
        self._schedule_departure()
        peer = self._rng.choice(self.peers)
        self._departures += 1
        last = self.peers.pop()
        if last is not peer:
            self.peers[peer.index] = last
            last.index = peer.index
        if self._rng.random() < self.plan.farewells:
            peer.start(self._leave(peer))
        else:
            self.calls.vanish(peer)
        self._arrive()

    def _leave(self, peer: SimulatedPeer) -> Steps[None]:
        self.heap.after(self.plan.config.farewell_s, self.calls.vanish, peer)
        yield from peer.say_farewell()

    def _schedule_departure(self) -> None:
        rate = self.plan.churn_per_h * self.plan.nodes / 3600
        if rate:
            self.heap.after(self._rng.expovariate(rate), self._depart)

    # --- what is measured ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._enter("steady")
        self.calls.forget()
        self._puts = self._put_replicas = self._failed_joins = 0
        for peer in self.peers:
            peer.served_before = peer.served
        partition = self.plan.partition
        if partition is not None:
            cut_s = 60 * partition.at_minute
            heal_s = cut_s + 60 * partition.minutes
            self.heap.after(cut_s, self._cut, True)
            self.heap.after(heal_s, self._cut, False)
            self.heap.after(heal_s + HEALING_S, self._enter, "healed")
        self._schedule_departure()
        self._schedule_get()

    def _enter(self, phase: str) -> None:
        self._phase = PhaseFigures(phase)
        self._phases.append(self._phase)

    def _cut(self, cut: bool) -> None:
        self.calls.cut = cut
        self._enter("partition" if cut else "healing")

    def _schedule_get(self) -> None:
        rate = self.plan.gets_per_node_h * self.plan.nodes / 3600
        if rate:
            self.heap.after(self._rng.expovariate(rate), self._get)

    def _get(self) -> None:
        self._schedule_get()
        peer = self._rng.choice(self.peers)
        truth = self._random_truth()
        if truth is not None and peer.joined and peer.liar is None and self._phase is not None:
            peer.start(self._read(peer, truth, self._phase))

    def _random_truth(self) -> _Truth | None:
        """Any record that is to live for a while."""
        while self._keys:
            index = self._rng.randrange(len(self._keys))
            truth = self._truths[self._keys[index]]
            if truth.expires_at_s > self.heap.now_s + _LIFE_LEFT_S_MIN:
                return truth
            # Nobody puts it any more; its owner has left.
            del self._truths[self._keys[index]]
            self._keys[index] = self._keys[-1]
            self._keys.pop()
        return None

    def _read(self, peer: SimulatedPeer, truth: _Truth, phase: PhaseFigures) -> Steps[None]:
        sequence = truth.sequence
        found = yield from peer.get(truth.key, truth.subkey)
        phase.gets += 1
        phase.hops[found.hops] += 1
        phase.queries[found.queries] += 1
        phase.seconds.append(found.seconds)
        if found.record is None:
            phase.missing += 1
        elif found.record.value == FORGED_VALUE:
            phase.forged += 1
        elif found.record.sequence < sequence:
            phase.stale += 1
        else:
            phase.found += 1

    # --- the end ------------------------------------------------------------------------------

    def figures(self, events: int) -> SwarmFigures:
        """What it came to, once time has passed."""
        hours = (self.plan.ends_s - self.plan.begins_s) / 3600
        node_hours = self.plan.nodes * hours
        named = calls_by_name(self.calls.calls)
        honest = [peer for peer in self.peers if peer.liar is None and peer.joined]
        stayed = [peer for peer in honest if peer.served_before is not None]
        return SwarmFigures(
            nodes_at_end=len(self.peers),
            phases=self._phases,
            puts=self._puts,
            put_replicas_mean=self._put_replicas / self._puts if self._puts else 0.0,
            departures=self._departures,
            failed_joins=self._failed_joins,
            calls_per_node_h={name: count / node_hours for name, count in named.items()},
            messages_per_node_h=(sum(named.values()) + self.calls.answers) / node_hours,
            served_per_node_h=spread_of(
                [(peer.served - (peer.served_before or 0)) / hours for peer in stayed]
            ),
            records_held=spread_of([len(peer.core.store) for peer in honest]),
            contacts=spread_of([len(peer.core.table) for peer in honest]),
            events=events,
        )


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of living objects, and no cycles among the dead: collecting would be in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # All of it counts as old from now on: else the next collection would look at each object.
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()


def run_dht_world(
    plan: SwarmPlan,
    on_progress: Callable[[float], None] = lambda _: None,
    *,
    progress_every_s: float = 10.0,
) -> SwarmFigures:
    """Let a swarm live; one plan has one outcome.

    Args:
        on_progress: told the share of simulated time that has passed, from 0 to 1.
    """
    world = DhtWorld(plan)
    events, now_s = 0, 0.0
    with _no_collector():
        while now_s < plan.ends_s:
            now_s = min(now_s + progress_every_s, plan.ends_s)
            events += world.heap.run_until(now_s)
            on_progress(now_s / plan.ends_s)
    return world.figures(events)
