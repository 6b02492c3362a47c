"""Codecs by the names that people write and groups compare."""

from __future__ import annotations

from averaging.codecs.codec import Codec
from averaging.codecs.naming import Maker, made
from averaging.codecs.quantizers import MAKERS as QUANTIZERS
from averaging.codecs.sparsifiers import MAKERS as SPARSIFIERS

_MAKERS: dict[str, Maker] = {**QUANTIZERS, **SPARSIFIERS}
CODEC_NAMES = tuple(sorted(_MAKERS))
"""Without their numbers."""


def codec_named(name: str) -> Codec:
    """The codec of that name, such as int8 or topk:0.01; `naming` has the grammar.

    Raises:
        ValueError: there is none, or its number makes no sense; says which there are.
    """
    return made(name, _MAKERS)
