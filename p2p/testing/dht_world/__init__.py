"""A whole DHT in one thread: the nodes' own cores on a heap of events, with time that jumps."""

from p2p.testing.dht_world.plan import Partition, SwarmPlan
from p2p.testing.dht_world.tally import PhaseFigures, SwarmFigures, percentile
from p2p.testing.dht_world.world import DhtWorld, run_dht_world

__all__ = [
    "DhtWorld",
    "Partition",
    "PhaseFigures",
    "SwarmFigures",
    "SwarmPlan",
    "percentile",
    "run_dht_world",
]
