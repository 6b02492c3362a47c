"""More attacks on a node's port: other protocols, cut handshakes, and windows that are abused."""

import random
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p import Identity, NodeConfig
from p2p.host.multistream import MULTISTREAM, line
from p2p.host.yamux_frame import DATA, FIN, RST, SYN, WINDOW_UPDATE
from tests.p2p.host.peers import RawDialer, raw_connection, receive_exactly
from tests.p2p.host.receiving import next_plains
from tests.p2p.host.test_attacks import hang_up_of, open_target
from tests.p2p.host.wires import wire
from tests.p2p.worlds import PROTOCOL

UNWANTED = ("/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0", "/mplex/6.7.0", "/yamux/1.0.0")
NO = line("na")
FAST = NodeConfig(handshakes_per_s_max=10_000, handshakes_per_s_and_host_max=10_000)


@pytest.mark.parametrize("protocol", UNWANTED)
async def test_nothing_but_noise_secures_a_connection(protocol: str) -> None:
    """So nobody can claim an identity without its key; what follows the no is not looked at."""
    async with open_target() as target, raw_connection(target.address) as dialer:
        await dialer.stream.send_all(line(MULTISTREAM) + line(protocol))
        answer = line(MULTISTREAM) + NO
        assert await receive_exactly(dialer.stream, len(answer)) == answer
        await _say_and_be_hung_up_on(dialer, random.Random(protocol).randbytes(3_000))


async def test_mplex_is_refused_under_noise_and_its_frames_end_the_connection() -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.shake_hands()
        await session.send([line(MULTISTREAM) + line("/mplex/6.7.0")])
        received = b""
        while NO not in received:
            received += b"".join(await next_plains(session))
        # New stream 0, then a message with an absurd length.
        await session.send([b"\x00\x05hello" + b"\x02\xff\xff\xff\xff\x7f" + bytes(500)])
        await hang_up_of(dialer)


@pytest.mark.parametrize("kind", ["another's key", "another's signature", "no signature"])
async def test_an_identity_that_was_not_proved_is_nobodys(kind: str) -> None:
    victim = Identity.generate()
    async with open_target() as target, raw_connection(target.address) as dialer:
        await dialer.agree_on_noise()
        await dialer.send_message()
        await dialer.read_message()
        proofs = {
            "another's key": dialer.proof(key=bytes([8, 1, 18, 32]) + victim.public_key),
            "another's signature": dialer.proof(signature=victim.sign(dialer.static_public)),
            "no signature": dialer.proof(signature=b""),
        }
        await dialer.send_message(proofs[kind])
        await hang_up_of(dialer)
        assert victim.peer_id not in target.node.connected_peers
        assert dialer.identity.peer_id not in target.node.connected_peers


async def test_handshakes_that_are_cut_at_any_byte() -> None:
    async with open_target(FAST) as target:
        said = await _one_handshake(target.address)
        for end in [*range(0, 60), *range(60, len(said), 7), len(said) - 1]:
            async with raw_connection(target.address) as dialer:
                # The same bytes as another's handshake: replayed, and cut.
                await _say_and_be_hung_up_on(dialer, said[:end])


async def _say_and_be_hung_up_on(dialer: RawDialer, said: bytes) -> None:
    # The node may hang up before all is said.
    with suppress(trio.BrokenResourceError):
        await dialer.stream.send_all(said)
        await dialer.stream.send_eof()
    await hang_up_of(dialer)


class _Recorder:
    """A stream that remembers what was sent."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self.said = b""

    async def send_all(self, data: bytes) -> None:
        self.said += bytes(data)
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _one_handshake(address: str) -> bytes:
    async with raw_connection(address) as dialer:
        recorder = _Recorder(dialer.stream)
        await RawDialer(recorder, dialer.identity).upgrade()  # type: ignore[arg-type]
        return recorder.said


async def test_who_never_grants_room_stops_only_its_own_streams() -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        said = line(MULTISTREAM) + line(PROTOCOL)
        for stream_id in range(1, 41, 2):
            # Far more than the window for the echo, which is never widened.
            await session.send([wire((DATA, SYN, stream_id, len(said)), said)])
            await session.send([wire((DATA, 0, stream_id, 200_000)), bytes(200_000)])
            await session.send([wire((DATA, 0, stream_id, 50_000)), bytes(50_000)])
        await wait_all_tasks_blocked(0.05)
        await target.check_serving()
        # Reading on, they are not cut off either: our own streams merely wait for room.
        received = await next_plains(session)
        assert received


async def test_windows_of_four_gibibytes_again_and_again() -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        said = line(MULTISTREAM) + line(PROTOCOL)
        await session.send([wire((DATA, SYN, 1, len(said)), said)])
        await session.send([wire(*[(WINDOW_UPDATE, 0, 1, 2**32 - 1)] * 1_000)])
        await session.send([wire((DATA, FIN, 1, 5)), b"hello"])
        received = b""
        while b"hello" not in received:
            received += b"".join(await next_plains(session))


async def test_our_own_words_sent_back_to_us() -> None:
    async with open_target() as target, raw_connection(target.address) as dialer:
        session = await dialer.upgrade()
        said = line(MULTISTREAM) + line(PROTOCOL)
        await session.send([wire((DATA, SYN, 1, len(said)), said)])
        for _ in range(5):
            for piece in await next_plains(session):
                await session.send([piece])
        await session.send([wire((DATA, RST, 1, 0))])
        await target.check_serving()
