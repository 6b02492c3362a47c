"""Split training is the same as training in one place: gradients, weights, and what is moved."""

import itertools
from collections.abc import Sequence

import pytest
import torch
import trio
from torch import nn

from p2p.testing import SimNetwork, run_sim
from tests.training.split.world import (
    CLASSES,
    FEATURES,
    Client,
    batches,
    copies,
    gap,
    make_model,
    open_world,
    train_alone,
)
from training.split import Parts, SplitClientConfig, Traffic, cut, pair

STEPS = 50
TOLERANCE = {torch.float64: 0.0, torch.float32: 1e-6}
DTYPES = (torch.float64, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [2, (2, 4)])
def test_one_client_trains_as_one_machine_would(
    at: int | tuple[int, int], dtype: torch.dtype
) -> None:
    model = make_model(dtype)
    parts = cut(model, at, example=torch.zeros(1, FEATURES, dtype=dtype))
    alone = copies(*parts.fronts, parts.body, parts.tail)
    data = batches(STEPS, dtype=dtype)
    expected = train_alone(alone, data)
    losses: list[float | None] = []

    async def main(network: SimNetwork) -> None:
        loss = nn.functional.cross_entropy if parts.is_u_shaped else None
        async with open_world(network, parts) as world, world.client(parts, loss=loss) as client:
            for inputs, labels in data:
                await client.step(inputs, labels)
            losses.extend(client.losses)
            inputs, _ = data[0]
            scores = await client.predict(inputs)
            assert torch.equal(scores, model(inputs).detach())
            assert world.service.progress.batches == STEPS

    run_sim(1, main)
    # The layers that were cut out are those of the model.
    assert gap([model], [nn.Sequential(*alone)]) <= TOLERANCE[dtype]
    assert losses == pytest.approx(expected, abs=TOLERANCE[dtype] or 1e-15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parties", "dtype"), [(2, torch.float64), (2, torch.float32), (3, torch.float64)]
)
@pytest.mark.parametrize("u_shaped", [False, True])
def test_parties_with_different_features_train_as_one_machine_would(
    parties: int, u_shaped: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    edges = [FEATURES * index // parties for index in range(parties + 1)]
    columns = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
    fronts = [
        nn.Sequential(nn.Linear(part.stop - part.start, 3 + index), nn.Tanh()).to(dtype)
        for index, part in enumerate(columns)
    ]
    width = sum(3 + index for index in range(parties))
    body: nn.Module = nn.Sequential(nn.Linear(width, 6), nn.Tanh()).to(dtype)
    last: nn.Module = nn.Linear(6, CLASSES).to(dtype)
    if not u_shaped:
        body = nn.Sequential(body, last)
    tail = last if u_shaped else None
    data = batches(STEPS, dtype=dtype)
    examples = [data[0][0][:, part] for part in columns]
    parts = pair(fronts, body, tail, examples=examples)
    alone = copies(*fronts, body, tail)
    train_alone(alone, data, columns)
    loss = nn.functional.cross_entropy if u_shaped else None

    async def main(network: SimNetwork) -> None:
        async with open_world(network, parts) as world, trio.open_nursery() as nursery:

            async def take_part(index: int) -> None:
                mine = columns[index]
                labelled = index == parties - 1
                async with world.client(
                    parts, party=index, brings_labels=labelled, loss=loss if labelled else None
                ) as client:
                    for inputs, labels in data:
                        await client.step(
                            inputs[:, mine], labels if labelled else None, entities=inputs[:, 0]
                        )
                    scores = await client.predict(data[0][0][:, mine])
                    assert scores.numel() == (CLASSES * len(scores) if labelled else 0)

            for index in range(parties):
                nursery.start_soon(take_part, index)

    run_sim(2, main)
    modules: Sequence[nn.Module] = [*fronts, body, *([tail] if tail is not None else [])]
    assert gap(modules, alone) <= TOLERANCE[dtype]


def run_epoch(parts: Parts, data: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[Traffic, ...]:
    """What one client and its server count in one pass."""
    counted: list[Traffic] = []

    async def main(network: SimNetwork) -> None:
        loss = nn.functional.cross_entropy if parts.is_u_shaped else None
        async with open_world(network, parts) as world, world.client(parts, loss=loss) as client:
            for inputs, labels in data:
                await client.step(inputs, labels)
            counted.extend((client.trainer.traffic, world.service.total_traffic))

    run_sim(1, main)
    return tuple(counted)


def test_counters_equal_the_formulae() -> None:
    rows, count = 6, 9
    samples = rows * count
    data = batches(count, rows=rows)
    model = make_model()
    example = data[0][0]
    vanilla = cut(model, 2, example=example)
    (width,) = vanilla.cut_shapes[0]
    client, server = run_epoch(vanilla, data)
    # 2pq in all: p samples, q wide, there and back. Labels are counted for themselves.
    assert (client.values_sent, client.values_received) == (samples * width, samples * width)
    assert (server.values_received, server.values_sent) == (samples * width, samples * width)
    assert (client.labels_sent, client.labels_received) == (samples, 0)
    assert server.labels_received == samples
    assert client.batches == server.batches == count
    size_bytes = (samples * width * 8 + samples * 8, samples * width * 8)
    assert (client.payload_bytes_sent, client.payload_bytes_received) == size_bytes
    assert (server.payload_bytes_received, server.payload_bytes_sent) == size_bytes

    u_shaped = cut(model, (2, 4), example=example)
    (back,) = u_shaped.output_shape
    client, server = run_epoch(u_shaped, data)
    each_way = samples * (width + back)
    assert (client.values_sent, client.values_received) == (each_way, each_way)
    assert (server.values_received, server.values_sent) == (each_way, each_way)
    assert client.labels_sent == server.labels_received == 0
    assert client.payload_bytes_sent == client.payload_bytes_received == 8 * each_way


@pytest.mark.parametrize(
    ("codec", "frame_bytes"),
    # Of 60 numbers; int8 has a scale for all of them.
    [("float32", 240), ("float16", 120), ("bfloat16", 120), ("int8", 64)],
)
def test_narrow_numbers_travel_and_train(codec: str, frame_bytes: int) -> None:
    data = batches(30)
    parts = cut(make_model(), 2, example=data[0][0])
    client_bytes: list[int] = []
    losses: list[float] = []

    async def main(network: SimNetwork) -> None:
        config = SplitClientConfig(codec=codec)
        async with (
            open_world(network, parts) as world,
            world.client(parts, config=config) as client,
        ):
            for _ in range(3):
                for inputs, labels in data[:10]:
                    await client.step(inputs, labels)
            client_bytes.append(client.trainer.traffic.payload_bytes_received)
            losses.extend(loss for loss in client.losses if loss is not None)

    run_sim(1, main)
    assert losses[-1] < losses[0]
    assert client_bytes == [30 * frame_bytes]


@pytest.mark.parametrize("at", [2, (2, 4)])
def test_a_window_keeps_several_steps_on_their_way(at: int | tuple[int, int]) -> None:
    """Its gradients are older, and are those of the parameters that the step began with."""
    data = batches(24)
    parts = cut(make_model(), at, example=data[0][0])
    (front,) = parts.fronts
    assert front is not None
    begun: list[torch.Tensor] = []

    async def main(network: SimNetwork) -> None:
        network.default_latency_s = 0.05
        loss = nn.functional.cross_entropy if parts.is_u_shaped else None
        config = SplitClientConfig(window=3)
        async with (
            open_world(network, parts) as world,
            world.client(parts, loss=loss, config=config) as client,
        ):
            before_s = trio.current_time()
            await run_all(client, data, begun, front)
            # One after the other they would take a round trip each, or two of them.
            alone_s = (0.2 if parts.is_u_shaped else 0.1) * len(data)
            assert trio.current_time() - before_s < 0.6 * alone_s
            assert len(client.losses) == len(data)
            assert world.service.progress.batches == len(data)

    run_sim(1, main)
    # Nothing was learnt of the first steps before the third was under way.
    assert torch.equal(begun[0], begun[1])
    assert torch.equal(begun[1], begun[2])
    assert not torch.equal(begun[2], begun[-1])


async def run_all(
    client: Client,
    data: list[tuple[torch.Tensor, torch.Tensor]],
    begun: list[torch.Tensor],
    front: nn.Module,
) -> None:
    for inputs, labels in data:
        begun.append(next(front.parameters()).detach().clone())
        await client.step(inputs, labels)
    await client.go_on(None, 0)
