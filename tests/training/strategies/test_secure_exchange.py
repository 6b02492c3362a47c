"""Peers of one process whose exchanges are secure sums: the same mean, and what they refuse."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.strategies.test_optimizer import parameters_of
from tests.training.test_optimizer import backward, make_model, momentum
from training import SpecDiffers, StepReport, Swarm, join
from training.errors import UpdateTooLarge
from training.privacy import NoiseShares, PrivateClients, epsilon_of
from training.strategies import (
    ElasticAveraging,
    FederatedAveraging,
    LocalSGD,
    SecureExchange,
    Strategy,
)
from training.strategies.optimizer import LocalOptimizer

SAMPLES = (8, 16, 24, 32)
EVERYBODY = FederatedAveraging(every=3, fraction=1.0)
SECURE = SecureExchange(samples_max=512)
# Each of four peers rounds by half of 8 · 4 · 512 / 2^31 samples, of some 300 in the sum, which is
# 5e-8 of a value; the rest is what float32 rounds.
TOLERANCE = 5e-7


class Peer:
    """Trains by itself in a thread, and remembers what it held before and after each exchange."""

    def __init__(
        self,
        swarm: Swarm,
        number: int,
        strategy: Strategy,
        *,
        model: nn.Module | None = None,
        rate: float = 0.1,
    ) -> None:
        self.swarm, self.number, self.samples = swarm, number, SAMPLES[number]
        self.model = model or make_model(seed=1)
        wrapped = torch.optim.SGD(self.model.parameters(), lr=rate)
        # It runs between the local step and the exchange.
        wrapped.register_step_post_hook(lambda *_: self._remember())
        self.optimizer: LocalOptimizer = swarm.optimizer(
            wrapped, model=self.model, strategy=strategy, secure=SECURE
        )
        self.offered: list[tuple[np.ndarray[Any, Any], int]] = []
        self.reached: list[np.ndarray[Any, Any]] = []
        self.reports: list[StepReport] = []
        self.failures: list[str] = []
        self._drawn = 1000 * number

    def _remember(self) -> None:
        self._now = self.parameters()

    def parameters(self) -> np.ndarray[Any, Any]:
        return parameters_of(self.model).numpy().copy()

    def step(self) -> StepReport:
        self.optimizer.zero_grad()
        backward(self.model, self._drawn)
        self._drawn += 1
        report = self.optimizer.step(samples=self.samples)
        if report.stepped:
            self.offered.append((self._now, report.samples))
            self.reached.append(self.parameters())
            self.reports.append(report)
        if report.failure:
            self.failures.append(report.failure)
        return report

    def train(self, exchanges: int) -> None:
        while self.optimizer.global_step < exchanges:
            self.step()


@contextmanager
def swarms(count: int) -> Iterator[list[Swarm]]:
    """So many peers of one run."""
    with ExitStack() as stack:
        first = stack.enter_context(join("test"))
        others = [
            stack.enter_context(join("test", initial_peers=first.addresses))
            for _ in range(count - 1)
        ]
        yield [first, *others]


def together(
    count: int, strategy: Strategy, train: Callable[[Peer], None], **options: Any
) -> list[Peer]:
    """Train in a thread for each peer, once all know each other."""
    ready, soon = threading.Barrier(count, timeout=60), threading.Event()

    # All chance that several threads draw from at once would be in a random order.
    models = [make_model(seed=1) for _ in range(count)]

    def one(number: int, swarm: Swarm) -> Peer:
        peer = Peer(swarm, number, strategy, model=models[number], **options)
        while len(peer.optimizer.peers()) < count:
            soon.wait(0.01)
        ready.wait()
        train(peer)
        # Whoever is done early stays, so that the others' last round has all of them.
        ready.wait()
        return peer

    with swarms(count) as joined, ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count), joined))


def assert_means(peers: Sequence[Peer], exchange: int) -> None:
    """After an exchange all hold the mean of what each held before, by samples."""
    held = [peer.offered[exchange][0].astype(np.float64) for peer in peers]
    weights = [peer.offered[exchange][1] for peer in peers]
    mean = np.average(held, axis=0, weights=weights)
    for peer in peers:
        np.testing.assert_allclose(peer.reached[exchange], mean, rtol=0, atol=TOLERANCE)
        assert peer.reached[exchange].tobytes() == peers[0].reached[exchange].tobytes()


@pytest.mark.slow
def test_a_secure_sum_leads_where_plain_averaging_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "training.strategies.means")
    peers = together(4, EVERYBODY, lambda peer: peer.train(3))
    for exchange in range(3):
        assert_means(peers, exchange)
        reports = [peer.reports[exchange].round for peer in peers]
        for report in reports:
            assert report is not None
            assert report.secure
            assert report.weight_sum == pytest.approx(sum(p.offered[exchange][1] for p in peers))
            assert "secure round" in str(report)
    assert len({peer.optimizer.state_hash() for peer in peers}) == 1
    assert all(peer.failures == [] for peer in peers)
    told = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("secure_exchange exchange=2 offers=4") for line in told) == 4


@pytest.mark.slow
def test_when_one_leaves_the_others_go_on() -> None:
    def train(peer: Peer) -> None:
        if peer.number == 3:
            peer.train(1)
            peer.swarm.close()
        else:
            peer.train(4)

    *rest, _ = together(4, EVERYBODY, train)
    for peer in rest:
        assert peer.optimizer.global_step == 4
        last = peer.reports[-1].round
        assert last is not None
        assert sum(member.fraction == 1.0 for member in last.members.values()) == 3
    assert len({peer.reached[-1].tobytes() for peer in rest}) == 1


@pytest.mark.slow
def test_noise_goes_in_before_the_masks_and_is_counted_behind_them() -> None:
    strategy = PrivateClients(
        strategy=LocalSGD(every=2),
        clip=0.01,
        noise_multiplier=2.0,
        epsilon=50.0,
        shares=NoiseShares(peers=3),
    )
    peers = together(3, strategy, lambda peer: peer.train(2))
    assert len({peer.reached[-1].tobytes() for peer in peers}) == 1
    for peer in peers:
        assert [report.round and report.round.weight_sum for report in peer.reports] == [
            pytest.approx(3.0),
            pytest.approx(3.0),
        ], "each counts the same"
        moved = peer.reached[1] - peer.reached[0]
        # The mean of three updates, each of 0.01 at most, and of noise of 0.02 / 3.
        assert 0.3 * 0.02 / 3 < moved.std() < 2 * 0.02 / 3
        assert peer.optimizer.budget is not None
        assert peer.optimizer.budget.spent == pytest.approx(
            epsilon_of(rate=1.0, noise_multiplier=2.0, steps=2, delta=1e-5)
        ), "nothing to correct: three shares were in each sum"


@pytest.mark.slow
def test_an_update_is_never_offered_twice() -> None:
    """With a rate of 0 the second update is the first again; the parameters stay in common."""

    def train(peer: Peer) -> None:
        peer.train(1)
        while not peer.failures:
            peer.step()

    peers = together(3, LocalSGD(every=2), train, rate=0.0)
    for peer in peers:
        assert "the very update that was offered before" in peer.failures[0]
        assert peer.optimizer.global_step == 1
        report = peer.optimizer._exchanger.report()
        assert report.samples == 0, "the steps are gone"


def test_fewer_than_three_exchange_nothing_and_say_so() -> None:
    with join("test") as swarm:
        peer = Peer(swarm, 0, EVERYBODY)
        first = peer.parameters()
        reports = [peer.step() for _ in range(7)]
        assert [bool(report.failure) for report in reports] == [*[False, False, True] * 2, False]
        assert peer.failures[0].startswith("a secure sum needs 3 peers that train, and there are 1")
        assert reports[-1].samples == 7 * peer.samples, "what was done waits for the others"
        assert not np.array_equal(peer.parameters(), first)
        assert peer.optimizer.global_step == 0


@pytest.mark.slow
def test_what_does_not_fit_is_told_before_anything_is_sent() -> None:
    def train(peer: Peer) -> None:
        with torch.no_grad():
            peer.model[0].weight[0, 0] += 9.0
        with pytest.raises(UpdateTooLarge, match=r"the update reached (8\.9|9)"):
            peer.train(1)

    together(3, EVERYBODY, train)


def test_steps_from_a_checkpoint_are_not_offered() -> None:
    """Whoever saved them may have offered them, too."""
    with join("test") as swarm:
        peer = Peer(swarm, 0, EVERYBODY)
        first = peer.parameters()
        for _ in range(2):
            peer.step()
        saved = peer.optimizer.state_dict()
        peer.step()
        peer.optimizer.load_state_dict(saved)
        np.testing.assert_array_equal(peer.parameters(), first)
        assert peer.step().samples == peer.samples


def test_misuse_is_told() -> None:
    model = make_model()
    with join("test") as swarm:
        with pytest.raises(ValueError, match="secure sums need a strategy: with a global batch"):
            swarm.optimizer(  # type: ignore[call-overload]
                momentum(model), model=model, global_batch=8, secure=SECURE
            )
        with pytest.raises(ValueError, match="not ElasticAveraging"):
            swarm.optimizer(
                momentum(model), model=model, strategy=ElasticAveraging(), secure=SECURE
            )


def test_peers_that_average_in_the_open_train_something_else() -> None:
    model, other = make_model(), make_model()
    with join("test") as swarm, join("test", initial_peers=swarm.addresses) as stranger:
        optimizer = swarm.optimizer(momentum(model), model=model, strategy=LocalSGD(every=1))
        backward(model, 0)
        assert optimizer.step(samples=8).stepped
        with pytest.raises(SpecDiffers):
            stranger.optimizer(
                momentum(other), model=other, strategy=LocalSGD(every=1), secure=SECURE
            )
