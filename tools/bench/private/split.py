"""Split learning on digits: what it reaches, what clients compute, and what is moved.

Beside it stand one machine with all the data, and synchronous training with a large batch, where
each client computes the whole model and averages its gradient with the others at each step. What
split learning moves is counted where it is moved; what the others would is the formula's.

Source: Vepakomma et al., "Split learning for health", 2018, tables 1 and 2; Singh et al., "Detailed
comparison of communication efficiency of split learning and federated learning", 2019.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tools.bench.private.split_world import (
    Batch,
    SideBySide,
    flops,
    largest_gap,
    train_here,
    train_split,
)
from tools.bench.progress import Steps
from tools.bench.report import Budget, Row
from training.data import LabelledData, ShuffledOrder
from training.recipes import digits
from training.split import Parts, cut, pair

COLUMNS = ("setup", "accuracy", "client_mflops", "client_kb", "seconds")
CENTRAL, LARGE_BATCH, SPLIT, U_SPLIT, VERTICAL = (
    *("central", "large batch", "split", "U-split", "vertical"),
)
CUT, U_CUTS = 3, (3, 6)
BATCH, LARGE_CLIENTS = 32, 4
EQUALITY_STEPS, EQUALITY_BATCH = 50, 8
GAP_MAX_FLOAT32, GAP_MAX_FLOAT64 = 1e-6, 0.0
CLIENT_SHARE_MAX = 0.1
CASES = 5 + 6 + 2
"""Rows, trainings for equality, and epochs that are counted."""


@dataclass(frozen=True)
class SplitOptions:
    """How much is measured."""

    steps: int = 300
    """Of each training that is judged by its accuracy."""
    equality_steps: int = EQUALITY_STEPS
    """Of each that is compared with one machine."""
    seed: int = 0


def measure_split(options: SplitOptions, steps: Steps) -> tuple[list[Row], list[Budget]]:
    """All rows and budgets; tells its progress, of which there are CASES."""
    data = digits.load_data()
    rows = _rows(data, options, steps)
    return rows, [*_equality(data, options, steps), _traffic(data, options, steps), _share()]


def _rows(data: LabelledData, options: SplitOptions, steps: Steps) -> list[Row]:
    rows = []
    for setup in (CENTRAL, LARGE_BATCH, SPLIT, U_SPLIT, VERTICAL):
        steps.case(setup)
        rows.append(_row(setup, data, options))
        steps.step()
    return rows


def _row(setup: str, data: LabelledData, options: SplitOptions) -> Row:
    size = BATCH * (LARGE_CLIENTS if setup == LARGE_BATCH else 1)
    batches = _batches(data, options.steps, size, torch.float32, options.seed)
    parts = _parts(setup, torch.float32, options.seed)
    front, whole = _front(parts), _whole(parts)
    example = batches[0][0]
    count = sum(parameter.numel() for parameter in whole.parameters())
    if setup in (CENTRAL, LARGE_BATCH):
        seconds = train_here([whole], batches, _adamw)
    if setup == CENTRAL:
        # The client gives away its data once, and computes nothing.
        computed, moved = 0, data.train_inputs.numel() * 4 + len(data.train_labels) * 8
    elif setup == LARGE_BATCH:
        computed = options.steps * flops(whole, example) // LARGE_CLIENTS
        # Each client's gradient goes out, and the mean comes back.
        moved = options.steps * 2 * count * 4
    else:
        outcome = train_split(parts, _shares(parts, batches), _adamw)
        seconds = outcome.seconds
        client = outcome.clients[-1]
        moved = client.payload_bytes_sent + client.payload_bytes_received
        computed = options.steps * flops(front, example) // parts.parties
        if parts.tail is not None:
            tail_input = torch.zeros(BATCH, *parts.output_shape, requires_grad=True)
            computed += options.steps * flops(parts.tail, tail_input)
    with torch.no_grad():
        right = whole(data.test_inputs.float()).argmax(dim=1) == data.test_labels
    return {
        "setup": setup,
        "accuracy": float(right.double().mean()),
        "client_mflops": computed / 1e6,
        "client_kb": moved / 1e3,
        "seconds": seconds,
        "parameters": count,
        "steps": options.steps,
        "batch": size,
    }


def _equality(data: LabelledData, options: SplitOptions, steps: Steps) -> list[Budget]:
    """The largest gap between split training and one machine, over all setups."""
    budgets = []
    for dtype, most in ((torch.float64, GAP_MAX_FLOAT64), (torch.float32, GAP_MAX_FLOAT32)):
        gaps = []
        name = str(dtype).removeprefix("torch.")
        for setup in (SPLIT, U_SPLIT, VERTICAL):
            steps.case(f"{setup} against one machine, {name}")
            parts = _parts(setup, dtype, options.seed)
            batches = _batches(data, options.equality_steps, EQUALITY_BATCH, dtype, options.seed)
            alone = copy.deepcopy(_whole(parts))
            train_here([alone], batches, _sgd)
            train_split(parts, _shares(parts, batches), _sgd)
            gaps.append(largest_gap(alone, _whole(parts)))
            steps.step()
        text = f"weights after {options.equality_steps} steps against one machine, {name}"
        budgets.append(Budget(text, max(gaps), most, "largest gap", "<="))
    return budgets


def _traffic(data: LabelledData, options: SplitOptions, steps: Steps) -> Budget:
    """Whether counters equal the formula."""
    samples = len(data.train_inputs)
    inputs, labels = data.train_inputs.float(), data.train_labels
    starts = range(0, samples, BATCH)
    epoch = [(inputs[at : at + BATCH], labels[at : at + BATCH]) for at in starts]
    off = 0
    for clients in (1, LARGE_CLIENTS):
        steps.case(f"an epoch of {clients} clients, counted")
        parts = _parts(SPLIT, torch.float32, options.seed)
        shares = [epoch[client::clients] for client in range(clients)]
        outcome = train_split(parts, shares, _sgd)
        by_server = outcome.server.values_received + outcome.server.values_sent
        by_clients = sum(one.values_sent + one.values_received for one in outcome.clients)
        elements = 2 * samples * torch.Size(parts.cut_shapes[0]).numel()
        off = max(off, abs(by_server - elements), abs(by_clients - elements))
        steps.step()
    return Budget("elements of an epoch against 2pq", off, 0, "elements off", "<=")


def _share() -> Budget:
    """What a client computes of a small network like VGG, cut after its first block."""
    widths = (8, 48, 96)
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise((3, *widths)):
        for channels in (inside, outside):
            layers += [nn.Conv2d(channels, outside, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 10))
    inputs = torch.zeros(2, 3, 32, 32)
    front = _front(cut(model, 5, example=inputs))
    share = flops(front, inputs) / flops(model, inputs)
    text = "the client's part of the FLOPs, a small VGG cut after its first block"
    return Budget(text, share, CLIENT_SHARE_MAX, "of the whole", "<=")


def _parts(setup: str, dtype: torch.dtype, seed: int) -> Parts:
    torch.manual_seed(seed)
    example = torch.zeros(1, 1, digits.IMAGE_SIDE, digits.IMAGE_SIDE, dtype=dtype)
    if setup != VERTICAL:
        model = digits.make_model().to(dtype)
        assert isinstance(model, nn.Sequential)
        return cut(model, U_CUTS if setup == U_SPLIT else CUT, example=example)
    # Each party has one half of every image.
    fronts = [
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).to(dtype)
        for _ in range(2)
    ]
    body = nn.Sequential(
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8, digits.DIGIT_COUNT),
    )
    return pair(fronts, body.to(dtype), examples=example.chunk(2, dim=-1))


def _front(parts: Parts) -> nn.Module:
    fronts = [front for front in parts.fronts if front is not None]
    return fronts[0] if len(fronts) == 1 else SideBySide(fronts)


def _whole(parts: Parts) -> nn.Module:
    assert parts.body is not None
    rest = [one for one in (parts.body, parts.tail) if one is not None]
    return nn.Sequential(_front(parts), *rest)


def _shares(parts: Parts, batches: Sequence[Batch]) -> list[list[Batch]]:
    """The columns of each party; all of them for a client alone."""
    views = [inputs.chunk(parts.parties, dim=-1) for inputs, _ in batches]
    return [
        [(view[index], labels) for view, (_, labels) in zip(views, batches, strict=True)]
        for index in range(parts.parties)
    ]


def _batches(
    data: LabelledData, count: int, size: int, dtype: torch.dtype, seed: int
) -> list[Batch]:
    order = ShuffledOrder(example_count=len(data.train_inputs), seed=seed, peer_id="bench")
    chosen = [torch.from_numpy(order.next_batch(size)) for _ in range(count)]
    return [(data.train_inputs[one].to(dtype), data.train_labels[one]) for one in chosen]


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.003)


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
