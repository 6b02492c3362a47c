"""The extension against base transfers and a plain one, bit by bit."""

import numpy as np
import pytest

from p2p import MessageInvalid
from tests.training.privacy.inference import plain_aes, plain_extension
from tests.training.privacy.inference.seeded import SESSION, listened, random_bytes, session_key
from training.privacy.inference.base_transfer import receive_transfers, send_transfers
from training.privacy.inference.block_hash import BlockHash, Words, bytes_of
from training.privacy.inference.exchange import Exchange, run_pair, send
from training.privacy.inference.extension import (
    Bits,
    TransferReceiver,
    TransferSender,
    _columns,
    _product,
    _rows,
    _sums,
    _weights,
    choices_size_bytes,
    open_receiver,
    open_sender,
)

BLOCKS = 3


def bits(count: int, seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


def sending(counts: list[int], seed: int = 1) -> Exchange[list[tuple[Words, Words]]]:
    sender = yield from open_sender(BlockHash(SESSION), SESSION, random_bytes(seed))
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


def test_what_is_sent_and_all_pads_are_those_of_a_plain_one() -> None:
    count, size_bytes = 20, 32
    drawn = random_bytes(1)
    seeds = [(drawn(16), drawn(16)) for _ in range(128)]
    secret, choices = bits(128, 2), bits(count, 3)
    s = sum(int(bit) << place for place, bit in enumerate(secret))
    kept = [pair[bit] for pair, bit in zip(seeds, secret, strict=True)]

    def receiving_batch() -> Exchange[Words]:
        receiver = TransferReceiver(BlockHash(SESSION), SESSION, seeds, random_bytes(4))
        return (yield from receiver.send_choices(choices)).pads(BLOCKS)

    def sending_batch() -> Exchange[tuple[Words, Words]]:
        sender = TransferSender(BlockHash(SESSION), SESSION, secret, kept)
        return (yield from sender.receive_choices(count)).pads(BLOCKS)

    heard: list[bytes] = []
    got, (zero, one) = run_pair(listened(receiving_batch(), heard), sending_batch())

    filling = int.from_bytes(random_bytes(4)(size_bytes), "little") >> count << count
    r = sum(int(bit) << place for place, bit in enumerate(choices)) | filling
    message, rows = plain_extension.receiver(SESSION, seeds, r, size_bytes)
    assert heard == [message]
    others = plain_extension.sender(kept, s, message[:-48])
    key = session_key(SESSION)

    def pads(rows: list[int]) -> bytes:
        return b"".join(
            plain_aes.tweaked(key, row, number, place).to_bytes(16, "little")
            for number, row in enumerate(rows[:count])
            for place in range(BLOCKS)
        )

    assert bytes_of(got) == pads(rows)
    assert bytes_of(zero) == pads(others)
    assert bytes_of(one) == pads([row ^ s for row in others])


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


def test_products_are_those_of_polynomials() -> None:
    rng = np.random.default_rng(6)
    columns, weights = rng.integers(0, 256, (2, 128, 16), dtype=np.uint8)
    rows, chis = (
        [int(low) | int(high) << 64 for low, high in _rows(matrix)] for matrix in (columns, weights)
    )
    expected = 0
    for row, chi in zip(rows, chis, strict=True):
        expected ^= plain_extension.product(row, chi)
    assert _product(columns, weights) == expected


@pytest.mark.parametrize("changed", [0, -48, -33, -1])
def test_changed_choices_are_found(changed: int) -> None:
    """A bit of a column, of x or of t."""

    def tamper(number: int, data: bytes) -> bytes:
        broken = bytearray(data)
        broken[changed] ^= number
        return bytes(broken)

    with pytest.raises(MessageInvalid, match="not consistent"):
        run_pair(receiving([bits(200, 1)]), sending([200]), tamper)


def cheating(count: int, columns: list[int]) -> Exchange[None]:
    """A receiver whose first choice is another one in these columns; its check is honest else."""
    receiver = yield from open_receiver(BlockHash(SESSION), SESSION, random_bytes(2))
    size_bytes = (choices_size_bytes(count) - 48) // 128
    zero, one = (_columns(streams, size_bytes) for streams in receiver._streams)
    choices = np.frombuffer(random_bytes(3)(size_bytes), dtype=np.uint8)
    masked = zero ^ one ^ choices
    masked[columns, 0] ^= 1
    weights = _weights(SESSION, masked.tobytes())
    check = _sums(choices[None], weights)[0].to_bytes(16, "little")
    check += _product(zero, weights).to_bytes(32, "little")
    yield from send(masked.tobytes() + check)


def passes(columns: list[int], seed: int) -> bool:
    try:
        run_pair(cheating(200, columns), sending([200], seed))
    except MessageInvalid as exc:
        assert str(exc) == "the choices of the transfers are not consistent"  # noqa: PT017
        return False
    return True


def test_whoever_cheats_in_a_column_passes_where_the_secret_bit_is_zero() -> None:
    assert passes([], seed=1)
    for seed in (1, 2):
        secret = np.unpackbits(np.frombuffer(random_bytes(seed)(16), np.uint8), bitorder="little")
        one, zero = int(np.argmax(secret)), int(np.argmin(secret))
        assert not passes([one], seed)
        assert passes([zero], seed)
        assert not passes(list(range(64)), seed)


@pytest.mark.parametrize("size_bytes", [16, 48])
def test_rows_are_the_transpose(size_bytes: int) -> None:
    columns = np.random.default_rng(5).integers(0, 256, (128, size_bytes), dtype=np.uint8)
    rows = _rows(columns)
    assert rows.shape == (8 * size_bytes, 2)
    for row in range(0, 8 * size_bytes, 7):
        value = int(rows[row, 0]) | int(rows[row, 1]) << 64
        for column in range(128):
            assert value >> column & 1 == columns[column, row // 8] >> row % 8 & 1
