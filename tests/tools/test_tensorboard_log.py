"""A run's events as curves that TensorBoard reads."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.tools.run_events import BEGAN_S, progress, round_failed, stepped
from tools import tensorboard_log
from tools.failures import CommandError
from tools.tensorboard_log import check_tensorboard, open_tensorboard


@pytest.mark.slow
def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "curves"
    with open_tensorboard(folder) as curves:
        assert curves is not None
        curves.on_event({"time_s": BEGAN_S, "event": "prepared"})
        for step in (1, 2):
            curves.on_event(progress(step - 1))
            curves.on_event(stepped(step, loss=1 / step))
        curves.on_event(round_failed(2))
        curves.on_event(stepped(3))
        curves.on_event(stepped(4) | {"loss": None})
        curves.on_event({"time_s": BEGAN_S + 8, "event": "privacy", "step": 4, "epsilon": 1.5})
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found: Any = reader.EventAccumulator(str(folder))
    found.Reload()

    def curve(tag: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in found.Scalars(tag)]

    assert curve("loss") == [(1, 1.0), (2, 0.5), (3, 0.5)]
    assert curve("global_step") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert curve("privacy/epsilon") == [(4, 1.5)]
    assert curve("rounds/failed") == [(1, 0.0), (2, 0.0), (2, 1.0), (3, 1.0), (4, 1.0)]
    assert curve("rounds/seconds")[0] == (1, 0.25)
    assert curve("rounds/members")[0] == (1, 2.0)
    for tag, value in {
        "samples_per_s/here": 30.0,
        "samples_per_s/swarm": 90.0,
        "samples/global_batch": 256.0,
        "samples/ours": 80.0,
        "peers": 3.0,
    }.items():
        assert curve(tag) == [(1, value), (2, value), (3, value), (4, value)]
    assert found.Scalars("loss")[0].wall_time == BEGAN_S + 2


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    with (
        pytest.raises(CommandError, match="cannot be written"),
        open_tensorboard(tmp_path / "file" / "curves"),
    ):
        pass


def test_none_is_written_unless_asked_for() -> None:
    with open_tensorboard(None) as curves:
        assert curves is None


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard_log, "find_spec", lambda name: None)
    with pytest.raises(CommandError) as told:
        check_tensorboard()
    assert "pip install 'manyhands[tensorboard]'" in told.value.next_step
