"""The messages of secure aggregation: recorded bytes, limits, and the largest of each."""

from __future__ import annotations

from typing import Any

import pytest

from averaging.secure import schema
from p2p import Message, MessageInvalid, decode_untrusted, encode

D, S, K = b"d" * 32, b"s" * 64, b"k" * 32
KEYS = schema.Keys(2, K, K, D, S)
END = schema.SumEnd(1, 2, 0, D, D, S)
DEALT = schema.Dealt(2, b"h" * 64, b"box", S)

DIGEST = "c420" + D.hex()
KEY = "c420" + K.hex()
SIGNATURE = "c440" + S.hex()
HASHES = "c440" + (b"h" * 64).hex()
KEYS_BYTES = f"96a46b65797302{KEY}{KEY}{DIGEST}{SIGNATURE}"
END_BYTES = f"97a773756d5f656e64010200{DIGEST}{DIGEST}{SIGNATURE}"

# Version 1, byte for byte: a change here is a change of the protocol.
UP: list[tuple[Message, str]] = [
    (schema.Hello(D), f"92a568656c6c6f{DIGEST}"),
    (KEYS, KEYS_BYTES),
    (
        schema.Shares(2, b"h" * 64, (b"", b"box"), S),
        f"95a673686172657302{HASHES}92c400c403626f78{SIGNATURE}",
    ),
    (schema.Complaint(3), "92a9636f6d706c61696e7403"),
    (schema.Part(1, 300), "93a47061727401cd012c"),
    (schema.Complete(1, 5), "93a8636f6d706c6574650105"),
    (schema.Held(END), f"92a468656c64{END_BYTES}"),
    (
        schema.Agreement(2, 1, (0, 1, 2), D, S),
        f"96a961677265656d656e74020193000102{DIGEST}{SIGNATURE}",
    ),
    (
        schema.Reveal(2, (b"f" * 33,), (b"g" * 33,)),
        f"94a672657665616c0291c421{(b'f' * 33).hex()}91c421{(b'g' * 33).hex()}",
    ),
]
DOWN: list[tuple[Message, str]] = [
    (schema.AllKeys((KEYS,)), f"92a8616c6c5f6b65797391{KEYS_BYTES}"),
    (
        schema.AllShares((DEALT,)),
        f"92aa616c6c5f736861726573919402{HASHES}c403626f78{SIGNATURE}",
    ),
    (schema.Plan(1, (0, 2)), "93a4706c616e01920002"),
    (schema.Survivors(1, (0, 1, 2)), "93a97375727669766f72730193000102"),
    (schema.SumPart(1, 2, 300), "94a873756d5f706172740102cd012c"),
    (END, END_BYTES),
    (schema.SignNow(1), "92a87369676e5f6e6f7701"),
    (
        schema.Certificate(1, (0, 1, 2), D, (0, 2), (S, S)),
        f"96ab63657274696669636174650193000102{DIGEST}92000292{SIGNATURE}{SIGNATURE}",
    ),
    (schema.Secrets((K,), (D,)), f"93a77365637265747391{KEY}91{DIGEST}"),
    (schema.Ping(), "91a470696e67"),
    (schema.Failed("no", (1,)), "93a66661696c6564a26e6f9101"),
]
RECORDED: list[tuple[Message, Any, str]] = [
    *((message, schema.FromMember, text) for message, text in UP),
    *((message, schema.FromAggregator, text) for message, text in DOWN),
]


def test_the_major_version_is_the_first() -> None:
    assert schema.MAJOR == 1


@pytest.mark.parametrize(("message", "kind", "recorded"), RECORDED)
def test_messages_have_the_recorded_bytes(message: Message, kind: Any, recorded: str) -> None:
    assert encode(message).hex() == recorded
    assert decode_untrusted(bytes.fromhex(recorded), kind, size_bytes_max=4096) == message


def test_every_message_is_recorded() -> None:
    kinds = {
        thing
        for thing in vars(schema).values()
        if isinstance(thing, type)
        and issubclass(thing, Message)
        and thing.__module__ == schema.__name__
    }
    # It travels in AllShares only.
    assert kinds - {type(message) for message, _, _ in RECORDED} == {schema.Dealt}


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (schema.Hello(D[1:]), schema.FromMember),
        (schema.Keys(schema.MEMBERS_MAX, K, K, D, S), schema.FromMember),
        (schema.Keys(0, K[1:], K, D, S), schema.FromMember),
        (schema.Keys(0, K, K + b"k", D, S), schema.FromMember),
        (schema.Keys(0, K, K, D, S[1:]), schema.FromMember),
        (schema.Shares(0, b"h" * 4097, (), S), schema.FromMember),
        (schema.Shares(0, b"", (b"b" * (schema.BOX_SIZE_BYTES + 1),), S), schema.FromMember),
        (schema.Shares(0, b"", (b"",) * 65, S), schema.FromMember),
        (schema.Part(-1, 0), schema.FromMember),
        (schema.Part(0, schema.ELEMENTS_MAX), schema.FromMember),
        (schema.Agreement(0, schema.PLANS_MAX, (), D, S), schema.FromMember),
        (schema.Agreement(0, 0, (64,), D, S), schema.FromMember),
        (schema.Reveal(0, (b"f" * 32,), ()), schema.FromMember),
        (schema.Secrets((K + b"k",), ()), schema.FromAggregator),
        (schema.Survivors(0, (0,) * 65), schema.FromAggregator),
        (schema.Failed("x" * 301), schema.FromAggregator),
        (schema.AllKeys(()), schema.FromMember),
        (KEYS, schema.FromAggregator),
    ],
)
def test_values_out_of_range_are_invalid(message: Message, kind: Any) -> None:
    with pytest.raises(MessageInvalid):
        decode_untrusted(encode(message), kind, size_bytes_max=65_536)


def test_the_largest_messages_fit_their_method() -> None:
    """A group at its limits must not fail for the size of what it has to say."""
    count = schema.MEMBERS_MAX
    box, hashes = b"b" * schema.BOX_SIZE_BYTES, b"h" * 64 * count
    everyone = tuple(range(count))
    up = (
        schema.Shares(count - 1, hashes, (box,) * count, S),
        schema.Reveal(count - 1, (b"f" * 33,) * count, ()),
    )
    down = (
        schema.AllKeys((KEYS,) * count),
        schema.AllShares((schema.Dealt(count - 1, hashes, box, S),) * count),
        schema.Certificate(schema.PLANS_MAX - 1, everyone, D, everyone, (S,) * count),
        schema.Secrets((K,) * count, ()),
    )
    assert max(len(encode(message)) for message in up) <= schema.LINK.request_bytes_max
    assert max(len(encode(message)) for message in down) <= schema.LINK.response_bytes_max
