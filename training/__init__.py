"""Training one model together: join a run, wrap an optimizer, and step when the swarm is ready.

The names below are loaded when they are first asked for. So recipes, tasks and optimizers can be
used where the network layer is not installed, such as on a machine that only measures a model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training import split as split
    from training.config import SwarmConfig
    from training.errors import (
        CatchUpFailed,
        CheckpointError,
        Diverged,
        PrivacyBudgetExhausted,
        RankFailed,
        RecipeError,
        SpecDiffers,
        SplitFailed,
        SwarmStuck,
        TrainingError,
        UpdateTooLarge,
    )
    from training.learning_rate import LrRule
    from training.optimizer import SwarmOptimizer
    from training.privacy.inference import (
        PrivateInferenceFailed,
        ask_private,
        serve_private,
    )
    from training.progress import (
        BatchSchedule,
        FixedBatch,
        NoiseScaleBatch,
        PeerProgress,
        ProgressConfig,
        RampBatch,
    )
    from training.ranks import RankedOptimizer
    from training.step_report import StepReport
    from training.strategies.optimizer import LocalOptimizer
    from training.swarm import Swarm, join

_HOMES = {
    "training.config": ("SwarmConfig",),
    "training.errors": (
        "CatchUpFailed",
        "CheckpointError",
        "Diverged",
        "PrivacyBudgetExhausted",
        "RankFailed",
        "RecipeError",
        "SpecDiffers",
        "SplitFailed",
        "SwarmStuck",
        "TrainingError",
        "UpdateTooLarge",
    ),
    "training.learning_rate": ("LrRule",),
    "training.optimizer": ("SwarmOptimizer",),
    "training.privacy.inference": (
        "PrivateInferenceFailed",
        "ask_private",
        "serve_private",
    ),
    "training.progress": (
        "BatchSchedule",
        "FixedBatch",
        "NoiseScaleBatch",
        "PeerProgress",
        "ProgressConfig",
        "RampBatch",
    ),
    "training.ranks": ("RankedOptimizer",),
    "training.step_report": ("StepReport",),
    "training.strategies.optimizer": ("LocalOptimizer",),
    "training.swarm": ("Swarm", "join"),
}
_PACKAGES = ("split",)
"""Loaded like names, so that `import training` is enough to use them."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BatchSchedule",
    "CatchUpFailed",
    "CheckpointError",
    "Diverged",
    "FixedBatch",
    "LocalOptimizer",
    "LrRule",
    "NoiseScaleBatch",
    "PeerProgress",
    "PrivacyBudgetExhausted",
    "PrivateInferenceFailed",
    "ProgressConfig",
    "RampBatch",
    "RankFailed",
    "RankedOptimizer",
    "RecipeError",
    "SpecDiffers",
    "SplitFailed",
    "StepReport",
    "Swarm",
    "SwarmConfig",
    "SwarmOptimizer",
    "SwarmStuck",
    "TrainingError",
    "UpdateTooLarge",
    "ask_private",
    "join",
    "serve_private",
    "split",
]


def __getattr__(name: str) -> Any:
    """Load a name from the module that it lives in, and keep it."""
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
