"""What a peer holds: flat vectors of tensors, states of other models, half-precision parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from averaging import RoundId, RoundReport
from averaging.report import MemberReport
from p2p import PeerId
from tests.training.strategies.sim_local import make_model
from training.model_state import ModelState
from training.privacy import NoiseShares, PrivateClients, epsilon_of
from training.privacy.clients import PrivateTactic
from training.strategies import DiLoCo, LocalSGD
from training.strategies.flat import FlatParameters
from training.strategies.replica import Replica

ME = PeerId("alice")


def replica_of(model: nn.Module) -> Replica:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    return Replica(DiLoCo(every=4), model, ModelState(model, optimizer), me=ME)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_are_read_and_written_in_order(dtype: torch.dtype) -> None:
    tensors = {
        "a": torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype).t(),
        "b": torch.tensor(5.0, dtype=dtype),
    }
    flat = FlatParameters(tensors)
    vector = flat.read()
    assert vector.tolist() == [1.0, 3.0, 2.0, 4.0, 5.0]
    assert flat.dtype == vector.dtype.name == ("float64" if dtype == torch.float64 else "float32")
    assert flat.shapes == {"a": (2, 2), "b": ()}
    flat.write(vector * 2)
    assert tensors["a"].tolist() == [[2.0, 6.0], [4.0, 8.0]]
    assert vector.tolist() == [1.0, 3.0, 2.0, 4.0, 5.0], "it was a copy"


def test_none_are_an_empty_vector() -> None:
    flat = FlatParameters({})
    assert (flat.elements, flat.read().tolist()) == (0, [])


def test_a_state_of_another_model_is_refused() -> None:
    replica, other = replica_of(make_model(0)), replica_of(nn.Linear(3, 2))
    held = other.held()
    with pytest.raises(ValueError, match="other tensors than this model"):
        replica.resume(held, replica.position, steps=0, samples=0)
    assert replica.take_snapshot() is replica.take_snapshot(), "one copy for each position"


def test_models_that_differ_anywhere_have_other_hashes() -> None:
    hashes = {replica_of(make_model(seed)).state_hash() for seed in (0, 0, 1)}
    assert len(hashes) == 2
    frozen = make_model(0)
    with torch.no_grad():
        frozen[1].bias.add_(1.0)
    buffers = make_model(0)
    buffers[0].running_mean.add_(1.0)
    hashes |= {replica_of(model).state_hash() for model in (frozen, buffers)}
    assert len(hashes) == 4


def test_changes_too_small_for_half_precision_add_up() -> None:
    """The anchor is wider than the parameters: what they round away is not lost."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replica = Replica(LocalSGD(every=1), model, ModelState(model, optimizer), me=ME)
    tensors, _ = replica.offer()
    assert tensors["offer"].dtype == np.float32
    step = np.full(1, 2.0**-10, np.float32)
    for _ in range(4):
        replica.tactic.apply(next(iter(replica.tactic.due(1))), step, np.ones(1, np.float32))
    assert replica.tactic.shared()["anchor"].tolist() == [1.0 - 4 * 2.0**-10]


@pytest.mark.parametrize(
    ("sent_bytes", "secure", "present"), [(9, False, 2), (0, False, 4), (9, True, 4)]
)
def test_a_private_clients_failed_exchange_is_paid_for_as_it_was_seen(
    sent_bytes: int, secure: bool, present: int
) -> None:
    """One of three others is lost, and of another nothing was heard."""
    strategy = PrivateClients(
        strategy=LocalSGD(),
        clip=1.0,
        noise_multiplier=2.0,
        epsilon=99.0,
        shares=NoiseShares(peers=4),
    )
    model = make_model(0, buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    replica = Replica(strategy, model, ModelState(model, optimizer), me=ME)
    replica.on_local_step(samples=8, loss=None)
    replica.offer()
    members = {
        ME: MemberReport(fraction=0.0, weight=1.0),
        PeerId("bob"): MemberReport(fraction=0.0, weight=1.0),
        PeerId("carol"): MemberReport(fraction=0.0, weight=1.0, reason="lost"),
        PeerId("dave"): MemberReport(fraction=0.0, weight=0.0),
    }
    failed = RoundReport(
        group_id=b"group",
        round=RoundId(0),
        members=members,
        digest=b"",
        succeeded=False,
        outcome="failed",
        sent_bytes=sent_bytes,
        secure=secure,
    )
    assert not replica.on_failure(failed)
    assert isinstance(replica.tactic, PrivateTactic)
    multiplier = 2.0 * (present / 4) ** 0.5
    spent = epsilon_of(rate=1.0, noise_multiplier=multiplier, steps=1, delta=strategy.delta)
    assert replica.tactic.budget.spent == spent
