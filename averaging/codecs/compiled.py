"""Loops of codecs that are compiled; see docs/decisions/0011-one-file-of-c.md."""

from __future__ import annotations

from types import ModuleType

LOOPS: ModuleType | None
"""They do on a CPU, in one pass, what PyTorch and numpy do elsewhere, to the same bits. None where
the package was built without a C compiler."""
try:
    from averaging.codecs import _loops
except ImportError:
    LOOPS = None
else:
    LOOPS = _loops
