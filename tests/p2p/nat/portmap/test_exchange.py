"""Questions over UDP: repeated, and answered by nobody but the router."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from p2p.errors import MessageInvalid, RefusedError
from p2p.nat.portmap.exchange import ANSWER_S_MAX, ask

HOST = "127.0.0.1"
Answer = Callable[[trio.socket.SocketType, bytes, tuple[str, int]], object]


def parse_untrusted(data: bytes) -> str:
    """Only what begins well is an answer."""
    if data == b"no":
        raise RefusedError("forbidden", "not you")
    if not data.startswith(b"good"):
        raise MessageInvalid("it does not begin well")
    return data.decode("ascii")


async def bound() -> trio.socket.SocketType:
    """A UDP socket on a free port."""
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await sock.bind((HOST, 0))
    return sock


async def ask_router(*answers: list[bytes], from_elsewhere: bool = False) -> tuple[str, int]:
    """What comes of a question, and how often it was sent; each sending gets its answers."""
    questions = 0
    with await bound() as router, await bound() as elsewhere:
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                nonlocal questions
                while True:
                    data, peer = await router.recvfrom(100)
                    assert data == b"question"
                    questions += 1
                    for answer in answers[questions - 1] if questions <= len(answers) else []:
                        await (elsewhere if from_elsewhere else router).sendto(answer, peer)

            nursery.start_soon(serve)
            said = await ask(HOST, router.getsockname()[1], b"question", parse_untrusted)
            nursery.cancel_scope.cancel()
    return said, questions


async def test_an_answer_comes() -> None:
    assert await ask_router([b"good day"]) == ("good day", 1)


@pytest.mark.slow
async def test_a_lost_question_is_sent_again() -> None:
    assert await ask_router([], [], [b"good evening"]) == ("good evening", 3)


async def test_garbage_before_the_answer_is_passed_over() -> None:
    garbage = [b"", b"x", b"\0" * 1_500, b"bad"]
    assert await ask_router([*garbage, b"good night"]) == ("good night", 1)


async def test_a_refusal_ends_the_question() -> None:
    with pytest.RaisesGroup(RefusedError) as caught:
        await ask_router([b"no", b"good day"])
    assert str(caught.value.exceptions[0]) == "forbidden: not you"


async def test_nothing_from_another_port_is_heard(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.RaisesGroup(RefusedError) as caught:
        await ask_router([b"good day"], from_elsewhere=True)
    refusal = caught.value.exceptions[0]
    assert isinstance(refusal, RefusedError)
    assert refusal.code == "silent"
    assert trio.current_time() == pytest.approx(ANSWER_S_MAX)


async def test_only_garbage_is_told_from_silence(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.RaisesGroup(RefusedError) as caught:
        await ask_router([b"bad"], [b"worse"])
    assert str(caught.value.exceptions[0]) == "invalid: it does not begin well"


async def test_a_flood_of_garbage_ends_the_question() -> None:
    with pytest.RaisesGroup(RefusedError) as caught:
        await ask_router([b"bad"] * 100)
    assert str(caught.value.exceptions[0]) == "invalid: it does not begin well"


async def test_a_closed_port_is_known_at_once() -> None:
    with await bound() as sock:
        port = sock.getsockname()[1]
    with pytest.raises(RefusedError, match="nothing listens") as caught:
        await ask(HOST, port, b"question", parse_untrusted)
    assert caught.value.code == "silent"
