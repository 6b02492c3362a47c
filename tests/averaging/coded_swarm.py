"""Averagers of a few peers whose values travel in codecs."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import numpy as np

from averaging import AveragerConfig
from averaging.codecs.codec import Codec
from p2p.testing import SimNetwork
from tests.averaging.allreduce.peers import Array
from tests.averaging.swarm import Swarm, open_swarm

ROWS, COLUMNS = 100, 50


def config_of(up: Codec, down: Codec | str = "floats", **options: Any) -> AveragerConfig:
    least = {"codec_elements_min": 1_000}
    return AveragerConfig(codec=up, downlink_codec=down, **(least | options))


async def open_random(stack: AsyncExitStack, network: SimNetwork, count: int) -> Swarm:
    """A swarm whose tensors differ from peer to peer: a matrix and a bias."""
    swarm = await open_swarm(stack, network, count)
    rng = np.random.default_rng(3)
    swarm.tensors = [
        {
            "weight": rng.standard_normal((ROWS, COLUMNS)).astype("float32"),
            "bias": rng.standard_normal(COLUMNS).astype("float32"),
        }
        for _ in range(count)
    ]
    return swarm


def mean_tensor(tensors: list[dict[str, Array]], name: str) -> Array:
    return np.mean([peer[name].astype(np.float64) for peer in tensors], axis=0)
