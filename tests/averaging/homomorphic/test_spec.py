"""What a spec promises: sizes that fit, room for all members, limits."""

from typing import Any

import pytest

from averaging.homomorphic import HomomorphicSpec


@pytest.mark.parametrize(
    "wrong",
    [
        {"elements": 0},
        {"members_max": 1},
        {"members_max": 5000},
        {"elements": 10**8},
        {"elements": 10**9, "scheme": "paillier"},
        {"magnitude_max": 0.5},
        {"magnitude_max": float("nan")},
        {"magnitude_max": 2.0**20},
        {"scheme": "paillier", "fraction_bits": 65},
        {"scheme": "paillier", "key_bits": 1024},
        {"scheme": "rot13"},
    ],
)
def test_impossible_specs_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        HomomorphicSpec(**{"elements": 5, **wrong})


def test_equal_specs_have_equal_digests_and_others_have_not() -> None:
    specs = [
        HomomorphicSpec(elements=5),
        HomomorphicSpec(elements=6),
        HomomorphicSpec(elements=5, scheme="paillier"),
        HomomorphicSpec(elements=5, magnitude_max=2.0),
        HomomorphicSpec(elements=5, members_max=9),
    ]
    assert len({spec.digest for spec in specs}) == len(specs)
    assert HomomorphicSpec(elements=5).digest == specs[0].digest


def test_packed_sums_of_all_members_stay_below_the_modulus() -> None:
    for magnitude, members, fraction in ((1.0, 2, 0), (1024.0, 64, 24), (2.0**40, 1000, 64)):
        spec = HomomorphicSpec(
            elements=100,
            scheme="paillier",
            magnitude_max=magnitude,
            members_max=members,
            fraction_bits=fraction,
        )
        largest = members * 2 * int(magnitude * 2.0**fraction)
        assert largest < 2**spec.slot_bits
        assert spec.slot_bits * spec.packed < spec.key_bits
        assert spec.ciphertexts * spec.packed >= 101
