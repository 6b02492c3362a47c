"""SwAV: pictures without labels, learnt by swapping the cluster assignments of their crops."""

from training.tasks.swav.crops import CropPlan
from training.tasks.swav.images import Images, StoredImages
from training.tasks.swav.model import SwavModel
from training.tasks.swav.task import Swav, SwavConfig

__all__ = ["CropPlan", "Images", "StoredImages", "Swav", "SwavConfig", "SwavModel"]
