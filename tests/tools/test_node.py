"""The limits of a relay as operators name them."""

from p2p import RelayLimits
from tools.node import relay_limits


def test_limits_that_are_not_named_stay() -> None:
    assert relay_limits() == RelayLimits()


def test_limits_are_named_in_the_units_of_people() -> None:
    limits = relay_limits(
        peers=10,
        circuits=20,
        megabytes_per_s=1.5,
        gigabytes_per_hour=0.25,
        circuit_megabytes_per_s=0.5,
        circuit_megabytes=3,
        circuit_minutes=2.5,
    )
    assert limits == RelayLimits(
        reservations_max=10,
        circuits_max=20,
        bytes_per_s=1_500_000,
        bytes_per_hour=250_000_000,
        circuit_bytes_per_s=500_000,
        peer_bytes_per_s=1_000_000,
        circuit_bytes_each_way=3_000_000,
        circuit_duration_s=150,
    )
