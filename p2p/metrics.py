"""What a node counts for its operator, in the process's Prometheus registry.

Labels have few values and never a peer id: an operator watches rates, and no page of metrics
should grow with the swarm or tell who talks to whom.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector


class ByteCounter(Collector):
    """A Counter that is cheap enough for every read and write of every socket."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name, self._documentation = name, documentation
        self._lock = threading.Lock()
        self._total = 0
        REGISTRY.register(self)

    def add(self, size_bytes: int) -> None:
        """So many more."""
        with self._lock:
            self._total += size_bytes

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What the registry asks for."""
        yield CounterMetricFamily(self._name, self._documentation, value=self._total)


CONNECTIONS = Gauge("p2p_connections", "Open connections to proven peers.", ["direction"])
HANDSHAKES_REFUSED = Counter(
    "p2p_handshakes_refused_total", "Inbound connections turned away by the limits."
)
SENT_BYTES = ByteCounter("p2p_sent_bytes_total", "Bytes handed to sockets, encryption included.")
RECEIVED_BYTES = ByteCounter("p2p_received_bytes_total", "Bytes taken from sockets.")
RPC_REQUESTS = Counter(
    "p2p_rpc_requests_total", "Calls served, by how they ended.", ["protocol", "outcome"]
)

# From a warm read on a local network to a lookup that waits for several dead peers.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

DHT_SEARCHES = Counter("p2p_dht_searches_total", "Searches through the DHT, those of reads too.")
DHT_SEARCH_SECONDS = Histogram(
    "p2p_dht_search_seconds", "How long searches took.", buckets=_SECONDS
)
DHT_SEARCH_HOPS = Histogram(
    "p2p_dht_search_hops", "Peers asked in a search.", buckets=(1, 2, 3, 5, 8, 12, 20, 32, 64, 128)
)
DHT_CALL_SECONDS = Histogram(
    "p2p_dht_call_seconds",
    "How long peers took to answer, connecting included.",
    ["method"],
    buckets=_SECONDS,
)
DHT_CALLS_FAILED = Counter("p2p_dht_calls_failed_total", "Calls that got no answer.", ["method"])
DHT_REQUESTS = Counter("p2p_dht_requests_total", "Calls of peers that were served.", ["method"])
DHT_OFFERS = Counter(
    "p2p_dht_offers_total", "Records that peers gave us, by what became of them.", ["outcome"]
)
DHT_REFUSALS = Counter(
    "p2p_dht_refusals_total", "Records refused, by the kind of reason.", ["reason"]
)
DHT_RECORDS = Gauge("p2p_dht_records", "Records held.")
DHT_RECORD_BYTES = Gauge("p2p_dht_record_bytes", "Memory for records, the books included.")
DHT_CONTACTS = Gauge("p2p_dht_contacts", "Peers in the routing table that spoke to us.")
