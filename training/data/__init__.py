"""Training data: labelled tensors, which of them are held out, and each peer's own order."""

from training.data.labelled import LabelledData
from training.data.shards import ShuffledOrder, stratified_fifth

__all__ = ["LabelledData", "ShuffledOrder", "stratified_fifth"]
