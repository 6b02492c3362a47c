"""A UPnP internet gateway on loopback, with the quirks of real ones, for tests of the client."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = "127.0.0.1"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


@dataclass
class Table:
    """What the gateway has mapped, and how it behaves."""

    outer_host: str = "5.6.7.10"
    endless_only: bool = False
    forbidden: bool = False
    control_url: str = "/control"
    description: bytes | None = None
    entries: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """Outer port to inner host, inner port and lease in seconds."""
    asked: list[str] = field(default_factory=list)
    location: str = ""


class _Refusal(Exception):
    """An error of the standard, by its number."""


def _act(table: Table, action: str, arguments: dict[str, str]) -> str:
    table.asked.append(action)
    if action == "GetExternalIPAddress":
        return f"<NewExternalIPAddress>{table.outer_host}</NewExternalIPAddress>"
    port = int(arguments["NewExternalPort"])
    if action == "AddPortMapping":
        if table.forbidden:
            raise _Refusal(606)
        lease_s = int(arguments["NewLeaseDuration"])
        if table.endless_only and lease_s:
            raise _Refusal(725)
        host = arguments["NewInternalClient"]
        if port in table.entries and table.entries[port][0] != host:
            raise _Refusal(718)
        table.entries[port] = (host, int(arguments["NewInternalPort"]), lease_s)
        return ""
    if port not in table.entries:
        raise _Refusal(714)
    if action == "DeletePortMapping":
        del table.entries[port]
        return ""
    host, inner, lease_s = table.entries[port]
    return (
        f"<NewInternalPort>{inner}</NewInternalPort><NewInternalClient>{host}</NewInternalClient>"
        "<NewEnabled>1</NewEnabled><NewPortMappingDescription>x</NewPortMappingDescription>"
        f"<NewLeaseDuration>{lease_s}</NewLeaseDuration>"
    )


def _description(table: Table) -> bytes:
    device = "urn:schemas-upnp-org:device"
    return table.description or (
        f'<?xml version="1.0"?><root xmlns="{device}-1-0"><device>'
        f"<deviceType>{device}:InternetGatewayDevice:1</deviceType><deviceList><device>"
        f"<deviceType>{device}:WANDevice:1</deviceType><deviceList><device>"
        f"<deviceType>{device}:WANConnectionDevice:1</deviceType><serviceList><service>"
        f"<serviceType>{SERVICE}</serviceType><controlURL>{table.control_url}</controlURL>"
        "<eventSubURL>/events</eventSubURL><SCPDURL>/x.xml</SCPDURL>"
        "</service></serviceList></device></deviceList></device></deviceList></device></root>"
    ).encode("ascii")


@contextmanager
def open_igd(table: Table) -> Iterator[Table]:
    """Serve until the block ends; the table's location is where the description lies."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, _description(table))

        def do_POST(self) -> None:
            if self.path != "/control":
                self.answer(404, b"")
                return
            text = self.rfile.read(int(self.headers["Content-Length"])).decode("ascii")
            action = self.headers["SOAPAction"].strip('"').rpartition("#")[2]
            arguments = dict(re.findall(r"<(New\w+)>([^<]*)</New", text))
            try:
                inner = f"<u:{action}Response>{_act(table, action, arguments)}</u:{action}Response>"
                status = 200
            except _Refusal as exc:
                inner = f"<s:Fault><errorCode>{exc}</errorCode></s:Fault>"
                status = 500
            self.answer(status, f"<s:Envelope><s:Body>{inner}</s:Body></s:Envelope>".encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing to say."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        table.location = f"http://{HOST}:{server.server_address[1]}/rootDesc.xml"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield table
        finally:
            server.shutdown()
            thread.join()
