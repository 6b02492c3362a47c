"""The peerstore on disk: an SQLite file, so that a node that starts again knows whom to call."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2p.peer_id import PeerId

logger = logging.getLogger(__name__)

_VERSION = 1
_PEERS_MAX = 10_000
_BUSY_S = 5.0
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
    """
    if not path.exists():
        return []
    try:
        with _opened(path) as database:
            rows = database.execute(
                "SELECT peer_id, address, proven, seen_at FROM addresses "
                "ORDER BY seen_at, peer_id, place"
            ).fetchall()
    except (sqlite3.DatabaseError, _Foreign) as exc:
        _move_aside(path, exc)
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
    try:
        _write(path, peers)
    except (sqlite3.DatabaseError, _Foreign) as exc:
        if isinstance(exc, sqlite3.OperationalError):
            raise OSError(f"cannot write {path}: {exc}") from exc
        _move_aside(path, exc)
        _write(path, peers)


def _write(path: Path, peers: Iterable[SavedPeer]) -> None:
    with _opened(path) as database, database:
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
    """The file is a database of another kind or version."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_S)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version == 0 and not tables:
            with database:
                database.execute(_SCHEMA)
                database.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise _Foreign(f"it has version {version}, ours is {_VERSION}")
        # Readers and the writer of another process then do not wait for each other.
        database.execute("PRAGMA journal_mode = WAL")
        yield database


def _move_aside(path: Path, exc: Exception) -> None:
    aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
    logger.warning("peerstore_unreadable file=%s moved_to=%s cause=%s", path, aside, exc)
