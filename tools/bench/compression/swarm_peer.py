"""One peer of the swarm of `manyhands bench compression`: it learns digits as its parent asks.

    python -m tools.bench.compression.swarm_peer

It obeys: `join` a swarm, `meet` the others, `train` so many global steps, `leave`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from averaging import AveragerConfig
from tools.bench.orders import Orders, errors_told
from training import SwarmConfig, SwarmOptimizer, join
from training.data import ShuffledOrder
from training.recipes.digits import load_data

FLOATS = "floats"
"""Instead of a codec: float32 as it is."""
SAMPLES = 32
"""Of each peer for one global step."""
RATE = 0.2
WIDTH = 670
"""Of both hidden layers: 499 830 parameters, 2 MB of float32."""
_JUDGED = 512
"""Training samples whose loss is looked at after each step."""
_SEED = 4
_MEET_S_MAX = 60.0
_POLL_S = 0.02

Order = dict[str, Any]


class Learner:
    """A peer's model and data, and its place in the swarm once it has joined.

    Args:
        rank: among all peers; decides the order of its samples.
        width: of the hidden layers.
    """

    def __init__(self, rank: int, width: int) -> None:
        torch.manual_seed(_SEED)
        layers = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.model = nn.Sequential(*layers, nn.Linear(width, 10))
        data = load_data()
        mean, deviation = data.train_inputs.mean(), data.train_inputs.std()
        self._inputs, self._test_inputs = (
            ((inputs - mean) / deviation).flatten(1).float()
            for inputs in (data.train_inputs, data.test_inputs)
        )
        self._labels, self._test_labels = data.train_labels, data.test_labels
        self._order = ShuffledOrder(example_count=len(self._labels), seed=_SEED, peer_id=str(rank))
        self._swarm_optimizer: SwarmOptimizer | None = None

    @contextmanager
    def joined(self, *, codec: str, peers: int, initial_peers: list[str]) -> Iterator[str]:
        """Part of the swarm while the block lasts; gives where others find this peer."""
        config = SwarmConfig(averager=averager_config(codec))
        with join("bench-compression", initial_peers=initial_peers, config=config) as swarm:
            own = torch.optim.SGD(self.model.parameters(), lr=RATE)
            batch = peers * SAMPLES
            self._swarm_optimizer = swarm.optimizer(own, model=self.model, global_batch=batch)
            yield swarm.addresses[0]

    @property
    def optimizer(self) -> SwarmOptimizer:
        """That of the swarm, which was joined."""
        assert self._swarm_optimizer is not None, "no swarm was joined"
        return self._swarm_optimizer

    def meet(self, *, peers: int) -> Order:
        """Wait until so many train together; raises TimeoutError."""
        deadline_s = time.monotonic() + _MEET_S_MAX
        while len(self.optimizer.peers()) < peers:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{peers} peers have not met in {_MEET_S_MAX:.0f} s")
            time.sleep(_POLL_S)
        self.optimizer.synchronize()
        return {}

    def train(self, *, steps: int, judge: bool) -> Order:
        """So many more global steps.

        Args:
            judge: say the loss after each, and the accuracy at the end; this takes no time of
                those that are told.
        """
        begun_s = time.perf_counter()
        wanted = self.optimizer.global_step + steps
        reached: list[tuple[int, float, list[torch.Tensor]]] = []
        samples = failed = sent_bytes = 0
        while self.optimizer.global_step < wanted:
            loss = self._loss(self._order.next_batch(SAMPLES))
            loss.backward()  # type: ignore[no-untyped-call]
            report = self.optimizer.step(samples=SAMPLES)
            samples += SAMPLES
            failed += bool(report.failure)
            sent_bytes += report.round.sent_bytes if report.round is not None else 0
            if judge and report.stepped:
                now_s = time.perf_counter() - begun_s
                parameters = [one.detach().clone() for one in self.model.parameters()]
                reached.append((report.global_step, now_s, parameters))
        answer: Order = {
            "seconds": time.perf_counter() - begun_s,
            "samples": samples,
            "failed": failed,
            "sent_bytes": sent_bytes,
            "hash": self.optimizer.state_hash(),
        }
        if judge:
            answer |= {"reached": self._judged(reached), "accuracy": self._accuracy()}
        return answer

    def _judged(
        self, reached: list[tuple[int, float, list[torch.Tensor]]]
    ) -> list[tuple[int, float, float]]:
        """Each step, when it was taken, and the loss after it."""
        own = [one.detach().clone() for one in self.model.parameters()]
        judged = []
        for step, at_s, parameters in reached:
            self._assign(parameters)
            with torch.no_grad():
                judged.append((step, at_s, self._loss(range(_JUDGED)).item()))
        self._assign(own)
        return judged

    def _assign(self, parameters: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for one, value in zip(self.model.parameters(), parameters, strict=True):
                one.copy_(value)

    def _loss(self, indices: Any) -> torch.Tensor:
        chosen = torch.as_tensor(list(indices))
        return nn.functional.cross_entropy(self.model(self._inputs[chosen]), self._labels[chosen])

    def _accuracy(self) -> float:
        with torch.no_grad():
            guessed = self.model(self._test_inputs).argmax(dim=1)
        return float((guessed == self._test_labels).double().mean())


def averager_config(codec: str) -> AveragerConfig:
    """The codec of what goes to aggregators, and after a slash that of results if not the usual.

    Raises:
        ValueError: there is none, or they make no sense together.
    """
    if codec == FLOATS:
        return AveragerConfig()
    up, slash, down = codec.partition("/")
    config = AveragerConfig(codec=up, downlink_codec=down if slash else None)
    config.codecs()
    return config


def _work(orders: Orders) -> None:
    learner: Learner | None = None
    with ExitStack() as place:
        while (order := orders.next()) is not None:
            match order.pop("do"):
                case "join":
                    learner = Learner(order.pop("rank"), order.pop("width"))
                    orders.answer({"address": place.enter_context(learner.joined(**order))})
                case "leave":
                    place.close()
                    orders.answer({})
                case do:
                    assert learner is not None, "who has not joined has nobody to meet"
                    orders.answer(_OBEY[do](learner, **order))


_OBEY: dict[str, Callable[..., Order]] = {"meet": Learner.meet, "train": Learner.train}


def main() -> None:
    """Obey until the parent is gone; an error is an answer, too."""
    orders = Orders()
    torch.set_num_threads(1)
    with errors_told(orders):
        _work(orders)


if __name__ == "__main__":
    main()
