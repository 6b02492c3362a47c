"""The messages of probes: recorded bytes, round trips and ranges."""

import pytest

from p2p import Message, MessageInvalid, PeerId, decode_untrusted, encode
from p2p.probe import schema

RECORDED: list[tuple[Message, str]] = [
    (schema.About(), "92a0c400"),
    (schema.About("x", b"s"), "92a178c40173"),
    (
        schema.Told("manyhands", "1.0", 7, False, True, 2, "/ip4/1.2.3.4/tcp/5", ("y",)),
        "98a96d616e7968616e6473a3312e3007c2c302b22f6970342f312e322e332e342f7463702f3591a179",
    ),
    (schema.Download(5.0), "91cb4014000000000000"),
    (schema.Upload(5.0), "92a675706c6f6164cb4014000000000000"),
    (schema.Piece(), "91a57069656365"),
    (schema.Received(9, 0.5), "9209cb3fe0000000000000"),
]


@pytest.mark.parametrize(("message", "recorded"), RECORDED, ids=lambda x: type(x).__name__)
def test_messages_have_their_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_untrusted(bytes.fromhex(recorded), type(message), size_bytes_max=512) == message


@pytest.mark.parametrize(
    "message",
    [
        schema.About("x" * 65),
        schema.About("x", bytes(65)),
        schema.Told("m", "1", 7, False, True, 2, "", ("y",) * 9),
        schema.Told("m", "1", 7, False, True, 2, "/" * 257),
        schema.Download(0.0),
        schema.Download(11.0),
        schema.Upload(float("nan")),
        schema.Received(-1, 1.0),
    ],
    ids=repr,
)
def test_what_is_out_of_range_is_refused(message: Message) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), type(message), size_bytes_max=4096)


def test_a_claim_is_good_for_one_asker_at_one_peer() -> None:
    alice, bob, carol = (PeerId(name) for name in ("alice", "bob", "carol"))
    claims = {schema.about_claim(*pair) for pair in ((alice, bob), (bob, alice), (alice, carol))}
    assert len(claims) == 3
