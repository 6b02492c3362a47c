"""Pages: in which order a reader turns those of one replica's dictionary, and when it stops (core).

A page holds subkeys in order, and the next is asked for by the last of them. Anybody can write as
many unsigned subkeys as fit, so whoever stops halfway should have seen the signed ones: when the
first page ends before them, they come next, and what lies between comes last.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2p.dht.record import OWNED_PREFIX
from p2p.dht.schema import PAGE_BYTES_MAX
from p2p.dht.store import DICTIONARY_BYTES_MAX

PAGES_MAX = 64
"""More than the fullest key takes, as each page but the last lacks less than one record of the
largest size; a replica that pages on for ever is cut off here."""
RECORDS_MAX = 2048
"""Twice the usual number of subkeys; each may cost the check of a signature."""
BYTES_MAX = PAGES_MAX * PAGE_BYTES_MAX
assert BYTES_MAX >= 2 * DICTIONARY_BYTES_MAX


class Pages:
    """The pages of one replica's dictionary."""

    def __init__(self) -> None:
        self.after = ""
        """The next page is to begin behind this subkey."""
        self.is_complete = False
        """Whether there was an end, and nothing was left out."""
        self._count = self._records = self._size_bytes = 0
        self._skipped_after: str | None = None
        self._is_last_part = False

    def on_page(self, sizes_bytes: Iterable[tuple[str, int]], *, more: bool) -> bool:
        """A page came, with subkeys of these sizes; True if another is to be asked for."""
        page = list(sizes_bytes)
        last = max((subkey for subkey, _ in page), default=self.after)
        self._count += 1
        self._records += len(page)
        self._size_bytes += sum(size_bytes for _, size_bytes in page)
        if more and last <= self.after:
            return False
        if self._is_last_part and last >= OWNED_PREFIX:
            more = False
        if not more and self._skipped_after is None:
            self.is_complete = True
            return False
        if not more:
            self.after, self._skipped_after = self._skipped_after or "", None
            self._is_last_part = True
        elif self._count == 1 and last < OWNED_PREFIX:
            self.after, self._skipped_after = OWNED_PREFIX, last
        else:
            self.after = last
        return (
            self._count < PAGES_MAX and self._records < RECORDS_MAX and self._size_bytes < BYTES_MAX
        )
