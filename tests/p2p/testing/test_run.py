"""run_sim: the result, the errors, the limits, and what it leaves behind."""

import random

import pytest
import trio
import trio._core._run as internals

from p2p.testing import SimNetwork, run_sim


def test_the_result_comes_back_and_time_jumps() -> None:
    async def main(network: SimNetwork) -> float:
        await trio.sleep(3600)
        return trio.current_time()

    assert run_sim(1, main) == 3600


def test_a_failure_names_its_seed() -> None:
    async def main(network: SimNetwork) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        run_sim(4711, main)
    assert caught.value.__notes__ == ["in the simulation with seed 4711"]


def test_a_deadlock_ends() -> None:
    async def main(network: SimNetwork) -> None:
        await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        run_sim(1, main, time_limit_s=1e6)


def test_chance_comes_from_the_seed() -> None:
    async def main(network: SimNetwork) -> list[object]:
        async with network.open_node() as alice, network.open_node() as bob:
            return [
                network.rng.random(),
                alice.peer_id,
                bob.peer_id,
                alice.rng.random(),
                bob.rng.random(),
            ]

    assert run_sim(1, main) == run_sim(1, main)
    one, two = run_sim(1, main), run_sim(2, main)
    assert all(a != b for a, b in zip(one, two, strict=True))


def test_tasks_are_ordered_by_the_seed() -> None:
    async def main(network: SimNetwork) -> list[int]:
        order: list[int] = []

        async def note(number: int) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(note, number)
        return order

    assert run_sim(1, main) == run_sim(1, main)
    assert run_sim(1, main) != run_sim(2, main)


@pytest.mark.parametrize("allowed", [False, True])
def test_the_scheduler_is_put_back(allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(network: SimNetwork) -> None:
        assert internals._ALLOW_DETERMINISTIC_SCHEDULING
        raise ValueError("x")

    monkeypatch.setattr(internals, "_ALLOW_DETERMINISTIC_SCHEDULING", allowed)
    monkeypatch.setattr(internals, "_r", random.Random(7))
    before = internals._r.getstate()
    with pytest.raises(ValueError, match="x"):
        run_sim(1, main)
    assert internals._r.getstate() == before
    assert internals._ALLOW_DETERMINISTIC_SCHEDULING is allowed
