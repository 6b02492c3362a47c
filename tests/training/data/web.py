"""A web server on this machine, with files in memory and the troubles that a test asks for."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(ThreadingHTTPServer):
    """Serves `files` by their paths."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, str] = {}
        """ETags by path."""
        self.ranges = True
        """Whether parts can be had."""
        self.tells_size = True
        self.refusals: list[int] = []
        """Codes with which the next requests are answered."""
        self.break_after: list[int] = []
        """So many bytes of the next answers arrive."""
        self.asked: list[tuple[str, str]] = []
        """Path and range of each request."""

    def url(self, path: str) -> str:
        """The address of a file."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        web, path = self.server, self.path
        asked = self.headers.get("Range", "")
        web.asked.append((path, asked))
        if web.refusals:
            self.send_error(web.refusals.pop(0))
            return
        if path not in web.files:
            self.send_error(404)
            return
        body = web.files[path]
        size = len(body)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if web.ranges and span and size == 0:
            self.send_response(416)
            self.send_header("Content-Range", "bytes */0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if web.ranges and span:
            begin, end = int(span[1]), min(int(span[2]) + 1, size)
            body = body[begin:end]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        else:
            self.send_response(200)
        if path in web.versions:
            self.send_header("ETag", web.versions[path])
        if web.tells_size:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if web.break_after and len(body) > 1:
            body = body[: web.break_after.pop(0)]
        try:
            self.wfile.write(body)
        except ConnectionError:
            # Who only wanted to know the size has hung up.
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def open_web() -> Iterator[Web]:
    """A server while the block lasts."""
    with Web() as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield web
        finally:
            web.shutdown()
            thread.join()
