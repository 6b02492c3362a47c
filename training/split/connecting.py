"""connect(): the client's synchronous handle, which PyTorch code holds."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType

import torch
from torch import nn

from p2p import Dht, DhtConfig, Node, NodeConfig, PeerId, Portal
from training.errors import SplitFailed
from training.handle import Handle
from training.network import enter_network
from training.split.body import Loss
from training.split.config import SplitClientConfig
from training.split.frames import Frame
from training.split.front import ExtraLoss, FrontOptions, FrontTrainer
from training.split.handover import WeightsKeeper, open_weights_keeper
from training.split.parts import Parts
from training.split.rendezvous import find_server
from training.split.schema import (
    ADDRESSES_MAX,
    AskLeave,
    AskTurn,
    EndTurn,
    Gradient,
    Hello,
    Output,
    Turn,
)
from training.split.serving import dtype_of
from training.split.session import Event, SplitSession, open_split_session
from training.split.taking_turns import OwnWeights
from training.split.traffic import Traffic
from training.split.wire import TensorWire

logger = logging.getLogger(__name__)


class SplitClient(Handle):
    """A client's session with a server; leave it with close(), or by leaving its `with` block.

    When a method raises SplitFailed the session has ended, but for activations that are not finite,
    which are not sent.
    """

    def __init__(
        self,
        portal: Portal,
        node: Node,
        session: SplitSession,
        trainer: FrontTrainer,
        weights: OwnWeights | None,
        config: SplitClientConfig,
    ) -> None:
        super().__init__(portal, node)
        self._session = session
        self._trainer = trainer
        self._weights = weights
        self._config = config
        self._losses: list[float | None] = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._trainer.is_busy:
                self.flush()
            if error is None and self._weights is not None:
                self._wait_until_taken_over()
        finally:
            super().__exit__(kind, error, traceback)

    @property
    def server(self) -> PeerId:
        """Who serves us."""
        return self._session.server

    @property
    def path(self) -> str | None:
        """How we reach the server now: direct, punched or relayed; None while we do not."""
        return self._session.path

    @property
    def traffic(self) -> Traffic:
        """What was moved so far."""
        return self._trainer.traffic

    def step(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor | None = None,
        *,
        entities: torch.Tensor | None = None,
    ) -> float | None:
        """Train on one batch.

        Args:
            inputs: (N, …) on the front's device.
            labels: (N, …), from the client that brings them.
            entities: whom the rows are about, such as (N) numbers; parties compare a hash of it.

        Returns:
            The task's mean loss over the batch; with a window above 1 that of the newest batch
            whose gradient has come. None if there is none yet, or another client has the labels.

        Raises:
            SplitFailed: the session has ended, or the activations are not finite.
            ValueError: inputs or labels do not fit.
        """
        number = self._session.next_number
        frame = self._trainer.forward(number, inputs, labels, entities)
        self._advance(frame, self._config.window - 1)
        newest = self._losses[-1] if self._losses else None
        self._losses.clear()
        return newest

    def flush(self) -> list[float | None]:
        """Wait for all batches on their way, and take their steps; returns their losses."""
        self._advance(None, 0)
        losses, self._losses = self._losses, []
        return losses

    def predict(
        self, inputs: torch.Tensor, *, entities: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the whole model says, in evaluation mode and without gradients.

        All parties must ask at the same place among their steps; those without labels get an empty
        tensor.

        Raises:
            SplitFailed, ValueError: as step() does.
        """
        self.flush()
        number = self._session.next_number
        event = self._ask(self._trainer.evaluate(number, inputs, entities))
        assert isinstance(event.message, Output)
        return self._trainer.scores(event.payload, (event.rows, *event.message.shape))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until it is this client's turn, and take over the newest client weights; leaving
        the block hands them on. For servers with client_weights other than own.

        An error in the block ends the session, and the next client begins with the weights from
        before the turn.

        Raises:
            SplitFailed: the weights cannot be had, or are not those that the last client left.
        """
        if self._weights is None:
            raise ValueError("this server's clients have weights of their own; they take no turns")
        turn = self._ask(Frame(AskTurn(self._session.next_number))).message
        assert isinstance(turn, Turn)
        with self._all_or_nothing():
            self.traffic.weight_bytes_received += self._weights.take_over(self._portal, turn)
            yield
            self.flush()
            digest = self._weights.hand_on(self._portal, turn.version + 1)
        addresses = self._node.addresses[:ADDRESSES_MAX]
        self._ask(Frame(EndTurn(self._session.next_number, digest, addresses)))

    def _ask(self, frame: Frame) -> Event:
        """Send a request and wait for its answer, when nothing else is on its way."""
        self._session.check_size(frame)
        with self._all_or_nothing():
            event = self._portal.call(_advance, self._session, frame, 0)
            assert event is not None
            return event

    def _advance(self, frame: Frame | None, open_max: int) -> None:
        """Send, and do what comes until no more than so many batches are on their way."""
        if frame is not None:
            self._session.check_size(frame)
        with self._all_or_nothing():
            while event := self._portal.call(_advance, self._session, frame, open_max):
                frame = self._on_event(event)

    def _wait_until_taken_over(self) -> None:
        """The newest weights may be here only, and another client may want them."""
        frame = Frame(AskLeave(self._session.next_number))
        try:
            self._portal.call(_advance, self._session, frame, 0, timeout_s=self._config.hand_on_s)
        except (TimeoutError, SplitFailed) as exc:
            logger.info("split_left_with_weights cause=%s", exc)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Half a step cannot be done again: whatever goes wrong in the block ends the session."""
        try:
            yield
        except BaseException:
            self._trainer.forget()
            if self._portal.is_open:
                self._portal.call(self._session.abandon)
            raise

    def _on_event(self, event: Event) -> Frame | None:
        message = event.message
        if isinstance(message, Output):
            return self._trainer.output(message.number, event.payload, event.rows)
        assert isinstance(message, Gradient)
        self._losses.append(self._trainer.gradient(message.number, event.payload, message.loss))
        return None


def connect(
    run: str,
    parts: Parts,
    *,
    optimizer: torch.optim.Optimizer | None,
    loss: Loss | None = None,
    party: int = 0,
    brings_labels: bool = True,
    extra_loss: ExtraLoss | None = None,
    alpha: float = 0.0,
    server: PeerId | None = None,
    initial_peers: Iterable[str] = (),
    listen: Iterable[str] = ("/ip4/127.0.0.1/tcp/0",),
    announce: Iterable[str] = (),
    identity_path: str | Path | None = None,
    client_mode: bool = False,
    node_config: NodeConfig | None = None,
    config: SplitClientConfig | None = None,
) -> SplitClient:
    """Train with the server of a run; entered means that it has let us in.

    Args:
        parts: this party's front must be there, and the tail if labels stay here.
        optimizer: of the front's parameters, and the tail's; None trains none.
        loss: of the tail's output and labels, where labels stay here (two cuts).
        party: which of several parties this one is.
        brings_labels: of several parties exactly one does.
        extra_loss: of inputs and activations, computed and kept here: the whole loss becomes
            alpha · extra_loss + (1 − alpha) · task.
        server: which one; None finds it by the run's name.
        others: as for training.join().

    Raises:
        SplitFailed: there is no such server, or it refuses us; the words say why.
        ValueError: the parts lack what a client needs.
        p2p.P2PError: as for training.join().
    """
    config = config or SplitClientConfig()
    options = FrontOptions(
        party=party, brings_labels=brings_labels, loss=loss, extra_loss=extra_loss, alpha=alpha
    )
    front = parts.fronts[party] if party < len(parts.fronts) else None
    dtype = dtype_of([front, parts.tail])
    wire = TensorWire(config.codec or dtype, dtype)
    trainer = FrontTrainer(parts, optimizer, wire, options, stash=config.window > 1)
    hello = hello_of(parts, options, config, dtype)
    portal, network = enter_network(
        run,
        initial_peers=initial_peers,
        listen=listen,
        announce=announce,
        identity_path=identity_path,
        client_mode=client_mode,
        node_config=node_config,
        dht=DhtConfig(),
    )
    try:
        opening = _open_session(network, run, server, hello, config, trainer.traffic)
        session, keeper = portal.enter(opening)
        weights = None
        if session.weights_go_round:
            if optimizer is None:
                raise ValueError("client weights that go round need an optimizer")
            modules = nn.ModuleList([one for one in (front, parts.tail) if one is not None])
            weights = OwnWeights(modules, optimizer, network[0], keeper)
        return SplitClient(portal, network[0], session, trainer, weights, config)
    except BaseException:
        portal.close()
        raise


def hello_of(parts: Parts, options: FrontOptions, config: SplitClientConfig, dtype: str) -> Hello:
    """What a client says of itself, in a new session."""
    return Hello(
        session=secrets.token_bytes(16),
        completed=0,
        resumes=False,
        model_hash=parts.model_hash,
        cut_shape=parts.cut_shapes[options.party],
        output_shape=parts.output_shape,
        dtype="float64" if dtype == "float64" else "float32",
        codec=config.codec or dtype,
        label_side="client" if parts.is_u_shaped else "server",
        brings_labels=options.brings_labels,
        party=options.party,
        window=config.window,
        task_weight=1 - options.alpha,
    )


@asynccontextmanager
async def _open_session(
    network: tuple[Node, Dht],
    run: str,
    server: PeerId | None,
    hello: Hello,
    config: SplitClientConfig,
    traffic: Traffic,
) -> AsyncIterator[tuple[SplitSession, WeightsKeeper]]:
    node, dht = network
    if server is None:
        server = await find_server(node, dht, run, hello.model_hash, within_s=config.find_s)
    elif not node.is_connected(server):
        node.add_addresses(server, await dht.find_peer(server))
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(open_weights_keeper(node, run, config.donor))
        session = await stack.enter_async_context(
            open_split_session(node, run, server, hello, config, traffic)
        )
        yield session, keeper


async def _advance(session: SplitSession, frame: Frame | None, open_max: int) -> Event | None:
    return await session.advance(frame, open_max=open_max)
