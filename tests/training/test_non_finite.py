"""Micro-batches whose gradients are not finite are left out, and a loss scaler learns from them."""

import threading
import time

import pytest
import torch
from torch import nn

from tests.training.test_optimizer import backward, make_model, momentum
from training import Swarm, join


@pytest.mark.parametrize("delayed", [False, True])
def test_a_bad_micro_batch_is_left_out_and_told(delayed: bool) -> None:
    model = make_model()
    with join("test") as swarm:
        optimizer = swarm.optimizer(momentum(model), model=model, global_batch=24, delayed=delayed)
        reports = []
        for number in range(8):
            backward(model, number)
            if number in (1, 2, 5):
                next(model.parameters()).grad.view(-1)[3] = float("nan")  # type: ignore[union-attr]
            reports.append(optimizer.step(samples=8))
        assert [number for number, r in enumerate(reports) if r.skipped] == [1, 2, 5]
        assert optimizer.skipped_count == 3
        due = [number for number, r in enumerate(reports) if (r.began if delayed else r.stepped)]
        assert due == [4], "the third good one fills the batch"
        assert [report.samples for report in reports[:4]] == [8, 8, 8, 16]
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def mean_loss(model: nn.Module, number: int) -> torch.Tensor:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
    loss: torch.Tensor = 10 * model(inputs).square().sum(dim=1).mean()
    return loss


def test_a_loss_scaler_of_this_peer_works_as_usual() -> None:
    """Sums are unscaled, so each peer may scale as it likes, and the others never see it."""
    model, plain_model = make_model(), make_model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    plain = torch.optim.SGD(plain_model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    with join("test") as swarm:
        optimizer = swarm.optimizer(sgd, model=model, global_batch=16)
        scales, skipped, number = [], [], 0
        while optimizer.global_step < 4:
            scales.append(scaler.get_scale())
            scaler.scale(mean_loss(model, number)).backward()
            scaler.unscale_(optimizer)
            report = optimizer.step(samples=8)
            scaler.update()
            skipped.append(report.skipped)
            number += not report.skipped
    assert sum(skipped) == optimizer.skipped_count >= 2
    for call, was_skipped in enumerate(skipped[:-1]):
        assert scales[call + 1] == scales[call] * (0.5 if was_skipped else 1.0)
    for number in range(8):
        (0.5 * mean_loss(plain_model, number)).backward()
        if number % 2:
            plain.step()
            plain.zero_grad()
    for ours, theirs in zip(model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_peers_with_scales_of_their_own_step_as_one_process() -> None:
    """One scale is far too large at first, the other grows: the swarm sees neither."""
    models = [make_model(), make_model()]
    batches: list[dict[int, list[int]]] = [{}, {}]

    def train(swarm: Swarm, peer: int, scale: float) -> None:
        model = models[peer]
        sgd = torch.optim.SGD(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
        optimizer = swarm.optimizer(sgd, model=model, global_batch=32)
        while len(swarm.peers) < 2:
            time.sleep(0.01)
        held: list[int] = []
        number = 1000 * peer
        while optimizer.global_step < 3:
            scaler.scale(mean_loss(model, number)).backward()
            scaler.unscale_(optimizer)
            report = optimizer.step(samples=8)
            scaler.update()
            held += [] if report.skipped else [number]
            if report.stepped:
                batches[peer][report.global_step], held = held, []
            number += 1
        assert optimizer.skipped_count > 0 if peer else optimizer.skipped_count == 0
        while min(p.step for p in swarm.peers) < 3:
            time.sleep(0.01)

    def other(addresses: tuple[str, ...]) -> None:
        with join("test", initial_peers=addresses) as swarm:
            train(swarm, 1, 2.0**126)

    with join("test") as swarm:
        thread = threading.Thread(target=other, args=(swarm.addresses,))
        thread.start()
        train(swarm, 0, 2.0**10)
        thread.join()
    plain_model = make_model()
    plain = torch.optim.SGD(plain_model.parameters(), lr=0.01)
    for step in range(1, 4):
        numbers = batches[0][step] + batches[1][step]
        for number in numbers:
            (mean_loss(plain_model, number) / len(numbers)).backward()
        plain.step()
        plain.zero_grad()
    for model in models:
        for ours, theirs in zip(model.parameters(), plain_model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
