"""Distance correlation against slow versions, its invariances, and its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from training.split.nopeek import (
    SQUARED_DISTANCE_MIN,
    bias_corrected_correlation,
    distance_correlation,
    measure_leakage,
    nopeek_gradient,
    nopeek_loss,
)

Array = NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(samples: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs, and activations that say something about them."""
    x = normal(samples, 5, seed=seed)
    return x, torch.tanh(x @ normal(5, 3, seed=seed + 1)) + 0.1 * normal(samples, 3, seed=seed + 2)


def plain(x_ND: Tensor, z_NL: Tensor) -> Tensor:
    """The definition, whole and left to autograd."""

    def centred(rows: Tensor) -> Tensor:
        squares = (rows[:, None] - rows[None]).square().sum(dim=2)
        distances = squares.clamp(min=SQUARED_DISTANCE_MIN).sqrt()
        means = distances.mean(dim=0)
        return distances - means - means[:, None] + means.mean()

    a, b = centred(x_ND), centred(z_NL)
    return ((a * b).mean() / ((a * a).mean() * (b * b).mean()).sqrt()).sqrt()


def by_loops(x_ND: Array, z_NL: Array) -> tuple[float, float]:
    """The V-statistic, and the square that the bias-corrected one is, a number at a time."""
    n = len(x_ND)

    def distances(rows: Array) -> list[list[float]]:
        return [[math.dist(one, other) for other in rows] for one in rows]

    def v_centred(d: list[list[float]], i: int, j: int, total: float) -> float:
        return d[i][j] - sum(d[i]) / n - sum(row[j] for row in d) / n + total / n**2

    def u_centred(d: list[list[float]], i: int, j: int, total: float) -> float:
        sides = sum(d[i]) / (n - 2) + sum(row[j] for row in d) / (n - 2)
        return d[i][j] - sides + total / ((n - 1) * (n - 2)) if i != j else 0.0

    answers = []
    for centred in (v_centred, u_centred):
        dx, dz = distances(x_ND), distances(z_NL)
        total_x, total_z = sum(map(sum, dx)), sum(map(sum, dz))
        both = own_x = own_z = 0.0
        for i in range(n):
            for j in range(n):
                a, b = centred(dx, i, j, total_x), centred(dz, i, j, total_z)
                both, own_x, own_z = both + a * b, own_x + a * a, own_z + b * b
        answers.append(both / math.sqrt(own_x * own_z))
    return math.sqrt(answers[0]), answers[1]


@pytest.mark.parametrize("seed", range(3))
def test_both_statistics_are_those_of_a_slow_loop(seed: int) -> None:
    # Long distances: the loop knows no least one, which takes 3e-4 from each.
    x, z = (1000 * one for one in related(15, seed))
    biased, square = by_loops(x.numpy(), z.numpy())
    assert float(distance_correlation(x, z)) == pytest.approx(biased, abs=1e-6)
    corrected = bias_corrected_correlation(x, z)
    assert corrected * abs(corrected) == pytest.approx(square, abs=1e-9)


@pytest.mark.parametrize("block_rows", [1, 7, 60, 1000])
def test_blocks_are_equal_to_the_whole_in_value_and_gradient(block_rows: int) -> None:
    wanted_x, wanted_z = (one.requires_grad_() for one in related())
    plain(wanted_x, wanted_z).backward()
    x, z = (one.requires_grad_() for one in related())
    value = distance_correlation(x, z, block_rows=block_rows)
    value.backward()
    torch.testing.assert_close(value, plain(x, z), rtol=0, atol=1e-12)
    torch.testing.assert_close(x.grad, wanted_x.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(z.grad, wanted_z.grad, rtol=0, atol=1e-12)
    corrected = bias_corrected_correlation(x, z, block_rows=block_rows)
    assert corrected == pytest.approx(bias_corrected_correlation(x, z), abs=1e-12)


def test_32_bits_are_near_64() -> None:
    x, z = related(200)
    narrow_x, narrow_z = x.float().requires_grad_(), z.float().requires_grad_()
    value = distance_correlation(narrow_x, narrow_z, block_rows=64)
    value.backward()
    wide_z = z.requires_grad_()
    wide = distance_correlation(x, wide_z)
    wide.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wide.item(), abs=1e-6)
    assert narrow_z.grad is not None
    assert wide_z.grad is not None
    torch.testing.assert_close(narrow_z.grad.double(), wide_z.grad, rtol=0, atol=1e-6)


def test_gradient_is_that_of_small_differences() -> None:
    x, z = (one.requires_grad_() for one in related(7))

    def of_blocks(x: Tensor, z: Tensor) -> Tensor:
        return distance_correlation(x, z, block_rows=3)

    assert torch.autograd.gradcheck(of_blocks, (x, z))


def test_equal_rows_have_a_finite_gradient() -> None:
    x, z = related(8)
    z = z[[0, 0, 1, 2, 2, 2, 3, 4]].requires_grad_()
    x[1] = x[0]
    wanted = z.detach().clone().requires_grad_()
    plain(x, wanted).backward()
    distance_correlation(x, z).backward()
    torch.testing.assert_close(z.grad, wanted.grad, rtol=0, atol=1e-12)


def test_inputs_explain_themselves() -> None:
    x, _ = related()
    assert float(distance_correlation(x, x)) == pytest.approx(1, abs=1e-12)
    assert bias_corrected_correlation(x, x) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-1, 1.0, 3.0, 1e4])
def test_turning_moving_and_scaling_change_nothing(scale: float) -> None:
    x, z = related()
    turn, _ = torch.linalg.qr(normal(5, 5, seed=9))
    moved = scale * x @ turn + 1
    # The least distance does not scale along; it is 3e-4.
    assert float(distance_correlation(x, moved)) == pytest.approx(1, abs=1e-6)
    assert bias_corrected_correlation(x, moved) == pytest.approx(1, abs=1e-9)
    value = float(distance_correlation(x, z))
    assert float(distance_correlation(moved, z)) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_symmetric_from_0_to_1_and_lower_for_shuffled_pairs(seed: int) -> None:
    x, z = related(seed=seed)
    value = float(distance_correlation(x, z))
    assert 0 < value < 1
    assert float(distance_correlation(z, x)) == pytest.approx(value, abs=1e-12)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    assert float(distance_correlation(x, z[order])) < value - 0.2
    assert bias_corrected_correlation(x, z[order]) < bias_corrected_correlation(x, z) - 0.2


@pytest.mark.parametrize(
    ("dims", "samples", "floor"),
    [
        ((5, 5), 64, 0.449),
        ((5, 5), 128, 0.369),
        ((5, 5), 597, 0.166),
        ((64, 32), 64, 0.847),
        ((64, 32), 128, 0.756),
        ((64, 32), 597, 0.477),
    ],
)
def test_floor_of_independent_data(dims: tuple[int, int], samples: int, floor: float) -> None:
    pairs = [
        (normal(samples, dims[0], seed=seed), normal(samples, dims[1], seed=100 + seed))
        for seed in range(8)
    ]
    measured = np.mean([float(distance_correlation(x, z)) for x, z in pairs])
    # The figures are of one draw each; at 64 samples draws deviate by 0.018.
    assert measured == pytest.approx(floor, abs=0.03)
    squares = [
        corrected * abs(corrected)
        for x, z in pairs
        for corrected in [bias_corrected_correlation(x, z)]
    ]
    assert abs(np.mean(squares)) < 0.02


def test_collapsed_activations_say_nothing() -> None:
    x, _ = related()
    z = torch.full((60, 3), 0.3, dtype=torch.float32, requires_grad=True)
    value = distance_correlation(x.float(), z)
    value.backward()
    assert value.item() == 0
    assert z.grad is not None
    assert z.grad.abs().max() == 0
    assert bias_corrected_correlation(x, z) == 0


def test_pictures_and_half_floats_are_taken_and_autocast_left_out() -> None:
    x, z = related()
    pictures = x[:, :4].reshape(60, 1, 2, 2)
    value = float(distance_correlation(pictures.float(), z.float()))
    halves = distance_correlation(pictures.bfloat16(), z.bfloat16())
    assert halves.dtype == torch.float32
    assert float(halves) == pytest.approx(value, abs=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(distance_correlation(pictures.float(), z.float())) == value


def test_memory_is_that_of_a_block() -> None:
    """No tensor of N × N numbers is made, forward or backward."""
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                sizes.append(made.numel())
            return made

    x, z = related(1000)
    z.requires_grad_()
    with Watch():
        value = distance_correlation(x, z, block_rows=16)
        forward = len(sizes)
        value.backward()
    assert max(sizes[:forward]) == max(sizes[forward:]) == 16 * 1000


def test_leakage_of_a_fixed_number_of_samples() -> None:
    x, z = related(400)
    leakage = measure_leakage(x, z, samples=100, seed=3)
    assert leakage.samples == 100
    assert leakage == measure_leakage(x, z, samples=100, seed=3)
    assert leakage != measure_leakage(x, z, samples=100, seed=4)
    assert leakage.distance_correlation > leakage.bias_corrected > leakage.shuffled > 0.1
    independent = measure_leakage(x, normal(400, 3, seed=50), samples=100)
    assert independent.distance_correlation == pytest.approx(independent.shuffled, abs=0.05)
    assert abs(independent.bias_corrected) < 0.2


def test_misuse_is_told() -> None:
    x, z = related(10)
    with pytest.raises(ValueError, match="as many activations as inputs"):
        distance_correlation(x, z[:9])
    with pytest.raises(ValueError, match="at least 4"):
        bias_corrected_correlation(x[:3], z[:3])
    with pytest.raises(ValueError, match="block_rows"):
        distance_correlation(x, z, block_rows=0)
    with pytest.raises(ValueError, match="cannot draw 11 samples"):
        measure_leakage(x, z, samples=11)
    with pytest.raises(ValueError, match="alpha"):
        nopeek_loss(x.sum(), x, z, alpha=1)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_client_alone_gets_the_gradient_of_the_joint_loss(alpha: float) -> None:
    torch.manual_seed(0)
    client, server = nn.Linear(5, 3).double(), nn.Linear(3, 2).double()
    x, labels = normal(12, 5), torch.arange(12) % 2
    z = client(x)
    task = nn.functional.cross_entropy(server(z), labels)
    nopeek_loss(task, x, z, alpha=alpha).backward()
    wanted = [parameter.grad for parameter in client.parameters()]

    client.zero_grad()
    z = client(x)
    sent = z.detach().requires_grad_()
    (returned,) = torch.autograd.grad(nn.functional.cross_entropy(server(sent), labels), sent)
    z.backward(nopeek_gradient(returned, x, z, alpha=alpha))
    for parameter, gradient in zip(client.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12)
