"""What `manyhands train` shows while it runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.tools.run_events import BEGAN_S, progress, started, stepped
from tools.train import STEPS_PER_LINE, RunView


@pytest.fixture(params=[False, True], ids=["lines", "bar"])
def screen(request: pytest.FixtureRequest) -> Console:
    return Console(file=io.StringIO(), force_terminal=request.param, width=160, color_system=None)


def said(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_the_swarms_samples_and_the_time_left_are_shown(screen: Console) -> None:
    steps = 2 * STEPS_PER_LINE
    with RunView(screen, steps) as view:
        view.on_event(started())
        for step in range(1, STEPS_PER_LINE + 1):
            view.on_event(progress(step - 1, samples=17))
            view.on_event(stepped(step))
        if screen.is_terminal:
            # Between two steps, too.
            view.on_event(progress(STEPS_PER_LINE, samples=181, peers=1))
    if screen.is_terminal:
        assert f"{STEPS_PER_LINE}/{steps}" in said(screen)
        assert "loss 0.500 · 181/256 samples · 1 peer · 90 samples/s (30 here)" in said(screen)
        assert "2 min left" in said(screen)
    else:
        (line,) = [line for line in said(screen).splitlines() if line.startswith("step ")]
        assert line == (
            f"step {STEPS_PER_LINE} of {steps} · loss 0.500 · 17/256 samples · 3 peers · "
            "90 samples/s (30 here) · 2 min left"
        )


def test_a_leap_to_the_others_step_is_no_pace(screen: Console) -> None:
    with RunView(screen, 1000) as view:
        view.on_event(started())
        leap = {"time_s": BEGAN_S + 1, "event": "caught_up", "step": 899, "seconds": 1.0}
        view.on_event(leap)
        view.on_event(progress(899))
        view.on_event(stepped(900) | {"time_s": BEGAN_S + 3})
    assert "Took over the others' state at step 899." in said(screen)
    if not screen.is_terminal:
        assert "step 900 of 1000" in said(screen)
        assert "3 min left" in said(screen)


def test_what_a_private_run_has_spent_is_shown(screen: Console) -> None:
    spent = {"event": "privacy", "step": 1, "epsilon": 1.2345, "budget": 4.0, "delta": 1e-5}
    with RunView(screen, STEPS_PER_LINE) as view:
        view.on_event({"event": "warned", "reason": "peers = 3", "time_s": BEGAN_S})
        view.on_event(started())
        view.on_event(spent | {"time_s": BEGAN_S + 1})
        # A peer that was not drawn has no loss.
        view.on_event(stepped(STEPS_PER_LINE) | {"loss": None})
    assert "epsilon 1.23 of 4" in said(screen)
    assert "Mind: peers = 3" in said(screen)
    assert "loss" not in said(screen)
