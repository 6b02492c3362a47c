"""Wall time: near the system's at first, then moved by trio's clock alone."""

import time

import trio
from trio.testing import MockClock

from p2p import wall_time_s
from p2p.clock import set_wall_time


async def test_it_starts_as_the_system_says() -> None:
    assert abs(wall_time_s() - time.time()) < 5


async def test_it_jumps_with_the_clock(autojump_clock: MockClock) -> None:
    before_s = wall_time_s()
    await trio.sleep(86_400)
    assert wall_time_s() - before_s == 86_400


async def test_it_can_be_set(mock_clock: MockClock) -> None:
    mock_clock.jump(50)
    set_wall_time(1_000.0)
    assert wall_time_s() == 1_000
    mock_clock.jump(2.5)
    assert wall_time_s() == 1_002.5


def test_each_run_has_its_own() -> None:
    async def main(now_s: float) -> float:
        set_wall_time(now_s)
        return wall_time_s()

    assert trio.run(main, 5.0, clock=MockClock()) == 5
    assert trio.run(main, 7.0, clock=MockClock()) == 7
