"""Training data: labelled tensors and text, what is held out, and each peer's own order."""

from training.data.labelled import LabelledData
from training.data.shards import ShuffledOrder, sample_generator, stratified_fifth

__all__ = ["LabelledData", "ShuffledOrder", "sample_generator", "stratified_fifth"]
