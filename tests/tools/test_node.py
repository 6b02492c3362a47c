"""The limits of a relay as operators name them, and what the node holds for others."""

import random

from p2p import Identity, RelayLimits, owned_subkey
from p2p.dht.record import Record
from p2p.dht.validate import ValidatorChain
from tools.node import SIGNED_KEYS, VALIDATORS, relay_limits
from training.network import RUN_VALIDATORS


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


def test_a_node_holds_only_signed_records_where_trainers_do() -> None:
    # It loads nothing of training, so the keys are written down twice.
    theirs = [one.key_pattern for one in RUN_VALIDATORS]
    assert theirs == [one.key_pattern for one in VALIDATORS]
    assert theirs[1:] == list(SIGNED_KEYS)
    chain = ValidatorChain(VALIDATORS, lambda record: None)
    for subkey, refused in (
        ("!0000", True),
        (owned_subkey(Identity.generate(random.Random(1)).peer_id), False),
    ):
        record = Record(key="run/progress", subkey=subkey, value=b"\x01", life_ms=60_000)
        assert (chain.complaint(record, 0.0) is not None) == refused
