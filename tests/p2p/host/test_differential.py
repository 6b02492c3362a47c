"""Whatever two programs do to the ends of a stream, it goes alike in life and in simulation."""

import hashlib
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from p2p import P2PError, Stream
from tests.p2p.worlds import World

PROTOCOL = "/test/any/1"
QUIET_S = 0.003

# What is done, at which end, and how many bytes it is about; few enough to fit any window.
steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "exactly", "drain", "finish", "close", "reset", "broken"]),
        st.integers(0, 1),
        st.sampled_from([0, 1, 100, 40_000]),
    ),
    min_size=1,
    max_size=12,
)
Steps = list[tuple[str, int, int]]


async def drain(stream: Stream) -> str:
    """Read until the end."""
    while await stream.receive_some():
        pass
    return "end"


async def outcome_of(action: Callable[[], Awaitable[object]]) -> str:
    """How an action ends, or that it does not while nothing else happens."""
    outcome = "waits"

    async def act() -> None:
        nonlocal outcome
        try:
            result = await action()
        except (P2PError, trio.ClosedResourceError) as exc:
            outcome = type(exc).__name__
        else:
            outcome = hashlib.sha256(result).hexdigest() if isinstance(result, bytes) else "done"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        await wait_all_tasks_blocked(QUIET_S)
        nursery.cancel_scope.cancel()
    return outcome


async def do(stream: Stream, what: str, size_bytes: int, fill: int) -> str:
    """Take one step and tell how it went."""
    match what:
        case "send":
            return await outcome_of(lambda: stream.send_all(bytes([fill]) * size_bytes))
        case "exactly":
            return await outcome_of(lambda: stream.receive_exactly(max(1, size_bytes)))
        case "drain":
            return await outcome_of(lambda: drain(stream))
        case "finish":
            return await outcome_of(stream.send_eof)
        case "close":
            return await outcome_of(stream.aclose)
        case "broken":
            return await outcome_of(stream.wait_broken)
        case _:
            stream.reset()
            await wait_all_tasks_blocked(QUIET_S)
            return "done"


async def history(kind: str, taken_steps: Steps, end: str) -> list[str]:
    """How each step went in one world."""
    world = World(kind)
    outcomes = []
    async with world.open_node() as alice, world.open_node() as bob:
        accepted: list[Stream] = []

        async def keep(stream: Stream) -> None:
            accepted.append(stream)
            await trio.sleep_forever()

        alice.add_addresses(bob.peer_id, bob.addresses)
        bob.serve(PROTOCOL, keep)
        opened = await alice.open_stream(bob.peer_id, PROTOCOL)
        await wait_all_tasks_blocked(QUIET_S)
        ends = (opened, accepted[0])
        for fill, (what, index, size_bytes) in enumerate(taken_steps):
            outcomes.append(await do(ends[index], what, size_bytes, fill))
        if end == "disconnect":
            await alice.disconnect(bob.peer_id)
            await bob.wait_disconnected(alice.peer_id)
        for stream in ends:
            outcomes += [await do(stream, what, 1, 0) for what in ("exactly", "drain", "send")]
    return outcomes


@pytest.mark.slow
@settings(max_examples=25)
@given(steps, st.sampled_from(["none", "disconnect"]))
def test_streams_go_alike(taken_steps: Steps, end: str) -> None:
    real = trio.run(history, "real", taken_steps, end)
    simulated = trio.run(history, "simulated", taken_steps, end)
    assert simulated == real
