"""The extension against base transfers, bit by bit against a slow transpose."""

import numpy as np
import pytest

from tests.training.privacy.inference.seeded import SESSION, random_bytes
from training.privacy.inference.base_transfer import receive_transfers, send_transfers
from training.privacy.inference.block_hash import BlockHash, Words, bytes_of
from training.privacy.inference.exchange import Exchange, run_pair
from training.privacy.inference.extension import Bits, _rows, open_receiver, open_sender

BLOCKS = 3


def bits(count: int, seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


def sending(counts: list[int]) -> Exchange[list[tuple[Words, Words]]]:
    sender = yield from open_sender(BlockHash(SESSION), SESSION, random_bytes(1))
    pads = []
    for count in counts:
        pads.append((yield from sender.receive_choices(count)).pads(BLOCKS))
    return pads


def receiving(choices: list[Bits]) -> Exchange[list[Words]]:
    receiver = yield from open_receiver(BlockHash(SESSION), SESSION, random_bytes(2))
    pads = []
    for some in choices:
        pads.append((yield from receiver.send_choices(some)).pads(BLOCKS))
    return pads


def test_it_does_what_base_transfers_do() -> None:
    # Several batches on one set of seeds, one of them not a multiple of anything.
    choices = [bits(count, seed) for seed, count in enumerate((1, 300, 128))]
    sent, got = run_pair(sending([len(some) for some in choices]), receiving(choices))
    seen = set()
    for some, (zero, one), chosen in zip(choices, sent, got, strict=True):
        assert chosen.shape == (len(some), BLOCKS, 2)
        expected = np.where(some[:, None, None] == 1, one, zero)
        np.testing.assert_array_equal(chosen, expected)
        seen |= {bytes_of(block) for pads in (zero, one) for row in pads for block in row}
    # All pads differ, so what was not chosen is in nothing that the receiver has.
    assert len(seen) == 2 * BLOCKS * (1 + 300 + 128)
    base = [bool(bit) for bit in choices[0]]
    pairs, keys = run_pair(
        send_transfers(1, SESSION, random_bytes(3)),
        receive_transfers(base, SESSION, random_bytes(4)),
    )
    assert keys == [pairs[0][base[0]]]


def test_what_is_sent_shows_no_choice() -> None:
    """Choices of all zeros and all ones: about half of the bits sent are ones either way."""
    for value in (0, 1):
        heard = b""

        def tamper(number: int, data: bytes) -> bytes:
            nonlocal heard
            heard = data
            return data

        choices = np.full(1000, value, dtype=np.uint8)
        run_pair(receiving([choices]), sending([1000]), tamper)
        ones = int(np.unpackbits(np.frombuffer(heard, np.uint8)).sum())
        total = 8 * len(heard)
        # Four deviations: one run in 16 000 would fail, and the seed is fixed.
        assert abs(ones - total / 2) < 4 * (total / 4) ** 0.5


@pytest.mark.parametrize("size_bytes", [16, 48])
def test_rows_are_the_transpose(size_bytes: int) -> None:
    columns = np.random.default_rng(5).integers(0, 256, (128, size_bytes), dtype=np.uint8)
    rows = _rows(columns)
    assert rows.shape == (8 * size_bytes, 2)
    for row in range(0, 8 * size_bytes, 7):
        value = int(rows[row, 0]) | int(rows[row, 1]) << 64
        for column in range(128):
            assert value >> column & 1 == columns[column, row // 8] >> row % 8 & 1
