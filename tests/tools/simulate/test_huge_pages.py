"""Memory is moved onto huge pages where Linux can; nothing in it changes."""

import sys

import pytest

from tools.simulate.huge_pages import PAGE_BYTES, _own_regions, move_onto_huge_pages

MAPS = """\
00400000-00c00000 r-xp 00000000 fe:00 1234 /usr/bin/python
00c00000-01400000 rw-p 00000000 fe:00 1234 /usr/bin/python
01500000-01b00000 rw-p 00000000 00:00 0 [heap]
01c00000-01d00000 rw-p 00000000 00:00 0
02000000-02400000 ---p 00000000 00:00 0
02400000-02c00000 rw-s 00000000 00:00 0
02dff000-03201000 rw-p 00000000 00:00 0
7ffc00000000-7ffc00800000 rw-p 00000000 00:00 0 [stack]
"""


def test_only_whole_pages_of_our_own_memory_are_moved() -> None:
    assert _own_regions(MAPS) == [(0x1600000, 0x1A00000), (0x2E00000, 0x3200000)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
def test_what_is_held_stays_as_it_is() -> None:
    held = [bytes([index % 251]) * 4096 for index in range(4 * PAGE_BYTES // 4096)]
    moved = move_onto_huge_pages()
    assert moved >= 0
    assert moved % PAGE_BYTES == 0
    assert all(one == bytes([index % 251]) * 4096 for index, one in enumerate(held))
