"""Inputs that once broke a target: where they lie, and which target each belongs to."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "found"


def found_inputs() -> list[Path]:
    """All of them, in order."""
    return sorted(FOLDER.glob("*.bin"))


def target_name_of(path: Path) -> str:
    """The target that an input broke: its file is called TARGET-HASH.bin."""
    return path.stem.rpartition("-")[0]


def keep(target_name: str, data: bytes, folder: Path = FOLDER) -> Path:
    """Save an input under the name that says what it broke."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target_name}-{hashlib.sha256(data).hexdigest()[:10]}.bin"
    path.write_bytes(data)
    return path
