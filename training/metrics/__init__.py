"""What each trainer tells of its part in a run, in the DHT, for whoever watches."""

from training.metrics.publisher import MetricsPublisher, open_metrics_publisher
from training.metrics.schema import Metrics, decode_metrics_untrusted, metrics_key

__all__ = [
    "Metrics",
    "MetricsPublisher",
    "decode_metrics_untrusted",
    "metrics_key",
    "open_metrics_publisher",
]
