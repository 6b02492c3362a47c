"""The DHT: a Kademlia of our own, with expiring records, subkeys and owners' signatures."""

from p2p.dht.config import DhtConfig
from p2p.dht.node import Dht, Entry, open_dht
from p2p.dht.offer import PutReport
from p2p.dht.record import owned_subkey
from p2p.dht.schema import Stats
from p2p.dht.store import StoreLimits
from p2p.dht.trace import Hop, HopOutcome, Trace
from p2p.dht.validate import RecordValidator, SchemaValidator
from p2p.dht.writer import PutItem

__all__ = [
    "Dht",
    "DhtConfig",
    "Entry",
    "Hop",
    "HopOutcome",
    "PutItem",
    "PutReport",
    "RecordValidator",
    "SchemaValidator",
    "Stats",
    "StoreLimits",
    "Trace",
    "open_dht",
    "owned_subkey",
]
