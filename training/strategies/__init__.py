"""Strategies: each peer takes steps of its own, and the swarm exchanges from time to time."""

from training.strategies.anchored import DiLoCo, FederatedAveraging, FedProx, LocalSGD
from training.strategies.elastic import ElasticAveraging
from training.strategies.leader import LeaderSGD
from training.strategies.outer import OuterStep
from training.strategies.scaffold import Scaffold
from training.strategies.secure import SecureExchange
from training.strategies.strategy import Exchange, Offer, Strategy, Tactic
from training.strategies.streaming import StreamingDiLoCo

__all__ = [
    "DiLoCo",
    "ElasticAveraging",
    "Exchange",
    "FedProx",
    "FederatedAveraging",
    "LeaderSGD",
    "LocalSGD",
    "Offer",
    "OuterStep",
    "Scaffold",
    "SecureExchange",
    "Strategy",
    "StreamingDiLoCo",
    "Tactic",
]
