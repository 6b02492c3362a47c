"""DNS messages: recorded bytes of other programs, round trips, and bytes that are none."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import MessageInvalid
from p2p.discovery.dns_message import (
    Advert,
    Heard,
    decode_dns_untrusted,
    encode_answer,
    encode_question,
    encode_service_list,
)

SERVICE = "_p2p._udp.local"
ADVERT = Advert(f"abc.{SERVICE}", (b"dnsaddr=/ip4/1.2.3.4/tcp/5", b"x"), 120)
# As python-zeroconf 0.150 writes a query for the service, and an answer with compressed names.
ZEROCONF_QUESTION = "000000000001000000000000045f703270045f756470056c6f63616c00000c0001"
ZEROCONF_ANSWER = (
    "000084000000000200000000045f703270045f756470056c6f63616c00000c000100001194000603616263c00c"
    "c02700108001000011940003026869"
)


def test_round_trips() -> None:
    assert decode_dns_untrusted(encode_question(SERVICE)) == Heard((SERVICE,), ())
    assert decode_dns_untrusted(encode_answer(SERVICE, ADVERT)) == Heard((), (ADVERT,))
    listed = encode_service_list("_services._dns-sd._udp.local", SERVICE, 120)
    assert decode_dns_untrusted(listed) == Heard((), ())


def test_what_others_write_is_read() -> None:
    assert decode_dns_untrusted(bytes.fromhex(ZEROCONF_QUESTION)) == Heard((SERVICE,), ())
    (advert,) = decode_dns_untrusted(bytes.fromhex(ZEROCONF_ANSWER)).adverts
    assert advert == Advert(f"abc.{SERVICE}", (b"hi",), 4500)


def header(*counts: int, flags: int = 0x8400) -> bytes:
    return struct.pack(">HHHHHH", 0, flags, *counts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(11),
        bytes(9001),
        header(65, 0, 0, 0),
        header(1, 0, 0, 0),
        header(1, 0, 0, 0) + b"\x05abc",
        # A name that points at itself, at the header, and one of an unknown kind.
        header(1, 0, 0, 0) + b"\xc0\x0c\x00\x0c\x00\x01",
        header(1, 0, 0, 0) + b"\xc0\x00\x00\x0c\x00\x01",
        header(1, 0, 0, 0) + b"\x80a\x00\x00\x0c\x00\x01",
        header(1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\x00\x00\x0c\x00\x01",
        header(0, 1, 0, 0) + b"\x00\x00\x10\x00\x01\x00\x00\x00\x01\x00\x05hi",
        header(0, 1, 0, 0) + b"\x00\x00\x10\x00\x01\x00\x00\x00\x01\x00\x03\x05hi",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MessageInvalid):
        decode_dns_untrusted(data)


@given(st.binary(max_size=300))
def test_noise_is_refused_with_one_error(data: bytes) -> None:
    try:
        decode_dns_untrusted(data)
    except MessageInvalid:
        return


labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)


@given(labels, st.lists(st.binary(min_size=1, max_size=255), max_size=8), st.integers(0, 2**31))
def test_any_strings_come_back(label: str, strings: list[bytes], life_s: int) -> None:
    advert = Advert(f"{label}.{SERVICE}", tuple(strings), life_s)
    assert decode_dns_untrusted(encode_answer(SERVICE, advert)).adverts == (advert,)
