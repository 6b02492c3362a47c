"""Strategies: each peer takes steps of its own, and the swarm exchanges from time to time."""

from training.strategies.anchored import DiLoCo, FederatedAveraging, LocalSGD
from training.strategies.elastic import ElasticAveraging
from training.strategies.leader import LeaderSGD
from training.strategies.outer import OuterStep
from training.strategies.strategy import Exchange, Offer, Strategy, Tactic
from training.strategies.streaming import StreamingDiLoCo

__all__ = [
    "DiLoCo",
    "ElasticAveraging",
    "Exchange",
    "FederatedAveraging",
    "LeaderSGD",
    "LocalSGD",
    "Offer",
    "OuterStep",
    "Strategy",
    "StreamingDiLoCo",
    "Tactic",
]
