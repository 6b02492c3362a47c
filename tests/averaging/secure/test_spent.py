"""Vectors that were offered: refused by their bits, and freed by the promises of enough members."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from averaging.matchmaking.group import Group, Join, form_group, sign_join
from averaging.round_id import RoundId
from averaging.secure.spent import SpentUpdates, digest_of
from tests.averaging.secure.world import IDENTITIES

VECTOR = np.arange(3, dtype=np.float32)
DIGEST = digest_of(VECTOR)


def group_of(
    members: Collection[int], previous: bytes = b"", promising: Collection[int] = ()
) -> Group:
    """A group of these, some of whom promised never to sign in the previous one."""
    joins = [
        sign_join(
            Join(
                peer_id=IDENTITIES[number].peer_id,
                group_name="s",
                round=RoundId(1),
                spec_hash=bytes(32),
                terms="",
                role="node",
                weight_cap=0.0,
                up_bytes_per_s=0,
                down_bytes_per_s=0,
                nonce=bytes(16),
                addresses=(),
                previous=previous,
                abandoned=number in promising,
            ),
            IDENTITIES[number].sign,
        )
        for number in members
    ]
    group, _ = form_group(
        joins,
        chunk_elements=4096,
        span_elements=(4,),
        deadline_s=30.0,
        attempt=0,
        previous=previous,
    )
    return group


def test_a_vector_is_known_by_its_bits() -> None:
    spent = SpentUpdates()
    group = group_of(range(5))
    assert spent.freed_by(DIGEST, group)
    spent.add(DIGEST, group, promised=True)
    assert digest_of(VECTOR.copy()) in spent
    assert digest_of(VECTOR + np.float32(1e-6)) not in spent


# Of five, four are the threshold.
@pytest.mark.parametrize(
    ("members", "promising", "freed"),
    [
        ((0, 1, 2, 3), (0, 1, 2, 3), True),
        ((0, 1, 2, 3, 4), (1, 2, 3, 4), True),
        ((0, 1, 2, 3), (0, 1, 2), False),
        # Strangers to that group can promise nothing.
        ((0, 1, 2, 7), (0, 1, 2, 7), False),
    ],
)
def test_a_threshold_of_promises_frees_it(
    members: tuple[int, ...], promising: tuple[int, ...], freed: bool
) -> None:
    spent = SpentUpdates()
    first = group_of(range(5))
    spent.add(DIGEST, first, promised=True)
    assert spent.freed_by(DIGEST, group_of(members, first.group_id, promising)) is freed
    # Promises about another group are worth nothing.
    assert not spent.freed_by(DIGEST, group_of(members, b"o" * 32, promising))
    # And none frees a vector whose own member signed.
    spent.add(DIGEST, first, promised=False)
    assert not spent.freed_by(DIGEST, group_of(members, first.group_id, promising))


def test_the_last_group_counts() -> None:
    spent = SpentUpdates()
    first = group_of(range(5))
    spent.add(DIGEST, first, promised=True)
    second = group_of(range(4), first.group_id, range(4))
    spent.add(DIGEST, second, promised=True)
    assert not spent.freed_by(DIGEST, group_of(range(4), first.group_id, range(4)))
    assert spent.freed_by(DIGEST, group_of(range(3), second.group_id, range(3)))
