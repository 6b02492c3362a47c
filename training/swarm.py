"""join(): the synchronous handle on a run, which PyTorch code holds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import overload

import torch
from torch import nn

from p2p import Dht, Node, NodeConfig, PeerId, Portal
from training.config import SwarmConfig
from training.data.telling import ShardTelling, open_shard_telling
from training.handle import Handle
from training.learning_rate import LrRule
from training.metrics import MetricsPublisher, open_metrics_publisher
from training.metrics.schema import metrics_of
from training.network import enter_network
from training.optimizer import SwarmOptimizer
from training.privacy import NoiseShares, PrivateBatch, PrivateClients
from training.progress import BatchSchedule, FixedBatch, PeerProgress
from training.strategies import SecureExchange, Strategy
from training.strategies.optimizer import LocalOptimizer
from training.task import Share

_TELL_INTERVAL_S = 1.0
"""Metrics lie in the DHT for others to look at now and then; more often is of no use."""


class Swarm(Handle):
    """This process's place in a run; leave it with close(), or by leaving its `with` block."""

    def __init__(
        self, run: str, portal: Portal, network: tuple[Node, Dht], config: SwarmConfig
    ) -> None:
        super().__init__(portal, network[0])
        self.run = run
        self._network = network
        self._config = config
        self._optimizer: SwarmOptimizer | LocalOptimizer | None = None
        self._publisher: MetricsPublisher | None = None
        self._told_s = -math.inf
        self._telling: ShardTelling | None = None
        self._divided_s = -math.inf

    @property
    def paths(self) -> dict[PeerId, str]:
        """How we are connected to each peer now: direct, punched or relayed, the best it has."""
        return self._portal.call(_paths, self._network[0])

    @property
    def global_step(self) -> int:
        """Global steps taken so far; 0 before there is an optimizer."""
        return self._optimizer.global_step if self._optimizer is not None else 0

    @property
    def global_batch(self) -> int:
        """Samples that all peers together put into the next global step; 0 where there is none."""
        return self._optimizer.global_batch if isinstance(self._optimizer, SwarmOptimizer) else 0

    @property
    def peers(self) -> tuple[PeerProgress, ...]:
        """All live peers that train the same, this one included; none before the optimizer."""
        return self._optimizer.peers() if self._optimizer is not None else ()

    def tell(self, *, samples: int, loss: float | None = None) -> None:
        """Publish how we do, for `manyhands peers --run`; more often than each second is ignored.

        Args:
            samples: what this peer has put into global steps so far.
            loss: the last that was computed; NaN and infinity are not told.
        """
        now_s = time.monotonic()
        if self._optimizer is None or now_s - self._told_s < _TELL_INTERVAL_S:
            return
        self._told_s = now_s
        if self._publisher is None:
            publisher = open_metrics_publisher(*self._network, self.run)
            self._publisher = self._portal.enter(publisher)
        speed = sum(peer.samples_per_s for peer in self.peers if peer.is_me)
        metrics = metrics_of(step=self.global_step, samples=samples, samples_per_s=speed, loss=loss)
        self._portal.call(self._publisher.tell, metrics)

    def divide(self, share: Share) -> None:
        """Divide data with the others: call it before each batch that is drawn from the share.

        More often than each second is ignored. The first call waits until it is known what others
        have done, up to five seconds.
        """
        now_s = time.monotonic()
        if now_s - self._divided_s < _TELL_INTERVAL_S:
            return
        self._divided_s = now_s
        if self._telling is None:
            self._telling = self._portal.enter(open_shard_telling(*self._network, self.run))
        share.on_peers([peer.peer_id for peer in self.peers])
        heard = self._portal.call(self._telling.exchange, share.news())
        for peer_id, news in sorted(heard.items()):
            share.on_news(peer_id, news)

    @overload
    def optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module,
        global_batch: int | BatchSchedule,
        lr_rule: LrRule = "constant",
        delayed: bool = False,
        reaverage_every: int = 0,
    ) -> SwarmOptimizer: ...

    @overload
    def optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module,
        strategy: Strategy,
        secure: SecureExchange | None = None,
    ) -> LocalOptimizer: ...

    def optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module,
        global_batch: int | BatchSchedule | None = None,
        lr_rule: LrRule = "constant",
        delayed: bool = False,
        reaverage_every: int = 0,
        strategy: Strategy | None = None,
        secure: SecureExchange | None = None,
    ) -> SwarmOptimizer | LocalOptimizer:
        """Train a model together with all peers that do the same under this run's name.

        Args:
            optimizer: steps this peer's parameters; any of PyTorch's.
            model: all its parameters and buffers are what a newcomer downloads.
            global_batch: samples that all peers together put into one step.
            lr_rule: how the learning rate follows a batch that changes, from the first one's.
            delayed: average while the next global batch is computed, on parameters one step old.
            reaverage_every: after every so many global steps the parameters, buffers and moments
                themselves are averaged, which undoes what rounding let drift apart; 0: never.
            strategy: instead of a global batch: each peer takes steps of its own, and the swarm
                exchanges from time to time, as the strategy says.
            secure: with a strategy: exchanges are secure sums, which show nobody a single update.

        Raises:
            SpecDiffers: others train something else under this name.
            ValueError: options that do not go together; of a private run, too: rounds may begin
                with fewer peers than make up the whole noise.
        """
        if self._optimizer is not None:
            raise ValueError("a swarm trains one model; join another run for the next one")
        shares = _noise_shares(strategy if global_batch is None else global_batch)
        if shares is not None and secure is None:
            # A secure sum looks for itself that it has as many.
            shares.check_group(self._config.averager.matchmaking().group_size_min)
        if secure is not None and strategy is None:
            raise ValueError(
                "secure sums need a strategy: with a global batch, samples that are left out of a "
                "failed round go into the next one, and two sums would tell a peer's gradient"
            )
        if strategy is not None and global_batch is None:
            self._optimizer = LocalOptimizer(
                optimizer,
                model=model,
                strategy=strategy,
                run=self.run,
                portal=self._portal,
                network=self._network,
                config=self._config,
                secure=secure,
            )
            return self._optimizer
        if global_batch is None or strategy is not None:
            raise ValueError("give either global_batch or a strategy")
        schedule = FixedBatch(global_batch) if isinstance(global_batch, int) else global_batch
        self._optimizer = SwarmOptimizer(
            optimizer,
            model=model,
            schedule=schedule,
            lr_rule=lr_rule,
            delayed=delayed,
            reaverage_every=reaverage_every,
            run=self.run,
            portal=self._portal,
            network=self._network,
            config=self._config,
        )
        return self._optimizer


def join(
    run: str,
    *,
    initial_peers: Iterable[str] = (),
    listen: Iterable[str] = ("/ip4/127.0.0.1/tcp/0",),
    announce: Iterable[str] = (),
    identity_path: str | Path | None = None,
    client_mode: bool = False,
    node_config: NodeConfig | None = None,
    config: SwarmConfig | None = None,
) -> Swarm:
    """Enter the swarm of a run, or begin it; entered means that others can reach us.

    Args:
        run: peers of one run find each other by this name.
        initial_peers: full addresses of peers through which to enter; none begins a swarm, unless
            node_config has mdns and a peer of the run is on this network.
        listen: multiaddresses to listen on; loopback only, unless told.
        announce: addresses to tell others instead of those found on our interfaces.
        identity_path: key file, made when missing; None takes a new identity each time.
        client_mode: we cannot be dialed: listen nowhere.
        node_config: all else about the node, such as who may connect to it.

    Raises:
        UnreachableError: none of the initial peers answered; each attempt is listed.
        AddressInvalid: an address is none.
        ListenError: an address cannot be listened on.
        IdentityError: the key file cannot be used.
    """
    config = config or SwarmConfig()
    portal, network = enter_network(
        run,
        initial_peers=initial_peers,
        listen=listen,
        announce=announce,
        identity_path=identity_path,
        client_mode=client_mode,
        node_config=node_config,
        dht=config.dht,
    )
    return Swarm(run, portal, network, config)


def _noise_shares(trained: int | BatchSchedule | Strategy | None) -> NoiseShares | None:
    """Of what a private run trains with; None where none is promised."""
    if isinstance(trained, PrivateBatch):
        return trained.settings.shares
    return trained.shares if isinstance(trained, PrivateClients) else None


async def _paths(node: Node) -> dict[PeerId, str]:
    """The best path to each connected peer; "direct" comes first in the alphabet, too."""
    paths: dict[PeerId, str] = {}
    for info in sorted(node.connections, key=lambda info: (info.peer_id, info.path)):
        paths.setdefault(info.peer_id, info.path)
    return paths
