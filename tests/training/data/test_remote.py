"""Files on a web server: blocks, versions, troubles on the way, and what is told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.training.data.web import Web, open_web
from training.data.remote import RemoteConfig, RemoteFile, open_remote
from training.errors import RecipeError

CONTENT = bytes(range(250))
CONFIG = RemoteConfig(block_bytes=100, tries=3, timeout_s=20)
PARTS = ["bytes=0-99", "bytes=100-199", "bytes=200-249"]


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with pytest.MonkeyPatch.context() as patch, open_web() as web:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        web.files["/a.txt"] = CONTENT
        web.versions["/a.txt"] = '"one"'
        yield web


def opened(web: Web, path: str = "/a.txt", config: RemoteConfig = CONFIG) -> RemoteFile:
    pauses: list[float] = []
    return open_remote(web.url(path), config, sleep=pauses.append)


def complaint(web: Web, path: str = "/a.txt", config: RemoteConfig = CONFIG) -> str:
    with pytest.raises(RecipeError) as raised:
        file = opened(web, path, config)
        file.read(0, file.size_bytes)
    return str(raised.value)


def asked(web: Web) -> list[str]:
    return [span for _, span in web.asked]


def test_only_the_blocks_that_are_read_are_fetched_and_each_once(web: Web) -> None:
    file = opened(web)
    assert (file.name, file.size_bytes) == (web.url("/a.txt"), 250)
    assert file.read(190, 20) == CONTENT[190:210]
    assert asked(web) == ["bytes=0-0", *PARTS[1:]]
    again = opened(web)
    assert again.read(0, 1000) == CONTENT
    assert again.read(250, 10) == b""
    assert asked(web)[3:] == ["bytes=0-0", PARTS[0]]


def test_a_server_without_parts_is_asked_once_for_all(web: Web) -> None:
    web.ranges = False
    file = opened(web)
    assert file.read(120, 20) == CONTENT[120:140]
    assert len(web.asked) == 2
    assert file.read(0, 250) == opened(web).read(0, 250) == CONTENT
    assert len(web.asked) == 3, "all blocks are kept"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(web: Web, ranges: bool) -> None:
    web.ranges = ranges
    file = opened(web)
    web.break_after = [100, 150, 250] if ranges else [30, 180]
    assert file.read(0, 250) == CONTENT
    web.break_after = [0] * 9
    expected = r"in 3 tries \(the download broke off after 0 of 100 bytes\); try again later"
    web.files["/b.txt"] = CONTENT
    other = opened(web, "/b.txt")
    with pytest.raises(RecipeError, match=expected):
        other.read(0, 250)


def test_what_arrived_before_an_end_is_not_fetched_again(web: Web) -> None:
    file = opened(web)
    web.break_after = [100, 5, 5, 5]
    with pytest.raises(RecipeError, match="broke off after 5 of 100 bytes"):
        file.read(0, 250)
    web.asked.clear()
    assert opened(web).read(0, 250) == CONTENT
    assert asked(web) == ["bytes=0-0", *PARTS[1:]]


def test_passing_troubles_are_waited_for_longer_and_longer(web: Web) -> None:
    web.refusals = [503, 429]
    pauses: list[float] = []
    assert open_remote(web.url("/a.txt"), CONFIG, sleep=pauses.append).size_bytes == 250
    assert pauses == [1.0, 2.0]
    web.refusals = [500] * 3
    assert "could not be fetched in 3 tries (the server says 500" in complaint(web)


def test_a_server_that_is_not_there_is_told() -> None:
    with open_web() as gone:
        url = gone.url("/a.txt")
    pauses: list[float] = []
    with pytest.raises(RecipeError, match="could not be fetched in 3 tries"):
        open_remote(url, CONFIG, sleep=pauses.append)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_no_file_is_told(web: Web, ranges: bool) -> None:
    web.ranges = ranges
    told = complaint(web, "/none.txt")
    assert "the server says 404 Not Found; open the address in a browser" in told
    assert len(web.asked) == 1, "that is final"
    web.files["/empty.txt"] = b""
    assert "is empty" in complaint(web, "/empty.txt")
    small = replace(CONFIG, size_bytes_max=249)
    assert "has 250 bytes, more than the 249 that are allowed" in complaint(web, config=small)


def test_a_size_that_is_not_told_is_told(web: Web) -> None:
    web.ranges, web.tells_size = False, False
    assert "does not tell the file's size; download it by other means" in complaint(web)


@pytest.mark.parametrize("change", ["version", "size"])
def test_a_file_that_changes_in_between_is_told(web: Web, change: str) -> None:
    file = opened(web)
    file.read(0, 10)
    if change == "version":
        web.versions["/a.txt"] = '"two"'
    else:
        web.files["/a.txt"] = CONTENT + b"more"
    assert file.read(0, 100) == CONTENT[:100]
    with pytest.raises(RecipeError, match="was changed on the server while it was trained on"):
        file.read(100, 10)
    # A new run takes the new file, and nothing of the old one.
    web.files["/a.txt"] = bytes(250)
    web.versions["/a.txt"] = '"three"'
    assert opened(web).read(0, 250) == bytes(250)


def test_a_checksum_is_compared(web: Web) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()
    file = opened(web, f"/a.txt#sha256={right.upper()}")
    assert file.name == web.url("/a.txt")
    assert asked(web) == ["bytes=0-0", *PARTS]
    wrong = f"/a.txt#sha256={'0' * 64}"
    assert f"has the SHA-256 {right}, not {'0' * 64}; correct the address" in complaint(web, wrong)


@pytest.mark.parametrize(
    "url", ["ftp://a/b.txt", "http://a/b.txt#sha256=12", "http://a/b.txt#part", "http://a/b.txt#"]
)
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(RecipeError, match="must begin with http:// or https://"):
        open_remote(url)
    with pytest.raises(RecipeError, match="is no address of a file"):
        open_remote("http://[broken/a.txt")


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RemoteConfig(block_bytes=0)
    with pytest.raises(ValueError, match="positive"):
        RemoteConfig(timeout_s=0)
