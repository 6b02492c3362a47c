"""Which record layer two peers get, and that each carries everything."""

import pytest

from p2p import NodeConfig, open_node
from p2p.host import noise
from tests.p2p.host.peers import raw_connection, until
from tests.p2p.worlds import PROTOCOL, echo

AES, NOISE = "/manyhands/aes-gcm/1", "/noise"
SIZE = 3_000_000


@pytest.mark.parametrize(
    ("dialer", "listener", "expected"),
    [
        ("auto", "auto", AES if noise.is_aes_faster() else NOISE),
        ("auto", "noise", NOISE),
        ("noise", "auto", NOISE),
        ("noise", "noise", NOISE),
    ],
)
async def test_two_peers_get_what_both_want_and_say_so(
    dialer: str, listener: str, expected: str
) -> None:
    async with (
        open_node(NodeConfig(record_layer=dialer)) as alice,
        open_node(NodeConfig(record_layer=listener)) as bob,
    ):
        bob.serve(PROTOCOL, echo)
        await alice.connect_address(bob.addresses[0])
        stream = await alice.open_stream(bob.peer_id, PROTOCOL)
        data = alice.rng.randbytes(SIZE)
        received = bytearray()
        await stream.send_all(data[:10])
        received += await stream.receive_exactly(10)
        await stream.send_all(data[10:500_000])
        received += await stream.receive_exactly(499_990)
        await stream.aclose()
        assert received == data[:500_000]
        assert [info.record_layer for info in alice.connections] == [expected]
        assert [info.record_layer for info in bob.connections] == [expected]


async def test_a_foreign_peer_that_knows_only_yamux_gets_noise() -> None:
    async with open_node() as bob, raw_connection(bob.addresses[0]) as dialer:
        await dialer.upgrade()
        await until(lambda: len(bob.connections) == 1)
        assert [info.record_layer for info in bob.connections] == [NOISE]


def test_a_wrong_word_for_the_record_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="record_layer"):
        NodeConfig(record_layer="tls")  # type: ignore[arg-type]
