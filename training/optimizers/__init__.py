"""Optimizers for large batches, which PyTorch does not have: LAMB and LARS."""

from training.optimizers.lamb import Lamb
from training.optimizers.lars import Lars

__all__ = ["Lamb", "Lars"]
