"""PyTorch Lightning in a swarm: the steps of a plain Trainer, counted as the swarm counts."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.training.plugins.lines import Line, Points, assert_equal_models, training_peer
from training import Swarm, join

pytorch: Any
plugin: Any
Module: Any  # an ordinary module

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before the epoch"),
]


@pytest.fixture(scope="module", autouse=True)
def _load() -> Iterator[None]:
    """Load the packages only when a test runs, since they take seconds, and silence Lightning."""
    global pytorch, plugin, Module
    pytest.importorskip("lightning")
    pytorch = importlib.import_module("lightning.pytorch")
    plugin = importlib.import_module("training.plugins.lightning")
    Module = module_class()
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def module_class() -> Any:
    """The class of an ordinary module."""

    class Module(pytorch.LightningModule):  # type: ignore[misc,name-defined]
        """An ordinary module with a rate that falls step by step."""

        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            self.line = Line(seed)
            self.rates: list[float] = []

        def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.rates.append(self.optimizers().param_groups[0]["lr"])
            loss: torch.Tensor = self.line(**batch)["loss"]
            return loss

        def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
            self.log("loss", self.line(**batch)["loss"])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.8)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": schedule, "interval": "step"},
            }

    return Module


def trainer(*callbacks: Any, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "max_steps": 3,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **changes,
    }
    return pytorch.Trainer(callbacks=list(callbacks), **options)


def shared(swarm: Swarm) -> Any:
    return plugin.SwarmCallback(swarm, global_batch=32)


def batches() -> DataLoader[dict[str, torch.Tensor]]:
    """In one order, so that a plain Trainer computes the same."""
    return DataLoader(Points(), batch_size=8)


@pytest.mark.parametrize("clip", [{"gradient_clip_val": 0.5}, {"gradient_clip_val": 0.1}])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_its_steps_are_those_of_a_trainer_with_the_whole_batch(
    accumulation: int, clip: dict[str, Any]
) -> None:
    if clip["gradient_clip_val"] == 0.1:
        clip = {**clip, "gradient_clip_algorithm": "value"}
    ours, theirs = Module(), Module()
    with join("lines") as swarm:
        one = trainer(shared(swarm), accumulate_grad_batches=accumulation, **clip)
        one.fit(ours, batches(), batches())
        assert (one.global_step, swarm.global_step) == (3, 3)
    one.validate(ours, batches(), verbose=False)  # the swarm is left by now
    trainer(accumulate_grad_batches=4, **clip).fit(theirs, batches(), batches())
    assert_equal_models(ours, theirs)
    assert ours.rates == pytest.approx(theirs.rates)


def test_checkpoints_are_at_global_steps_and_a_run_goes_on_from_them(tmp_path: Path) -> None:
    checkpoints = pytorch.callbacks.ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1
    )

    with join("lines") as swarm:
        one = trainer(shared(swarm), checkpoints, max_steps=4, enable_checkpointing=True)
        one.fit(Module(), batches(), batches())
    saved = sorted(path.name for path in tmp_path.iterdir())
    assert saved == ["step=2.ckpt", "step=4.ckpt"]

    steps: list[int] = []

    class Look(pytorch.Callback):  # type: ignore[misc,name-defined]
        def on_train_batch_end(self, trainer: Any, *more: Any) -> None:
            steps.append(trainer.global_step)

    with join("lines") as swarm:
        again = trainer(
            *(shared(swarm), Look(), checkpoints), max_steps=6, enable_checkpointing=True
        )
        again.fit(Module(seed=1), batches(), batches(), ckpt_path=str(tmp_path / "step=4.ckpt"))
        assert (again.global_step, swarm.global_step) == (6, 6)
    assert steps == [4, 4, 4, 5, 5, 5, 5, 6]


def test_a_late_trainer_takes_over_the_state_and_ends_with_the_swarm() -> None:
    # Lightning's module names the parameters; a plain peer names them alike.
    theirs = torch.nn.ModuleDict({"line": Line(seed=1)})
    theirs.forward = theirs["line"].forward  # type: ignore[method-assign]
    with (
        training_peer("lines", theirs, global_batch=32, steps_before=3) as addresses,
        join("lines", initial_peers=addresses) as swarm,
    ):
        module = Module(seed=2)
        one = trainer(shared(swarm), max_steps=30)
        one.fit(module, batches(), batches())
        assert one.global_step == swarm.global_step >= 30
        assert len(swarm.peers) == 2
        # The first rate is that of the step at which it came.
        assert module.rates[0] <= 0.05 * 0.8**3


def test_peers_with_one_seed_draw_different_random_numbers() -> None:
    drawn: list[float] = []
    for _ in range(2):
        with join("lines") as swarm:
            pytorch.seed_everything(3, verbose=False)
            trainer(shared(swarm), max_steps=1).fit(Module(), batches(), batches())
            drawn.append(torch.rand(()).item())
    assert drawn[0] != drawn[1]


def test_what_cannot_work_is_refused() -> None:
    module = Module()
    module.automatic_optimization = False
    with join("lines") as swarm, pytest.raises(ValueError, match="optimized automatically"):
        trainer(shared(swarm)).fit(module, batches(), batches())


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "training.plugins.lightning")
    with pytest.raises(ImportError, match=r"pip install 'manyhands\[lightning\]'"):
        importlib.import_module("training.plugins.lightning")
