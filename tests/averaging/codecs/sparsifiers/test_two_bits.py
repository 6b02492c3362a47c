"""Two magnitudes for each block, and nothing that they could not be."""

import pytest
import torch

from averaging.codecs.codec import FrameInvalid
from averaging.codecs.sparsifiers.two_bits import TwoBits
from tests.averaging.codecs.inequalities import check_codec, compressor_of, families


def test_two_bits_are_the_sign_and_two_means_of_each_block() -> None:
    values = torch.tensor([1, -2, 9, -8, 0.25, 0.5])
    assert compressor_of(TwoBits(4))(values, 0).tolist() == [1.5, -1.5, 8.5, -8.5, 0.25, 0.5]


def test_any_length_takes_what_it_says() -> None:
    for count in (1, 4, 5, 65_536, 65_541):
        frame = TwoBits(5).encode(torch.linspace(-1, 2, count), 0)
        blocks = -(-count // 5)
        # A tile's symbols end at a whole byte.
        symbols = -(-count // 4) if count <= 65_536 else 65_536 // 4 + 2
        assert frame.numel() == TwoBits(5).size_limit_bytes(count) == 4 + 4 * blocks + symbols


@pytest.mark.parametrize("block", [1, 7, 100])
def test_the_classes_hold(block: int) -> None:
    check_codec(TwoBits(block), list(families(60)))


def test_what_nobody_encodes_is_refused() -> None:
    codec, out = TwoBits(4), torch.empty(3)
    frame = codec.encode(torch.tensor([2.0, 2.0, -2.0]), 0)
    for place, byte in (
        (3, 0x7F),  # with the 0x80 before it, more than any scale
        (5, 0xC0),  # a magnitude below 0
        (5, 0x7C),  # an infinite one
        (-1, 0b1000_0000),  # a symbol behind the last
    ):
        wrong = frame.clone()
        wrong[2] = 0x80
        wrong[place] = byte
        with pytest.raises(FrameInvalid):
            codec.decode(wrong, out)
    with pytest.raises(FrameInvalid, match="bytes where"):
        codec.decode(frame[:-1], out)
