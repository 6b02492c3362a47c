"""SSDP: only a gateway on the router itself is believed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import MessageInvalid
from p2p.nat.portmap.ssdp import leads_to, parse_location_untrusted, search_requests

ROUTER = "192.168.7.1"
TARGET = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
GOOD = (
    f"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {TARGET}\r\n"
    f"USN: uuid:1::{TARGET}\r\nEXT:\r\nLOCATION: http://192.168.7.1:5000/rootDesc.xml\r\n\r\n"
)


def test_the_search_is_as_the_standard_writes_it() -> None:
    first, second = search_requests()
    assert first.startswith(b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n")
    assert b'\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n' in first
    assert first.endswith(f"ST: {TARGET}\r\n\r\n".encode())
    assert second.endswith(b"InternetGatewayDevice:2\r\n\r\n")


def test_the_location_is_read_however_headers_are_written() -> None:
    location = "http://192.168.7.1:5000/rootDesc.xml"
    assert parse_location_untrusted(GOOD.encode(), ROUTER) == location
    lower = GOOD.replace("LOCATION: ", "location:").replace("ST:", "st :")
    assert parse_location_untrusted(lower.encode(), ROUTER) == location


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("200 OK", "404 Not Found", "not SSDP"),
        ("HTTP/1.1 200 OK", "NOTIFY * HTTP/1.1", "not SSDP"),
        ("EXT:", "EXT: é", "not SSDP"),
        ("EXT:", "EXT: " + 2_048 * "x", "not SSDP"),
        (TARGET, "upnp:rootdevice", "not of an internet gateway"),
        ("LOCATION", "PLACE", "does not lie on the router"),
        ("http://192.168.7.1", "http://192.168.7.66", "does not lie on the router"),
        ("http://192.168.7.1", "http://169.254.169.254", "does not lie on the router"),
    ],
)
def test_other_answers_are_none(old: str, new: str, complaint: str) -> None:
    with pytest.raises(MessageInvalid, match=complaint):
        parse_location_untrusted(GOOD.replace(old, new).encode(), ROUTER)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.168.7.1",
        "https://192.168.7.1/",
        "file://192.168.7.1/etc/passwd",
        "http://192.168.7.1@evil.example/",
        "http://user@192.168.7.1/",
        "http://192.168.7.1.evil.example/",
        "http://192.168.7.1:99999/",
        "http://192.168.7.1:port/",
        "http://192.168.7.1:0080/",
        "http://[::1/",
        "http://192.168.7.1/a b",
        "http://192.168.7.1/\r\nX: y",
        "http://192.168.7.1/" + 256 * "x",
    ],
)
def test_urls_that_lead_elsewhere_or_mislead_are_refused(url: str) -> None:
    assert not leads_to(url, ROUTER)


def test_urls_on_the_router_are_taken() -> None:
    assert leads_to("http://192.168.7.1/x.xml", ROUTER)
    assert leads_to("http://192.168.7.1:49152/gate/x.xml?y=1", ROUTER)


@given(st.one_of(st.binary(), st.text().map(lambda text: GOOD.replace("1.1", text).encode())))
def test_any_bytes_give_a_location_on_the_router_or_one_error(data: bytes) -> None:
    with contextlib.suppress(MessageInvalid):
        assert leads_to(parse_location_untrusted(data, ROUTER), ROUTER)
