"""Files on a web server, read block by block and kept among the user's cached files.

A block is cached under the address and the version of its file, whole or not at all. So a download
that broke off goes on with the first missing block, and several peers of one machine share blocks.
A server that cannot send parts (Range) is asked for the whole file once, and all its blocks are
kept as they pass. A file's version is its size and what the server gives as its ETag or, without
one, as the time of its last change; each answer is compared with that of the first.

Source: Fielding, Nottingham, Reschke, HTTP Semantics (RFC 9110, 2022), sections 8.8 and 14.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from training.cache import cached
from training.errors import RecipeError

_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_EMPTY_RANGE = re.compile(r"bytes \*/0")
# The server is busy or stumbled; all other refusals are final.
_PASSING_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
_USER_AGENT = "manyhands"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """How files are fetched."""

    block_bytes: int = 4 << 20
    """What one request asks for."""
    size_bytes_max: int = 64 << 30
    """A larger file is refused, before any of it is fetched."""
    tries: int = 5
    """So often a request is made, as long as the server or the way to it stumbles."""
    pause_s: float = 1.0
    """Before the second try; it doubles with each further one."""
    timeout_s: float = 30.0
    """A server that is silent for so long has stumbled."""

    def __post_init__(self) -> None:
        if min(self.block_bytes, self.size_bytes_max, self.tries) < 1:
            raise ValueError("block_bytes, size_bytes_max and tries must be at least 1")
        if self.pause_s < 0 or self.timeout_s <= 0:
            raise ValueError("pause_s must be at least 0, and timeout_s positive")


class _Stumbled(Exception):
    """This try failed in a way that the next may not; says how."""


class RemoteFile:
    """One file on a server; open_remote() makes it."""

    def __init__(
        self,
        url: str,
        *,
        size_bytes: int,
        version: str,
        config: RemoteConfig,
        sleep: Callable[[float], None],
    ) -> None:
        self._url = url
        self._size_bytes = size_bytes
        self._version = version
        self._config = config
        self._sleep = sleep
        self._newest: tuple[int, bytes] = (-1, b"")
        key = f"{url}\0{version}\0{size_bytes}\0{config.block_bytes}"
        self._cache_name = f"remote-{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    @property
    def name(self) -> str:
        """Its address."""
        return self._url

    @property
    def size_bytes(self) -> int:
        """As the server's first answer has it."""
        return self._size_bytes

    def read(self, begin: int, size_bytes: int) -> bytes:
        """So many bytes from there on, fewer only at the file's end.

        Raises:
            RecipeError: the server does not give them, or has another file there now.
        """
        end = min(begin + size_bytes, self._size_bytes)
        parts = []
        while begin < end:
            number, offset = divmod(begin, self._config.block_bytes)
            part = self._block(number)[offset : offset + end - begin]
            parts.append(part)
            begin += len(part)
        return b"".join(parts)

    def verify(self, sha256: str) -> None:
        """Fetch all of it, and compare.

        Raises:
            RecipeError: it is another file.
        """
        digest = hashlib.sha256()
        for begin in range(0, self._size_bytes, self._config.block_bytes):
            digest.update(self.read(begin, self._config.block_bytes))
        if digest.hexdigest() != sha256.lower():
            raise RecipeError(
                f"{self._url}: has the SHA-256 {digest.hexdigest()}, not {sha256.lower()}; correct "
                "the address or the checksum, and remove the files whose names begin with "
                f"{self._cache_name} from the cache folder if they were damaged on the way"
            )

    def _block(self, number: int) -> bytes:
        """A block from memory, the cache or the server."""
        if self._newest[0] != number:
            name = f"{self._cache_name}-{number}"
            self._newest = (number, cached(name, lambda: self._fetch(number)))
        return self._newest[1]

    def _fetch(self, number: int) -> bytes:
        begin = number * self._config.block_bytes
        end = min(begin + self._config.block_bytes, self._size_bytes)
        return _with_patience(
            self._url, self._config, self._sleep, lambda: self._try_to_fetch(begin, end)
        )

    def _try_to_fetch(self, begin: int, end: int) -> bytes:
        with _request(self._url, f"bytes={begin}-{end - 1}", self._config) as answer:
            whole = answer.status == 200
            size_bytes, version = _size_and_version(self._url, answer)
            if (size_bytes, version) != (self._size_bytes, self._version):
                raise RecipeError(
                    f"{self._url}: was changed on the server while it was trained on (now "
                    f"{size_bytes} bytes, {version or 'no version'}; before {self._size_bytes} "
                    f"bytes, {self._version or 'no version'}); begin a run of another name with "
                    "the new file, or have the old one put back"
                )
            if whole:
                return self._keep_all(answer, begin)
            return _read_exactly(answer, end - begin)

    def _keep_all(self, answer: http.client.HTTPResponse, wanted: int) -> bytes:
        """Take the whole file and keep each block; returns the one that begins at `wanted`."""
        found = b""
        for begin in range(0, self._size_bytes, self._config.block_bytes):
            block = _read_exactly(answer, min(self._config.block_bytes, self._size_bytes - begin))
            if begin == wanted:
                found = block
            else:
                name = f"{self._cache_name}-{begin // self._config.block_bytes}"
                cached(name, lambda block=block: block)  # type: ignore[misc]
        return found


def open_remote(
    url: str, config: RemoteConfig | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> RemoteFile:
    """Ask a server for a file's size and version; its content is fetched where it is read.

    Args:
        url: http:// or https://; with `#sha256=…` at its end the whole file is fetched and checked
            at once.

    Raises:
        RecipeError: there is no such file, it is empty or too large, its size is not told, the
            server does not answer, or the checksum is another.
    """
    config = config or RemoteConfig()
    plain, mark, fragment = url.partition("#")
    checksum = _SHA256.fullmatch(fragment)
    if not plain.startswith(("http://", "https://")) or bool(mark) != bool(checksum):
        raise RecipeError(
            f"{url}: must begin with http:// or https://, and may end with #sha256= and the "
            "64 hexadecimal digits of the file's checksum"
        )

    def ask() -> tuple[int, str]:
        with _request(plain, "bytes=0-0", config) as answer:
            return _size_and_version(plain, answer)

    size_bytes, version = _with_patience(plain, config, sleep, ask)
    if size_bytes == 0:
        raise RecipeError(f"{plain}: is empty; give the address of a file of text")
    if size_bytes > config.size_bytes_max:
        raise RecipeError(
            f"{plain}: has {size_bytes} bytes, more than the {config.size_bytes_max} that are "
            "allowed; give it in several files"
        )
    file = RemoteFile(plain, size_bytes=size_bytes, version=version, config=config, sleep=sleep)
    if checksum:
        file.verify(checksum[1])
    return file


def _with_patience(
    url: str, config: RemoteConfig, sleep: Callable[[float], None], attempt: Callable[[], T]
) -> T:
    """Try again, after longer and longer pauses, while it is the server that stumbles."""
    cause = ""
    for number in range(config.tries):
        if number:
            sleep(config.pause_s * 2 ** (number - 1))
        try:
            return attempt()
        except _Stumbled as stumbled:
            cause = str(stumbled)
    raise RecipeError(
        f"{url}: could not be fetched in {config.tries} tries ({cause}); try again later, it then "
        "goes on from what has arrived, or download the file by other means and give its path"
    )


def _request(url: str, span: str, config: RemoteConfig) -> http.client.HTTPResponse:
    """The server's answer, 200 or 206; its body is not read yet."""
    headers = {"Range": span, "Accept-Encoding": "identity", "User-Agent": _USER_AGENT}
    try:
        request = urllib.request.Request(url, headers=headers)
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=config.timeout_s)
    except urllib.error.HTTPError as exc:
        with exc:
            if exc.code in _PASSING_CODES:
                raise _Stumbled(f"the server says {exc.code} {exc.reason}") from exc
            if exc.code == 416 and _EMPTY_RANGE.fullmatch(exc.headers.get("Content-Range", "")):
                raise RecipeError(f"{url}: is empty; give the address of a file of text") from exc
            raise RecipeError(
                f"{url}: the server says {exc.code} {exc.reason}; open the address in a browser "
                "and correct it in data_options"
            ) from exc
    except ValueError as exc:
        raise RecipeError(f"{url}: is no address of a file ({exc})") from exc
    except (OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "reason", None) or str(exc) or type(exc).__name__
        raise _Stumbled(str(reason)) from exc
    return answer


def _size_and_version(url: str, answer: http.client.HTTPResponse) -> tuple[int, str]:
    headers: Mapping[str, str] = answer.headers  # type: ignore[assignment]
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if answer.status == 206:
        span = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        size = span[3] if span else ""
    else:
        size = headers.get("Content-Length", "")
    if not size.isdecimal() or len(size) > 18:
        raise RecipeError(
            f"{url}: the server does not tell the file's size; download it by other means, and "
            "give its path"
        )
    return int(size), version


def _read_exactly(answer: http.client.HTTPResponse, size_bytes: int) -> bytes:
    try:
        content = answer.read(size_bytes)
    except (OSError, http.client.HTTPException) as exc:
        raise _Stumbled(f"the download broke off: {str(exc) or type(exc).__name__}") from exc
    if len(content) != size_bytes:
        raise _Stumbled(f"the download broke off after {len(content)} of {size_bytes} bytes")
    return content
