"""Training one model together: join a run, wrap an optimizer, and step when the swarm is ready."""

from training.config import SwarmConfig
from training.errors import (
    CatchUpFailed,
    CheckpointError,
    RecipeError,
    SpecDiffers,
    SwarmStuck,
    TrainingError,
)
from training.optimizer import StepReport, SwarmOptimizer
from training.progress import BatchSchedule, FixedBatch, PeerProgress, ProgressConfig
from training.strategies.optimizer import LocalOptimizer
from training.swarm import Swarm, join

__all__ = [
    "BatchSchedule",
    "CatchUpFailed",
    "CheckpointError",
    "FixedBatch",
    "LocalOptimizer",
    "PeerProgress",
    "ProgressConfig",
    "RecipeError",
    "SpecDiffers",
    "StepReport",
    "Swarm",
    "SwarmConfig",
    "SwarmOptimizer",
    "SwarmStuck",
    "TrainingError",
    "join",
]
