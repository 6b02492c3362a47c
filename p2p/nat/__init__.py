"""What a node knows of its own place in the network."""

from p2p.nat.report import NetReport

__all__ = ["NetReport"]
