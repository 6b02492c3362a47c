"""Targets of port mapping: what a router answers, or whoever sends from its address."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from p2p import MessageInvalid, RefusedError
from p2p.nat.portmap import natpmp, pcp, ssdp
from p2p.nat.portmap.answers import LIFETIME_S, LIFETIME_S_MIN, Failure, Granted
from tests.fuzz.target import Target

PORT = 31_337
ROUTER = "192.168.7.1"
NONCE = bytes(range(pcp.NONCE_SIZE_BYTES))
CODES = {failure.value for failure in Failure}
SAID_MAX = 80

NATPMP_ADDRESS = bytes.fromhex("00800000000001020506070a")
NATPMP_MAPPED = bytes.fromhex("00820000000001027a699c4000000e10")
NATPMP_REFUSED = bytes.fromhex("0082000200000102")
PCP_HEAD = bytes.fromhex("0281000000000e1000000102") + bytes(12)
PCP_MAPPED = PCP_HEAD + NONCE + bytes.fromhex("060000007a699c40" + "00" * 10 + "ffff0506070a")
PCP_REFUSED = PCP_MAPPED[:3] + b"\x0b" + PCP_MAPPED[4:]
PCP_ANNOUNCED = b"\x02\x80" + PCP_HEAD[2:]
GATEWAY = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
SSDP = (
    f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {GATEWAY}\r\n"
    f"USN: uuid:1::{GATEWAY}\r\nEXT:\r\nLOCATION: http://{ROUTER}:5000/rootDesc.xml\r\n\r\n"
).encode()


def answered(parse: Callable[[], object]) -> object:
    """What was understood, or None; a refusal is told in words of ours alone."""
    try:
        return parse()
    except MessageInvalid:
        return None
    except RefusedError as exc:
        refusal = exc
    assert refusal.code in CODES
    assert 0 < len(refusal.message) < SAID_MAX
    assert refusal.message.isascii()
    return None


def check_granted(port: int, lifetime_s: int) -> None:
    assert 0 < port < 65_536
    assert LIFETIME_S_MIN <= lifetime_s <= LIFETIME_S


def run_natpmp_address(data: bytes) -> None:
    found = answered(lambda: natpmp.parse_address_untrusted(data))
    if isinstance(found, natpmp.OuterAddress):
        assert IPv4Address(found.host).packed == data[-4:]
        assert not IPv4Address(found.host).is_unspecified


def run_natpmp_mapped(data: bytes) -> None:
    found = answered(lambda: natpmp.parse_mapped_untrusted(data, PORT))
    if isinstance(found, natpmp.Mapped):
        check_granted(found.port, found.lifetime_s)
        assert PORT.to_bytes(2, "big") in data
        # It is as good an answer to whoever takes the mapping back.
        natpmp.parse_released_untrusted(data, PORT)


def run_natpmp_released(data: bytes) -> None:
    answered(lambda: natpmp.parse_released_untrusted(data, PORT))


def run_pcp_announced(data: bytes) -> None:
    answered(lambda: pcp.parse_announced_untrusted(data))


def run_pcp_mapped(data: bytes) -> None:
    found = answered(lambda: pcp.parse_mapped_untrusted(data, NONCE, PORT))
    if found is not None:
        assert isinstance(found, Granted)
        check_granted(found.port, found.lifetime_s)
        assert not IPv4Address(found.host).is_unspecified
        # Nobody who has not seen our question gets this far.
        assert NONCE in data
        pcp.parse_released_untrusted(data, NONCE, PORT)


def run_pcp_released(data: bytes) -> None:
    answered(lambda: pcp.parse_released_untrusted(data, NONCE, PORT))


def run_ssdp(data: bytes) -> None:
    url = answered(lambda: ssdp.parse_location_untrusted(data, ROUTER))
    if url is not None:
        assert isinstance(url, str)
        assert url.lower().startswith(f"http://{ROUTER}")
        assert url.encode() in data


TARGETS = (
    Target(
        name="portmap.natpmp-address",
        run=run_natpmp_address,
        seeds=(NATPMP_ADDRESS, bytes.fromhex("008000000000010200000000")),
        covers=(
            "p2p.nat.portmap.natpmp.parse_address_untrusted",
            "p2p.nat.portmap.natpmp._read_header_untrusted",
        ),
    ),
    Target(
        name="portmap.natpmp-mapped",
        run=run_natpmp_mapped,
        seeds=(NATPMP_MAPPED, NATPMP_REFUSED),
        covers=("p2p.nat.portmap.natpmp.parse_mapped_untrusted",),
    ),
    Target(
        name="portmap.natpmp-released",
        run=run_natpmp_released,
        seeds=(NATPMP_MAPPED[:-6] + bytes(6), NATPMP_REFUSED),
        covers=("p2p.nat.portmap.natpmp.parse_released_untrusted",),
    ),
    Target(
        name="portmap.pcp-announced",
        run=run_pcp_announced,
        seeds=(PCP_ANNOUNCED, NATPMP_REFUSED, bytes.fromhex("0080000100000102")),
        covers=(
            "p2p.nat.portmap.pcp.parse_announced_untrusted",
            "p2p.nat.portmap.pcp._read_header_untrusted",
        ),
    ),
    Target(
        name="portmap.pcp-mapped",
        run=run_pcp_mapped,
        seeds=(PCP_MAPPED, PCP_REFUSED, PCP_MAPPED + bytes(8)),
        covers=(
            "p2p.nat.portmap.pcp.parse_mapped_untrusted",
            "p2p.nat.portmap.pcp._read_map_header_untrusted",
            "p2p.nat.portmap.pcp._read_body_untrusted",
        ),
    ),
    Target(
        name="portmap.pcp-released",
        run=run_pcp_released,
        seeds=(PCP_MAPPED, PCP_REFUSED),
        covers=("p2p.nat.portmap.pcp.parse_released_untrusted",),
    ),
    Target(
        name="portmap.ssdp",
        run=run_ssdp,
        seeds=(SSDP, SSDP.replace(b"LOCATION: ", b"location:"), SSDP.replace(b"200", b"404")),
        covers=("p2p.nat.portmap.ssdp.parse_location_untrusted",),
    ),
)
