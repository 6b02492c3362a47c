"""Codecs by the names that people write and groups compare."""

from __future__ import annotations

from collections.abc import Callable

from averaging.codecs.codec import Codec
from averaging.codecs.quantizers import MAKERS as QUANTIZERS
from averaging.codecs.sparsifiers import MAKERS as SPARSIFIERS

Maker = Callable[[str | None], Codec]
"""Gets what stands after the colon, or None; raises ValueError where that makes no sense."""

_MAKERS: dict[str, Maker] = {**QUANTIZERS, **SPARSIFIERS}
CODEC_NAMES = tuple(sorted(_MAKERS))
"""Without their numbers."""


def codec_named(name: str) -> Codec:
    """The codec of that name, such as int8 or topk:0.01.

    Raises:
        ValueError: there is none, or its number makes no sense; says which there are.
    """
    kind, colon, detail = name.partition(":")
    if kind not in _MAKERS:
        raise ValueError(f"there is no codec {kind!r}; there are {', '.join(CODEC_NAMES)}")
    return _MAKERS[kind](detail if colon else None)
