"""Questions over UDP to the router: sent again until it answers, and heard from nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from p2p.errors import MessageInvalid, RefusedError
from p2p.nat.portmap.answers import Failure
from p2p.nat.portmap.ssdp import GROUP, parse_location_untrusted, search_requests
from p2p.nat.portmap.ssdp import PORT as SSDP_PORT

T = TypeVar("T")
# RFC 6886 §3.1 begins with 250 ms and doubles for a minute; the router is one hop away, so four
# times are enough to say that it does not answer now, and we ask again anyway.
_RESEND_S = (0.25, 0.5, 1.0, 2.0)
ANSWER_S_MAX = sum(_RESEND_S)
_SIZE_BYTES_MAX = 2_048
_INVALID_MAX = 64
"""So many answers that are none end the question."""


async def ask(
    host: str, port: int, request: bytes, parse_untrusted: Callable[[bytes], T]
) -> T:  # fmt: skip
    """What the router answers; datagrams from any other address and port are not heard.

    Args:
        parse_untrusted: raises MessageInvalid for what is no answer; better ones may follow.

    Raises:
        RefusedError: the router says no; or its code is that of Failure.SILENT or INVALID.
    """
    hearing = _Hearing(parse_untrusted)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        try:
            # The kernel passes on only what comes from where the socket is connected to.
            await sock.connect((host, port))
            for wait_s in _RESEND_S:
                await sock.send(request)
                with trio.move_on_after(wait_s):
                    while True:
                        answer = hearing.on_datagram(await sock.recv(_SIZE_BYTES_MAX))
                        if answer is not None:
                            return answer[0]
        except OSError as exc:
            said = f"nothing listens at UDP port {port} of the router ({exc.strerror or exc})"
            raise RefusedError(Failure.SILENT.value, said) from exc
    raise hearing.gave_up()


async def find_gateway_device(router_host: str, local_host: str) -> str:
    """The URL of the description of the UPnP gateway that is the router itself.

    Raises:
        RefusedError: with the code of Failure.SILENT or INVALID.
    """
    hearing = _Hearing(lambda data: parse_location_untrusted(data, router_host))
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        try:
            await sock.bind((local_host, 0))
            for wait_s in _RESEND_S:
                for request in search_requests():
                    # Many routers answer only the one or the other.
                    for host in (GROUP, router_host):
                        await sock.sendto(request, (host, SSDP_PORT))
                with trio.move_on_after(wait_s):
                    while True:
                        data, address = await sock.recvfrom(_SIZE_BYTES_MAX)
                        # Any device of the network may answer a search of the group.
                        if address[0] != router_host:
                            continue
                        answer = hearing.on_datagram(data)
                        if answer is not None:
                            return answer[0]
        except OSError as exc:
            said = f"the search for UPnP failed ({exc.strerror or exc})"
            raise RefusedError(Failure.SILENT.value, said) from exc
    raise hearing.gave_up()


class _Hearing(Generic[T]):
    """Tells answers from what is none, as often as is reasonable."""

    def __init__(self, parse_untrusted: Callable[[bytes], T]) -> None:
        self._parse_untrusted = parse_untrusted
        self._invalid: MessageInvalid | None = None
        self._invalid_count = 0

    def on_datagram(self, data: bytes) -> tuple[T] | None:
        """The answer in a tuple of one; None if it is none."""
        try:
            return (self._parse_untrusted(data),)
        except MessageInvalid as exc:
            self._invalid = exc
            self._invalid_count += 1
            if self._invalid_count >= _INVALID_MAX:
                raise self.gave_up() from exc
            return None

    def gave_up(self) -> RefusedError:
        """Why there is no answer."""
        if self._invalid is None:
            return RefusedError(Failure.SILENT.value, "no answer")
        return RefusedError(Failure.INVALID.value, str(self._invalid))
