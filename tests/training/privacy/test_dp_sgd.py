"""DP-SGD: its noise, its lots, its budget, alone and in a swarm."""

from __future__ import annotations

import random
from math import inf, isnan, sqrt

import pytest
import torch
from scipy import stats
from torch import nn

from averaging import AveragerConfig, RoundId, RoundReport
from averaging.report import MemberReport
from p2p import PeerId
from training import StepReport, SwarmConfig, SwarmOptimizer, join
from training.errors import PrivacyBudgetExhausted
from training.privacy import (
    DpSgd,
    NoiseShares,
    PoissonLots,
    PrivacyBudget,
    PrivateBatch,
    PrivateGradients,
    epsilon_of,
)
from training.privacy.dp_sgd import lot_is_due
from training.privacy.noise import Entropy
from training.progress import PeerProgress

DELTA = 1e-5
EXAMPLES = 100


def make_model(inputs: int = 5, outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(inputs, outputs)


def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def entropy(seed: int) -> Entropy:
    return random.Random(seed).randbytes


def private(
    model: nn.Module, settings: DpSgd, *, seed: int = 0, epsilon: float = inf
) -> PrivateGradients:
    return PrivateGradients(
        model,
        loss,
        settings,
        examples=EXAMPLES,
        budget=PrivacyBudget(epsilon=epsilon, delta=DELTA),
        entropy=entropy(seed),
    )


def gradient_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def stepped(fractions: tuple[float, ...], *, step: bool = True) -> StepReport:
    members = {f"peer{i}": MemberReport(fraction=f, weight=8.0) for i, f in enumerate(fractions)}
    held = RoundReport(
        group_id=b"group",
        round=RoundId(1),
        members=members,  # type: ignore[arg-type]
        digest=b"digest",
        succeeded=True,
        outcome="success",
    )
    return StepReport(global_step=1, stepped=step, samples=8, target=32, round=held)


def test_an_empty_lot_is_noise_of_just_the_stated_deviation() -> None:
    model = make_model(200, 100)
    settings = DpSgd(clip=0.5, noise_multiplier=3.0, lot=10)
    told = private(model, settings).compute(torch.empty(0, 200))
    assert isnan(told), "the loss of nothing is not a number"
    noise = gradient_of(model).double().numpy()
    assert stats.kstest(noise, "norm", args=(0.0, 3.0 * 0.5 / 10)).pvalue > 0.01


def test_noise_comes_on_top_of_the_clipped_sum() -> None:
    batch = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    quiet, loud = make_model(), make_model()
    told = private(quiet, DpSgd(clip=0.2, noise_multiplier=1e-9, lot=10)).compute(batch)
    assert told == pytest.approx(float(loss(quiet, batch).detach()), rel=1e-5)
    expected = torch.zeros(18)
    for index in range(7):
        loud.zero_grad()
        loss(loud, batch[index : index + 1]).backward()
        one = gradient_of(loud)
        expected += one * min(1.0, 0.2 / float(one.norm()))
    torch.testing.assert_close(gradient_of(quiet), expected / 10, rtol=1e-5, atol=1e-7)


def test_the_aggregate_has_at_least_the_stated_noise_when_peers_drop_out() -> None:
    """Four peers, of whom one may be gone; the mean is by samples, as the swarm's."""
    shares = NoiseShares(peers=4, tolerated_drops=1)
    settings = DpSgd(clip=0.5, noise_multiplier=2.0, lot=8, shares=shares)
    for present in (3, 4):
        total = torch.zeros(20_100, dtype=torch.float64)
        for peer in range(present):
            model = make_model(200, 100)
            private(model, settings, seed=peer).compute(torch.empty(0, 200))
            total += 8 * gradient_of(model).double()
        stated = 2.0 * 0.5
        actual = stated * sqrt(present / 3)
        assert stats.kstest(total.numpy(), "norm", args=(0.0, actual)).pvalue > 0.01
        assert float(total.std()) > 0.98 * stated


def test_a_further_lot_in_one_step_brings_the_whole_noise() -> None:
    settings = DpSgd(
        clip=1.0, noise_multiplier=2.0, lot=1, shares=NoiseShares(peers=4, tolerated_drops=0)
    )
    model = make_model(200, 100)
    gradients = private(model, settings)
    deviations = []
    for _ in range(3):
        gradients.compute(torch.empty(0, 200))
        deviations.append(float(gradient_of(model).std()))
    gradients.on_report(stepped((1.0,) * 4))
    gradients.compute(torch.empty(0, 200))
    deviations.append(float(gradient_of(model).std()))
    assert deviations == pytest.approx([1.0, 2.0, 2.0, 1.0], rel=0.03)


def test_a_round_with_too_few_peers_costs_more() -> None:
    settings = DpSgd(
        clip=1.0, noise_multiplier=1.0, lot=10, shares=NoiseShares(peers=4, tolerated_drops=1)
    )
    stated = epsilon_of(rate=0.1, noise_multiplier=1.0, steps=1, delta=DELTA)
    for fractions, present in (((1.0,) * 4, 3), ((1.0, 1.0, 1.0, 0.5), 3), ((1.0, 1.0, 0.9), 2)):
        gradients = private(make_model(), settings)
        gradients.compute(torch.empty(0, 5))
        assert gradients.budget.spent == stated
        # A round whose result is thrown away was seen, too; it is not paid for twice.
        gradients.on_report(stepped(fractions, step=False))
        gradients.on_report(stepped(fractions))
        actual = epsilon_of(rate=0.1, noise_multiplier=sqrt(present / 3), steps=1, delta=DELTA)
        assert gradients.budget.spent == pytest.approx(actual)
        assert (gradients.budget.spent > stated) == (present < 3)
        assert gradients.budget.steps == 1
        gradients.on_report(stepped((0.1,)))
        assert gradients.budget.spent == pytest.approx(actual), "nothing of ours was in that"


def test_a_round_that_failed_was_perhaps_seen_by_some() -> None:
    settings = DpSgd(
        clip=1.0, noise_multiplier=1.0, lot=10, shares=NoiseShares(peers=4, tolerated_drops=1)
    )
    for members, sent_bytes, present in (
        ({"a": (8.0, ""), "b": (8.0, ""), "c": (8.0, ""), "d": (8.0, "lost")}, 100, 3),
        ({"a": (8.0, ""), "b": (8.0, ""), "c": (8.0, "lost"), "d": (8.0, "lost")}, 100, 2),
        # Of those who never said what they bring we know nothing.
        ({"a": (8.0, ""), "b": (0.0, ""), "c": (0.0, ""), "d": (0.0, "")}, 100, 1),
        ({"a": (8.0, "")}, 0, 3),
    ):
        gradients = private(make_model(), settings)
        gradients.compute(torch.empty(0, 5))
        reports = {
            name: MemberReport(fraction=0.0, weight=weight, reason=reason)
            for name, (weight, reason) in members.items()
        }
        failed = RoundReport(
            group_id=b"group",
            round=RoundId(1),
            members=reports,  # type: ignore[arg-type]
            digest=b"",
            succeeded=False,
            outcome="failed",
            sent_bytes=sent_bytes,
        )
        report = StepReport(global_step=1, stepped=False, samples=8, target=32, round=failed)
        gradients.on_report(report)
        # The same gradient, in the next attempt of all: it stays as dear as it was.
        gradients.on_report(stepped((1.0,) * 4))
        actual = epsilon_of(rate=0.1, noise_multiplier=sqrt(present / 3), steps=1, delta=DELTA)
        assert gradients.budget.spent == pytest.approx(actual)


@pytest.mark.parametrize(
    ("shares", "copies", "parts"),
    [
        # Alone each of the four lots has the whole noise; of four sharers each has a quarter.
        (NoiseShares(), 4, 1),
        (NoiseShares(peers=4), 4, 4),
        # Two lots have all four shares between them.
        (NoiseShares(peers=4), 2, 2),
        (NoiseShares(peers=4, tolerated_drops=1), 4, 3),
    ],
)
def test_an_example_that_several_hold_is_paid_for_by_each(
    shares: NoiseShares, copies: int, parts: int
) -> None:
    settings = DpSgd(clip=1.0, noise_multiplier=2.0, lot=10, copies=copies, shares=shares)
    gradients = private(make_model(), settings)
    gradients.compute(torch.empty(0, 5))
    multiplier = 2.0 / sqrt(parts)
    expected = epsilon_of(rate=0.1, noise_multiplier=multiplier, steps=copies, delta=DELTA)
    assert gradients.budget.spent == expected


def test_the_budget_stops_before_the_step_that_exceeds_it() -> None:
    limit = epsilon_of(rate=0.1, noise_multiplier=1.0, steps=3, delta=DELTA)
    model = make_model()
    gradients = private(model, DpSgd(clip=1.0, noise_multiplier=1.0, lot=10), epsilon=limit)
    for _ in range(3):
        gradients.compute(torch.zeros(4, 5))
    last = gradient_of(model).clone()
    with pytest.raises(PrivacyBudgetExhausted):
        gradients.compute(torch.zeros(4, 5))
    torch.testing.assert_close(gradient_of(model), last)
    assert gradients.budget.spent == limit


def peer(name: str, step: int, lots: int, *, me: bool = False, state: bool = True) -> PeerProgress:
    return PeerProgress(
        peer_id=PeerId(name),
        step=step,
        samples=10 * lots,
        samples_per_s=1.0,
        role="node",
        holds_state=state,
        is_me=me,
    )


def bring(step: int, lots: dict[str, int], *, patient: bool = True) -> set[str]:
    """Which of these peers bring a lot now, each deciding by itself."""
    settings = DpSgd(clip=1.0, noise_multiplier=1.0, lot=10, shares=NoiseShares(peers=4))
    return {
        me
        for me in lots
        if lot_is_due(
            [peer(name, step, count, me=name == me) for name, count in lots.items()],
            settings,
            patient=patient,
        )
    }


def test_each_peer_brings_one_lot_and_waits_for_the_others() -> None:
    assert bring(3, {"a": 0, "b": 0, "c": 0, "d": 0}) == {"a", "b", "c", "d"}
    assert bring(3, {"a": 1, "b": 0, "c": 1, "d": 0}) == {"b", "d"}
    assert bring(3, {"a": 1, "b": 1, "c": 1, "d": 1}) == set()
    # There may be more than are needed.
    assert bring(3, {"a": 1, "b": 1, "c": 1, "d": 1, "e": 0}) == {"e"}


def test_missing_lots_are_brought_by_turns() -> None:
    three = [bring(step, {"a": 1, "b": 1, "c": 1}) for step in range(4)]
    assert three == [{"a"}, {"b"}, {"c"}, {"a"}]
    assert bring(0, {"a": 2, "b": 1, "c": 1}) == set()
    assert bring(0, {"a": 1, "b": 1}) == {"a", "b"}
    assert bring(5, {"a": 1}) == {"a"}
    # One that brings nothing is waited for, but not for ever.
    assert bring(0, {"a": 1, "b": 1, "c": 1, "d": 0}) == {"d"}
    assert bring(0, {"a": 1, "b": 1, "c": 1, "d": 0}, patient=False) == {"a", "d"}


def test_who_is_a_step_behind_is_waited_for_and_a_newcomer_is_not() -> None:
    settings = DpSgd(clip=1.0, noise_multiplier=1.0, lot=10, shares=NoiseShares(peers=2))
    behind = [peer("a", 4, 1, me=True), peer("b", 3, 1)]
    assert not lot_is_due(behind, settings, patient=True)
    new = [peer("a", 4, 1, me=True), peer("b", 0, 0, state=False)]
    assert lot_is_due(new, settings, patient=True)


def test_each_example_is_drawn_by_itself() -> None:
    lots = PoissonLots(examples=50, lot=10, entropy=entropy(2))
    counts, sizes = torch.zeros(50), []
    for _ in range(2000):
        lot = lots.next_lot()
        assert (lot.dtype, len(lot.unique())) == (torch.int64, len(lot))
        counts[lot] += 1
        sizes.append(len(lot))
    # Binomial: 400 ± 18 for an example, 10 ± 2.83 for a lot.
    assert 320 < counts.min() <= counts.max() < 480
    sizes_S = torch.tensor(sizes, dtype=torch.float64)
    assert float(sizes_S.mean()) == pytest.approx(10, abs=0.25)
    assert float(sizes_S.std()) == pytest.approx(sqrt(8), rel=0.08)


def test_a_swarm_of_one_steps_with_it() -> None:
    model, plain = make_model(), make_model()
    settings = DpSgd(clip=0.3, noise_multiplier=1.0, lot=8)
    batch = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    private(plain, settings, seed=5).compute(batch)
    torch.optim.SGD(plain.parameters(), lr=0.5).step()
    with join("private") as swarm:
        optimizer = swarm.optimizer(
            torch.optim.SGD(model.parameters(), lr=0.5), model=model, global_batch=8
        )
        assert isinstance(optimizer, SwarmOptimizer)
        gradients = private(model, settings, seed=5)
        gradients.compute(batch)
        report = optimizer.step(samples=settings.lot)
        gradients.on_report(report)
        assert report.stepped
        assert gradients.budget.steps == 1
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_no_round_may_begin_with_too_few_for_the_noise() -> None:
    shares = NoiseShares(peers=4, tolerated_drops=1)
    batch = PrivateBatch(DpSgd(clip=0.3, noise_multiplier=1.0, lot=8, shares=shares))
    model = make_model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    for least in (1, 2):
        config = SwarmConfig(averager=AveragerConfig(group_size_min=least))
        with (
            join("private", config=config) as swarm,
            pytest.raises(ValueError, match=rf"3 shares .* with {least}: .*group_size_min=3\)"),
        ):
            swarm.optimizer(sgd, model=model, global_batch=batch)
    config = SwarmConfig(averager=AveragerConfig(group_size_min=3))
    with join("private", config=config) as swarm:
        assert swarm.optimizer(sgd, model=model, global_batch=batch).global_batch == 32


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"clip": 0.0}, {"noise_multiplier": 0.0}, {"lot": 0}, {"copies": 0}):
        options = {"clip": 1.0, "noise_multiplier": 1.0, "lot": 1} | wrong
        with pytest.raises(ValueError, match="must be"):
            DpSgd(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a lot of 9 cannot be drawn from 8 examples"):
        PoissonLots(examples=8, lot=9)
    with pytest.raises(ValueError, match="a lot of 101 cannot be drawn from 100 examples"):
        private(make_model(), DpSgd(clip=1.0, noise_multiplier=1.0, lot=101))
