"""Two peers of two processes each train as one process does on the same samples."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from tests.processes import ranks_peer
from tests.processes.equivalence_peer import RATE, backward, make_model, make_optimizer
from tests.processes.ranks_peer import BAD, DTYPE, STEPS
from training import RankedOptimizer, join

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes.equivalence_preload"])
LIMIT_S = 60.0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_peers_of_two_ranks_equal_one_process(tmp_path: Path) -> None:
    with join("meeting-point") as meeting_point:
        processes = []
        for index in range(4):
            options = {
                "index": index,
                "peer": index // 2,
                "rank": index % 2,
                "folder": str(tmp_path),
                "initial_peers": meeting_point.addresses,
            }
            processes.append(CONTEXT.Process(target=ranks_peer.run, args=(options,)))
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(LIMIT_S)
            assert [process.exitcode for process in processes] == [0, 0, 0, 0]
        finally:
            for process in processes:
                process.kill()
    logs = [json.loads((tmp_path / f"{index}.json").read_text()) for index in range(4)]
    assert all(len(log) == STEPS and all(log[1:]) for log in logs), "all ranks took part"
    assert list(BAD) not in [batch for steps in logs for batches in steps for batch in batches]
    model = make_model(DTYPE)
    optimizer = make_optimizer(model)
    for step in range(STEPS):
        sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        total = 0
        for batch in (batch for log in logs for batch in log[step]):
            model.zero_grad()
            samples = backward(model, tuple(batch), DTYPE)
            total += samples
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] += parameter.grad * samples
        for name, parameter in model.named_parameters():
            parameter.grad = sums[name] / total if parameter.requires_grad else None
        optimizer.param_groups[0]["lr"] = RATE * 0.9**step
        optimizer.step()
    for index in range(4):
        found = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=1e-10)
    for name, value in torch.load(tmp_path / "0.pt", weights_only=True).items():
        assert torch.equal(value, torch.load(tmp_path / "1.pt", weights_only=True)[name])


def test_it_needs_a_process_group() -> None:
    model = make_model(DTYPE)
    with pytest.raises(ValueError, match="init_process_group"):
        RankedOptimizer(make_optimizer(model), model=model)
