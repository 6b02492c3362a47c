"""The Trainer of transformers in a swarm: the steps of a plain one, and everything once a step."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.plugins.lines import (
    Line,
    Points,
    assert_equal_models,
    momentum,
    training_peer,
)
from training import Swarm, join

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

transformers: Any
huggingface: Any


@pytest.fixture(scope="module", autouse=True)
def _load() -> None:
    """Load the packages only when a test runs: they take seconds."""
    global transformers, huggingface
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    huggingface = importlib.import_module("training.plugins.huggingface")


def arguments(folder: Path, **changes: Any) -> Any:
    return transformers.TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.05,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            **changes,
        }
    )


class Diary:
    """At which step what happened."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.evaluated: list[int] = []
        self.saved: list[int] = []
        self.logged: list[int] = []

    def callback(self) -> Any:
        """Writes it."""
        diary = self

        class Callback(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
            def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                diary.began.append(state.global_step)

            def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                diary.evaluated.append(state.global_step)

            def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                diary.saved.append(state.global_step)

            def on_log(
                self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any
            ) -> None:
                if "loss" in logs:
                    diary.logged.append(state.global_step)

        return Callback()


def swarm_trainer(swarm: Swarm, args: Any, model: Line, *, diary: Diary | None = None) -> Any:
    trainer = huggingface.SwarmTrainer(
        model,
        args,
        train_dataset=Points(),
        eval_dataset=Points(),
        optimizers=(momentum(model), None),
        swarm=swarm,
        global_batch=32,
    )
    if diary is not None:
        trainer.add_callback(diary.callback())
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_its_steps_are_those_of_a_trainer_with_the_whole_batch(
    tmp_path: Path, accumulation: int
) -> None:
    ours, theirs = Line(), Line()
    with join("lines") as swarm:
        trainer = swarm_trainer(
            swarm,
            arguments(tmp_path, max_grad_norm=0.5, gradient_accumulation_steps=accumulation),
            ours,
        )
        output = trainer.train()
        assert (output.global_step, swarm.global_step) == (4, 4)
    plain = transformers.Trainer(
        theirs,
        arguments(
            tmp_path,
            max_grad_norm=0.5,
            gradient_accumulation_steps=4,
            data_seed=trainer.args.data_seed,
        ),
        train_dataset=Points(),
        optimizers=(momentum(theirs), None),
    )
    expected = plain.train()
    assert_equal_models(ours, theirs)
    assert output.training_loss == pytest.approx(expected.training_loss, abs=1e-4)
    for key in ("loss", "learning_rate"):
        logs = [
            [entry[key] for entry in one.state.log_history if key in entry]
            for one in (trainer, plain)
        ]
        assert logs[0] == pytest.approx(logs[1], abs=1e-3)


def test_logs_evaluations_and_checkpoints_happen_once_at_their_steps(tmp_path: Path) -> None:
    diary = Diary()
    args = arguments(
        tmp_path,
        max_steps=6,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=2,
    )
    with join("lines") as swarm:
        trainer = swarm_trainer(swarm, args, Line(), diary=diary)
        trainer.train()
    assert (diary.logged, diary.evaluated, diary.saved) == ([2, 4, 6], [3, 6], [2, 4, 6])

    # Another peer goes on from there; it draws other examples.
    with join("lines") as swarm:
        diary = Diary()
        again = swarm_trainer(swarm, arguments(tmp_path, max_steps=8), Line(seed=1), diary=diary)
        assert again.args.data_seed != trainer.args.data_seed
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
        assert diary.began == [6]
        assert (again.state.global_step, swarm.global_step) == (8, 8)
        assert again.shared.state_dict()["swarm"]["samples"] == 8 * 32
    checkpoint = torch.load(tmp_path / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert checkpoint["swarm"]["step"] == 6


def test_a_late_trainer_takes_over_the_state_and_ends_with_the_swarm(tmp_path: Path) -> None:
    with (
        training_peer("lines", Line(seed=1), global_batch=32, steps_before=3) as addresses,
        join("lines", initial_peers=addresses) as swarm,
    ):
        model = Line(seed=2)
        diary = Diary()
        trainer = swarm_trainer(swarm, arguments(tmp_path, max_steps=40), model, diary=diary)
        trainer.train()
        assert diary.began[0] >= 3
        assert trainer.state.global_step == swarm.global_step >= 40
        assert len(swarm.peers) == 2
        # The rate fell by the swarm's steps, not by those computed here.
        assert trainer.lr_scheduler.last_epoch == swarm.global_step


def test_tokens_can_be_counted_instead_of_sequences(tmp_path: Path) -> None:
    model = Line()
    with join("lines") as swarm:
        trainer = huggingface.SwarmTrainer(
            model,
            arguments(tmp_path, max_steps=2),
            train_dataset=Points(),
            swarm=swarm,
            global_batch=48,
            count=lambda batch: batch["inputs"].numel(),
        )
        trainer.train()
        # 8 examples of 3 numbers each: two micro-batches are one step.
        assert trainer.shared.state_dict()["swarm"]["samples"] == 96


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with join("lines") as swarm, pytest.raises(ValueError, match="max_steps"):
        swarm_trainer(swarm, arguments(tmp_path, max_steps=-1), Line())


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "training.plugins.huggingface")
    with pytest.raises(ImportError, match=r"pip install 'manyhands\[huggingface\]'"):
        importlib.import_module("training.plugins.huggingface")


def test_the_users_arguments_stay_as_they_are(tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=1)
    with join("lines") as swarm:
        swarm_trainer(swarm, args, Line()).train()
    assert (args.data_seed, args.max_grad_norm) == (None, 1.0)
    assert torch.initial_seed() == args.seed
