"""PCP: the messages of the standard, and whatever else a router may send."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import MessageInvalid, RefusedError
from p2p.nat.portmap import pcp
from p2p.nat.portmap.answers import LIFETIME_S, LIFETIME_S_MIN, Granted

NONCE = bytes(range(12))
PORT = 31_337
OURS = "00000000000000000000ffffc0a80714"
HEAD = bytes.fromhex("0281000000000e1000000102") + bytes(12)
BODY = NONCE + bytes.fromhex("060000007a699c4000000000000000000000ffff0506070a")
GOOD = HEAD + BODY


def parse(data: bytes) -> Granted:
    return pcp.parse_mapped_untrusted(data, NONCE, PORT)


def test_requests_are_as_the_standard_draws_them() -> None:
    # RFC 6887 §7.1 and §11.1: header of 24 bytes with our address, MAP of 36 bytes.
    assert pcp.announce_request("192.168.7.20").hex() == "0200000000000000" + OURS
    request = pcp.map_request(NONCE, "192.168.7.20", PORT, 40_000, 3_600)
    assert request.hex() == (
        "02010000" "00000e10" + OURS + NONCE.hex() + "06000000" "7a69" "9c40"
        "00000000000000000000ffff" "00000000"
    )  # fmt: skip
    assert len(request) == 60


def test_a_mapping_is_read() -> None:
    assert parse(GOOD) == Granted("5.6.7.10", 40_000, 3_600, 258)
    # Options, whose meaning we did not ask for, are passed over.
    assert parse(GOOD + bytes(8)) == parse(GOOD)


def test_a_huge_lifetime_is_not_believed() -> None:
    assert parse(GOOD[:4] + b"\xff" * 4 + GOOD[8:]).lifetime_s == LIFETIME_S


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "wrong length"),
        (GOOD[:20], "wrong length"),
        (GOOD[:58], "wrong length"),
        (GOOD + bytes(1_044), "wrong length"),
        (GOOD[:56], "too short"),
        (b"\x03" + GOOD[1:], "not PCP"),
        (b"\x02\x01" + GOOD[2:], "not PCP"),
        (b"\x02\x80" + GOOD[2:], "not PCP"),
        (HEAD + b"x" + BODY[1:], "nonce"),
        (HEAD[:3] + b"\x02" + HEAD[4:] + b"x" + BODY[1:], "nonce"),
        (HEAD + BODY[:12] + b"\x11" + BODY[13:], "another port"),
        (HEAD + BODY[:16] + b"\0\1" + BODY[18:], "another port"),
        (HEAD + BODY[:18] + b"\0\0" + BODY[20:], "port 0"),
        (HEAD + BODY[:20] + bytes(15) + b"\1", "not IPv4"),
        (HEAD[:4] + (LIFETIME_S_MIN - 1).to_bytes(4, "big") + HEAD[8:] + BODY, "no time"),
    ],
)
def test_what_is_no_answer_is_none(answer: bytes, complaint: str) -> None:
    with pytest.raises(MessageInvalid, match=complaint):
        parse(answer)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (1, "silent"),
        (2, "forbidden"),
        (3, "refused"),
        (4, "silent"),
        (5, "refused"),
        (7, "no-address"),
        (8, "refused"),
        (9, "silent"),
        (10, "refused"),
        (11, "taken"),
        (12, "refused"),
        (13, "refused"),
        (255, "refused"),
    ],
)
def test_refusals_have_their_reasons(result: int, code: str) -> None:
    head = HEAD[:3] + bytes((result,)) + HEAD[4:]
    for answer in (head, head + BODY):
        with pytest.raises(RefusedError) as refused:
            parse(answer)
        assert refused.value.code == code


def test_an_outer_address_of_zeros_is_a_refusal() -> None:
    with pytest.raises(RefusedError) as refused:
        parse(GOOD[:-4] + bytes(4))
    assert refused.value.code == "no-address"


def test_a_router_of_the_older_protocol_is_recognised() -> None:
    # RFC 6887, appendix A: version 0, result 1, and the epoch of NAT-PMP.
    for answer in (bytes.fromhex("0080000100000102"), bytes.fromhex("00810001")):
        with pytest.raises(RefusedError, match="NAT-PMP only") as refused:
            pcp.parse_announced_untrusted(answer)
        assert refused.value.code == "silent"
    with pytest.raises(RefusedError, match="version"):
        pcp.parse_announced_untrusted(bytes.fromhex("01800001") + bytes(20))


def test_any_sane_answer_to_an_announcement_shows_that_pcp_is_spoken() -> None:
    pcp.parse_announced_untrusted(bytes.fromhex("02800000") + bytes(20))
    pcp.parse_announced_untrusted(bytes.fromhex("02800004") + bytes(20))
    with pytest.raises(RefusedError, match="not allowed"):
        pcp.parse_announced_untrusted(bytes.fromhex("02800002") + bytes(20))
    with pytest.raises(MessageInvalid, match="another question"):
        pcp.parse_announced_untrusted(GOOD)


def test_a_release_is_confirmed_by_the_nonce() -> None:
    pcp.parse_released_untrusted(GOOD, NONCE, PORT)
    with pytest.raises(MessageInvalid, match="nonce"):
        pcp.parse_released_untrusted(GOOD, bytes(12), PORT)


@given(
    data=st.binary(max_size=80),
    header=st.sampled_from([b"", GOOD[:4], HEAD, HEAD + NONCE, GOOD[:44]]),
)
def test_any_bytes_give_an_answer_or_one_of_two_errors(data: bytes, header: bytes) -> None:
    try:
        granted = parse(header + data)
        assert granted.port
        assert LIFETIME_S_MIN <= granted.lifetime_s <= LIFETIME_S
    except (MessageInvalid, RefusedError):
        pass
    with contextlib.suppress(MessageInvalid, RefusedError):
        pcp.parse_announced_untrusted(header + data)


@given(index=st.integers(24, 35), bits=st.integers(1, 255))
def test_no_other_nonce_passes(index: int, bits: int) -> None:
    changed = GOOD[:index] + bytes((GOOD[index] ^ bits,)) + GOOD[index + 1 :]
    with pytest.raises(MessageInvalid, match="nonce"):
        parse(changed)
