"""A sharded peer, a plain one, and a sharded newcomer train as one process does."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.processes import fsdp_peer
from tests.processes.equivalence_peer import make_model, micro_batch
from tests.processes.fsdp_peer import DTYPE, NEWCOMER_AFTER, STEPS, make_adam
from training import join

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes.equivalence_preload"])
LIMIT_S = 240.0
# The ranks of each peer: sharded, sharded and late, plain.
RANKS = (2, 2, 1)
LATE = 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sharded_and_plain_peers_equal_one_process(tmp_path: Path) -> None:
    members = [(peer, rank) for peer, ranks in enumerate(RANKS) for rank in range(ranks)]
    with join("meeting-point") as meeting_point:
        processes = []
        for index, (peer, rank) in enumerate(members):
            options = {
                "index": index,
                "peer": peer,
                "rank": rank,
                "ranks": RANKS[peer],
                "late": peer == LATE,
                "members": len(members),
                "folder": str(tmp_path),
                "initial_peers": meeting_point.addresses,
            }
            processes.append(CONTEXT.Process(target=fsdp_peer.run, args=(options,)))
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(LIMIT_S)
            assert [process.exitcode for process in processes] == [0] * len(processes)
        finally:
            for process in processes:
                process.kill()
    said = [json.loads((tmp_path / f"{i}.json").read_text()) for i in range(len(members))]
    assert len({one["hashes"][1] for one in said}) == 1, "all hold the same bits in the end"
    assert said[0]["hashes"] == said[1]["hashes"]
    for one, (peer, _) in zip(said, members, strict=True):
        steps = [int(step) for step, batches in one["steps"].items() if batches]
        assert steps, "all took part"
        assert min(steps) > NEWCOMER_AFTER or peer != LATE
    expected = one_process([one["steps"] for one in said])
    found = torch.load(tmp_path / "plain.pt", weights_only=True)
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=1e-9)


def one_process(logs: list[dict[str, list[list[int]]]]) -> nn.Module:
    """The model after training on all that the processes logged, step by step."""
    model = make_model(DTYPE)
    optimizer = make_adam(model)
    for step in range(1, STEPS + 1):
        batches = [batch for log in logs for batch in log.get(str(step), [])]
        inputs, labels = zip(*(micro_batch((i, n), DTYPE) for i, n in batches), strict=True)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.cat(inputs)), torch.cat(labels)).backward()
        optimizer.step()
    return model
