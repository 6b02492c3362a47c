"""Who is in the run, how far, how fast: what each peer says and what the swarm makes of it."""

from training.progress.batch_schedule import BatchSchedule, FixedBatch
from training.progress.global_batch import BatchView, GlobalBatch
from training.progress.position import PeerProgress, PeerRecord, Position, Role
from training.progress.speed import SpeedMeter
from training.progress.tracker import ProgressConfig, Tracker, open_tracker

__all__ = [
    "BatchSchedule",
    "BatchView",
    "FixedBatch",
    "GlobalBatch",
    "PeerProgress",
    "PeerRecord",
    "Position",
    "ProgressConfig",
    "Role",
    "SpeedMeter",
    "Tracker",
    "open_tracker",
]
