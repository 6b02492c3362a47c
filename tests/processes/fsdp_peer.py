"""One process of a swarm of sharded and plain peers: logs what it put into which global step."""

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.processes.equivalence_peer import Batch, make_model, micro_batch
from training import RankedOptimizer, RankFailed, Swarm, SwarmOptimizer, join
from training.shards import Shards

STEPS = 5
GLOBAL_BATCH = 96
PATIENCE_S = 120.0
DTYPE = torch.float64
PEERS = 3
# Below what the norms are.
CLIP = 0.1
# The newcomer comes when the others have taken so many steps.
NEWCOMER_AFTER = 2
# This rank's micro-batch with this number has a gradient that is none: both ranks leave theirs out.
BAD: Batch = (1, 1)


def make_adam(model: nn.Module) -> torch.optim.Optimizer:
    """The same for all peers: it keeps two moments and a number, and clips averages."""
    adam = torch.optim.AdamW(model.parameters(), lr=0.02)

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)

    adam.register_step_pre_hook(clip)
    return adam


def run(options: dict[str, Any]) -> None:
    """The process: `index` counts all of them; `ranks` says how many its peer has."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    folder, peer = Path(options["folder"]), options["peer"]
    speaks, is_sharded = options["rank"] == 0, options["ranks"] > 1
    if is_sharded:
        store = f"file://{folder}/store-{peer}"
        size = options["ranks"]
        distributed.init_process_group(
            "gloo", init_method=store, rank=options["rank"], world_size=size
        )
    with ExitStack() as stack:
        swarm = None
        if speaks:
            if options["late"]:
                wait_until((folder / "begun").exists)
            swarm = stack.enter_context(join("fsdp", initial_peers=options["initial_peers"]))
        model = make_model(DTYPE)
        if is_sharded:
            mesh = init_device_mesh("cpu", (options["ranks"],))
            fully_shard(model[0], mesh=mesh)
            fully_shard(model, mesh=mesh)
            expect_ranks_to_be_told(model, options["rank"])
        own = make_adam(model)
        if not speaks:
            # Rank 0's counts.
            own.param_groups[0]["lr"] = 1.0
        shared = swarm.optimizer(own, model=model, global_batch=GLOBAL_BATCH) if swarm else own
        if is_sharded:
            alone = distributed.new_group([0])
            if speaks:
                with pytest.raises(ValueError, match=r"sharded over the ranks \[0, 1\]"):
                    RankedOptimizer(shared, model=model, group=alone)
        optimizer = RankedOptimizer(shared, model=model) if is_sharded else shared
        Training(options, model, optimizer, swarm).run()
    if is_sharded:
        distributed.destroy_process_group()


class Training:
    """The same calls in each process of a peer."""

    def __init__(
        self,
        options: dict[str, Any],
        model: nn.Module,
        optimizer: RankedOptimizer | SwarmOptimizer,
        swarm: Swarm | None,
    ) -> None:
        self.options, self.model, self.optimizer, self.swarm = options, model, optimizer, swarm
        self.index = options["index"]
        self.folder = Path(options["folder"])
        self.number = 0

    def run(self) -> None:
        """Train, average the state, and write what it came to."""
        optimizer, swarm = self.optimizer, self.swarm
        if swarm is not None:
            wait_until(lambda: len(swarm.peers) >= PEERS - 1)
        assert optimizer.synchronize() == self.options["late"]
        if self.options["late"]:
            assert optimizer.global_step == NEWCOMER_AFTER
            (self.folder / "arrived").touch()
        log = self.train()
        hashes = [optimizer.state_hash()]
        assert optimizer.reaverage().succeeded
        hashes.append(optimizer.state_hash())
        if isinstance(optimizer, RankedOptimizer):
            self.expect_errors(optimizer)
        said = {"steps": log, "hashes": hashes}
        (self.folder / f"{self.index}.json").write_text(json.dumps(said))
        if self.options["ranks"] == 1:
            torch.save(dict(self.model.named_parameters()), self.folder / "plain.pt")
        (self.folder / f"done-{self.index}").touch()
        self.serve_until(lambda: len(list(self.folder.glob("done-*"))) == self.options["members"])

    def train(self) -> dict[int, list[Batch]]:
        """What this process put into each global step."""
        log: dict[int, list[Batch]] = {}
        batches: list[Batch] = []
        optimizer = self.optimizer
        while optimizer.global_step < STEPS:
            batch = (self.index, self.number)
            samples = self.backward()
            if batch == BAD:
                gradient: Any = self.model[0].weight.grad
                gradient.to_local().fill_(float("inf"))
            report = optimizer.step(samples=samples)
            assert report.skipped == (batch[1] == BAD[1] and self.index // 2 == BAD[0] // 2)
            if not report.skipped:
                batches.append(batch)
            if report.stepped:
                log[report.global_step] = batches
            if report.stepped or report.caught_up:
                batches = []
            if optimizer.global_step == NEWCOMER_AFTER:
                (self.folder / "begun").touch()
                self.serve_until((self.folder / "arrived").exists)
        return log

    def backward(self) -> int:
        """The next micro-batch; its samples are as many as chance will have it."""
        inputs, labels = micro_batch((self.index, self.number), DTYPE)
        self.number += 1
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        if isinstance(self.optimizer, RankedOptimizer):
            loss = loss * self.optimizer.loss_weight(samples=len(inputs))
        loss.backward()
        return len(inputs)

    def serve_until(self, happened: Callable[[], bool]) -> None:
        """Wait until it has, as rank 0 sees it; meanwhile others are given what they ask for."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            seen = [happened()]
            if isinstance(self.optimizer, RankedOptimizer):
                distributed.broadcast_object_list(seen)
            if seen[0]:
                return
            assert time.monotonic() < deadline_s, "the others did not come"
            self.optimizer.synchronize()
            time.sleep(0.05)

    def expect_errors(self, optimizer: RankedOptimizer) -> None:
        """What goes wrong on one rank is told by both, and none of it ends their work together."""
        rank = self.options["rank"]
        inputs = torch.ones(2, 8, dtype=DTYPE)
        self.model(inputs).sum().backward()
        with pytest.raises(ValueError, match="FSDP counts each rank the same"):
            optimizer.step(samples=2 + rank)
        if rank == 1:
            self.model[0].weight.grad = None
        with pytest.raises(ValueError if rank == 0 else RankFailed, match=r"'0\.weight' has a"):
            optimizer.step(samples=2)
        assert optimizer.global_step == STEPS
        assert len(optimizer.state_hash()) == 64


def expect_ranks_to_be_told(model: nn.Module, rank: int) -> None:
    """What differs among ranks all hear of, and an error of one rank's optimizer."""
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=r"another model or optimizer \(SGD\) than rank 0 \(AdamW"):
        Shards(model, plain if rank == 1 else make_adam(model))

    def fail(*_: object) -> None:
        raise ArithmeticError("on purpose")

    if rank == 1:
        plain.register_step_pre_hook(fail)
    shards = Shards(model, plain)
    if rank == 1:
        with pytest.raises(ArithmeticError, match="on purpose"):
            shards.follow()
        return
    # With a gradient of zero nothing changes.
    means = {n: torch.zeros(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(RankFailed, match="another rank's optimizer"):
        shards.step(means, plain, 1.0)
    shards.end("over")


def wait_until(happened: Callable[[], bool]) -> None:
    """Look until it has."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline_s, "the others did not come"
        time.sleep(0.01)
