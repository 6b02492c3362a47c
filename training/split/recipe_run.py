"""A recipe that is split: what its server does, and what each of its clients does."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from p2p import NodeConfig
from training.errors import RecipeError
from training.recipe import Recipe, SplitRecipe
from training.recipes.build import DTYPES, build_model, build_optimizer, build_task
from training.run_log import EventHandler
from training.split.config import SplitClientConfig, SplitServerConfig
from training.split.connecting import SplitClient, connect
from training.split.front import ExtraLoss
from training.split.parts import Parts, cut
from training.split.service import Progress
from training.split.serving import serve
from training.tasks.classification import Classification

_TOLD_S = 0.2
_EVALUATED_AT_ONCE = 256

Role = Literal["client", "server"]


@dataclass(frozen=True, kw_only=True)
class SplitRunOptions:
    """How this peer takes part; what is trained is the recipe's to say."""

    role: Role
    """Client or server."""
    initial_peers: tuple[str, ...] = ()
    """Where to enter the swarm; a client needs one, a server may begin it."""
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddresses to listen on."""
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those found."""
    identity_path: Path | None = None
    """Key file; None takes a new identity."""
    client_mode: bool = False
    """Cannot be dialed."""
    node_config: NodeConfig | None = None
    """All else about the node."""
    clients: int | None = None
    """A server ends when so many have finished; None: never."""

    def entering(self) -> dict[str, Any]:
        """The arguments of serve() and connect() that are about the network."""
        shared = asdict(self) | {"node_config": self.node_config}
        return {name: value for name, value in shared.items() if name not in ("role", "clients")}


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """How one peer's part in a split run ended."""

    role: Role
    ended: Literal["finished", "stopped"]
    peer_id: str | None
    """None if it was stopped before it had joined."""
    step: int
    """Batches of this client, or of all clients of this server."""
    seconds: float
    loss: float | None = None
    """Of the last batch."""
    path: str | None = None
    """How a client reached its server at the end: direct, punched or relayed."""
    figures: dict[str, float] = field(default_factory=dict)
    """How well the whole model does, for a client that has finished."""
    traffic: dict[str, int] = field(default_factory=dict)
    """What was moved: training.split.Traffic."""


def run_split(recipe: Recipe, options: SplitRunOptions, on_event: EventHandler) -> SplitResult:
    """Be the server or a client of a split run until it is over.

    Args:
        on_event: called in this thread with each event, a dictionary ready for JSON: started,
            step, and finished or stopped.

    Raises:
        RecipeError: the recipe has no split, or its model or data cannot be split.
        SplitFailed: there is no server, or it refuses, or the session has ended.
        p2p.P2PError: no initial peer answers, or we cannot listen.
        KeyboardInterrupt is not raised: Ctrl-C ends as "stopped".
    """
    if recipe.split is None:
        raise RecipeError(f"{recipe.run}: split: is missing, so there is nothing to be served")
    run = _Run(recipe, recipe.split, options, on_event)
    try:
        return run.serve() if options.role == "server" else run.train()
    except KeyboardInterrupt as interrupt:
        run.tell("stopped", reason=str(interrupt) or "Ctrl-C", step=run.step)
        return run.result("stopped")


class _Run:
    """One peer's part, and how far it is."""

    def __init__(
        self, recipe: Recipe, split: SplitRecipe, options: SplitRunOptions, on_event: EventHandler
    ) -> None:
        self.step = 0
        self._recipe = recipe
        self._split = split
        self._options = options
        self._on_event = on_event
        self._began_s = time.monotonic()
        self._told_s = self._began_s
        self._peer_id: str | None = None
        self._loss: float | None = None

    def serve(self) -> SplitResult:
        """The server's part."""
        parts = self._parts()
        assert parts.body is not None
        optimizer = build_optimizer(self._recipe.optimizer, parts.body.parameters())
        config = SplitServerConfig(client_weights=self._split.client_weights)
        with serve(
            self._recipe.run,
            parts,
            optimizer=optimizer,
            loss=None if parts.is_u_shaped else nn.functional.cross_entropy,
            config=config,
            **self._options.entering(),
        ) as server:
            self._peer_id = server.peer_id
            self._started(server.addresses)
            server.run(clients=self._options.clients, on_progress=self._on_progress)
            self.tell("finished", step=self.step)
            return self.result("finished", traffic=asdict(server.traffic))

    def train(self) -> SplitResult:
        """A client's part."""
        parts, task = self._parts(), build_task(self._recipe)
        if not isinstance(task, Classification):
            raise RecipeError("data: a split run needs labelled data (training.data.LabelledData)")
        if tuple(task.data.train_inputs.shape[1:]) != self._split.input_shape:
            raise RecipeError(
                f"split.input_shape: the data's samples are "
                f"{list(task.data.train_inputs.shape[1:])}, not {list(self._split.input_shape)}"
            )
        modules = [one for one in (*parts.fronts, parts.tail) if one is not None]
        parameters = nn.ModuleList(modules).parameters()
        with connect(
            self._recipe.run,
            parts,
            optimizer=build_optimizer(self._recipe.optimizer, parameters),
            loss=nn.functional.cross_entropy if parts.is_u_shaped else None,
            extra_loss=self._extra_loss(),
            alpha=self._split.alpha,
            config=SplitClientConfig(codec=self._split.codec, window=self._split.window),
            **self._options.entering(),
        ) as client:
            self._peer_id = client.peer_id
            self._started(())
            batches = task.batches(seed=self._recipe.seed, peer_id=client.peer_id, drawn=0)
            while self.step < self._recipe.steps:
                with self._turn(client):
                    last = min(self.step + self._split.turn, self._recipe.steps)
                    while self.step < last:
                        loss = client.step(*batches.next_batch(self._recipe.micro_batch))
                        self._on_step(self._loss if loss is None else loss)
            with self._turn(client):
                figures = {"accuracy": round(_accuracy(client, task), 6)}
            self.tell("finished", step=self.step, figures=figures)
            traffic = asdict(client.traffic)
            return self.result("finished", path=client.path, figures=figures, traffic=traffic)

    def tell(self, event: str, **content: Any) -> None:
        """Log something."""
        self._on_event({"time_s": round(time.time(), 4), "event": event, **content})

    def result(self, ended: Literal["finished", "stopped"], **more: Any) -> SplitResult:
        """How it ended."""
        return SplitResult(
            role=self._options.role,
            ended=ended,
            peer_id=self._peer_id,
            step=self.step,
            seconds=time.monotonic() - self._began_s,
            loss=self._loss,
            **more,
        )

    def _parts(self) -> Parts:
        """The recipe's model, cut; the same on both sides."""
        model = build_model(self._recipe)
        if not isinstance(model, nn.Sequential):
            raise RecipeError(
                f"model: {self._recipe.model} must return a torch.nn.Sequential to be split, not "
                f"{type(model).__name__}"
            )
        first, *rest = self._split.at
        example = torch.zeros(2, *self._split.input_shape, dtype=DTYPES[self._recipe.dtype])
        try:
            return cut(model, (first, rest[0]) if rest else first, example=example)
        except (ValueError, RuntimeError) as exc:
            raise RecipeError(f"split: the model cannot be cut so: {exc}") from exc

    def _extra_loss(self) -> ExtraLoss | None:
        if not self._split.extra_loss:
            return None
        module_name, _, name = self._split.extra_loss.partition(":")
        try:
            function: ExtraLoss = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as exc:
            raise RecipeError(f"split.extra_loss: {exc}") from exc
        return function

    @contextmanager
    def _turn(self, client: SplitClient) -> Iterator[None]:
        if self._split.client_weights == "own":
            yield
            return
        with client.turn():
            yield

    def _started(self, addresses: tuple[str, ...]) -> None:
        self.tell(
            "started",
            peer_id=self._peer_id,
            role=self._options.role,
            run=self._recipe.run,
            addresses=addresses,
        )

    def _on_progress(self, progress: Progress) -> None:
        self.step, self._loss = progress.batches, progress.loss
        self._tell_step(clients=progress.clients)

    def _on_step(self, loss: float | None) -> None:
        self.step += 1
        self._loss = loss
        self._tell_step()

    def _tell_step(self, **more: Any) -> None:
        """A few times per second, and at the end."""
        now_s = time.monotonic()
        if now_s - self._told_s < _TOLD_S and self.step != self._recipe.steps:
            return
        self._told_s = now_s
        loss = None if self._loss is None else round(self._loss, 6)
        self.tell("step", step=self.step, loss=loss, **more)


def _accuracy(client: SplitClient, task: Classification) -> float:
    """Of the whole model, asked a few test samples at a time."""
    inputs, labels = task.data.test_inputs, task.data.test_labels
    right = 0
    for start in range(0, len(inputs), _EVALUATED_AT_ONCE):
        scores = client.predict(inputs[start : start + _EVALUATED_AT_ONCE])
        truth = labels[start : start + _EVALUATED_AT_ONCE]
        right += int((scores.argmax(dim=1).cpu() == truth).sum())
    return right / len(labels)
