"""A process of the run with churn: several peers, each with a node and an identity of its own.

Each peer trains in a thread. A line on stdin is the number of the last global step; its end means
that the driver is gone. Peers would fight over a few cores if they computed all the time, so each
waits between micro-batches, as long as a slower computer of its own would compute.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import torch

from averaging import AveragerConfig
from p2p import P2PError
from training import ProgressConfig, SwarmConfig, TrainingError, join
from training.loop import agree_at_the_end
from training.micro_batch import compute_gradient
from training.recipe import Recipe, load_recipe, override
from training.recipes.build import build_model, build_optimizer, build_task
from training.run_log import RunLog
from training.task import evaluate

RUN = "forty"
RECIPE = "digits"
POLL_S = 0.1
PACE_SPREAD = 0.5
"""Peers are up to so much faster or slower than the mean: nobody's computers are alike."""
ROUND_DEADLINE_S = 90.0


class Orders:
    """What the driver has said."""

    def __init__(self) -> None:
        self._last_step: int | None = None

    def read(self, words: TextIO) -> None:
        """Listen until the driver is gone; then this process has nothing to do, either."""
        for line in words:
            self._last_step = int(line)
        os._exit(1)

    def go_on(self, step: int) -> bool:
        """Whether a step follows this one."""
        return self._last_step is None or step < self._last_step


class Events:
    """The log of all peers of this process, line by line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, peer: str, event: dict[str, Any]) -> None:
        """One line, in one piece."""
        with self._lock:
            self._file.write(json.dumps({"peer": peer, **event}) + "\n")


class Peer:
    """One peer of this process."""

    building = threading.Lock()
    """Models draw their parameters from PyTorch's one generator, so one is built at a time."""

    def __init__(
        self, name: str, options: argparse.Namespace, orders: Orders, events: Events
    ) -> None:
        self.name = name
        self._options = options
        self._orders = orders
        self._events = events
        faster = 1 + PACE_SPREAD * (2 * random.Random(f"{options.seed} {name}").random() - 1)
        self._pause_s = options.pause_s * faster

    def run(self) -> None:
        """Train to the end; an error is the driver's to judge."""
        try:
            self._train()
        except (P2PError, TrainingError, TimeoutError) as exc:
            self._say({"event": "failed", "time_s": time.time(), "error": repr(exc)})

    def _say(self, event: dict[str, Any]) -> None:
        if event["event"] == "prepared":
            event["samples_per_s_alone"] = self._options.micro_batch / self._pause_s
        self._events.write(self.name, event)

    def _train(self) -> None:
        recipe = _recipe(self._options)
        with self.building:
            task, model = build_task(recipe), build_model(recipe)
            own_optimizer = build_optimizer(recipe.optimizer, model.parameters())
        log = RunLog(self._say)
        log.prepared()
        config = _config(self._options.silence_s)
        with join(RUN, initial_peers=[self._options.address], config=config) as swarm:
            optimizer = swarm.optimizer(
                own_optimizer, model=model, global_batch=recipe.global_batch
            )
            batches = task.batches(seed=recipe.seed, peer_id=swarm.peer_id, drawn=0)
            log.started(swarm, run=RUN, step=0, samples=0)
            while len(swarm.peers) < self._options.together and optimizer.global_step == 0:
                time.sleep(POLL_S)
            if optimizer.synchronize():
                log.caught_up(optimizer.global_step)
            while self._orders.go_on(optimizer.global_step):
                began_s = time.monotonic()
                batch = compute_gradient(task, model, batches.next_batch(recipe.micro_batch))
                time.sleep(max(0.0, began_s + self._pause_s - time.monotonic()))
                report = optimizer.step(samples=recipe.micro_batch)
                optimizer.zero_grad()
                log.after_micro_batch(report, batch.loss)
            equal = agree_at_the_end(swarm, optimizer, optimizer.global_step, log)
            log.finished(
                figures=evaluate(task, model), parameter_hash=optimizer.state_hash(), equal=equal
            )


def _config(silence_s: float) -> SwarmConfig:
    """As usual but for the patience: where dozens of peers share two cores, each is silent long."""
    return SwarmConfig(
        round_deadline_s=ROUND_DEADLINE_S,
        averager=AveragerConfig(silence_s=silence_s, linger_s=4 * silence_s),
        progress=ProgressConfig(heartbeat_s=silence_s / 4, report_timeout_s=silence_s / 2),
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    changes = {"micro_batch": options.micro_batch, "global_batch": options.global_batch}
    return override(load_recipe(RECIPE), changes, source="options")


def main() -> None:
    """Run all peers of this process; it ends when the last of them has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("address")
    parser.add_argument("events", type=Path)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--together", type=int, required=True)
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--global-batch", type=int, required=True)
    parser.add_argument("--pause-s", type=float, required=True)
    parser.add_argument("--silence-s", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # A process of several peers once died of a signal as they started; this tells where, next time.
    faulthandler.enable()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    orders = Orders()
    threading.Thread(target=orders.read, args=(sys.stdin,), daemon=True).start()
    with options.events.open("a", encoding="utf-8", buffering=1) as file:
        events = Events(file)
        names = [f"{options.name}.{number + 1}" for number in range(options.peers)]
        peers = [Peer(name, options, orders, events) for name in names]
        threads = [threading.Thread(target=peer.run, name=peer.name) for peer in peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
