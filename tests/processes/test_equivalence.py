"""N processes that train together equal one on the same samples, also when one of them dies."""

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import equivalence_peer
from tests.processes.equivalence_peer import (
    DTYPES,
    GLOBAL_BATCH,
    STEPS,
    backward,
    make_model,
    make_optimizer,
)
from training import join

# Real processes, forked from one that has imported everything already: seconds saved for each.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes.equivalence_preload"])
LIMIT_S = 120.0
# The largest difference of any parameter after twenty steps.
DIFFERENCE_MAX = {"float64": 1e-10, "float32": 1e-5}


def run_peers(
    folder: Path, count: int, *, dies: dict[int, dict[str, int]] | None = None
) -> dict[str, list[int]]:
    """Train in both dtypes, one run after the other; returns who survived each run.

    Args:
        dies: peers that kill themselves while accumulating, and at which step of which run.
    """
    dies = dies or {}
    alive = list(range(count))
    takes_part: dict[str, list[int]] = {}
    survives: dict[str, list[int]] = {}
    for dtype in DTYPES:
        takes_part[dtype] = list(alive)
        alive = [index for index in alive if dtype not in dies.get(index, {})]
        survives[dtype] = list(alive)
    with join("meeting-point") as meeting_point:
        processes = []
        for index in range(count):
            options = {
                "index": index,
                "folder": str(folder),
                "initial_peers": meeting_point.addresses,
                "dies": dies.get(index, {}),
                "peers": {dtype: len(peers) for dtype, peers in takes_part.items()},
            }
            processes.append(CONTEXT.Process(target=equivalence_peer.run, args=(options,)))
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(LIMIT_S)
            ended = {index: process.exitcode for index, process in enumerate(processes)}
            assert ended == {i: -signal.SIGKILL if i in dies else 0 for i in range(count)}
        finally:
            for process in processes:
                process.kill()
    return survives


def read_log(folder: Path, dtype: str, index: int) -> list[dict[str, Any]]:
    path = folder / f"{dtype}-{index}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def replay(folder: Path, dtype: str, count: int) -> tuple[dict[str, torch.Tensor], list[int]]:
    """What one process computes from the samples that went into each step, and how many they were.

    Whose samples these were is taken from the rounds, and which from the members' own logs.
    """
    lines = [line for index in range(count) for line in read_log(folder, dtype, index)]
    held = {(line["group"], line["peer"]): line for line in lines if "group" in line}
    model = make_model(DTYPES[dtype])
    optimizer = make_optimizer(model)
    sizes: list[int] = []
    for step in range(1, STEPS + 1):
        reports = {
            (line["group"], tuple(sorted(line["fractions"].items())))
            for line in lines
            if line.get("step") == step
        }
        assert len(reports) == 1, "all who took this step report the same round"
        group, fractions = reports.pop()
        assert {fraction for _, fraction in fractions} <= {0.0, 1.0}
        batches = [
            tuple(batch)
            for peer_id, fraction in fractions
            if fraction == 1.0
            for batch in held[group, peer_id]["batches"]
        ]
        optimizer.zero_grad()
        sums: dict[str, torch.Tensor] = {}
        total = 0
        for batch in batches:
            samples = backward(model, batch, DTYPES[dtype])
            total += samples
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    added = parameter.grad * samples
                    sums[name] = sums[name] + added if name in sums else added
                    parameter.grad = None
        for name, parameter in model.named_parameters():
            parameter.grad = sums[name] / total if name in sums else None
        optimizer.step()
        sizes.append(total)
    return {name: p.detach() for name, p in model.named_parameters()}, sizes


def check(folder: Path, count: int, survives: dict[str, list[int]]) -> None:
    for dtype, survivors in survives.items():
        expected, sizes = replay(folder, dtype, count)
        assert min(sizes) >= 0.9 * GLOBAL_BATCH, "no step uses too small a batch"
        differences = []
        for index in survivors:
            found = torch.load(folder / f"{dtype}-{index}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            differences += [(found[n] - value).abs().max().item() for n, value in expected.items()]
        print(f"{count} peers, {dtype}: largest difference {max(differences):.2e}")
        assert max(differences) <= DIFFERENCE_MAX[dtype]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_peers_equal_one_process(tmp_path: Path, count: int) -> None:
    check(tmp_path, count, run_peers(tmp_path, count))


@pytest.mark.timeout(180)
def test_a_peer_killed_while_accumulating_leaves_both_sums(tmp_path: Path) -> None:
    """One dies in each run; its samples are in no step, neither above nor below the line."""
    dies = {1: {"float64": 6}, 2: {"float32": 9}}
    survives = run_peers(tmp_path, 4, dies=dies)
    assert survives == {"float64": [0, 2, 3], "float32": [0, 3]}
    check(tmp_path, 4, survives)
    for index, (dtype, _) in ((i, next(iter(d.items()))) for i, d in dies.items()):
        assert read_log(tmp_path, dtype, index)[-1]["died_with"]
