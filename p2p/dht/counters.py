"""Counters: what a node has done in the DHT since it joined, for its operator and for others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from p2p import metrics
from p2p.dht.store import StoreCode

_OUTCOMES = {
    StoreCode.STORED: "stored",
    StoreCode.OLDER: "older",
    StoreCode.REFUSED: "refused",
}


@dataclass
class Counters:
    """Sums of one node; the process's Prometheus registry is told the same."""

    requests: Counter[str] = field(default_factory=Counter)
    """Calls of peers that were served, by method."""
    offers: Counter[StoreCode] = field(default_factory=Counter)
    """Records that peers gave us, by what became of them."""
    searches: int = 0
    search_hops: int = 0
    """Peers asked in all searches together."""
    search_s: float = 0.0
    """Time of all searches together."""

    def on_request(self, method: str) -> None:
        """A peer's call is served."""
        self.requests[method] += 1
        metrics.DHT_REQUESTS.labels(method).inc()

    def on_offer(self, code: StoreCode, reason: str = "") -> None:
        """A record that a peer gave us was stored, was older, or was refused.

        Args:
            reason: with a refusal, one of few kinds.
        """
        self.offers[code] += 1
        metrics.DHT_OFFERS.labels(_OUTCOMES[code]).inc()
        if code is StoreCode.REFUSED:
            metrics.DHT_REFUSALS.labels(reason).inc()

    def on_search(self, queries: int, took_s: float) -> None:
        """A search of ours is over, for which so many peers were asked."""
        self.searches += 1
        self.search_hops += queries
        self.search_s += took_s
        metrics.DHT_SEARCHES.inc()
        metrics.DHT_SEARCH_HOPS.observe(queries)
        metrics.DHT_SEARCH_SECONDS.observe(took_s)

    def on_call(self, method: str, took_s: float) -> None:
        """A peer answered us."""
        metrics.DHT_CALL_SECONDS.labels(method).observe(took_s)

    def on_call_failed(self, method: str) -> None:
        """A peer did not answer us."""
        metrics.DHT_CALLS_FAILED.labels(method).inc()
