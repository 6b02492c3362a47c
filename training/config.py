"""SwarmConfig: the options of taking part in a run, beside those of the run itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from averaging import AveragerConfig, DonorConfig, FetchConfig
from p2p import DhtConfig
from training.progress import ProgressConfig


@dataclass(frozen=True, kw_only=True)
class SwarmConfig:
    """How this peer takes part."""

    round_deadline_s: float = 30.0
    """A round that has no result by then has failed; what was accumulated is kept."""
    accept_fraction: float = 0.9
    """A step is taken when this part of the global batch was delivered, else the round's result
    is discarded and the batch goes on growing. Source: DeDLOC's accounting, relaxed so that one
    lost sender does not cost everybody the round."""
    patience_s_max: float = 15.0
    """The longest wait for one who still computes; it is twice the time that it usually takes."""
    failures_max: int = 20
    """So many rounds may fail one after another before step() raises."""
    state_timeout_s: float = 60.0
    """A download of the swarm's state is given up when nothing new has come for so long."""
    catch_up_tries_max: int = 8
    """So often the state is tried before it is given up."""
    rounds_kept_max: int = 16
    """Results of rounds that are kept while the state is still on its way; each is a gradient."""
    dht: DhtConfig = field(default_factory=DhtConfig)
    """How strangers find each other."""
    averager: AveragerConfig = field(default_factory=AveragerConfig)
    """How gradients are averaged."""
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    """How progress is told and heard."""
    donor: DonorConfig = field(default_factory=DonorConfig)
    """How our state is served to newcomers."""
    fetch: FetchConfig = field(default_factory=FetchConfig)
    """How the swarm's state is downloaded."""

    def __post_init__(self) -> None:
        if self.round_deadline_s <= 0 or self.state_timeout_s <= 0:
            raise ValueError("round_deadline_s and state_timeout_s must be positive")
        if self.patience_s_max < 0:
            raise ValueError("patience_s_max must be at least 0")
        if not 0 < self.accept_fraction <= 1:
            raise ValueError(
                f"accept_fraction must be above 0 and at most 1: {self.accept_fraction}"
            )
        if min(self.failures_max, self.catch_up_tries_max, self.rounds_kept_max) < 1:
            raise ValueError("failures_max, catch_up_tries_max, rounds_kept_max must be at least 1")
