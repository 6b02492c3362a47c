"""Loops of codecs in C, for a CPU; see _loops.c. Buffers are contiguous and aligned.

Each raises ValueError where the buffers' sizes do not belong together, and writes nothing then.
"""

from typing_extensions import Buffer

def encode_int8(
    values: Buffer,
    block: int,
    largest: int,
    scale_max: float,
    smallest: float,
    frame: Buffer,
    keep: bool,
    /,
) -> float | None:
    """Make a frame of Uniform; the sum of squares of what it says, None: a value is not finite.

    Args:
        values: float32; writable if they are to keep anything.
        block: elements that share a scale, at least 1.
        largest: L, from 1 to 127.
        scale_max, smallest: no scale is above the one; of a block below the other it is 0.
        frame: uint8: 4 bytes for each block, then one for each element; overwritten.
        keep: what the frame does not say of the values is left in them.
    """

def decode_int8(
    scales: Buffer, symbols: Buffer, block: int, largest: int, values: Buffer, /
) -> bool:
    """Read a frame of Uniform; False where a symbol is above 2L.

    Args:
        scales: float32, one for each block.
        symbols: uint8, one for each element.
        block, largest: as for encode_int8().
        values: float32, of as many elements; overwritten.
    """

def largest_of_blocks(
    values: Buffer, block: int, kept: int, kept_last: int, positions: Buffer, /
) -> int:
    """Find the largest magnitudes of each block, but no zeros; returns how many there are.

    Args:
        values: float32, finite.
        block: in elements.
        kept, kept_last: of each block, and of a shorter last one.
        positions: int64, with room for all of them; its first are overwritten, rising.
    """

def round_to_grid(
    values: Buffer,
    factor: float,
    base: float,
    last: float,
    levels: int,
    places: Buffer | None,
    key: int,
    steps: Buffer | None,
    per_gap: Buffer | None,
    gap_draws: float,
    below: int,
    symbols: Buffer,
    /,
) -> None:
    """Find the symbols of Geometric for one tile.

    Args:
        values: float32, finite.
        factor, base, last, levels: as Geometric has them.
        places, key: int32 for each place of a tile, and the tile's; None: to the nearest.
        steps, per_gap, gap_draws: those of _Steps, int32 and float32; None where the base is 2.
        below: where it is.
        symbols: uint8, one for each value; overwritten.
    """
