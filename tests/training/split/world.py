"""A server and clients of split learning in a simulated network, and the model all in one place."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import torch
import trio
from torch import nn

from p2p import Node
from p2p.testing import SimNetwork
from training.split import Parts, SplitClientConfig, SplitServerConfig
from training.split.body import BodyTrainer, Loss
from training.split.connecting import hello_of
from training.split.frames import Frame
from training.split.front import FrontOptions, FrontTrainer
from training.split.parts import joined
from training.split.schema import Gradient, Output
from training.split.service import SplitService, open_split_service
from training.split.serving import dtype_of
from training.split.session import Event, SplitSession, open_split_session
from training.split.wire import TensorWire

RUN = "test"
FEATURES, CLASSES = 8, 4


def make_model(dtype: torch.dtype = torch.float64, *, seed: int = 0) -> nn.Sequential:
    """Five layers; the same for the same seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(FEATURES, 10), nn.Tanh(), nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, CLASSES)
    )
    return model.to(dtype)


def batches(
    count: int, *, rows: int = 6, dtype: torch.dtype = torch.float64
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels, the same each time."""
    numbers = torch.Generator().manual_seed(7)
    inputs = [torch.randn(rows, FEATURES, generator=numbers, dtype=dtype) for _ in range(count)]
    return [(one, one[:, ::2].argmax(dim=1)) for one in inputs]


def optimizer_of(*modules: nn.Module | None) -> torch.optim.Optimizer:
    """Momentum, so that an optimizer's state matters."""
    parameters = [p for module in modules if module is not None for p in module.parameters()]
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def train_alone(
    modules: Sequence[nn.Module],
    data: Sequence[tuple[torch.Tensor, torch.Tensor]],
    columns: Sequence[slice] = (slice(None),),
) -> list[float]:
    """The same training in one place: fronts, one for each run of columns, then the rest."""
    fronts, rest = modules[: len(columns)], modules[len(columns) :]
    optimizer, losses = optimizer_of(*modules), []
    for inputs, labels in data:
        optimizer.zero_grad()
        pieces = [one(inputs[:, part]) for one, part in zip(fronts, columns, strict=True)]
        output = joined(pieces)
        for module in rest:
            output = module(output)
        loss = nn.functional.cross_entropy(output, labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def gap(modules: Sequence[nn.Module], others: Sequence[nn.Module]) -> float:
    """The largest difference between two sets of parameters."""
    ours = [p.detach() for module in modules for p in module.parameters()]
    theirs = [p.detach() for module in others for p in module.parameters()]
    pairs = zip(ours, theirs, strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


class Client:
    """What SplitClient does, awaited."""

    def __init__(self, session: SplitSession, trainer: FrontTrainer, window: int) -> None:
        self.session = session
        self.trainer = trainer
        self.window = window
        self.losses: list[float | None] = []

    async def step(
        self, inputs: torch.Tensor, labels: torch.Tensor | None = None, **more: Any
    ) -> None:
        """Train on a batch."""
        number = self.session.next_number
        frame = self.trainer.forward(number, inputs, labels, more.get("entities"))
        self.session.check_size(frame)
        await self.go_on(frame, self.window - 1)

    async def go_on(self, frame: Frame | None, open_max: int) -> None:
        """Send, and do what comes."""
        while event := await self.session.advance(frame, open_max=open_max):
            frame = self.on_event(event)

    def on_event(self, event: Event) -> Frame | None:
        """The gradient of an output, or a step."""
        message = event.message
        if isinstance(message, Output):
            return self.trainer.output(message.number, event.payload, event.rows)
        assert isinstance(message, Gradient)
        self.losses.append(self.trainer.gradient(message.number, event.payload, message.loss))
        return None

    async def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores."""
        frame = self.trainer.evaluate(self.session.next_number, inputs, None)
        event = await self.session.advance(frame, open_max=0)
        assert event is not None
        assert isinstance(event.message, Output)
        return self.trainer.scores(event.payload, (event.rows, *event.message.shape))


class World:
    """A server, and how to be its client."""

    def __init__(self, network: SimNetwork, node: Node, service: SplitService) -> None:
        self.network = network
        self.node = node
        self.service = service

    @asynccontextmanager
    async def node_of(self, name: str) -> AsyncIterator[Node]:
        """A node that knows the server."""
        async with self.network.open_node(name) as node:
            node.add_addresses(self.node.peer_id, self.node.addresses)
            yield node

    @asynccontextmanager
    async def client(
        self,
        parts: Parts,
        *,
        config: SplitClientConfig | None = None,
        node: Node | None = None,
        changes: dict[str, Any] | None = None,
        **options: Any,
    ) -> AsyncIterator[Client]:
        """A client in a session.

        Args:
            changes: fields of its hello that are other than they should be.
            options: of FrontOptions.
        """
        config = config or SplitClientConfig()
        front_options = FrontOptions(**options)
        front = parts.fronts[front_options.party]
        dtype = dtype_of([front, parts.tail])
        trainer = FrontTrainer(
            parts,
            optimizer_of(front, parts.tail),
            TensorWire(config.codec or dtype, dtype),
            front_options,
            stash=config.window > 1,
        )
        hello = hello_of(parts, front_options, config, dtype)
        hello = msgspec.structs.replace(hello, **(changes or {}))
        async with AsyncExitStack() as stack:
            node = node or await stack.enter_async_context(self.node_of("client"))
            opening = open_split_session(
                node, RUN, self.node.peer_id, hello, config, trainer.traffic
            )
            session = await stack.enter_async_context(opening)
            yield Client(session, trainer, config.window)


async def inline(function: Any, *args: Any) -> Any:
    """Where simulations compute."""
    await trio.lowlevel.checkpoint()
    return function(*args)


@asynccontextmanager
async def open_world(
    network: SimNetwork,
    parts: Parts,
    loss: Loss | None = nn.functional.cross_entropy,
    config: SplitServerConfig | None = None,
) -> AsyncIterator[World]:
    """A server with this body."""
    assert parts.body is not None
    trainer = BodyTrainer(
        parts.body,
        optimizer_of(parts.body),
        None if parts.is_u_shaped else loss,
        (config or SplitServerConfig()).label_classes,
    )
    async with network.open_node("server") as node:
        opening = open_split_service(
            node, RUN, parts, trainer, inline, dtype=dtype_of([parts.body]), config=config
        )
        async with opening as service:
            yield World(network, node, service)
    assert network.handler_errors == []


def copies(*modules: nn.Module | None) -> list[nn.Module]:
    """Of those that are there, as they are now."""
    return [copy.deepcopy(module) for module in modules if module is not None]
