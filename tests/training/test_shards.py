"""A sharded model on a single rank, which needs no other process; two ranks are in processes/."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_module

from averaging import StateTable
from training import RankedOptimizer, join
from training.gradients import Gradients
from training.model_state import ModelState, is_sharded
from training.shards import Shards
from training.strategies import LocalSGD


@pytest.fixture(autouse=True)
def _group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def make_model(*, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """One parameter is frozen; there are buffers of floats and of integers."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))
    model[3].bias.requires_grad_(False)
    return model.to(dtype)


def sharded(model: nn.Module, **options: Any) -> nn.Module:
    """The model, as users shard it: first a part and then all."""
    options.setdefault("mesh", init_device_mesh("cpu", (1,)))
    fully_shard(model[0], **options)
    return fully_shard(model, **options)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.05)


def backward(model: nn.Module, number: int) -> None:
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(number))
    inputs = inputs.to(next(model.parameters()).dtype)
    model(inputs).square().mean().backward()


def test_it_steps_as_a_plain_model_does() -> None:
    hashes = []
    for model in (make_model(), sharded(make_model())):
        with join("test") as swarm:
            inner = swarm.optimizer(
                adam(model), model=model, global_batch=16, lr_rule="linear", reaverage_every=2
            )
            optimizer = RankedOptimizer(inner, model=model) if is_sharded(model) else inner
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            for number in range(8):
                backward(model, number)
                report = optimizer.step(samples=8)
                # A forward pass without a backward leaves whole parameters behind.
                model(torch.ones(2, 4))
                assert (report.stepped, report.skipped) == (number % 2 == 1, False)
                if report.stepped:
                    scheduler.step()
            assert optimizer.global_step == 4
            hashes.append(optimizer.state_hash())
            if is_sharded(model):
                with pytest.raises(ValueError, match="all ranks together"):
                    inner.state_hash()
                assert optimizer.loss_weight(samples=3) == 1.0
    assert hashes[0] == hashes[1]


def test_it_skips_goes_back_to_a_checkpoint_and_delays() -> None:
    model = sharded(make_model())
    with join("test") as swarm:
        optimizer = RankedOptimizer(
            swarm.optimizer(adam(model), model=model, global_batch=8, delayed=True), model=model
        )
        saved, before = optimizer.state_dict(), optimizer.state_hash()
        backward(model, 0)
        model[0].weight.grad.to_local().fill_(float("nan"))
        assert optimizer.step(samples=8).skipped
        with pytest.raises(ValueError, match="no parameter has a gradient"):
            optimizer.step(samples=8)
        backward(model, 1)
        assert optimizer.step(samples=8).began
        assert optimizer.state_hash() == before
        backward(model, 2)
        assert optimizer.step(samples=8).stepped
        assert optimizer.state_hash() != before
        optimizer.load_state_dict(saved)
        assert optimizer.global_step == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_goes_from_a_sharded_model_to_a_plain_one_and_back(dtype: torch.dtype) -> None:
    states = []
    for seed, shards in ((1, True), (2, False), (3, True)):
        model = make_model(dtype=dtype, seed=seed)
        model = sharded(model) if shards else model
        optimizer = adam(model)
        if seed == 1:
            backward(model, 0)
            optimizer.step()
        states.append(ModelState(model, optimizer, Shards(model, optimizer) if shards else None))
    for donor, newcomer in itertools.pairwise(states):
        assert newcomer.complaint(StateTable.of(donor.arrays())) is None
        newcomer.load(donor.arrays(), donor.scalars())
        assert newcomer.digest() == donor.digest()
        assert newcomer.sketch() == donor.sketch()
        assert newcomer.parameter_hash() == donor.parameter_hash()
    floats = {name: array + 1 for name, array in states[2].float_arrays().items()}
    assert "moment/0.weight/step" in floats
    for state in states[1:]:
        state.load_floats(floats)
    assert states[1].digest() == states[2].digest()


def test_a_moment_of_any_kind_comes_to_where_it_belongs() -> None:
    model = sharded(make_model())
    optimizer = adam(model)
    backward(model, 0)
    optimizer.step()
    state = ModelState(model, optimizer, Shards(model, optimizer))
    kept = np.arange(20, dtype="uint16").reshape(5, 4)
    state.load(state.arrays() | {"moment/0.weight/kept": kept}, (("0.weight", "count", 7),))
    np.testing.assert_array_equal(state.arrays()["moment/0.weight/kept"], kept)
    assert state.scalars() == (("0.weight", "count", 7),)


def test_a_moment_of_another_shape_cannot_be_sharded() -> None:
    model = sharded(make_model())
    optimizer = adam(model)
    state = ModelState(model, optimizer, Shards(model, optimizer))
    arrays = state.arrays() | {"moment/0.weight/rows": np.zeros(5, "float32")}
    complaint = state.complaint(StateTable.of(arrays))
    assert complaint is not None
    assert "cannot be sharded" in complaint


def test_gradients_given_back_are_those_of_a_plain_model() -> None:
    found = []
    for model in (make_model(), sharded(make_model())):
        optimizer = adam(model)
        shards = Shards(model, optimizer) if is_sharded(model) else None
        gradients = Gradients(ModelState(model, optimizer, shards).trained, shards)
        backward(model, 0)
        assert gradients.add(8)
        kept = {name: array.copy() for name, array in gradients.means().items()}
        gradients.clear()
        assert not any(array.any() for array in gradients.means().values())
        backward(model, 1)
        gradients.add(4)
        gradients.restore(kept, 8)
        assert gradients.samples == 12
        found.append({name: array.copy() for name, array in gradients.means().items()})
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array)


class KeepsRows(torch.optim.SGD):
    """Keeps a sum for each row that this rank has, as a plain tensor."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None and parameter.dim() == 2:
                self.state[parameter]["rows"] = parameter.grad.to_local().sum(1)
        return super().step(closure)


def test_an_optimizer_that_keeps_plain_tensors_is_refused_when_it_steps() -> None:
    model = sharded(make_model())
    with join("test") as swarm:
        optimizer = RankedOptimizer(
            swarm.optimizer(KeepsRows(model.parameters(), lr=0.1), model=model, global_batch=8),
            model=model,
        )
        backward(model, 0)
        with pytest.raises(ValueError, match=r"KeepsRows keeps 'rows' of '0\.weight'"):
            optimizer.step(samples=8)


def test_what_is_sharded_otherwise_is_refused() -> None:
    divided = distribute_module(make_model(), init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match="tensor parallelism"):
        Shards(divided, adam(divided))
    early, model = adam(plain := make_model()), sharded(plain)
    with pytest.raises(ValueError, match="make the optimizer after"):
        Shards(model, early)
    ignored = make_model()
    model = sharded(ignored, ignored_params={ignored[3].weight})
    with pytest.raises(ValueError, match=r"'3\.weight' is trained but not sharded"):
        Shards(model, adam(model))
    copies = init_device_mesh("cpu", (1, 1), mesh_dim_names=("copy", "part"))
    model = sharded(make_model(), mesh=copies)
    with pytest.raises(ValueError, match="a mesh of one dimension"):
        Shards(model, adam(model))
    model = make_model()
    fully_shard(model[0], mesh=init_device_mesh("cpu", (1,), mesh_dim_names=("one",)))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,), mesh_dim_names=("other",)))
    with pytest.raises(ValueError, match="over another mesh"):
        Shards(model, adam(model))


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
def test_what_cannot_be_sharded_says_so() -> None:
    with pytest.raises(ValueError, match=r"fully_shard\(\)"):
        is_sharded(FullyShardedDataParallel(nn.Linear(2, 2), device_id=torch.device("cpu")))
    model = sharded(make_model())
    with join("test") as swarm, pytest.raises(ValueError, match="with a global batch"):
        swarm.optimizer(adam(model), model=model, strategy=LocalSGD(every=2))
