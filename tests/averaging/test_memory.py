"""Memory is lent again only when nothing refers to it any more, however that was made."""

from __future__ import annotations

import gc
import random
import threading
from typing import Any

import numpy as np
import pytest
import torch

from averaging.memory import Memory

LARGE = 300_000

Array = np.ndarray[Any, Any]


def address(array: Array) -> int:
    """Where its bytes are."""
    place: int = array.__array_interface__["data"][0]
    return place


def test_what_came_back_is_lent_again() -> None:
    memory = Memory()
    first = memory.empty(LARGE, np.float32)
    assert (first.shape, first.dtype, first.flags.writeable) == ((LARGE,), np.float32, True)
    place = address(first)
    del first
    assert memory.free_bytes == 4 * LARGE
    again = memory.empty(2 * LARGE, np.uint16)
    assert address(again) == place
    assert memory.free_bytes == 0


@pytest.mark.parametrize(
    "made_of",
    [
        lambda array: array[5:],
        lambda array: array[5:].reshape(1, -1),
        lambda array: array.view(np.uint8),
        lambda array: array.data,
        lambda array: memoryview(array)[3:7],
        np.asarray,
        np.ascontiguousarray,
        lambda array: np.frombuffer(array.data, np.uint8)[1:],
        lambda array: np.frombuffer(array.view(np.uint8).data, np.float32),
        torch.from_numpy,
        lambda array: torch.from_numpy(array)[7:].numpy(),
    ],
)
def test_whatever_is_made_of_it_keeps_it(made_of: Any) -> None:
    memory = Memory()
    kept = made_of(memory.empty(LARGE, np.float32))
    gc.collect()
    assert memory.free_bytes == 0
    another = memory.empty(LARGE, np.float32)
    another[:] = 1.0
    assert not np.shares_memory(np.asarray(kept), another)
    del kept
    assert memory.free_bytes == 4 * LARGE


def test_what_is_held_is_bounded_and_sizes_that_are_not_asked_for_go_first() -> None:
    memory = Memory()
    for size in range(LARGE, 500 * LARGE, LARGE):
        memory.empty(size, np.uint8)
        assert memory.free_bytes <= size + 67_108_864
    kept = memory.empty(size, np.uint8)
    place = address(kept)
    del kept
    for other in range(LARGE, 50 * LARGE, LARGE):
        memory.empty(other, np.uint8)
    assert address(memory.empty(size, np.uint8)) == place, "small ones came out of others' share"


def test_little_comes_from_numpy() -> None:
    memory = Memory()
    assert memory.empty(1_000, np.float64).flags.owndata
    assert len(memory.empty(0, np.float64)) == 0
    assert memory.free_bytes == 0


def test_threads_never_share_what_they_hold() -> None:
    memory = Memory()
    broken: list[int] = []

    def borrow(seed: int) -> None:
        rng = random.Random(seed)
        held: list[tuple[Array, int]] = []
        for _ in range(300):
            if held and rng.random() < 0.5:
                array, value = held.pop(rng.randrange(len(held)))
                if not (array == value).all():
                    broken.append(seed)
            else:
                array, value = memory.empty(rng.choice((140_000, 150_000)), np.uint8), seed
                array[:] = value
                held.append((array, value))

    threads = [threading.Thread(target=borrow, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not broken
