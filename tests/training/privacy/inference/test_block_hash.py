"""The hash of blocks against AES written from its standard, and its tweaks."""

import numpy as np

from tests.training.privacy.inference import plain_aes
from tests.training.privacy.inference.seeded import SESSION, random_bytes, session_key
from training.privacy.inference.block_hash import BlockHash, blocks_of, bytes_of


def test_plain_aes_gives_the_standards_examples() -> None:
    key = bytes(range(16))
    text = bytes.fromhex("00112233445566778899aabbccddeeff")
    # FIPS-197, appendices C.1 and B.
    assert plain_aes.encrypt(key, text).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    text = bytes.fromhex("3243f6a8885a308d313198a2e0370734")
    assert plain_aes.encrypt(key, text).hex() == "3925841d02dc09fbdc118597196a0b32"


def test_it_is_the_construction_on_plain_aes() -> None:
    key = session_key(SESSION)
    data = random_bytes(1)(6 * 16)
    hash_ = BlockHash(SESSION)
    hash_.take(5)
    numbers = hash_.take(3)
    got = hash_(blocks_of(data, 2, 3), numbers, np.array([[7], [9]], dtype=np.uint64))
    for row, place in enumerate((7, 9)):
        for column in range(3):
            block = int.from_bytes(data[16 * (3 * row + column) :][:16], "little")
            expected = plain_aes.tweaked(key, block, 5 + column, place)
            assert bytes_of(got[row, column]) == expected.to_bytes(16, "little")


def test_no_number_is_given_twice_and_sessions_differ() -> None:
    hash_ = BlockHash(SESSION)
    numbers = np.concatenate([hash_.take(count) for count in (3, 0, 1, 5)])
    assert numbers.tolist() == list(range(9))
    blocks = blocks_of(bytes(9 * 16), 9)
    hashes = {bytes_of(block) for block in hash_(blocks, numbers, 0)}
    hashes |= {bytes_of(block) for block in BlockHash(b"another")(blocks, numbers, 0)}
    assert len(hashes) == 18
