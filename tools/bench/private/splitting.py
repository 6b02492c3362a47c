"""The modes in which the model is split, over real sockets, and asked privately once it is trained.

Clients take turns with one front, each for a pass over its own data, and hand it to the next;
parties of vertical learning take each step together. So seconds are those of all clients, as in the
other modes, but with a network.
"""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from threading import Event

import torch
from torch import nn

from tools.bench.private.frame import (
    BATCH,
    CLIENTS,
    FRONT_LAYERS,
    HIDDEN,
    PIXELS,
    WIDTH,
    Frame,
    counted_flops,
    row_of,
    sgd,
)
from tools.bench.private.split_world import SideBySide, train_split
from tools.bench.report import Row
from training.privacy.inference import (
    InferenceConfig,
    ask_private,
    fix_network,
    serve_private,
    traffic_bytes,
)
from training.split import (
    Parts,
    SplitClient,
    SplitServer,
    SplitServerConfig,
    connect,
    cut,
    pair,
    serve,
)
from training.split.nopeek import distance_correlation

SPLIT, U_SPLIT, VERTICAL = "split", "U-split", "vertical split"
NOPEEK = "split, NoPeek"
ASKED = "private inference"
ALPHA = 0.5
"""How much hiding counts in NoPeek's loss."""
PARTIES = 2
_RUN = "bench-modes"
_OPENED_S_MAX, _TRAINED_S_MAX = 60.0, 1_800.0
_FEATURE_BITS = 10
"""With 6 of them behind the point, up to ±8: a LayerNorm gives √32 times its scale at most."""
cross_entropy = nn.functional.cross_entropy


def split(frame: Frame, mode: str) -> Row:
    """Vanilla, U-shaped or with NoPeek: clients take turns with the front."""
    alpha = ALPHA if mode == NOPEEK else 0.0
    model = frame.model()
    edges = (FRONT_LAYERS, len(model) - 1) if mode == U_SPLIT else FRONT_LAYERS
    parts = cut(model, edges, example=frame.data.test_inputs[:1])
    done = _train_in_turns(parts, frame, alpha)
    front = done.parts.fronts[0]
    assert front is not None
    assert parts.body is not None
    rest = [one for one in (parts.body, done.parts.tail) if one is not None]
    each = _client_flops(parts, frame, alpha) / BATCH
    seen = "activations" if mode == U_SPLIT else "activations, and labels"
    return row_of(
        mode,
        accuracy=frame.accuracy(nn.Sequential(front, *rest)),
        client_flops=each * frame.samples,
        client_kb=done.moved_bytes / CLIENTS / 1e3,
        seconds=done.seconds,
        seen=seen,
        weight_kb=done.weight_bytes / CLIENTS / 1e3,
        **frame.ask_activations(front),
    )


def vertical(frame: Frame) -> Row:
    """Two parties have one half of each picture; one of them has the labels."""
    parts = _halves(frame)
    batches = [
        frame.examples(batch)
        for batches in frame.batches(torch.arange(len(frame.data.train_labels)))
        for batch in batches
    ]
    shares = [
        [(inputs.chunk(PARTIES, dim=-1)[party], labels) for inputs, labels in batches]
        for party in range(PARTIES)
    ]
    outcome = train_split(parts, shares, sgd)
    fronts = [front for front in parts.fronts if front is not None]
    assert parts.body is not None
    seeing = SideBySide(fronts)
    moved = sum(one.payload_bytes_sent + one.payload_bytes_received for one in outcome.clients)
    half = frame.data.train_inputs[:BATCH].chunk(PARTIES, dim=-1)[0]
    each = counted_flops(lambda: torch.autograd.backward(fronts[0](half).sum())) / BATCH
    return row_of(
        VERTICAL,
        accuracy=frame.accuracy(nn.Sequential(seeing, parts.body)),
        client_flops=each * frame.samples * CLIENTS,
        client_kb=moved / PARTIES / 1e3,
        seconds=outcome.seconds,
        seen="activations of both halves, and labels",
        **frame.ask_activations(seeing),
    )


def asked(frame: Frame, model: nn.Sequential) -> Row:
    """All test digits are classified by a body that the client does not see.

    The client has the front. Nothing is trained: accuracy is that of the central model.
    """
    layers = list(model)
    front, body = nn.Sequential(*layers[:FRONT_LAYERS]), nn.Sequential(*layers[FRONT_LAYERS:])
    data, network = frame.data, fix_network(body, feature_bits=_FEATURE_BITS)
    flops = counted_flops(lambda: _without_gradients(front, data.test_inputs))
    features = _without_gradients(front, data.test_inputs)
    config = InferenceConfig(samples_max=BATCH)
    begun_s = time.perf_counter()
    with (
        serve_private(network, config=config) as server,
        ask_private(server.addresses[0], config=config) as client,
    ):
        classes = torch.cat([client.classify(some) for some in torch.split(features, BATCH)])
    seconds = time.perf_counter() - begun_s
    plain = network.classes(network.shape.fix_features(features.double().numpy()))
    moved = sum(sum(traffic_bytes(network.shape, len(s))) for s in torch.split(features, BATCH))
    return row_of(
        ASKED,
        accuracy=float((classes == data.test_labels).double().mean()),
        client_flops=flops,
        client_kb=moved / 1e3,
        seconds=seconds,
        seen="nothing: only how many are asked",
        same_as_plain=float((classes == torch.from_numpy(plain)).double().mean()),
    )


@dataclass(frozen=True)
class _Trained:
    parts: Parts
    """With the newest client layers."""
    seconds: float
    moved_bytes: int
    """Sent and received by all clients."""
    weight_bytes: int
    """Those of them that handed the client layers on."""


def _train_in_turns(parts: Parts, frame: Frame, alpha: float) -> _Trained:
    """Each client in its turn passes its data once, and hands the front on, again and again."""
    opened: list[SplitServer] = []
    is_open = Event()
    loss = None if parts.is_u_shaped else cross_entropy

    def run_server() -> None:
        assert parts.body is not None
        optimizer = sgd(parts.body.parameters())
        config = SplitServerConfig(client_weights="peers")
        try:
            with serve(_RUN, parts, optimizer=optimizer, loss=loss, config=config) as server:
                opened.append(server)
                is_open.set()
                server.run(clients=CLIENTS, timeout_s=_TRAINED_S_MAX)
        finally:
            is_open.set()

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(run_server)
        is_open.wait(_OPENED_S_MAX)
        if not opened:
            serving.result()
        done = _run_clients(parts, frame, alpha, opened[0].addresses)
        serving.result()
    return done


def _run_clients(parts: Parts, frame: Frame, alpha: float, addresses: tuple[str, ...]) -> _Trained:
    """All clients in this thread, one after the other, as their turns are."""
    streams = [frame.batches(shard) for shard in frame.shards]
    clients: list[SplitClient] = []
    copies: list[Parts] = []
    with ExitStack() as stack:
        # Opened backwards: who has the last turn keeps the newest layers, and so leaves last.
        for _ in range(CLIENTS):
            mine = replace(
                parts, fronts=copy.deepcopy(parts.fronts), tail=copy.deepcopy(parts.tail)
            )
            modules = nn.ModuleList([one for one in (mine.fronts[0], mine.tail) if one is not None])
            client = connect(
                _RUN,
                mine,
                optimizer=sgd(modules.parameters()),
                loss=cross_entropy if parts.is_u_shaped else None,
                extra_loss=distance_correlation if alpha else None,
                alpha=alpha,
                initial_peers=addresses,
            )
            clients.insert(0, stack.enter_context(client))
            copies.insert(0, mine)
        begun_s = time.perf_counter()
        for at_once in zip(*streams, strict=True):
            for client, batches in zip(clients, at_once, strict=True):
                with client.turn():
                    for batch in batches:
                        client.step(*frame.examples(batch))
        seconds = time.perf_counter() - begun_s
        traffic = [client.traffic for client in clients]
    # What one client takes over another one sends.
    weight_bytes = 2 * sum(one.weight_bytes_received for one in traffic)
    payload = sum(one.payload_bytes_sent + one.payload_bytes_received for one in traffic)
    return _Trained(copies[-1], seconds, payload + weight_bytes, weight_bytes)


def _client_flops(parts: Parts, frame: Frame, alpha: float) -> int:
    """Of one step of a client: its front, NoPeek's term, and its tail if it has one."""
    front, tail = parts.fronts[0], parts.tail
    assert front is not None
    inputs, labels = frame.examples(torch.arange(BATCH))

    def step() -> None:
        activations = front(inputs)
        leakage = distance_correlation(inputs, activations) if alpha else 0.0
        torch.autograd.backward(activations.sum() + leakage)
        if tail is not None:
            outputs = torch.zeros(BATCH, *parts.output_shape, requires_grad=True)
            torch.autograd.backward(cross_entropy(tail(outputs), labels))

    return counted_flops(step)


def _halves(frame: Frame) -> Parts:
    """Two fronts 32-64-16 that see half a picture each, and the usual body."""
    model = frame.model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(frame.seed)
        fronts = [
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(PIXELS // PARTIES, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, WIDTH // PARTIES),
                nn.LayerNorm(WIDTH // PARTIES),
            )
            for _ in range(PARTIES)
        ]
    examples = frame.data.test_inputs[:1].chunk(PARTIES, dim=-1)
    return pair(fronts, model[FRONT_LAYERS:], examples=examples)


def _without_gradients(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        outputs: torch.Tensor = module(inputs)
    return outputs
