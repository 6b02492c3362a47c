"""What a session moved, counted exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class Traffic:
    """Elements and bytes of one session, or of several added up, seen from one side.

    Each element counts once, also where a lost connection had it sent again, and at a client when
    its step is whole; bytes count as often as they were handed to the network, and without the few
    bytes of the messages before them.

    Source of the formulae that they are checked with: Singh et al., "Detailed comparison of
    communication efficiency of split learning and federated learning", 2019.
    """

    batches: int = 0
    """Batches that were trained on."""
    values_sent: int = 0
    """Elements of activations, outputs and gradients in training."""
    values_received: int = 0
    """The same, the other way."""
    labels_sent: int = 0
    """Elements of labels."""
    labels_received: int = 0
    """The same, the other way."""
    evaluation_values_sent: int = 0
    """Elements of activations and outputs where nothing was trained."""
    evaluation_values_received: int = 0
    """The same, the other way."""
    weight_bytes_received: int = 0
    """Of client weights that were taken over for a turn."""
    payload_bytes_sent: int = 0
    """Of all of these but weights, as they travel."""
    payload_bytes_received: int = 0
    """The same, the other way."""

    def add(self, other: Traffic) -> None:
        """Add what another session moved."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)
