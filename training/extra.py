"""Packages that only some recipes need, loaded when such a recipe is used."""

from __future__ import annotations

import importlib
from typing import Any

from training.errors import RecipeError


def load_extra(module: str, *, extra: str = "recipes") -> Any:
    """The module of a package that an extra such as `manyhands[recipes]` brings.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise RecipeError(
            f"this recipe needs the package {module}, which is not installed ({exc}); "
            f"install it with: pip install 'manyhands[{extra}]'"
        ) from exc
