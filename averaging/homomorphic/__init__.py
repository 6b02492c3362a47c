"""Sums of numbers that stay encrypted: members hold the key, the aggregator only adds."""

from averaging.homomorphic.aggregator import SumConfig, open_sum_aggregator
from averaging.homomorphic.errors import ExtraMissing, SumFailed
from averaging.homomorphic.member import SumMember, SumReport, open_sum_member
from averaging.homomorphic.scheme import Adder, SecretKey, adder_untrusted, draw_key
from averaging.homomorphic.spec import HomomorphicSpec

__all__ = [
    "Adder",
    "ExtraMissing",
    "HomomorphicSpec",
    "SecretKey",
    "SumConfig",
    "SumFailed",
    "SumMember",
    "SumReport",
    "adder_untrusted",
    "draw_key",
    "open_sum_aggregator",
    "open_sum_member",
]
