"""Codecs that send few elements, or few numbers that stand for all."""

from __future__ import annotations

from collections.abc import Callable

from averaging.codecs.codec import Codec
from averaging.codecs.sparsifiers.chance import (
    make_adaptive_random,
    make_rand_k,
    make_rand_k_biased,
)
from averaging.codecs.sparsifiers.demo import make_demo
from averaging.codecs.sparsifiers.sparse import (
    make_dgc,
    make_gaussian,
    make_published_gaussian,
    make_sparse_loco,
    make_topk,
    make_topk_dither,
)

MAKERS: dict[str, Callable[[str | None], Codec]] = {
    "adaptive-random": make_adaptive_random,
    "demo": make_demo,
    "dgc": make_dgc,
    "gaussian-k": make_gaussian,
    "gaussian-k-paper": make_published_gaussian,
    "rand-k": make_rand_k,
    "rand-k-biased": make_rand_k_biased,
    "sparse-loco": make_sparse_loco,
    "topk": make_topk,
    "topk-dither": make_topk_dither,
}
"""The codec of each kind, from what stands after the colon of its name."""
