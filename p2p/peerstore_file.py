"""The peerstore on disk: an SQLite file, so that a node that starts again knows whom to call."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from p2p.peer_id import PeerId

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_VERSION = 1
_PEERS_MAX = 10_000
_BUSY_S = 5.0
# SQLITE_ERROR is such as another table's columns. Busy, read-only and out of reach are not here.
_FOREIGN_CODES = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS addresses (
    peer_id TEXT NOT NULL,
    address TEXT NOT NULL,
    proven INTEGER NOT NULL,
    place INTEGER NOT NULL,
    seen_at REAL NOT NULL,
    PRIMARY KEY (peer_id, address)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class SavedPeer:
    """What the file says of a peer; addresses are texts, to be checked like a stranger's."""

    peer_id: PeerId
    addresses: tuple[str, ...]
    proven: tuple[str, ...]
    """Those where the peer has proved its identity to us."""
    seen_at_s: float
    """When we last had to do with it, in seconds since 1970."""


def load(path: Path) -> list[SavedPeer]:
    """All saved peers, the one seen last at the end.

    A file that is none of ours is moved aside with one warning: what it held can be learnt again.
    One that cannot be read now (no permission, busy for 5 s) stays, with a warning.
    """
    if not path.exists():
        return []
    try:
        rows = _in_file(path, _rows)
    except sqlite3.OperationalError as exc:
        logger.warning("peerstore_unreadable file=%s cause=%s", path, exc)
        return []
    peers: dict[str, list[tuple[str, bool, float]]] = {}
    for peer_id, address, proven, seen_at_s in rows:
        peers.setdefault(str(peer_id), []).append((str(address), bool(proven), float(seen_at_s)))
    return [
        SavedPeer(
            PeerId(peer_id),
            tuple(address for address, _, _ in several),
            tuple(address for address, proven, _ in several if proven),
            several[0][2],
        )
        for peer_id, several in peers.items()
    ]


def save(path: Path, peers: Iterable[SavedPeer]) -> None:
    """Write what is known of these peers, all or nothing; others in the file stay.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    several = tuple(peers)
    try:
        _in_file(path, lambda database: _write(database, several))
    except sqlite3.OperationalError as exc:
        raise OSError(f"cannot write {path}: {exc}") from exc


def _rows(database: sqlite3.Connection) -> list[tuple[str, str, int, float]]:
    return database.execute(
        "SELECT peer_id, address, proven, CAST(seen_at AS REAL) FROM addresses "
        "ORDER BY seen_at, peer_id, place"
    ).fetchall()


def _write(database: sqlite3.Connection, peers: Iterable[SavedPeer]) -> None:
    with database:
        database.execute("BEGIN IMMEDIATE")
        for peer in peers:
            database.execute("DELETE FROM addresses WHERE peer_id = ?", (peer.peer_id,))
            database.executemany(
                "INSERT INTO addresses VALUES (?, ?, ?, ?, ?)",
                [
                    (peer.peer_id, address, address in peer.proven, place, peer.seen_at_s)
                    for place, address in enumerate(peer.addresses)
                ],
            )
        database.execute(
            "DELETE FROM addresses WHERE peer_id NOT IN (SELECT peer_id FROM addresses "
            "GROUP BY peer_id ORDER BY MAX(seen_at) DESC LIMIT ?)",
            (_PEERS_MAX,),
        )


class _Foreign(Exception):
    """The file is no database, or one of another kind or version."""


def _in_file(path: Path, act: Callable[[sqlite3.Connection], Result]) -> Result:
    """What `act` makes of the database; a file that is none of ours gives way to an empty one.

    Raises:
        sqlite3.OperationalError: the file cannot be read or written now.
    """
    with contextlib.suppress(_Foreign):
        return _try(path, act)
    # Of several processes that come here, one moves the file, and the others use what it began.
    with _alone(path):
        try:
            return _try(path, act)
        except _Foreign as exc:
            _move_aside(path, exc)
        return _try(path, act)


def _try(path: Path, act: Callable[[sqlite3.Connection], Result]) -> Result:
    try:
        with contextlib.closing(_connection(path)) as database:
            if _version(database) != _VERSION:
                with database:
                    database.execute("BEGIN IMMEDIATE")  # no other process is at its beginning now
                    _begin(database)
            return act(database)
    except sqlite3.DatabaseError as exc:
        # Text that is no UTF-8 has no code.
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF in _FOREIGN_CODES:
            raise _Foreign(str(exc)) from exc
        raise


def _connection(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)


def _begin(database: sqlite3.Connection) -> None:
    version = _version(database)
    (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if version == 0 and not tables:
        database.execute(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_VERSION}")
    elif version != _VERSION:
        raise _Foreign(f"it has version {version}, ours is {_VERSION}")


def _version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process is in here with this path: the lock of an empty database beside it."""
    with contextlib.closing(_connection(path.with_name(f"{path.name}.lock"))) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        yield


def _move_aside(path: Path, exc: _Foreign) -> None:
    aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    # Without its journals, a database that another program uses would be torn.
    for part in ("-journal", "-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + part).replace(aside.with_name(aside.name + part))
    logger.warning("peerstore_unreadable file=%s moved_to=%s cause=%s", path, aside, exc)
