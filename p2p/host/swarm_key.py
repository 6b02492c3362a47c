"""The swarm key: 32 bytes that all members share, proved on each connection before anything else.

    dialer     HMAC-SHA256(key, "manyhands/swarm-key/1" ‖ "initiator" ‖ handshake hash ‖ both ids)
    listener   checks it, and only then the same with "responder"

The proof hangs on this one handshake, so it is of no use elsewhere.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from p2p.errors import AccessError
from p2p.peer_id import PeerId

KEY_BYTES = 32
_LABEL = b"manyhands/swarm-key/1"


def proof(
    key: bytes, role: bytes, handshake_hash: bytes, initiator: PeerId, responder: PeerId
) -> bytes:
    """What a side sends to show that it has the key (32 bytes)."""
    said = b"".join((_LABEL, role, handshake_hash, initiator.encode(), responder.encode()))
    return hmac.digest(key, said, "sha256")


def is_proof(expected: bytes, received: bytes) -> bool:
    """Whether they are equal, in constant time."""
    return hmac.compare_digest(expected, received)


def read_swarm_key(path: Path) -> bytes:
    """The key in a file: 64 hexadecimal digits. A phrase is refused, as it could be guessed.

    Raises:
        AccessError: the file is unreadable, open to other users, or holds no key.
    """
    path = path.expanduser()
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii")[:256].strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise AccessError(f"cannot read the swarm key {path}: {exc}") from exc
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessError(f"the swarm key {path} can be read by other users; run: chmod 600 {path}")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise AccessError(
            f"{path} holds no swarm key: it must be 64 hexadecimal digits; "
            f"make one with: manyhands access new-swarm-key {path}"
        )
    return key


def write_swarm_key(path: Path) -> None:
    """Make a new key file that only its owner may read; raises AccessError if there is one."""
    path = path.expanduser()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
    except OSError as exc:
        raise AccessError(f"cannot make the swarm key {path}: {exc.strerror}") from exc
