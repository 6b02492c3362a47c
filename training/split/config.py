"""The options of both sides of split learning, beside those of the model."""

from __future__ import annotations

from dataclasses import dataclass, field

from averaging import DonorConfig
from training.split import schema
from training.split.schema import ClientWeights


@dataclass(frozen=True, kw_only=True)
class SplitClientConfig:
    """How a client's session goes."""

    codec: str = ""
    """How activations and gradients travel: float64, float32, float16, bfloat16, or a codec by its
    name, none that leaves values out; empty takes the numbers that the model computes in, so
    nothing is rounded."""
    window: int = 1
    """Steps on their way at once. 1 is exact; more hide the network, with older gradients."""
    message_bytes_max: int = 64 << 20
    """The largest payload that is sent or taken."""
    answer_s: float = 120.0
    """A server that leaves a step without an answer for so long is given up; it waits for all
    parties, and for the steps of others before ours."""
    resume_s: float = 60.0
    """How long a lost connection is tried again."""
    dial_s: float = 20.0
    """How long one try may take."""
    find_s: float = 30.0
    """How long a server of the run is looked for."""
    hand_on_s: float = 60.0
    """A client that leaves with the newest weights waits so long for another to take them over."""
    donor: DonorConfig = field(default_factory=DonorConfig)
    """How our weights are served to the next client, where they go round."""

    def __post_init__(self) -> None:
        if not 1 <= self.window <= schema.WINDOW_MAX:
            raise ValueError(f"window must be 1 to {schema.WINDOW_MAX}")
        if not 1 <= self.message_bytes_max <= schema.PAYLOAD_BYTES_MAX:
            raise ValueError(f"message_bytes_max must be 1 to {schema.PAYLOAD_BYTES_MAX}")
        times_s = (self.answer_s, self.resume_s, self.dial_s, self.find_s, self.hand_on_s)
        if min(times_s) <= 0:
            raise ValueError("answer_s, resume_s, dial_s, find_s and hand_on_s must be positive")


@dataclass(frozen=True, kw_only=True)
class SplitServerConfig:
    """What a server lets its clients do."""

    client_weights: ClientWeights = "own"
    """own: each client trains when it likes, with weights of its own. peers, server: one after the
    other, with one set of client weights that they hand on to each other, or by way of the server,
    which then sees it."""
    rows_max: int = 4096
    """Samples of one batch."""
    message_bytes_max: int = 64 << 20
    """The largest payload that is sent or taken."""
    window_max: int = 8
    """Steps of one client on their way at once; each costs memory for its activations."""
    held_bytes_max: int = 1 << 30
    """What batches on their way may take in all; who would go beyond it is refused."""
    sessions_max: int = 64
    """Clients at once."""
    sessions_per_peer_max: int = 4
    """The same of one peer."""
    resume_s: float = 60.0
    """How long a client that is lost may come back to its session."""
    turn_idle_s: float = 300.0
    """A client that asks for nothing for so long in its turn loses it, and its session."""
    label_classes: int | None = None
    """Labels that are whole numbers must be below it; None takes the size of the output's dim 1."""
    weights_bytes_max: int = 1 << 30
    """Of client weights that go by way of the server."""
    donor: DonorConfig = field(default_factory=DonorConfig)
    """How they are served."""

    def __post_init__(self) -> None:
        if not 1 <= self.message_bytes_max <= schema.PAYLOAD_BYTES_MAX:
            raise ValueError(f"message_bytes_max must be 1 to {schema.PAYLOAD_BYTES_MAX}")
        if not 1 <= self.window_max <= schema.WINDOW_MAX:
            raise ValueError(f"window_max must be 1 to {schema.WINDOW_MAX}")
        counts = (self.rows_max, self.sessions_max, self.sessions_per_peer_max, self.held_bytes_max)
        if min(counts) < 1:
            raise ValueError(
                "rows_max, sessions_max, sessions_per_peer_max and held_bytes_max must be positive"
            )
        if self.resume_s <= 0 or self.turn_idle_s <= 0:
            raise ValueError("resume_s and turn_idle_s must be positive")
