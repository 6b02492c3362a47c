"""Dial-back: peers dial us on request and say whether they got through (AutoNAT of libp2p)."""

from p2p.nat.autonat.client import ask_dial_back
from p2p.nat.autonat.schema import AUTONAT_PROTOCOL
from p2p.nat.autonat.server import Probe, serving_dial_back

__all__ = ["AUTONAT_PROTOCOL", "Probe", "ask_dial_back", "serving_dial_back"]
