"""Private inference: a client learns its samples' classes, and the server nothing of them."""

from training.privacy.inference.errors import PrivateInferenceFailed
from training.privacy.inference.handles import (
    PrivateClient,
    PrivateServer,
    ask_private,
    serve_private,
)
from training.privacy.inference.network import FixedNetwork, Shape, fix_network
from training.privacy.inference.protocol import traffic_bytes
from training.privacy.inference.service import (
    InferenceConfig,
    classify_privately,
    compare_privately,
    open_comparison_service,
    open_inference_service,
)

__all__ = [
    "FixedNetwork",
    "InferenceConfig",
    "PrivateClient",
    "PrivateInferenceFailed",
    "PrivateServer",
    "Shape",
    "ask_private",
    "classify_privately",
    "compare_privately",
    "fix_network",
    "open_comparison_service",
    "open_inference_service",
    "serve_private",
    "traffic_bytes",
]
