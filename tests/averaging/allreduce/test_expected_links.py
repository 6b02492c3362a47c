"""Who does not come is left out in time; who could not be let in, as we were frozen, is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from averaging.allreduce import aggregator

SILENCE_S = 2.5


def left_out(
    monkeypatch: pytest.MonkeyPatch, *, freezes_at_s: float, freezes_s: float, comes_after_s: float
) -> dict[str, float]:
    """Who is left out, and when, where one peer is let in some time after our freeze ends.

    A clock that jumps is what a process sees that was stopped and goes on.
    """
    told: dict[str, float] = {}

    def exclude(_: Any, sender: str, reason: str, *, lost: bool) -> None:
        assert (reason, lost) == ("did not come", True)
        told[sender] = trio.current_time() - begun_s

    monkeypatch.setattr(aggregator, "exclude", exclude)
    links: dict[str, Any] = {}
    config = SimpleNamespace(silence_s=SILENCE_S)
    session: Any = SimpleNamespace(
        config=config, voters=("me", "comes", "is gone"), me="me", links=links
    )
    clock = MockClock(autojump_threshold=0)
    begun_s = 0.0

    async def main() -> None:
        nonlocal begun_s
        begun_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(aggregator._expect_links, session)
            await trio.sleep(freezes_at_s)
            clock.jump(freezes_s)
            await trio.sleep(comes_after_s)
            links["comes"] = object()

    trio.run(main, clock=clock)
    return told


@pytest.mark.parametrize("freezes_at_s", [0.03, 1.0, 2.35])
@pytest.mark.parametrize("freezes_s", [1.0, 2.47, 60.0])
def test_who_came_while_we_were_frozen_is_not_left_out(
    monkeypatch: pytest.MonkeyPatch, freezes_at_s: float, freezes_s: float
) -> None:
    told = left_out(monkeypatch, freezes_at_s=freezes_at_s, freezes_s=freezes_s, comes_after_s=0.2)
    assert list(told) == ["is gone"]
    assert told["is gone"] < freezes_s + SILENCE_S + 1.0


def test_who_does_not_come_is_left_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told = left_out(monkeypatch, freezes_at_s=0.0, freezes_s=0.0, comes_after_s=60.0)
    assert set(told) == {"comes", "is gone"}
    assert all(SILENCE_S <= at_s <= SILENCE_S + 0.3 for at_s in told.values())
