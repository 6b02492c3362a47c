"""PowerSGD is the paper's formulas, the same at all peers, and loses nothing for good."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from averaging.codecs.power_sgd import (
    PowerSgd,
    PowerSgdConfig,
    factor_rank,
    ordered_sum,
    orthonormal,
    product,
)

PAGE = Path(__file__).parents[3] / "docs" / "protocols" / "codecs.md"
SHAPES = [(24, 18), (24,), (10, 3, 5), (), (2, 2)]


def gradients(seed: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def averaged(vectors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """What a round gives."""
    pairs = zip(vectors, weights, strict=True)
    return torch.stack([vector * weight for vector, weight in pairs]).sum(0) / sum(weights)


def step(
    peers: Sequence[PowerSgd],
    inputs: Sequence[list[torch.Tensor]],
    weights: Sequence[float] | None = None,
) -> list[list[torch.Tensor]]:
    """One step of all peers: what each of them gets."""
    weights = weights or [1.0] * len(peers)
    each = list(zip(peers, inputs, weights, strict=True))
    mean = averaged([peer.first(given, weight) for peer, given, weight in each], weights)
    mean = averaged([peer.second(mean) for peer in peers], weights)
    return [peer.finish(mean) for peer in peers]


def peers_of(count: int, rank: int = 2, min_ratio: float = 1.0) -> list[PowerSgd]:
    config = PowerSgdConfig(rank=rank, min_ratio=min_ratio, seed=3)
    return [PowerSgd(SHAPES, config) for _ in range(count)]


def test_two_steps_are_those_of_the_paper() -> None:
    peers = peers_of(3)
    # What the paper says, in float64 and with numpy, of the first tensor.
    query = peers[0].queries[: 18 * 2].reshape(18, 2).double().numpy()
    errors = [np.zeros((24, 18)) for _ in peers]
    for number in range(2):
        inputs = [gradients(10 * number + peer) for peer in range(3)]
        got = step(peers, inputs)[0][0].double().numpy()
        matrices = [inputs[peer][0].double().numpy() + errors[peer] for peer in range(3)]
        basis, triangle = np.linalg.qr(np.mean([m @ query for m in matrices], axis=0))
        # Gram and Schmidt keep the signs that numpy may turn.
        basis *= np.sign(np.diag(triangle))
        query = np.mean([m.T @ basis for m in matrices], axis=0)
        expected = basis @ query.T
        errors = [m - expected for m in matrices]
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_all_peers_get_the_same_bits() -> None:
    peers = peers_of(4)
    for number in range(3):
        results = step(peers, [gradients(10 * number + peer) for peer in range(4)])
        for others in results[1:]:
            assert all(map(torch.equal, results[0], others))
        assert all(torch.equal(peer.queries, peers[0].queries) for peer in peers)
    assert [tuple(gradient.shape) for gradient in results[0]] == SHAPES


def test_full_rank_is_exact() -> None:
    inputs = [gradients(peer) for peer in range(3)]
    got = step(peers_of(3, rank=18, min_ratio=0), inputs)[0]
    for number, tensor in enumerate(got):
        mean = torch.stack([given[number] for given in inputs]).mean(0)
        torch.testing.assert_close(tensor, mean, atol=1e-5, rtol=1e-5)


def test_what_is_not_worth_two_factors_is_averaged_as_it_is() -> None:
    inputs = [gradients(peer) for peer in range(2)]
    got = step(peers_of(2), inputs)[0]
    for number in (1, 3, 4):
        torch.testing.assert_close(got[number], (inputs[0][number] + inputs[1][number]) / 2)
    assert peers_of(1)[0].element_counts == (24 * 2 + 10 * 2, 18 * 2 + 15 * 2 + 24 + 1 + 4)


@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        ((1024, 1024), 4),
        ((64, 3, 7, 7), 4),
        ((1024,), 0),
        ((), 0),
        ((16, 16), 4),
        ((15, 15), 0),
        ((3, 1000), 0),
        ((0, 5), 0),
    ],
)
def test_which_tensors_have_factors(shape: tuple[int, ...], rank: int) -> None:
    # With rank 4 a square shrinks by n / 8.
    assert factor_rank(shape, PowerSgdConfig(rank=4, min_ratio=2)) == rank


def test_nothing_is_lost_for_good() -> None:
    peers = peers_of(3)
    weights = [[1.0, 2.0, 3.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
    given, got = torch.zeros(24, 18), torch.zeros(24, 18)
    for number, step_weights in enumerate(weights):
        inputs = [gradients(10 * number + peer) for peer in range(3)]
        total = sum(step_weights)
        given += averaged([one[0].flatten() for one in inputs], step_weights).view(24, 18) * total
        got += step(peers, inputs, step_weights)[0][0] * total
    # In a last step without gradients, of the same weight and full rank, what was kept comes out.
    kept = [peer.first([torch.zeros(shape) for shape in SHAPES]) for peer in peers]
    whole = peers[0].queries[: 18 * 2].view(18, 2)
    sums = torch.stack(kept).sum(0)[: 24 * 2].view(24, 2)
    torch.testing.assert_close((given - got) @ whole, sums, atol=2e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_network_learns_as_well_from_two_directions() -> None:
    images, labels = load_digits(return_X_y=True)
    inputs, classes = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)

    def accuracy_after(steps: int, peers: list[PowerSgd] | None) -> float:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 10)
        )
        parameters = list(model.parameters())
        for _ in range(steps):
            given = []
            for _ in range(2):
                batch = torch.randint(len(inputs), (32,))
                loss = torch.nn.functional.cross_entropy(model(inputs[batch]), classes[batch])
                given.append(list(torch.autograd.grad(loss, parameters)))
            if peers is None:
                changes = [(one + other) / 2 for one, other in zip(*given, strict=True)]
            else:
                changes = step(peers, given)[0]
            with torch.no_grad():
                for parameter, change in zip(parameters, changes, strict=True):
                    parameter -= 0.3 * change
        right = model(inputs).argmax(dim=1) == classes
        return float(right.float().mean())

    shapes = [(48, 64), (48,), (10, 48), (10,)]
    config = PowerSgdConfig(rank=2, min_ratio=1.5)
    peers = [PowerSgd(shapes, config) for _ in range(2)]
    dense = sum(math.prod(shape) for shape in shapes)
    assert sum(peers[0].element_counts) * 9 < dense
    assert accuracy_after(120, peers) > accuracy_after(120, None) - 0.02 > 0.85


def test_a_failed_step_leaves_everything_as_it_was() -> None:
    steady, unlucky = peers_of(1)[0], peers_of(1)[0]
    step([steady], [gradients(1)])
    step([unlucky], [gradients(1)])
    before = unlucky.queries
    unlucky.second(unlucky.first(gradients(5)))
    unlucky.abandon()
    assert torch.equal(unlucky.queries, before)
    assert torch.equal(unlucky.first(gradients(2)), steady.first(gradients(2)))


def test_who_was_not_included_keeps_its_whole_input() -> None:
    peer = peers_of(1)[0]
    query = peer.queries[: 18 * 2].view(18, 2)
    given = gradients(1)
    second = peer.second(peer.first(given))
    peer.finish(second, included=torch.zeros(len(second), dtype=torch.bool))
    query = peer.queries[: 18 * 2].view(18, 2)
    again = peer.first([torch.zeros(shape) for shape in SHAPES])[: 24 * 2].view(24, 2)
    torch.testing.assert_close(again, given[0] @ query)


def test_who_was_left_out_of_some_chunks_is_owed_those_alone() -> None:
    """Each element of a mean is over those who are in it; sums of what was given come out whole."""
    peers = peers_of(3)
    inputs = [gradients(peer) for peer in range(3)]
    basis = averaged([peer.first(one) for peer, one in zip(peers, inputs, strict=True)], [1.0] * 3)
    values = torch.stack([peer.second(basis) for peer in peers])
    included = torch.ones(values.shape, dtype=torch.bool)
    # The cut is in the middle of a row of Q.
    included[2, 7:] = False
    mean = (values * included).sum(0) / included.sum(0)
    got = [
        peer.finish(mean, included=whole)
        for peer, whole in zip(peers, (None, None, included[2]), strict=True)
    ]
    assert all(torch.equal(one[0], got[0][0]) for one in got)
    # What is in the mean counts with the weight of those who are in it, element by element of Q.
    base = orthonormal(basis[: 24 * 2].view(24, 2))
    taken = product(base, (mean * included.sum(0))[: 18 * 2].view(18, 2))
    given = torch.stack([one[0] for one in inputs]).sum(0)
    whole = peers[0].queries[: 18 * 2].view(18, 2)
    zeros = [torch.zeros(shape) for shape in SHAPES]
    owed = torch.stack([peer.first(zeros) for peer in peers]).sum(0)[: 24 * 2].view(24, 2)
    torch.testing.assert_close((given - taken) @ whole, owed, atol=1e-4, rtol=1e-4)


def test_who_counts_nothing_is_owed_what_it_was() -> None:
    peers = peers_of(2)
    got = step(peers, [gradients(1), gradients(2)])
    owed = gradients(2)[0] - got[1][0]
    got = step(peers, [gradients(3), gradients(4)], [1.0, 0.0])
    assert all(map(torch.equal, got[0], got[1]))
    query = peers[1].queries[: 18 * 2].view(18, 2)
    again = peers[1].first([torch.zeros(shape) for shape in SHAPES])[: 24 * 2].view(24, 2)
    torch.testing.assert_close(again, owed @ query)
    peers[1].abandon()
    assert not peers[1].first(gradients(5), 0.0).any()


def test_names_have_a_rank() -> None:
    assert PowerSgdConfig.named("powersgd") == PowerSgdConfig()
    assert PowerSgdConfig.named("powersgd:2").name == "powersgd:2"
    for wrong in ("powersgd:", "powersgd:0", "powersgd:1.5", "powersgd:4,2"):
        with pytest.raises(ValueError, match="rank"):
            PowerSgdConfig.named(wrong)


def test_who_joins_takes_over_the_queries() -> None:
    old = peers_of(2)
    step(old, [gradients(1), gradients(2)])
    joiner = peers_of(1)[0]
    joiner.load_queries(old[0].queries, old[0].step)
    results = step([*old, joiner], [gradients(3), gradients(4), gradients(5)])
    assert all(map(torch.equal, results[0], results[2]))
    assert torch.equal(joiner.queries, old[0].queries)


def test_a_direction_that_vanished_is_drawn_anew() -> None:
    peers = peers_of(2)
    flat = [torch.zeros(shape) for shape in SHAPES]
    flat[0][:, 0] = 1.0
    step(peers, [flat, flat])
    # Rank 1 has no second direction, and the third tensor has none at all.
    for query in peers[0].queries[: 18 * 2].view(18, 2).T:
        assert bool(query.any())
    assert torch.equal(peers[0].queries, peers[1].queries)
    got = step(peers, [gradients(1), gradients(2)])[0]
    assert np.linalg.matrix_rank(got[0].numpy(), tol=1e-4) == 2


def test_averages_of_strangers_are_checked() -> None:
    peer = peers_of(1)[0]
    first = peer.first(gradients(1))
    with pytest.raises(ValueError, match="shape"):
        peer.second(first[1:])
    with pytest.raises(ValueError, match="not finite"):
        peer.second(torch.full_like(first, torch.nan))
    second = peer.second(first)
    with pytest.raises(ValueError, match="not finite"):
        peer.finish(torch.full_like(second, torch.inf))
    assert len(peer.finish(second)) == len(SHAPES)


@pytest.mark.parametrize("config", [{"rank": 0}, {"min_ratio": -1.0}, {"min_ratio": float("nan")}])
def test_a_config_without_sense_is_an_error(config: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        PowerSgdConfig(**config)  # type: ignore[arg-type]


def test_columns_become_orthonormal_of_the_same_span() -> None:
    factor = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    factor[:, 3] = factor[:, 1] * 1e-12 + factor[:, 0]
    factor[:, 4] *= 1e-30
    basis = orthonormal(factor)
    expected = torch.eye(6)
    # Up to rounding the fourth depends on the first two.
    expected[3, 3] = 0
    torch.testing.assert_close(basis.T @ basis, expected, atol=1e-6, rtol=0)
    kept = factor[:, [0, 1, 2, 5]]
    torch.testing.assert_close(basis @ (basis.T @ kept), kept, atol=1e-5, rtol=1e-5)


def test_sums_and_products_have_an_order_that_anyone_can_repeat() -> None:
    numbers = torch.randn(37, generator=torch.Generator().manual_seed(1))
    halves = [np.float32(number) for number in numbers.tolist()]
    while len(halves) > 1:
        half = len(halves) // 2
        pairs = [halves[i] + halves[half + i] for i in range(half)]
        halves = pairs + halves[2 * half :]
    assert float(ordered_sum(numbers)) == float(halves[0])
    left, right = torch.randn(3, 4, generator=torch.Generator().manual_seed(2)), numbers[:20]
    matrix = product(left, right.view(5, 4))
    for row in range(3):
        for column in range(5):
            total = np.float32(left[row, 0]) * np.float32(right[4 * column])
            for rank in range(1, 4):
                total += np.float32(left[row, rank]) * np.float32(right[4 * column + rank])
            assert float(matrix[row, column]) == float(total)


def test_the_page_shows_code_that_works() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    shown: dict[str, Any] = {}
    exec(code, shown)
    assert [tuple(gradient.shape) for gradient in shown["gradients"]] == [(512, 256), (512,)]
    assert shown["first"].shape == (512 * 4,)
    assert shown["second"].shape == (256 * 4 + 512,)


def test_the_caller_may_prefer_another_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        one = PowerSgd([(8, 6), (3,)], PowerSgdConfig(rank=1, min_ratio=1.0))
        gradients = [torch.ones(8, 6, dtype=torch.float32), torch.ones(3, dtype=torch.float32)]
        first = one.first(gradients)
        applied = one.finish(one.second(first))
        assert {part.dtype for part in (first, *applied)} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
