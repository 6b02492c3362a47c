"""SessionPlan: what the network's side of training needs to know of a model and its run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from averaging import (
    CODED_ELEMENTS_MIN,
    AveragerConfig,
    Manifest,
    SecureConfig,
    Snapshot,
    TensorSpec,
)
from training.progress import BatchSchedule, Position, Sketch


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What a session needs to know of the model and the run."""

    run: str
    spec: TensorSpec
    """The gradients."""
    spec_hash: bytes
    """What all peers must share: the spec, the optimizer, the global batch, how it steps."""
    schedule: BatchSchedule
    position: Position
    check_state: Callable[[Manifest], str | None]
    """Says why an offered state is not one of this model."""
    sketch: Sketch = ()
    """Of the parameters at the beginning."""
    rounding: float = 0.0
    """How far rounding may lead parameters, as a part of their norm."""
    secure: SecureConfig | None = None
    """Rounds are secure sums of this kind; None averages in the open."""
    take_snapshot: Callable[[], Snapshot]
    """Runs on the caller's thread; the same object as long as the state is the same."""
    vectors: int = 1
    """So many vectors are averaged in turn, one with each global step."""
    compressed: tuple[str, ...] | None = None
    """Tensors that a codec may compress; None: those that are large, see AveragerConfig."""

    def hash_with(self, config: AveragerConfig) -> bytes:
        """What all peers must share, how they compress included; 32 bytes."""
        if config.codec is None:
            return self.spec_hash
        terms = self.averager_config(config).matchmaking().terms
        return hashlib.sha256(self.spec_hash + terms.encode()).digest()

    def averager_config(self, config: AveragerConfig) -> AveragerConfig:
        """The same, for these tensors.

        Raises:
            ValueError: the batch goes by norms, and the codec's are not those of gradients; or the
                codec is one for gradients, and these are none.
        """
        check_norms(self.schedule, config)
        if config.power_sgd() is not None and self.compressed is not None:
            raise ValueError(
                f"{config.codec} goes with a global batch, and not with a strategy: what "
                "strategies exchange is one long vector, which has no factors"
            )
        if config.codec is None or self.compressed is None:
            return config
        least = config.codec_elements_min
        number = least if isinstance(least, int) else CODED_ELEMENTS_MIN
        names = {name: number if name in self.compressed else None for name in self.spec.names}
        return replace(config, codec_elements_min=names)


def check_norms(schedule: BatchSchedule, config: AveragerConfig) -> None:
    """Raise ValueError where a batch goes by norms, and a codec's are not those of gradients."""
    codecs, factors = config.codecs(), config.power_sgd()
    incomplete = factors if factors is not None else codecs if codecs and codecs.sparse else None
    if incomplete is not None and schedule.uses_norms:
        raise ValueError(
            f"a batch that follows the gradient noise does not go with {incomplete.name}: it is "
            "told by the norms of what peers send, and most values are left out of that"
        )
