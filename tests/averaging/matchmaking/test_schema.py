"""Every message: a round trip, its recorded bytes, its limits, and what noise does to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.matchmaking import schema
from averaging.naming import service_name
from averaging.round_id import RoundId
from p2p import Message, MessageInvalid, decode_untrusted, encode

ROUND = schema.round_on_wire(RoundId(7, b"p" * 32))
PEER = "12D3KooWPeer"
ADDRESS = "/ip4/10.0.0.1/tcp/4001"
JOIN_BODY = schema.JoinBody(
    peer_id=PEER,
    group_name="run",
    round=ROUND,
    spec_hash=b"s" * 32,
    terms="float16",
    role="node",
    weight_cap=2.5,
    up_bytes_per_s=125_000,
    down_bytes_per_s=0,
    nonce=b"n" * 16,
    addresses=(ADDRESS,),
    previous=b"",
    abandoned=False,
    bucket="01",
    paths=schema.Paths(False, b"d" * 8, b"r" * 16, 4096),
    reference=b"s" * 32,
)
SIGNED = schema.SignedJoin(b"body", b"x" * 64)

P32, S32, N16, X64 = "70" * 32, "73" * 32, "6e" * 16, "78" * 64
PEER_HEX, ADDRESS_HEX = "ac" + PEER.encode().hex(), "b6" + ADDRESS.encode().hex()
ROUND_HEX = f"9207c420{P32}"
SIGNED_HEX = f"92c404{b'body'.hex()}c440{X64}"

CASES: list[tuple[Message, str]] = [
    (
        JOIN_BODY,
        f"dc0010{PEER_HEX}a372756e{ROUND_HEX}c420{S32}a7666c6f61743136a46e6f6465"
        f"cb4004000000000000ce0001e84800c410{N16}91{ADDRESS_HEX}c400c2a23031"
        f"94c2c408{'64' * 8}c410{'72' * 16}cd1000c420{S32}",
    ),
    (SIGNED, SIGNED_HEX),
    (schema.JoinRequest(SIGNED, (PEER,), True), f"93{SIGNED_HEX}91{PEER_HEX}c3"),
    (schema.Paths(), "94c3c400c40000"),
    (schema.Wait(True, 2, 1, "no"), "95a477616974c30201a26e6f"),
    (schema.Redirect(PEER, (ADDRESS,)), f"93a87265646972656374{PEER_HEX}91{ADDRESS_HEX}"),
    (
        schema.Refuse("other-bucket", "no", ROUND, "1"),
        f"95a6726566757365ac6f746865722d6275636b6574a26e6f{ROUND_HEX}a131",
    ),
    (schema.GroupFormed(b"body", 0.5), "93a567726f7570c404626f6479cb3fe0000000000000"),
    (
        schema.GroupBody((SIGNED,), 4096, (70_000,), 30.0, 1, b""),
        f"9791{SIGNED_HEX}cd100091ce00011170cb403e00000000000001c400c2",
    ),
    (
        schema.Invite(ROUND, b"s" * 32, (ADDRESS,), b"", True, "01"),
        f"97{ROUND_HEX}c420{S32}91{ADDRESS_HEX}c400c3a23031c2",
    ),
    (
        schema.InviteAnswer("following", None, PEER, (ADDRESS,), True, "1", b"s" * 32),
        f"97a9666f6c6c6f77696e67c0{PEER_HEX}91{ADDRESS_HEX}c3a131c420{S32}",
    ),
    (
        schema.CandidateRecord((ADDRESS,), ROUND, b"s" * 32, "01"),
        f"9491{ADDRESS_HEX}{ROUND_HEX}c420{S32}a23031",
    ),
]
names = [type(message).__name__ for message, _ in CASES]


@pytest.mark.parametrize(("message", "recorded"), CASES, ids=names)
def test_messages_have_their_recorded_bytes(message: Message, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_untrusted(bytes.fromhex(recorded), type(message), size_bytes_max=999) == message


@pytest.mark.parametrize("kind", [type(message) for message, _ in CASES], ids=names)
@given(data=st.binary(max_size=200))
def test_noise_is_no_message(kind: type[Message], data: bytes) -> None:
    try:
        decode_untrusted(data, kind, size_bytes_max=999)
    except MessageInvalid:
        return


@pytest.mark.parametrize(("message", "recorded"), CASES, ids=names)
@given(data=st.data())
def test_a_flipped_bit_is_found_or_another_value(
    message: Message, recorded: str, data: st.DataObject
) -> None:
    noisy = bytearray(bytes.fromhex(recorded))
    noisy[data.draw(st.integers(0, len(noisy) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode_untrusted(bytes(noisy), type(message), size_bytes_max=999)
    except MessageInvalid:
        return
    assert isinstance(decoded, type(message))


def test_leader_messages_are_told_apart() -> None:
    kind: Any = schema.JOIN.response_type
    for message, recorded in CASES:
        if isinstance(message, schema.Wait | schema.Redirect | schema.Refuse | schema.GroupFormed):
            decoded = decode_untrusted(bytes.fromhex(recorded), kind, size_bytes_max=999)
            assert decoded == message


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (schema.RoundOnWire, [-1, b"p" * 32]),
        (schema.RoundOnWire, [2**53 + 1, b"p" * 32]),
        (schema.RoundOnWire, [1, b"p" * 31]),
        (schema.Wait, ["wait", True, 257, 0]),
        (schema.Wait, ["wait", True, 1, 0, "x" * 401]),
        (schema.Paths, [True, bytes(513)]),
        (schema.Paths, [True, b"", bytes(513)]),
        (schema.Paths, [True, b"", b"", 2**53 + 1]),
        (schema.Refuse, ["refuse", "because"]),
        (schema.Refuse, ["refuse", "other-bucket", "", None, "0b01"]),
        (schema.Refuse, ["refuse", "other-bucket", "", None, "0" * 17]),
        (schema.GroupBody, [[], 4096, [1], 30.0, 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]], 0, [1], 30.0, 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]], 4096, [1], float("nan"), 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]], 4096, [1], float("inf"), 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]] * 257, 4096, [1], 30.0, 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]], 4096, [], 30.0, 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]], 4096, [-1], 30.0, 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]], 4096, [2**48 + 1], 30.0, 0, b""]),
        (schema.GroupBody, [[[b"", b"x" * 64]], 4096, [0] * 257, 30.0, 0, b""]),
        (schema.GroupFormed, ["group", b"", -1.0]),
        (schema.CandidateRecord, [["/ip4/1.1.1.1/tcp/1"] * 9, [1, b"p" * 32], b"s" * 32]),
    ],
)
def test_numbers_out_of_range_are_refused(kind: type[Message], fields: list[Any]) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(msgspec.msgpack.encode(fields), kind, size_bytes_max=99_999)


@pytest.mark.parametrize(
    "changes",
    [
        {"up_bytes_per_s": -1},
        {"down_bytes_per_s": 10**15 + 1},
        {"up_bytes_per_s": 0.5},
        {"role": "leader"},
    ],
)
def test_joins_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    bad = msgspec.structs.replace(JOIN_BODY, **changes)
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(bad), schema.JoinBody, size_bytes_max=999)


def test_each_group_name_has_a_service_of_its_own() -> None:
    assert service_name("matchmaking", "run/gradients") == "matchmaking.48a40fef6f816cb4"
    assert service_name("matchmaking", "run") != service_name("matchmaking", "run/gradients")
