"""One peer of `manyhands bench overlap`: it trains as its parent asks, and says where time went.

    python -m tools.bench.overlap_worker

It obeys: `make` a model, `join` a swarm with it, `meet` the others, `train` so many global steps,
`leave`; or `begin` a round, and `loop` over bare computing for a while, which needs no swarm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from averaging import AveragerConfig, RoundReport
from tools.bench.orders import Orders, errors_told
from training import StepReport, SwarmConfig, SwarmOptimizer, join

SAMPLES = 8
"""In a micro-batch."""
_MEET_S_MAX = 60.0
_POLL_S = 0.02
_SEED = 3
# Linux says how long a thread could have run and was given no core, in nanoseconds.
_SCHEDULE = Path("/proc/thread-self/schedstat")

Order = dict[str, Any]


class OptimizerClock:
    """How long the wrapped optimizer itself has stepped: a plain loop pays for that, too."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.seconds = 0.0
        self._begun_s = 0.0
        optimizer.register_step_pre_hook(self._begin)
        optimizer.register_step_post_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._begun_s = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._begun_s


@dataclass
class Figures:
    """Where the time of some global steps went."""

    begun_s: float
    optimizer_before_s: float
    """What the optimizer's clock had counted by then."""
    micro_batches: int = 0
    gradients_s: float = 0.0
    """Forward, backward, and the sleep that makes a micro-batch as long as it should be."""
    waited_s: float = 0.0
    coreless_s: float = 0.0
    """In step(), while it could have gone on and other processes had the cores."""
    failed: int = 0
    caught_up: int = 0
    rounds: list[RoundReport] = field(default_factory=list)

    def on_step(self, report: StepReport, gradients_s: float, coreless_s: float) -> None:
        """A micro-batch was computed, and step() called with it."""
        self.coreless_s += coreless_s
        self.micro_batches += 1
        self.gradients_s += gradients_s
        self.waited_s += report.waited_s
        self.failed += bool(report.failure)
        self.caught_up += report.caught_up
        if report.stepped and report.round is not None:
            self.rounds.append(report.round)

    def answer(self, optimizer_s: float) -> Order:
        """Everything in numbers, now that the last of these steps is taken."""
        return {
            "wall_s": time.perf_counter() - self.begun_s,
            "micro_batches": self.micro_batches,
            "computing_s": self.gradients_s + optimizer_s - self.optimizer_before_s,
            "optimizer_s": optimizer_s - self.optimizer_before_s,
            "waited_s": self.waited_s,
            "coreless_s": self.coreless_s,
            "failed": self.failed,
            "caught_up": self.caught_up,
            "round_s": [one.seconds for one in self.rounds],
            "matchmaking_s": [one.matchmaking_seconds for one in self.rounds],
            "transfer_s": [one.transfer_seconds for one in self.rounds],
            "agreement_s": [one.agreement_seconds for one in self.rounds],
            "sent_bytes": sum(one.sent_bytes for one in self.rounds),
        }


class Trainee:
    """A model, and the swarm's optimizer for it once a swarm is joined."""

    def __init__(self, rank: int, parameters: int) -> None:
        # The same at all peers; what they compute it on is not.
        torch.manual_seed(_SEED)
        width = max(1, round((parameters / 2) ** 0.5))
        self.model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self._own = torch.optim.AdamW(self.model.parameters())
        self._clock = OptimizerClock(self._own)
        self._swarm_optimizer: SwarmOptimizer | None = None
        self._inputs = torch.Generator().manual_seed(rank)
        self._width = width
        self._began_s = time.perf_counter()

    @contextmanager
    def joined(
        self, run: str, initial_peers: list[str], micro_batches: int, delayed: bool
    ) -> Iterator[str]:
        """Part of a swarm while the block lasts; gives where others find this peer."""
        config = SwarmConfig(averager=AveragerConfig(wire_dtype="float16"))
        with join(run, initial_peers=initial_peers, config=config) as swarm:
            self._swarm_optimizer = swarm.optimizer(
                self._own,
                model=self.model,
                global_batch=micro_batches * SAMPLES,
                delayed=delayed,
            )
            yield swarm.addresses[0]

    @property
    def optimizer(self) -> SwarmOptimizer:
        """That of the swarm, which was joined."""
        assert self._swarm_optimizer is not None, "no swarm was joined"
        return self._swarm_optimizer

    def compute(self, samples: int = SAMPLES) -> None:
        """The gradient of a micro-batch."""
        inputs = torch.randn(samples, self._width, generator=self._inputs)
        loss = nn.functional.mse_loss(self.model(inputs), inputs)
        loss.backward()  # type: ignore[no-untyped-call]

    def meet(self, *, peers: int) -> Order:
        """Wait until so many train together; raises TimeoutError."""
        deadline_s = time.monotonic() + _MEET_S_MAX
        while len(self.optimizer.peers()) < peers:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{peers} peers have not met in {_MEET_S_MAX:.0f} s")
            time.sleep(_POLL_S)
        self.optimizer.synchronize()
        return {}

    def train(self, *, warmup: int, steps: int, micro_batch_s: float) -> Order:
        """Global steps whose micro-batches take so long each; the first few are not counted."""
        figures: Figures | None = None
        while self.optimizer.global_step < warmup + steps:
            begun_s = time.perf_counter()
            self.compute()
            time.sleep(max(0.0, begun_s + micro_batch_s - time.perf_counter()))
            computed_s, coreless_before_s = time.perf_counter(), _coreless_s()
            report = self.optimizer.step(samples=SAMPLES)
            if figures is not None:
                coreless_s = _coreless_s() - coreless_before_s
                figures.on_step(report, computed_s - begun_s, coreless_s)
            elif report.global_step >= warmup:
                figures = Figures(time.perf_counter(), self._clock.seconds)
        assert figures is not None
        # First of all the clock is read.
        answer = figures.answer(self._clock.seconds)
        return {**answer, "hash": self.optimizer.state_hash()}

    def begin(self) -> Order:
        """Put a round under way; the answer is about the round before it."""
        self.compute()
        report = self.optimizer.step(samples=SAMPLES)
        self._began_s = time.perf_counter()
        round_s = report.round.seconds if report.stepped and report.round is not None else None
        return {"began": report.began, "round_s": round_s, "waited_s": report.waited_s}

    def loop(self, *, seconds: float, samples: int) -> Order:
        """Compute, and nothing else, for so long; when each step ended is counted from begin()."""
        ended_s: list[float] = []
        took_s: list[float] = []
        coreless_s: list[float] = []
        deadline_s = time.perf_counter() + seconds
        while (begun_s := time.perf_counter()) < deadline_s:
            coreless_before_s = _coreless_s()
            self.compute(samples)
            self.model.zero_grad()
            now_s = time.perf_counter()
            coreless_s.append(_coreless_s() - coreless_before_s)
            took_s.append(now_s - begun_s)
            ended_s.append(now_s - self._began_s)
        return {"ended_s": ended_s, "took_s": took_s, "coreless_s": coreless_s}


def _coreless_s() -> float:
    """How long this thread has waited for a core so far; 0 where the system does not say."""
    try:
        return int(_SCHEDULE.read_text("ascii").split()[1]) / 1e9
    except OSError:
        return 0.0


def _work(orders: Orders) -> None:
    trainee: Trainee | None = None
    with ExitStack() as place:
        while (order := orders.next()) is not None:
            do = order.pop("do")
            if do == "leave":
                place.close()
                orders.answer({})
            elif do == "make":
                trainee = Trainee(**order)
                orders.answer({})
            else:
                assert trainee is not None, "a model is made first"
                if do == "join":
                    orders.answer({"hello": place.enter_context(trainee.joined(**order))})
                else:
                    orders.answer(_OBEY[do](trainee, **order))


_OBEY: dict[str, Callable[..., Order]] = {
    "meet": Trainee.meet,
    "train": Trainee.train,
    "begin": Trainee.begin,
    "loop": Trainee.loop,
}


def main() -> None:
    """Obey until the parent is gone; an error is an answer, too."""
    orders = Orders()
    torch.set_num_threads(1)
    with errors_told(orders):
        _work(orders)


if __name__ == "__main__":
    main()
