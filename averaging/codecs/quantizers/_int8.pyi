"""The compiled loops of Uniform's frames with one byte an element; see _int8.c."""

from typing_extensions import Buffer

def encode(
    values: Buffer,
    block: int,
    largest: int,
    scale_max: float,
    smallest: float,
    frame: Buffer,
    decoded: Buffer | None,
    /,
) -> bool:
    """Overwrite the frame, and decoded where it is given; False where a value is not finite.

    Args:
        values: float32, contiguous, aligned.
        block: elements that share a scale, at least 1.
        largest: L, from 1 to 127.
        scale_max, smallest: no scale is above the one; of a block below the other it is 0.
        frame: uint8: 4 bytes for each block, then one for each element.
        decoded: float32, of as many elements as values; does not overlap them.

    Raises:
        ValueError: the buffers' sizes do not belong together.
    """

def decode(scales: Buffer, symbols: Buffer, block: int, largest: int, values: Buffer, /) -> bool:
    """Overwrite values; False where a symbol is above 2L.

    Args:
        scales: float32, aligned, one for each block.
        symbols: uint8, one for each element.
        block, largest: as for encode().
        values: float32, of as many elements.

    Raises:
        ValueError: the buffers' sizes do not belong together.
    """
