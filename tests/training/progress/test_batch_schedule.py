"""The global batch by step."""

import pytest

from training.progress.batch_schedule import FixedBatch


def test_a_fixed_batch_is_the_same_at_each_step() -> None:
    schedule = FixedBatch(256)
    assert {schedule.samples_at(step) for step in (0, 1, 10_000)} == {256}


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 sample"):
        FixedBatch(0)
