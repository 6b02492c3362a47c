"""Huge pages: what a long simulation holds is found faster in memory that is cut less finely.

A gigabyte of small objects is spread over a quarter of a million pages of 4 KiB, far more than a
processor keeps the addresses of. Python's allocator cannot be told to take larger ones, but Linux
can move what a process has onto pages of 2 MiB.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = 2 << 20
_MADV_COLLAPSE: Final = 25
_HEAP: Final = "[heap]"


def move_onto_huge_pages() -> int:
    """Ask Linux, 6.1 or newer, to move this process's memory onto huge pages.

    Returns:
        Bytes that are on them; 0 where the system has none.
    """
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    moved = 0
    for start, stop in _own_regions(Path("/proc/self/maps").read_text()):
        if libc.madvise(start, stop - start, _MADV_COLLAPSE) == 0:
            moved += stop - start
    return moved


def _own_regions(maps: str) -> list[tuple[int, int]]:
    """Where the memory lies that is nobody else's and no file's, in whole huge pages.

    Args:
        maps: as proc(5) has it, a line for each region: addresses, permissions, offset, device,
            inode, and perhaps a name.
    """
    regions = []
    for line in maps.splitlines():
        addresses, permissions, _, _, inode, *name = line.split()
        if permissions != "rw-p" or inode != "0" or (name and name != [_HEAP]):
            continue
        first, last = (int(address, 16) for address in addresses.split("-"))
        start, stop = -(-first // PAGE_BYTES) * PAGE_BYTES, last // PAGE_BYTES * PAGE_BYTES
        if start < stop:
            regions.append((start, stop))
    return regions
