"""Who is in the run, how far, how fast: what each peer says and what the swarm makes of it."""

from training.progress.batch_schedule import (
    BatchMemory,
    BatchSchedule,
    FixedBatch,
    NoiseScaleBatch,
    RampBatch,
    StepNorms,
)
from training.progress.drift import Sketch
from training.progress.global_batch import BatchView, GlobalBatch
from training.progress.norms import step_norms
from training.progress.position import PeerProgress, PeerRecord, Position, Role
from training.progress.speed import SpeedMeter
from training.progress.tracker import ProgressConfig, Tracker, open_tracker

__all__ = [
    "BatchMemory",
    "BatchSchedule",
    "BatchView",
    "FixedBatch",
    "GlobalBatch",
    "NoiseScaleBatch",
    "PeerProgress",
    "PeerRecord",
    "Position",
    "ProgressConfig",
    "RampBatch",
    "Role",
    "Sketch",
    "SpeedMeter",
    "StepNorms",
    "Tracker",
    "open_tracker",
    "step_norms",
]
