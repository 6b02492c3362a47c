"""Secure aggregation: peers learn the sum of their vectors, and nobody learns a single one.

The names below are loaded when they are first asked for, as those of `averaging` are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from averaging.secure.averager import SecureAverager, open_secure_averager
    from averaging.secure.config import SecureConfig, check_compatible
    from averaging.secure.service import SecureResult, SecureSum, open_secure_sum

_HOMES = {
    "averaging.secure.averager": ("SecureAverager", "open_secure_averager"),
    "averaging.secure.config": ("SecureConfig", "check_compatible"),
    "averaging.secure.service": ("SecureResult", "SecureSum", "open_secure_sum"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "SecureAverager",
    "SecureConfig",
    "SecureResult",
    "SecureSum",
    "check_compatible",
    "open_secure_averager",
    "open_secure_sum",
]


def __getattr__(name: str) -> Any:
    """Load a name from the module that it lives in, and keep it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
