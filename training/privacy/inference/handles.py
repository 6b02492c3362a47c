"""Private inference from plain synchronous code: serve() on one side, ask() on the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from p2p import Node, NodeConfig, PeerId, Portal, open_node
from training.handle import Handle
from training.privacy.inference.network import FixedNetwork, fix_network
from training.privacy.inference.service import (
    InferenceConfig,
    classify_privately,
    open_inference_service,
)


class PrivateServer(Handle):
    """A network that others can ask, at `addresses`; leaving its block, or close(), ends it."""


class PrivateClient(Handle):
    """A connection to a private server; leaving its block, or close(), ends it."""

    def __init__(
        self, portal: Portal, node: Node, peer_id: PeerId, config: InferenceConfig
    ) -> None:
        super().__init__(portal, node)
        self._server_id = peer_id
        self._config = config

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """The class of each sample, int64 of shape (samples,); the server learns nothing of them.

        Args:
            features: floats of shape (samples, features), on any device; not changed.

        Raises:
            PrivateInferenceFailed: the server is gone, refuses, or sends what makes no sense.
            ValueError: the features do not fit the server's network.
        """
        plain = features.detach().cpu().to(torch.float64).numpy()
        classes: Any = self._portal.call(
            classify_privately, self._node, self._server_id, plain, self._config
        )
        return torch.from_numpy(np.asarray(classes))


def serve_private(
    model: nn.Sequential | nn.Linear | FixedNetwork,
    *,
    listen: Iterable[str] = ("/ip4/127.0.0.1/tcp/0",),
    node_config: NodeConfig | None = None,
    config: InferenceConfig | None = None,
) -> PrivateServer:
    """Let others classify samples with this model that we do not see.

    Args:
        model: linear layers with ReLU between them, or what fix_network() made of such.
        listen: multiaddresses to listen on; loopback only, unless told.
        node_config: all else about the node, such as its identity and who may connect.

    Raises:
        ValueError: the model is something else, or too large.
        ListenError: an address cannot be listened on.
    """
    network = model if isinstance(model, FixedNetwork) else fix_network(model)
    portal = Portal()
    try:
        node = portal.enter(open_node(replace(node_config or NodeConfig(), listen=tuple(listen))))
        portal.enter(open_inference_service(node, network, config))
    except BaseException:
        portal.close()
        raise
    return PrivateServer(portal, node)


def ask_private(
    address: str,
    *,
    node_config: NodeConfig | None = None,
    config: InferenceConfig | None = None,
) -> PrivateClient:
    """Connect to a private server at one of its addresses.

    Raises:
        UnreachableError: nobody answers there.
        AddressInvalid: it is no address.
    """
    portal = Portal()
    try:
        node = portal.enter(
            open_node(replace(node_config or NodeConfig(), listen=(), client_mode=True))
        )
        peer_id = portal.call(node.connect_address, address)
    except BaseException:
        portal.close()
        raise
    return PrivateClient(portal, node, peer_id, config or InferenceConfig())
