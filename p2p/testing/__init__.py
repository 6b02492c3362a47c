"""Test programs that use p2p: a simulated network with faults, repeatable from a seed."""

from p2p.testing.dht_world import (
    Partition,
    SwarmFigures,
    SwarmPlan,
    percentile,
    run_dht_world,
)
from p2p.testing.network import SimNetwork
from p2p.testing.run import run_sim
from p2p.testing.transport import HandlerError

__all__ = [
    "HandlerError",
    "Partition",
    "SimNetwork",
    "SwarmFigures",
    "SwarmPlan",
    "percentile",
    "run_dht_world",
    "run_sim",
]
