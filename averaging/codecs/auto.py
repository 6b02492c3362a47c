"""A codec chosen for each group, by how fast its members' lines are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from averaging.codecs.choice import Candidate, within
from averaging.codecs.coding import Coding
from averaging.codecs.floating import FloatingWire
from averaging.codecs.pair import CodecPair, codec_pair, kept_by


@dataclass(frozen=True)
class AutomaticPair:
    """Pairs of codecs, of which each group takes one."""

    error_max: float
    feedback: str
    """One of FEEDBACK_KINDS."""
    pairs: tuple[tuple[Candidate, CodecPair | None], ...]
    """None: floats."""

    @property
    def sparse(self) -> bool:
        """Whether some of them leave most values out."""
        return any(pair is not None and pair.sparse for _, pair in self.pairs)

    @property
    def name(self) -> str:
        """What refusals call it; other candidates make another name."""
        costs = repr([candidate for candidate, _ in self.pairs]).encode()
        version = hashlib.sha256(costs).hexdigest()[:4]
        differences = f", {self.feedback}" if self.feedback.startswith("ef21") else ""
        return f"auto {version} within {self.error_max:g}{differences}"

    def coding(self, floating: FloatingWire, coded_count: int) -> Coding:
        """How a vector travels, with nothing kept yet; what is kept goes from codec to codec.

        Args:
            floating, coded_count: as for CodecPair.coding().
        """
        floats = Coding.floats(floating)
        if not coded_count:
            return floats
        kept = replace(floats, **kept_by(self.feedback, coded_count))
        options = [
            (candidate, pair.coding(floating, coded_count).keeping_with(kept) if pair else floats)
            for candidate, pair in self.pairs
        ]
        return replace(kept, options=tuple(options))


def automatic_pair(error_max: float, *, feedback: str, rule: str, grid: bool) -> AutomaticPair:
    """The codecs that lose no more than this and go with the rest.

    Args:
        error_max: see Candidate.error.
        feedback, rule, grid: as for codec_pair().

    Raises:
        ValueError: some of them do not go with the rest; says why.
    """
    return AutomaticPair(
        error_max,
        feedback,
        tuple(
            (
                candidate,
                codec_pair(candidate.codec, None, feedback=feedback, rule=rule, grid=grid)
                if candidate.codec
                else None,
            )
            for candidate in within(error_max)
        ),
    )
