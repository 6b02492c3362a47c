"""serve(): the server's synchronous handle, which PyTorch code holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import torch
from torch import nn

from p2p import CallerJobs, Dht, DhtConfig, Node, NodeConfig, Portal
from training.handle import Handle
from training.network import enter_network
from training.split.body import BodyTrainer, Loss
from training.split.config import SplitServerConfig
from training.split.parts import Parts
from training.split.rendezvous import telling
from training.split.service import Progress, SplitService, open_split_service
from training.split.traffic import Traffic


class SplitServer(Handle):
    """The server of a run; its body is trained while run() lasts, and in no other thread."""

    def __init__(self, portal: Portal, node: Node, service: SplitService, jobs: CallerJobs) -> None:
        super().__init__(portal, node)
        self._service = service
        self._jobs = jobs

    @property
    def traffic(self) -> Traffic:
        """What was moved so far, for all clients together."""
        return self._portal.call(_traffic, self._service)

    def run(
        self,
        *,
        clients: int | None = None,
        batches: int | None = None,
        timeout_s: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Train with whoever comes; returns when enough was done, or never.

        Clients that ask while nobody is in run() wait.

        Args:
            clients: return when so many have said goodbye.
            batches: return when the body was trained on so many.
            on_progress: called in this thread whenever something was done.

        Raises:
            TimeoutError: after timeout_s.
        """
        return self._portal.call(
            _run,
            self._service,
            self._jobs,
            clients,
            batches,
            on_progress,
            jobs=self._jobs,
            timeout_s=timeout_s,
        )


def serve(
    run: str,
    parts: Parts,
    *,
    optimizer: torch.optim.Optimizer | None,
    loss: Loss | None = None,
    initial_peers: Iterable[str] = (),
    listen: Iterable[str] = ("/ip4/127.0.0.1/tcp/0",),
    announce: Iterable[str] = (),
    identity_path: str | Path | None = None,
    client_mode: bool = False,
    node_config: NodeConfig | None = None,
    config: SplitServerConfig | None = None,
) -> SplitServer:
    """Be the server of a run of split learning; entered means that clients can find us.

    Args:
        parts: the body must be there; fronts and tail need not.
        optimizer: of the body's parameters; None trains none.
        loss: of outputs and labels; None where labels stay with the clients (two cuts).
        others: as for training.join().

    Raises:
        ValueError: the parts have no body, or a loss where labels stay with the clients.
        p2p.P2PError: as for training.join().
    """
    if parts.body is None:
        raise ValueError("these parts have no body for a server")
    if parts.is_u_shaped != (loss is None):
        raise ValueError("give the server a loss if, and only if, labels come to it (one cut)")
    config = config or SplitServerConfig()
    portal, (node, dht) = enter_network(
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
        jobs = CallerJobs()
        trainer = BodyTrainer(parts.body, optimizer, loss, config.label_classes)
        opening = _open_service(node, dht, run, parts, trainer, jobs, config)
        return SplitServer(portal, node, portal.enter(opening), jobs)
    except BaseException:
        portal.close()
        raise


def dtype_of(modules: Iterable[nn.Module | None]) -> str:
    """float64 or float32: what modules compute in.

    Raises:
        ValueError: something else.
    """
    for module in modules:
        for tensor in () if module is None else (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                name = str(tensor.dtype).removeprefix("torch.")
                if name not in ("float32", "float64"):
                    raise ValueError(f"parts must compute in float32 or float64, not {name}")
                return name
    return "float32"


@asynccontextmanager
async def _open_service(
    node: Node,
    dht: Dht,
    run: str,
    parts: Parts,
    trainer: BodyTrainer,
    jobs: CallerJobs,
    config: SplitServerConfig,
) -> AsyncIterator[SplitService]:
    async with AsyncExitStack() as stack:
        opening = open_split_service(
            node, run, parts, trainer, jobs.run, dtype=dtype_of([parts.body]), config=config
        )
        service = await stack.enter_async_context(opening)
        await stack.enter_async_context(telling(node, dht, run, parts.model_hash))
        yield service


async def _run(
    service: SplitService,
    jobs: CallerJobs,
    clients: int | None,
    batches: int | None,
    on_progress: Callable[[Progress], None] | None,
) -> Progress:
    told: Progress | None = None
    while True:
        progress = service.progress
        if on_progress is not None and progress != told:
            await jobs.run(on_progress, progress)
            told = progress
        if clients is not None and progress.finished >= clients:
            return progress
        if batches is not None and progress.batches >= batches:
            return progress
        if progress == service.progress:
            await service.changed.wait()


async def _traffic(service: SplitService) -> Traffic:
    return service.total_traffic
