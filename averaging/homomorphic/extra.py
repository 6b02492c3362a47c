"""Packages that only homomorphic sums need, loaded when a key is drawn or a sum is made."""

from __future__ import annotations

import importlib
from typing import Any

from averaging.homomorphic.errors import ExtraMissing


def load_extra(module: str) -> Any:
    """The module of a package that `pip install manyhands[homomorphic]` brings.

    Raises:
        ExtraMissing: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise ExtraMissing(
            f"homomorphic sums need the package {module}, which is not installed ({exc}); "
            "install it with: pip install 'manyhands[homomorphic]'"
        ) from exc
