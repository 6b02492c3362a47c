"""Reaching a peer: every known address raced, every failure kept."""

from p2p.dial.dialer import Dialer

__all__ = ["Dialer"]
