"""Training one model together: join a run, wrap an optimizer, and step when the swarm is ready."""

from training.config import SwarmConfig
from training.errors import (
    CatchUpFailed,
    CheckpointError,
    RankFailed,
    RecipeError,
    SpecDiffers,
    SwarmStuck,
    TrainingError,
)
from training.learning_rate import LrRule
from training.optimizer import SwarmOptimizer
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
from training.swarm import Swarm, join

__all__ = [
    "BatchSchedule",
    "CatchUpFailed",
    "CheckpointError",
    "FixedBatch",
    "LrRule",
    "NoiseScaleBatch",
    "PeerProgress",
    "ProgressConfig",
    "RampBatch",
    "RankFailed",
    "RankedOptimizer",
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
