"""Each small recipe trains in a swarm, and a resumed run ends where an uninterrupted one does."""

from pathlib import Path

import pytest

from training.loop import TrainOptions, TrainResult, run_recipe
from training.recipe import load_recipe, override


@pytest.mark.slow
@pytest.mark.parametrize("name", ["charlm", "albert-tiny", "swav-tiny"])
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def run(steps: int, folder: str) -> TrainResult:
        options = TrainOptions(
            identity_path=tmp_path / "key",  # the order is that of the peer's id
            checkpoint_dir=tmp_path / folder,
            resume=True,
        )
        # The schedule goes by the length of the run, which must be the same for both.
        schedule = {"name": "linear", "warmup": 1, "steps": 3}
        changes = {"global_batch": 8, "micro_batch": 4, "steps": steps, "schedule": schedule}
        recipe = override(load_recipe(name), changes, source="test")
        return run_recipe(recipe, options, lambda event: None)

    whole = run(3, "whole")
    run(2, "parts")
    resumed = run(3, "parts")
    assert (resumed.step, resumed.samples) == (3, 24)
    assert resumed.parameter_hash == whole.parameter_hash
    assert resumed.figures == whole.figures
