"""multistream-select: recorded bytes, agreement, refusals, and what is no negotiation at all."""

from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import MessageInvalid, RefusedError
from p2p.host import multistream
from p2p.host.multistream import (
    MULTISTREAM,
    accept_untrusted,
    line,
    proposal,
    read_answer_untrusted,
    read_line_untrusted,
)

HEADER = b"\x13/multistream/1.0.0\n"


class End(Exception):
    """The script of a peer is over."""


class Script:
    """A peer that says what was written down for it, and hears what it is told."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self.heard = b""

    async def receive_exactly(self, size_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if size_bytes > len(self._said):
            raise End
        part, self._said = self._said[:size_bytes], self._said[size_bytes:]
        return part

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.heard += data


def is_known(protocol: str) -> bool:
    return protocol == "/known/1"


async def accept(said: bytes, supported: Callable[[str], bool] = is_known) -> tuple[str, bytes]:
    script = Script(said)
    return await accept_untrusted(script, supported), script.heard


def test_lines_have_their_recorded_bytes() -> None:
    assert line(MULTISTREAM) == HEADER
    assert proposal("/noise") == HEADER + b"\x07/noise\n"
    assert line("x" * 200)[:3] == b"\xc9\x01x"


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=1_000))
def test_lines_come_back(text: str) -> None:
    async def read() -> str:
        return await read_line_untrusted(Script(line(text)))

    assert trio.run(read) == text


async def test_the_first_known_protocol_is_agreed_on() -> None:
    said = proposal("/other/1") + line("/ls") + line("/known/1") + b"data"
    assert await accept(said) == (
        "/known/1",
        HEADER + b"\x03na\n" + b"\x03na\n" + b"\x09/known/1\n",
    )


async def test_nothing_known() -> None:
    with pytest.raises(RefusedError) as caught:
        await accept(proposal("/other/1") + b"\0binary data ahead of our answer")
    assert caught.value.code == "protocol-not-supported"


async def test_proposing_on_and_on_is_not_negotiating() -> None:
    with pytest.raises(MessageInvalid, match="too many"):
        await accept(HEADER + line("/other/1") * 100)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: " + b"x" * 100,
        b"\0",
        b"\x05/abc\n",
        b"\x04nope",
        b"\xff\xff\xff\x7f",
        b"\x80\x80\x01",
        b"\x81\x08" + b"x" * 1_025,
        b"\x04\xff\xfe\xfd\n",
        HEADER + b"\x00",
    ],
)
async def test_what_is_no_negotiation(said: bytes) -> None:
    with pytest.raises(MessageInvalid):
        await accept(said)


async def test_answers() -> None:
    await read_answer_untrusted(Script(proposal("/known/1")), "/known/1")
    with pytest.raises(RefusedError):
        await read_answer_untrusted(Script(HEADER + line("na")), "/known/1")
    with pytest.raises(MessageInvalid, match="answered with"):
        await read_answer_untrusted(Script(proposal("/other/1")), "/known/1")
    with pytest.raises(MessageInvalid):
        await read_answer_untrusted(Script(line("/multistream/2.0.0")), "/known/1")


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_raise_nothing_else(noise: bytes, is_after_header: bool) -> None:
    said = HEADER + noise if is_after_header else noise

    async def listen() -> None:
        with pytest.raises((MessageInvalid, RefusedError, End)):
            await accept(said, lambda protocol: False)

    async def dial() -> None:
        with pytest.raises((MessageInvalid, RefusedError, End)):
            await read_answer_untrusted(Script(said), "/known/1")

    trio.run(listen)
    trio.run(dial)


def test_our_own_protocol_names_must_fit() -> None:
    with pytest.raises(AssertionError):
        multistream.line("x" * 1_024)
