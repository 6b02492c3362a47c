"""SSDP: the search for a UPnP internet gateway, and where its description lies (core).

Source: UPnP Forum, "UPnP Device Architecture 1.1", 2008, §1.3.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from p2p.errors import MessageInvalid

GROUP = "239.255.255.250"
PORT = 1900
_SIZE_BYTES_MAX = 2_048
_URL_MAX = 256
_WAITS_S = 1
_TARGETS = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)


def search_requests() -> tuple[bytes, ...]:
    """What to send to the group and to the router itself."""
    return tuple(
        (
            f"M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:{PORT}\r\n"
            f'MAN: "ssdp:discover"\r\nMX: {_WAITS_S}\r\nST: {target}\r\n\r\n'
        ).encode("ascii")
        for target in _TARGETS
    )


def parse_location_untrusted(data: bytes, router_host: str) -> str:
    """The URL of the description in an answer; it must lie on the router itself.

    Raises:
        MessageInvalid: it is no answer, or leads elsewhere.
    """
    if len(data) > _SIZE_BYTES_MAX or not data.isascii():
        raise MessageInvalid("the answer is not SSDP")
    first, *lines = data.decode("ascii").split("\r\n")
    if first.split(" ")[:2] != ["HTTP/1.1", "200"]:
        raise MessageInvalid("the answer is not SSDP")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    if headers.get("st") not in _TARGETS:
        raise MessageInvalid("the answer is not of an internet gateway")
    url = headers.get("location", "")
    if not leads_to(url, router_host):
        raise MessageInvalid("the gateway's description does not lie on the router")
    return url


def leads_to(url_untrusted: str, router_host: str) -> bool:
    """Whether it is a plain HTTP URL on this host, free of what could mislead a parser."""
    if len(url_untrusted) > _URL_MAX or not url_untrusted.isprintable() or " " in url_untrusted:
        return False
    try:
        url = urlsplit(url_untrusted)
        port = url.port
    except ValueError:
        return False
    netloc = router_host if port is None else f"{router_host}:{port}"
    return url.scheme == "http" and url.netloc == netloc
