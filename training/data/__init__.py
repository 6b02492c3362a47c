"""Training data: labelled tensors and text, what is held out, and which peer draws what when."""

from training.data.labelled import LabelledData
from training.data.shards import (
    IndexArray,
    ShuffledOrder,
    dirichlet_shards,
    sample_generator,
    stratified_fifth,
)

__all__ = [
    "IndexArray",
    "LabelledData",
    "ShuffledOrder",
    "dirichlet_shards",
    "sample_generator",
    "stratified_fifth",
]
