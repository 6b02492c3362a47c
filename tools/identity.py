"""`manyhands identity`: the peer id of a key file."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from tools.output import console, print_json


def default_identity_path() -> Path:
    """The key file of this user's bootstrap node."""
    return platformdirs.user_data_path("manyhands") / "node.key"


def show_identity(path: Path | None, *, as_json: bool) -> None:
    """Print the peer id of a key file, making the file when it is missing.

    Raises:
        p2p.IdentityError: the file is unreadable, not a key, or open to other users.
    """
    from p2p import Identity

    path = path or default_identity_path()
    created = not path.expanduser().exists()
    identity = Identity.load_or_create(path)
    if as_json:
        print_json({"peer_id": identity.peer_id, "path": str(path), "created": created})
        return
    screen = console()
    screen.print(identity.peer_id)
    screen.print(f"{'New key file' if created else 'Key file'}: {path}", markup=False)
    screen.print(
        f"Keep the file secret. Use it with: manyhands train digits --identity {path}",
        markup=False,
    )
