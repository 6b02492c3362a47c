"""Codecs that send every element, in fewer bits."""

from __future__ import annotations

from collections.abc import Callable

from averaging.codecs.codec import Codec

MAKERS: dict[str, Callable[[str | None], Codec]] = {}
"""The codec of each kind, from what stands after the colon of its name."""
