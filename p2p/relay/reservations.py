"""Who has reserved at this relay, and what its circuits may carry (core).

A reservation lasts until it expires or its peer disconnects. A circuit lasts until one of its
ends goes, its time is up, one direction has carried its bytes, or a quota is used up; an idle one
ends in time, too. Rates only slow a circuit down.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from p2p.address import network_of
from p2p.host.rates import Rate
from p2p.peer_id import PeerId
from p2p.relay.limits import RelayLimits
from p2p.relay.meter import Pace, Quota
from p2p.relay.schema import Status

_HOUR_S = 3_600.0
_MINUTE_S = 60.0
WORTHWHILE_BYTES = 65_536
"""A quota with less left opens no circuit: a handshake and a few calls would be cut off."""
# Peers of which it is known what they have used; more than can have circuits at once.
_ACCOUNTS_MAX = 4_096


@dataclass(frozen=True)
class _Held:
    """One peer's reservation."""

    network: str
    expires_at_s: float


@dataclass(frozen=True)
class Circuit:
    """A circuit that may be opened now."""

    number: int
    source: PeerId
    target: PeerId
    ends_at_s: float


@dataclass(frozen=True)
class Passage:
    """What may be done with bytes that came."""

    passed_bytes: int
    """How many of them may pass; fewer than asked ends the circuit."""
    wait_s: float
    """How long to wait before taking more from their sender."""


@dataclass
class _Account:
    """What one peer has used, over all its circuits."""

    pace: Pace
    quota: Quota


@dataclass
class _Flow:
    """What an open circuit has used."""

    left_bytes: dict[PeerId, int]
    pace: Pace


class Reservations:
    """Grants reservations and circuits within the limits."""

    def __init__(self, limits: RelayLimits, now_s: float) -> None:
        self._limits = limits
        self._held: dict[PeerId, _Held] = {}
        self._circuits: dict[int, Circuit] = {}
        self._flows: dict[int, _Flow] = {}
        self._accounts: OrderedDict[PeerId, _Account] = OrderedDict()
        self._pace = Pace(limits.bytes_per_s, now_s)
        self._quota = Quota(limits.bytes_per_hour, _HOUR_S, now_s)
        self._of_peer = _per_minute(limits.requests_per_minute_and_peer)
        self._of_network = _per_minute(limits.requests_per_minute_and_network)
        self._next_number = 0

    @property
    def circuits(self) -> int:
        """How many are open."""
        return len(self._circuits)

    def holders(self, now_s: float) -> tuple[PeerId, ...]:
        """The peers that hold a reservation."""
        return tuple(peer for peer, held in self._held.items() if held.expires_at_s > now_s)

    def on_request(self, peer_id: PeerId, host: str, now_s: float) -> bool:
        """A peer asks for something: whether it may, or asks too often; each request counts."""
        # The peer's own rate first: what it refuses does not weigh on its neighbours.
        return self._of_peer.allows(peer_id, now_s) and self._of_network.allows(
            network_of(host), now_s
        )

    def on_reserve(self, peer_id: PeerId, host: str, now_s: float) -> float | None:
        """A request, perhaps to refresh: until when it is granted, or None when we are full."""
        self._drop_expired(now_s)
        others = [held for peer, held in self._held.items() if peer != peer_id]
        network = network_of(host)
        near = sum(held.network == network for held in others)
        if (
            len(others) >= self._limits.reservations_max
            or near >= self._limits.reservations_per_network_max
        ):
            # A refresh from a place that is full now keeps what it has until that expires.
            return None
        expires_at_s = now_s + self._limits.reservation_life_s
        self._held[peer_id] = _Held(network, expires_at_s)
        return expires_at_s

    def on_disconnected(self, peer_id: PeerId) -> None:
        """The peer has no connection to us any more."""
        self._held.pop(peer_id, None)

    def on_connect(self, source: PeerId, target: PeerId, now_s: float) -> Circuit | Status:
        """A peer wants to reach another: the circuit, counted from now on, or why not."""
        self._drop_expired(now_s)
        if target not in self._held:
            return Status.NO_RESERVATION
        if source == target:
            return Status.PERMISSION_DENIED
        of_peer = Counter(
            peer for one in self._circuits.values() for peer in (one.source, one.target)
        )
        if (
            len(self._circuits) >= self._limits.circuits_max
            or max(of_peer[source], of_peer[target]) >= self._limits.circuits_per_peer_max
            or self._left_bytes(source, target, now_s) < self._worthwhile_bytes
        ):
            return Status.RESOURCE_LIMIT_EXCEEDED
        ends_at_s = now_s + self._limits.circuit_duration_s
        circuit = Circuit(self._next_number, source, target, ends_at_s)
        self._next_number += 1
        self._circuits[circuit.number] = circuit
        each_way = self._limits.circuit_bytes_each_way
        self._flows[circuit.number] = _Flow(
            {source: each_way, target: each_way}, Pace(self._limits.circuit_bytes_per_s, now_s)
        )
        return circuit

    def on_bytes(self, circuit: Circuit, sender: PeerId, size_bytes: int, now_s: float) -> Passage:
        """Bytes to carry: how many of them may pass, and the pause after them."""
        flow = self._flows.get(circuit.number)
        if flow is None:
            return Passage(0, 0.0)
        left = min(flow.left_bytes[sender], self._left_bytes(circuit.source, circuit.target, now_s))
        passed = min(left, size_bytes)
        flow.left_bytes[sender] -= passed
        self._quota.take(passed)
        waits_s = [flow.pace.take(passed, now_s), self._pace.take(passed, now_s)]
        for peer in (circuit.source, circuit.target):
            account = self._account(peer, now_s)
            account.quota.take(passed)
            waits_s.append(account.pace.take(passed, now_s))
        return Passage(passed, max(waits_s))

    def on_circuit_over(self, circuit: Circuit) -> None:
        """The circuit has ended, or could not be opened."""
        self._circuits.pop(circuit.number, None)
        self._flows.pop(circuit.number, None)

    @property
    def _worthwhile_bytes(self) -> int:
        limits = self._limits
        return min(WORTHWHILE_BYTES, limits.peer_bytes_per_hour, limits.bytes_per_hour)

    def _left_bytes(self, source: PeerId, target: PeerId, now_s: float) -> int:
        """What the quotas of both peers and of all leave."""
        quotas = [self._account(peer, now_s).quota for peer in (source, target)]
        return min(quota.left_bytes(now_s) for quota in (*quotas, self._quota))

    def _account(self, peer_id: PeerId, now_s: float) -> _Account:
        """A peer's account; those not used for longest are forgotten, which makes them full."""
        account = self._accounts.get(peer_id)
        if account is None:
            account = self._accounts[peer_id] = _Account(
                Pace(self._limits.peer_bytes_per_s, now_s),
                Quota(self._limits.peer_bytes_per_hour, _HOUR_S, now_s),
            )
            if len(self._accounts) > _ACCOUNTS_MAX:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(peer_id)
        return account

    def _drop_expired(self, now_s: float) -> None:
        for peer in [peer for peer, held in self._held.items() if held.expires_at_s <= now_s]:
            del self._held[peer]


def _per_minute(count: int) -> Rate:
    return Rate(per_s=count / _MINUTE_S, burst=count)
