"""What a node counts for its operator, in the process's Prometheus registry.

Labels have few values and never a peer id: an operator watches rates, and no page of metrics
should grow with the swarm or tell who talks to whom.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge

CONNECTIONS = Gauge("p2p_connections", "Open connections to proven peers.", ["direction"])
HANDSHAKES_REFUSED = Counter(
    "p2p_handshakes_refused_total", "Inbound connections turned away by the limits."
)
SENT_BYTES = Counter("p2p_sent_bytes_total", "Bytes handed to sockets, encryption included.")
RECEIVED_BYTES = Counter("p2p_received_bytes_total", "Bytes taken from sockets.")
RPC_REQUESTS = Counter(
    "p2p_rpc_requests_total", "Calls served, by how they ended.", ["protocol", "outcome"]
)
