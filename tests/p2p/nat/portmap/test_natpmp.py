"""NAT-PMP: the messages of the standard, and whatever else a router may send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import MessageInvalid, RefusedError
from p2p.nat.portmap import natpmp
from p2p.nat.portmap.answers import LIFETIME_S, LIFETIME_S_MIN

PORT = 31_337
ports = st.integers(1, 65_535)


def test_requests_are_as_the_standard_draws_them() -> None:
    # RFC 6886 §3.2 and §3.3: version 0, opcode 0; version 0, opcode 2, reserved, ports, lifetime.
    assert natpmp.address_request().hex() == "0000"
    assert natpmp.map_request(PORT, 40_000, 3_600).hex() == "000200007a699c4000000e10"


def test_an_address_is_read() -> None:
    answer = bytes.fromhex("00800000000001020506070a")
    assert natpmp.parse_address_untrusted(answer) == natpmp.OuterAddress("5.6.7.10", 258)


@pytest.mark.parametrize(
    ("lifetime_s", "believed_s"), [(60, 60), (3_600, 3_600), (0xFFFFFFFF, LIFETIME_S)]
)
def test_a_mapping_is_read_and_a_huge_lifetime_not_believed(
    lifetime_s: int, believed_s: int
) -> None:
    answer = bytes.fromhex("00820000000001027a699c40") + lifetime_s.to_bytes(4, "big")
    assert natpmp.parse_mapped_untrusted(answer, PORT) == natpmp.Mapped(40_000, believed_s, 258)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (1, "silent"),
        (2, "forbidden"),
        (3, "no-address"),
        (4, "refused"),
        (5, "silent"),
        (6, "refused"),
        (65_535, "refused"),
    ],
)
def test_refusals_have_their_reasons(result: int, code: str) -> None:
    for size_bytes in (8, 12, 16):
        answer = (b"\x00\x82" + result.to_bytes(2, "big") + bytes(12))[:size_bytes]
        with pytest.raises(RefusedError) as refused:
            natpmp.parse_mapped_untrusted(answer, PORT)
        assert refused.value.code == code
    with pytest.raises(RefusedError) as refused:
        natpmp.parse_address_untrusted(b"\x00\x80" + result.to_bytes(2, "big") + bytes(4))
    assert refused.value.code == code


def test_no_address_is_a_refusal() -> None:
    with pytest.raises(RefusedError) as refused:
        natpmp.parse_address_untrusted(bytes.fromhex("008000000000010200000000"))
    assert refused.value.code == "no-address"


GOOD = bytes.fromhex("00820000000001027a699c4000000e10")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "too short"),
        (GOOD[:7], "too short"),
        (GOOD[:15], "wrong length"),
        (GOOD + b"\0", "wrong length"),
        (b"\x01" + GOOD[1:], "not NAT-PMP"),
        (b"\x00\x02" + GOOD[2:], "not NAT-PMP"),
        (b"\x00\x81" + GOOD[2:], "not NAT-PMP"),
        (GOOD[:8] + b"\x7a\x6a" + GOOD[10:], "another port"),
        (GOOD[:10] + b"\0\0" + GOOD[12:], "port 0"),
        (GOOD[:12] + (LIFETIME_S_MIN - 1).to_bytes(4, "big"), "no time"),
    ],
)
def test_what_is_no_answer_is_none(answer: bytes, complaint: str) -> None:
    with pytest.raises(MessageInvalid, match=complaint):
        natpmp.parse_mapped_untrusted(answer, PORT)


def test_a_release_is_confirmed_for_our_port_only() -> None:
    answer = bytes.fromhex("00820000000001027a69000000000000")
    natpmp.parse_released_untrusted(answer, PORT)
    with pytest.raises(MessageInvalid, match="another port"):
        natpmp.parse_released_untrusted(answer, PORT + 1)


@given(data=st.binary(max_size=40), header=st.sampled_from([b"", b"\0\x80\0\0", b"\0\x82\0\0"]))
def test_any_bytes_give_an_answer_or_one_of_two_errors(data: bytes, header: bytes) -> None:
    try:
        mapped = natpmp.parse_mapped_untrusted(header + data, PORT)
        assert 1 <= mapped.port <= 65_535
        assert LIFETIME_S_MIN <= mapped.lifetime_s <= LIFETIME_S
    except (MessageInvalid, RefusedError):
        pass
    try:
        natpmp.parse_address_untrusted(header + data)
        natpmp.parse_released_untrusted(header + data, PORT)
    except (MessageInvalid, RefusedError):
        pass


@given(internal=ports, external=ports, epoch_s=st.integers(0, 2**32 - 1))
def test_what_a_router_packs_is_what_we_read(internal: int, external: int, epoch_s: int) -> None:
    # A router turns the request into its answer by these fields.
    request = natpmp.map_request(internal, external, 3_600)
    answer = b"\x00\x82\x00\x00" + epoch_s.to_bytes(4, "big") + request[4:]
    assert natpmp.parse_mapped_untrusted(answer, internal) == natpmp.Mapped(
        external, 3_600, epoch_s
    )
