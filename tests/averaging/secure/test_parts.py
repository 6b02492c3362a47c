"""Parts as they come in: in order, of the right size, and added up for survivors only."""

from __future__ import annotations

import numpy as np
import pytest

from averaging.secure.parts import Arriving, Parts, Span
from p2p import MessageInvalid

SPANS = (Span(0, 4), Span(4, 10))


def test_runs_that_do_not_continue_their_span_are_refused() -> None:
    arriving = Arriving(np.zeros(6, np.uint32), 4)
    for start, size_bytes in ((0, 4), (5, 4), (4, 0), (4, 3), (4, 28)):
        with pytest.raises(MessageInvalid, match="does not continue"):
            arriving.buffer_untrusted(start, size_bytes)
    arriving.buffer_untrusted(4, 16)[:] = bytes(range(16))
    arriving.on_come(16)
    assert not arriving.whole
    with pytest.raises(MessageInvalid, match="does not continue"):
        arriving.buffer_untrusted(4, 16)
    arriving.buffer_untrusted(8, 8)[:] = b"\xff" * 8
    arriving.on_come(8)
    assert arriving.whole
    assert arriving.place.tobytes() == bytes(range(16)) + b"\xff" * 8
    # What is whole cannot be changed.
    with pytest.raises(MessageInvalid, match="does not continue"):
        arriving.buffer_untrusted(10, 4)


def test_only_survivors_are_added_up_modulo_the_ring() -> None:
    parts = Parts(SPANS, np.dtype(np.uint32))
    for sender in range(3):
        parts.put(0, sender, np.full(4, 2**31 + sender, np.uint32))
    np.testing.assert_array_equal(parts.masked_sum(0, [0, 2]), np.full(4, 2, np.uint32))
    np.testing.assert_array_equal(parts.masked_sum(0, [1]), np.full(4, 2**31 + 1, np.uint32))
    assert parts.whole(0) == [0, 1, 2]
    assert parts.whole(1) == []
    with pytest.raises(KeyError):
        parts.masked_sum(1, [0])


def test_memory_for_spans_that_are_not_ours_is_bounded() -> None:
    parts = Parts([Span(start, start + 1) for start in range(6)], np.dtype(np.uint64))
    assert parts.of_untrusted(0, 1, ours=True) is parts.of_untrusted(0, 1, ours=False)
    for span in (1, 2, 3, 4):
        parts.of_untrusted(span, 1, ours=False)
    with pytest.raises(MessageInvalid, match="not ours"):
        parts.of_untrusted(5, 1, ours=False)
    with pytest.raises(MessageInvalid, match="does not exist"):
        parts.of_untrusted(6, 2, ours=True)
    parts.drop()
    assert parts.whole(0) == []
