"""DhtConfig: how a node takes part in the DHT."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from p2p.dht.schema import CONTACTS_MAX
from p2p.dht.store import StoreLimits
from p2p.dht.validate import RecordValidator


@dataclass(frozen=True, kw_only=True)
class DhtConfig:
    """How many hold a record, how many are asked, and how often things are looked after."""

    replicas: int = 5
    """Nodes that hold each record (k of the paper's STORE): with a fifth of all nodes gone at
    once, 3 records in 10 000 are lost until their owners put them again."""
    read_replicas: int = 3
    """Holders that must agree before a read ends; if they do not, all replicas are read."""
    bucket_size: int = 20
    """Contacts per bucket (k of the paper's routing table). Source: Kademlia, 2002, §2.2."""
    parallelism: int = 3
    """Queries under way at once in a lookup (α). Source: Kademlia, 2002, §2.3."""
    stall_s: float = 1.0
    """A peer silent for so long no longer holds up a lookup; its late answer still counts. One
    that takes far longer than others of late is passed over sooner."""
    disjoint_paths: int = 2
    """Ways that have no peer in common on which the nodes nearest to a signed record are sought,
    once there are peers that we do not know ourselves: a liar is on one of them only (d of the
    paper). Source: I. Baumgart, S. Mies, S/Kademlia, 2007, §4.4."""
    call_timeout_s: float = 5.0
    """A peer silent for so long has failed; connecting included."""
    liveness_s: float = 300.0
    """A contact not heard for so long is pinged, unless a connection to it stands."""
    refresh_s: float = 1800.0
    """A bucket in which nobody searched for so long is searched."""
    republish_s: float = 600.0
    """A record that nobody offered us for so long is handed to its replicas again."""
    farewell_s: float = 2.0
    """Longest time for handing over records and saying farewell; 0 leaves without."""
    store: StoreLimits = field(default_factory=StoreLimits)
    """How much is held for others."""
    validators: tuple[RecordValidator, ...] = ()
    """What records must fulfil besides their signature, where we store and where we read them."""
    sequence_floor: int = 0
    """The highest sequence number of an earlier life (Dht.sequence), if it was saved."""
    state_path: Path | None = None
    """File of whom we know and of our sequence number, made when missing: with it a restart is
    back in a second, whoever of the initial peers is gone; None remembers nothing."""

    def __post_init__(self) -> None:
        if not 1 <= self.read_replicas <= self.replicas <= self.bucket_size <= CONTACTS_MAX:
            raise ValueError(
                f"1 <= read_replicas <= replicas <= bucket_size <= {CONTACTS_MAX} must hold"
            )
        if self.parallelism < 1 or not 1 <= self.disjoint_paths <= 8:
            raise ValueError("parallelism must be at least 1, disjoint_paths from 1 to 8")
        times = (self.stall_s, self.call_timeout_s, self.liveness_s)
        if min(*times, self.refresh_s, self.republish_s) <= 0 or self.farewell_s < 0:
            raise ValueError("times must be positive")
