"""The training loop: its events, resuming, and how it ends early."""

from __future__ import annotations

import contextlib
import queue
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from tests.training.test_checkpoint import room_for
from training.errors import CheckpointError, Diverged
from training.loop import SKIPPED_MAX, TrainOptions, TrainResult, run_recipe
from training.recipe import (
    BatchRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    StrategyRecipe,
    load_recipe,
    override,
)
from training.recipes.digits import load_data
from training.tasks.classification import Classification

HERE = __name__


def short_recipe(steps: int) -> Recipe:
    """The built-in recipe, over after a few steps."""
    changes = {"steps": steps, "global_batch": 64, "checkpoint_every": 4}
    return override(load_recipe("digits"), changes, source="test")


def test_one_peer_alone_trains_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    events: list[dict[str, Any]] = []
    first = run_recipe(short_recipe(6), TrainOptions(checkpoint_dir=folder), events.append)
    assert (first.ended, first.step) == ("finished", 6)
    assert first.samples >= 6 * 64 * 0.9
    assert first.accuracy is not None
    assert first.figures == {"accuracy": first.accuracy}
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    assert kinds == [
        *("prepared", "started", "step", "step", "step", "step", "checkpoint", "step", "step"),
        *("checkpoint", "finished"),
    ]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0]["round"]["members"] == [first.peer_id]
    assert steps[0]["round"]["fractions"] == {first.peer_id: 1.0}
    assert events[-1]["hash"] == first.parameter_hash
    assert all(event["time_s"] > 1e9 for event in events)

    again = run_recipe(
        short_recipe(8), TrainOptions(checkpoint_dir=folder, resume=True), events.append
    )
    assert (again.step, again.samples > first.samples) == (8, True)
    later = [event["step"] for event in events if event["event"] == "step"]
    assert later == [1, 2, 3, 4, 5, 6, 7, 8]

    with pytest.raises(CheckpointError, match="already holds checkpoints"):
        run_recipe(short_recipe(8), TrainOptions(checkpoint_dir=folder), events.append)


class Slope:
    """A task whose gradient is 2 everywhere, and whose figure is the weight itself."""

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> Counter:
        return Counter(drawn)

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch) * 2).mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"weight": float(model(torch.ones(1, 1)))}


class Counter:
    """Draws ones."""

    def __init__(self, drawn: int) -> None:
        self.drawn = drawn

    def next_batch(self, size: int) -> torch.Tensor:
        self.drawn += size
        return torch.ones(size, 1)


def slope_model() -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def slope_recipe(steps: int, **changes: Any) -> Recipe:
    """Each step takes the rate, cut to 0.5 of the gradient's 2, from the weight."""
    return msgspec.structs.replace(
        load_recipe("digits"),
        run="slope",
        model=f"{HERE}:slope_model",
        data=f"{HERE}:Slope",
        optimizer=OptimizerRecipe(name="sgd", options={"lr": 1.0}),
        schedule=ScheduleRecipe(name="linear", warmup=2, steps=6),
        clip_norm=0.5,
        global_batch=4,
        micro_batch=4,
        steps=steps,
        **changes,
    )


def test_rates_clipping_and_the_running_mean_go_on_in_a_resumed_run(tmp_path: Path) -> None:
    factors = [0.5, 1.0, 1.0, 0.75, 0.5]
    path = [-0.5 * sum(factors[:step]) for step in range(1, 6)]
    alone = run_recipe(slope_recipe(5), TrainOptions(), lambda event: None)
    assert alone.figures == {"weight": pytest.approx(path[-1], abs=1e-5)}
    assert alone.accuracy is None

    mean = 0.0
    for weight in path:
        mean = 0.5 * mean + 0.5 * weight
    options = TrainOptions(checkpoint_dir=tmp_path, resume=True)
    events: list[dict[str, Any]] = []
    run_recipe(slope_recipe(2, ema_decay=0.5), options, events.append)
    resumed = run_recipe(slope_recipe(5, ema_decay=0.5), options, events.append)
    assert resumed.figures == {"weight": pytest.approx(mean, abs=1e-5)}
    assert resumed.parameter_hash == alone.parameter_hash
    assert (events[-1]["figures"], events[-1]["accuracy"]) == (resumed.figures, None)

    path_of_newest = tmp_path / "step-000000005.pt"
    content = torch.load(path_of_newest, weights_only=True)
    torch.save(content | {"ema": {"step": 5, "means": {}}}, path_of_newest)
    with pytest.raises(CheckpointError, match="running mean cannot be used"):
        run_recipe(slope_recipe(6, ema_decay=0.5), options, events.append)


def plain_slope(steps: int, **changes: Any) -> Recipe:
    """Each local step takes 2 from the weight, and from a step with a mean gradient as much."""
    plain = {"schedule": ScheduleRecipe(name="constant"), "clip_norm": 0.0}
    return msgspec.structs.replace(slope_recipe(steps), **(plain | changes))


def test_a_batch_that_grows_and_a_rate_that_follows_it() -> None:
    ramp = BatchRecipe(name="ramp", options={"last": 12, "steps": 2})
    events: list[dict[str, Any]] = []
    result = run_recipe(plain_slope(3, batch=ramp, lr_rule="linear"), TrainOptions(), events.append)
    # Batches of 4, 8 and 12, of which each step's rate is one, two and three times the first.
    assert [event["samples"] for event in events if event["event"] == "step"] == [4, 8, 12]
    assert result.figures == {"weight": pytest.approx(-2.0 * (1 + 2 + 3))}


def test_delayed_updates_end_with_the_step_that_was_under_way() -> None:
    events: list[dict[str, Any]] = []
    result = run_recipe(plain_slope(3, delayed=True), TrainOptions(), events.append)
    assert result.figures == {"weight": pytest.approx(-2.0 * 4)}
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3]
    assert (result.step, events[-1]["step"], events[-1]["equal"]) == (4, 4, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local-sgd", "diloco", "leader", "federated", "scaffold"])
def test_a_strategy_counts_exchanges_and_resumes(name: str, tmp_path: Path) -> None:
    options = {"every": 2} | ({"every_of_swarm": 4} if name == "leader" else {})
    changes = {"global_batch": None, "strategy": StrategyRecipe(name=name, options=options)}
    events: list[dict[str, Any]] = []
    alone = run_recipe(plain_slope(3, **changes), TrainOptions(), events.append)
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3]
    assert (events[-1]["event"], events[-1]["equal"]) == ("finished", None)
    assert all(e["global_batch"] == 0 for e in events if e["event"] == "progress")
    if name in ("local-sgd", "federated", "scaffold"):
        # Three times two steps, of which nothing is averaged but with itself.
        assert alone.figures == {"weight": pytest.approx(-2.0 * 6)}
    folder = TrainOptions(checkpoint_dir=tmp_path, resume=True)
    run_recipe(plain_slope(2, **changes), folder, events.append)
    resumed = run_recipe(plain_slope(3, **changes), folder, events.append)
    assert resumed.figures == alone.figures
    assert resumed.parameter_hash == alone.parameter_hash


def test_two_peers_of_a_strategy_end_with_what_both_share() -> None:
    strategy = StrategyRecipe(name="diloco", options={"every": 3})
    recipe = plain_slope(4, global_batch=None, strategy=strategy)
    address: queue.Queue[str] = queue.Queue()
    results: list[TrainResult] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "started":
            address.put(event["addresses"][0])

    first = TrainOptions(wait_for_peers=2)
    one = threading.Thread(target=lambda: results.append(run_recipe(recipe, first, on_event)))
    one.start()
    second = TrainOptions(wait_for_peers=2, initial_peers=(address.get(timeout=60.0),))
    results.append(run_recipe(recipe, second, lambda event: None))
    one.join()
    assert [result.step for result in results] == [4, 4]
    assert results[0].parameter_hash == results[1].parameter_hash
    assert results[0].figures == results[1].figures


class Flawed:
    """The digits, where some micro-batches hold what is no number."""

    def __init__(self, every: int) -> None:
        self.task = Classification(load_data())
        self.every = every

    def batches(self, *, seed: int, peer_id: str, drawn: int) -> FlawedBatches:
        return FlawedBatches(self, self.task.batches(seed=seed, peer_id=peer_id, drawn=drawn))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return self.task.loss(model, (batch[0].float(), batch[1]))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"finite": float(all(p.isfinite().all() for p in model.parameters()))}


class FlawedBatches:
    """One in so many is spoilt."""

    def __init__(self, task: Flawed, inner: Any) -> None:
        self.task, self.inner, self.count = task, inner, 0

    @property
    def drawn(self) -> int:
        drawn: int = self.inner.drawn
        return drawn

    def next_batch(self, size: int) -> Any:
        inputs, labels = self.inner.next_batch(size)
        self.count += 1
        if self.count % self.task.every == 0:
            inputs[0] = float("nan")
        return inputs, labels


def test_what_is_not_finite_is_dropped_and_told() -> None:
    recipe = msgspec.structs.replace(
        short_recipe(3), data=f"{HERE}:Flawed", data_options={"every": 3}
    )
    events: list[dict[str, Any]] = []
    result = run_recipe(recipe, TrainOptions(), events.append)
    assert (result.ended, result.step, result.figures) == ("finished", 3, {"finite": 1.0})
    skipped = [event for event in events if event["event"] == "skipped"]
    assert {event["reason"] for event in skipped} == {"its loss is nan"}
    assert result.samples == 3 * 64
    assert len(skipped) == 2, "six good ones need two bad ones between them"


def test_a_model_that_diverged_ends_with_advice() -> None:
    recipe = msgspec.structs.replace(
        short_recipe(3), data=f"{HERE}:Flawed", data_options={"every": 1}
    )
    events: list[dict[str, Any]] = []
    with pytest.raises(Diverged, match=r"10 micro-batches one after another.*lower the learning"):
        run_recipe(recipe, TrainOptions(), events.append)
    assert [event["event"] for event in events].count("skipped") == SKIPPED_MAX


def test_a_full_disk_ends_the_run_and_the_last_state_stays(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "checkpoint":
                stack.enter_context(room_for(100))

        with pytest.raises(CheckpointError, match="make room or give another folder"):
            run_recipe(short_recipe(20), TrainOptions(checkpoint_dir=tmp_path), on_event)
    again = TrainOptions(checkpoint_dir=tmp_path, resume=True)
    assert run_recipe(short_recipe(5), again, lambda event: None).step == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000004.pt",
        "step-000000005.pt",
    ]


def test_a_finished_run_resumes_to_its_end(tmp_path: Path) -> None:
    options = TrainOptions(checkpoint_dir=tmp_path, resume=True)
    first = run_recipe(short_recipe(2), options, lambda event: None)
    again = run_recipe(short_recipe(2), options, lambda event: None)
    assert again.parameter_hash == first.parameter_hash
    assert again.accuracy == first.accuracy


def test_ctrl_c_leaves_the_swarm() -> None:
    events: list[dict[str, Any]] = []

    def interrupt(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    result = run_recipe(short_recipe(100), TrainOptions(), interrupt)
    assert (result.ended, result.step, result.accuracy) == ("stopped", 3, None)
    assert result.peer_id == events[1]["peer_id"]
    assert events[-1]["event"] == "stopped"
    assert events[-1]["reason"] == "Ctrl-C"


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="resume needs"):
        TrainOptions(resume=True)
    with pytest.raises(ValueError, match="fewer than one"):
        TrainOptions(wait_for_peers=0)
