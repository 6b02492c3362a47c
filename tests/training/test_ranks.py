"""RankedOptimizer with a single rank, which needs no other process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from averaging import AveragerConfig, RoundFailed
from tests.training.test_optimizer import backward, make_model, momentum
from training import RankedOptimizer, RankFailed, SwarmConfig, join


@pytest.fixture(autouse=True)
def _group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_alone_it_steps_as_the_swarm_optimizer_does(tmp_path: Path) -> None:
    plain_model, model = make_model(), make_model()
    hashes = []
    for ranked, own in ((False, plain_model), (True, model)):
        with join("test") as swarm:
            optimizer = swarm.optimizer(momentum(own), model=own, global_batch=16)
            wrapped = RankedOptimizer(optimizer, model=own) if ranked else optimizer
            scheduler = torch.optim.lr_scheduler.StepLR(wrapped, step_size=1, gamma=0.5)
            for number in range(6):
                backward(own, number)
                report = wrapped.step(samples=8)
                wrapped.zero_grad()
                assert report.stepped == (number % 2 == 1)
                if report.stepped:
                    scheduler.step()
            assert wrapped.global_step == 3
            assert wrapped.param_groups[0]["lr"] == 0.1 * 0.5**3
            assert set(wrapped.state) == set(own.parameters())
            hashes.append(optimizer.state_hash())
    assert hashes[0] == hashes[1]


def test_a_micro_batch_of_no_finite_gradient_is_left_out_but_the_peer_goes_on() -> None:
    model = make_model()
    with join("test") as swarm:
        optimizer = RankedOptimizer(
            swarm.optimizer(momentum(model), model=model, global_batch=16), model=model
        )
        for number, bad in enumerate([False, True, False]):
            backward(model, number)
            if bad:
                next(model.parameters()).grad.fill_(float("nan"))  # type: ignore[union-attr]
            report = optimizer.step(samples=8)
            assert (report.skipped, report.stepped) == (bad, number == 2)
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_checkpoint_goes_on_where_it_was() -> None:
    model = make_model()
    with join("test") as swarm:
        optimizer = RankedOptimizer(
            swarm.optimizer(momentum(model), model=model, global_batch=8), model=model
        )
        backward(model, 0)
        optimizer.step(samples=8)
        saved = optimizer.state_dict()
        backward(model, 1)
        optimizer.step(samples=8)
        assert optimizer.global_step == 2
        optimizer.load_state_dict(saved)
        assert optimizer.global_step == 1
        assert optimizer.reaverage().succeeded
        assert not optimizer.synchronize()


def test_misuse_is_told() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="rank 0"):
        RankedOptimizer(momentum(model), model=model)
    with join("test") as swarm:
        optimizer = RankedOptimizer(
            swarm.optimizer(momentum(model), model=model, global_batch=8), model=model
        )
        with pytest.raises(ValueError, match="no parameter has a gradient"):
            optimizer.step(samples=8)
        with pytest.raises(ValueError, match="at least 1, not 0"):
            optimizer.step(samples=0)
        with pytest.raises(ValueError, match="closures"):
            optimizer.step(lambda: 0.0, samples=8)
        with pytest.raises(ValueError, match="before the optimizer is wrapped"):
            optimizer.add_param_group({"params": []})


def test_rank_0_raises_what_went_wrong() -> None:
    model = make_model()
    config = SwarmConfig(averager=AveragerConfig(group_size_min=2), round_deadline_s=0.2)
    with join("test", config=config) as swarm:
        optimizer = RankedOptimizer(
            swarm.optimizer(momentum(model), model=model, global_batch=8), model=model
        )
        with pytest.raises(RoundFailed):
            optimizer.reaverage()
    assert "RoundFailed: why" in str(RankFailed("RoundFailed: why"))
