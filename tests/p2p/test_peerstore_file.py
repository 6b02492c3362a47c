"""The peerstore on disk: what was known is known again, whatever lies in the file's place."""

import contextlib
import logging
import multiprocessing
import sqlite3
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from p2p import Identity, NodeConfig, PeerId, open_node, peerstore_file
from p2p.peerstore_file import SavedPeer, load, save
from tests.p2p.worlds import PROTOCOL, echo

SPAWN = multiprocessing.get_context("spawn")


def peer(number: int, seen_at_s: float = 1.0) -> SavedPeer:
    peer_id = PeerId(f"peer-{number}")
    addresses = tuple(f"/ip4/192.0.2.{place}/tcp/{1 + number % 60_000}" for place in range(3))
    return SavedPeer(peer_id, addresses, addresses[:1], seen_at_s)


def test_what_is_saved_is_loaded_in_the_order_of_use(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "peers"
    assert load(path) == []
    save(path, [peer(1, 5.0), peer(2, 3.0)])
    save(path, [peer(3, 4.0)])
    assert load(path) == [peer(2, 3.0), peer(3, 4.0), peer(1, 5.0)]
    moved = SavedPeer(peer(1).peer_id, ("/ip4/198.51.100.1/tcp/7",), (), 9.0)
    save(path, [moved])
    assert load(path)[-1] == moved


def test_those_not_seen_for_longest_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peerstore_file, "_PEERS_MAX", 5)
    path = tmp_path / "peers"
    save(path, [peer(number, float(number)) for number in range(8)])
    assert [one.seen_at_s for one in load(path)] == [3.0, 4.0, 5.0, 6.0, 7.0]


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("CREATE TABLE something (x)")


def _torn(path: Path) -> None:
    save(path, [peer(number) for number in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 500)


def _text(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)


def _another_table(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 1")
        database.execute("CREATE TABLE addresses (street TEXT)")


def _no_utf_8(path: Path) -> None:
    save(path, [peer(1)])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE addresses SET address = CAST(x'ff' AS TEXT) WHERE place = 0")


@pytest.mark.parametrize("spoil", [_text, _newer, _torn, _another_table, _no_utf_8])
def test_what_is_no_file_of_ours_is_moved_aside_with_one_warning(
    spoil, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers"
    spoil(path)
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert load(path) == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    [aside] = tmp_path.glob("peers.broken-*")
    assert aside.read_bytes() == before
    save(path, [peer(1)])
    assert load(path) == [peer(1)]


def test_a_place_where_nothing_can_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "peers").mkdir()
    with pytest.raises(OSError, match="peers"):
        save(tmp_path / "peers", [peer(1)])


def test_what_is_moved_aside_keeps_what_only_its_journal_holds(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        _newer(path)
        assert load(path) == []
        [aside] = tmp_path.glob("peers.broken-*[0-9]")
        with contextlib.closing(sqlite3.connect(aside)) as moved:
            assert moved.execute("SELECT name FROM sqlite_master").fetchall() == [("something",)]
    save(path, [peer(1)])
    assert load(path) == [peer(1)]


def test_a_file_that_is_busy_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peerstore_file, "_BUSY_S", 0.01)
    path = tmp_path / "peers"
    save(path, [peer(1)])
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert load(path) == []
        with pytest.raises(OSError, match="locked"):
            save(path, [peer(2)])
    assert "locked" in caplog.text
    assert load(path) == [peer(1)]


def _save_many(path: Path, first: int) -> None:
    for number in range(first, first + 40):
        save(path, [peer(number)])


def _begin_many(folder: Path, first: int, together: Barrier) -> None:
    for path in sorted(folder.iterdir()):
        together.wait()
        save(path, [peer(first)])
        save(path, [peer(first + 1)])


def _write_beside_each_other(write: Callable[..., None], *calls: tuple[object, ...]) -> None:
    writers = [SPAWN.Process(target=write, args=call) for call in calls]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * len(calls)


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [Path.touch, _text])
def test_processes_that_begin_a_file_together_lose_nothing(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    paths = [tmp_path / f"peers-{number}" for number in range(100)]
    for path in paths:
        spoil(path)
    together = SPAWN.Barrier(3, timeout=60)
    _write_beside_each_other(_begin_many, *((tmp_path, first, together) for first in (0, 10, 20)))
    for path in paths:
        assert len(load(path)) == 6


@pytest.mark.slow
def test_two_processes_on_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    _write_beside_each_other(_save_many, (path, 0), (path, 100))
    assert len(load(path)) == 80


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    save(path, [peer(1)])
    writer = SPAWN.Process(target=_save_many, args=(path, 0))
    writer.start()
    while len(load(path)) < 3:
        assert writer.is_alive() or len(load(path)) >= 3
    writer.kill()
    writer.join()
    assert all(one == peer(int(one.peer_id.removeprefix("peer-"))) for one in load(path))


async def test_a_node_that_starts_again_knows_whom_to_call(tmp_path: Path) -> None:
    config = NodeConfig(client_mode=True, peerstore_path=tmp_path / "peers")
    async with open_node() as bob:
        bob.serve(PROTOCOL, echo)
        async with open_node(config) as alice:
            await alice.connect_address(bob.addresses[0])
            stranger = Identity.generate().peer_id
            alice.add_addresses(stranger, ["/ip4/192.0.2.9/tcp/9"])
        async with open_node(config) as alice:
            assert alice.addresses_of(stranger) == (f"/ip4/192.0.2.9/tcp/9/p2p/{stranger}",)
            stream = await alice.open_stream(bob.peer_id, PROTOCOL)
            await stream.aclose()
            assert alice.is_connected(bob.peer_id)


async def test_lies_in_the_file_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    good = Identity.generate().peer_id
    save(
        path,
        [
            SavedPeer(PeerId("nobody"), ("/ip4/192.0.2.1/tcp/1",), (), 1.0),
            SavedPeer(good, ("nowhere", "/ip4/192.0.2.1/tcp/1"), ("nowhere",), 1.0),
        ],
    )
    async with open_node(NodeConfig(client_mode=True, peerstore_path=path)) as node:
        assert node.addresses_of(good) == (f"/ip4/192.0.2.1/tcp/1/p2p/{good}",)
        assert node.addresses_of(PeerId("nobody")) == ()
