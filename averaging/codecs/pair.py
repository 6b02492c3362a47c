"""Which codecs go together: one for parts, one for results, error feedback and the rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from averaging.allreduce.partition import CHUNK_ELEMENTS
from averaging.allreduce.schema import PAYLOAD_BYTES_MAX
from averaging.codecs.codec import Codec
from averaging.codecs.coded import CodedWire, leaves_values_out
from averaging.codecs.coding import Coding, Kept
from averaging.codecs.feedback import DownlinkResidual, Ef21, feedback_named
from averaging.codecs.floating import FloatingWire
from averaging.codecs.registry import codec_named
from averaging.robust.rule import Rule, RuleKind

FLOATS: Final = "floats"
"""As downlink codec: results travel as the tensors' own dtypes on the wire."""
_USUAL_DOWNLINK: Final = "int8-block"
"""Of a mean few values are 0, however few each member sent; and what is lost here is lost for good
when another averages it. A byte for each keeps that small, and its blocks bear any scale."""


@dataclass(frozen=True)
class CodecPair:
    """The codecs of one averager."""

    up: Codec
    down: Codec | None
    """None: results travel as floats."""
    feedback: str
    """One of FEEDBACK_KINDS."""

    @property
    def sparse(self) -> bool:
        """Whether parts leave most values out, so that their norm is not that of the values."""
        return leaves_values_out(self.up)

    @property
    def name(self) -> str:
        """What reports and refusals call it."""
        down = FLOATS if self.down is None else self.down.name
        differences = f", {self.feedback}" if self.feedback.startswith("ef21") else ""
        return f"{self.up.name} up, {down} down{differences}"

    def coding(self, floating: FloatingWire, coded_count: int) -> Coding:
        """How a vector travels, with nothing kept yet.

        Args:
            floating: how all of it would travel without codecs.
            coded_count: so many of its first elements go into frames; 0: none, it is all floats.
        """
        floats = Coding.floats(floating)
        if not coded_count:
            return floats
        down = floating if self.down is None else CodedWire(self.down, coded_count, floating)
        return replace(
            floats,
            up=CodedWire(self.up, coded_count, floating),
            down=down,
            name=self.name,
            **kept_by(self.feedback, coded_count),
        )


def kept_by(feedback: str, coded_count: int) -> Kept:
    """What a coding keeps from round to round with this error feedback: nothing yet.

    Args:
        coded_count: elements of a vector that are in frames.
    """
    kept = feedback_named(feedback, coded_count)
    differences = kept if isinstance(kept, Ef21) else None
    # Results of differences are floats, which lose nothing.
    residual = DownlinkResidual() if kept is not None and differences is None else None
    return {"feedback": kept, "residual": residual, "differences": differences}


def codec_pair(
    up: str | Codec, down: str | Codec | None, *, feedback: str, rule: str, grid: bool
) -> CodecPair:
    """The codecs by their names, if they make sense together.

    Args:
        down: None for what goes with the other: itself, if it sends every value in a byte or
            more, else int8-block; for ef21 no codec; `floats` for none.
        rule: how contributions are combined.
        grid: whether groups mix from round to round.

    Raises:
        ValueError: there is no such codec, or they make none; says why.
    """
    up = codec_named(up) if isinstance(up, str) else up
    sparse = leaves_values_out(up)
    # Raises for an unknown name.
    kept = feedback_named(feedback, 1)
    differences = isinstance(kept, Ef21)
    if down is None and differences:
        down = FLOATS
    elif down is None:
        down = _USUAL_DOWNLINK if sparse or _is_narrow(up) or not up.same_everywhere else up
    if isinstance(down, str):
        down = None if down == FLOATS else codec_named(down)
    for codec in (up, down):
        if codec is not None and codec.size_limit_bytes(CHUNK_ELEMENTS) > PAYLOAD_BYTES_MAX:
            raise ValueError(f"frames of {codec.name} may be larger than a message")
    if down is not None and not down.same_everywhere:
        raise ValueError(
            f"{down.name} cannot be the downlink codec: not every machine decodes it to the same "
            "bits, so members would agree on bytes and hold different values"
        )
    if differences and down is not None:
        raise ValueError(
            f"{feedback} sums up results, and what {down.name} loses of one that another averages "
            f"next would be missing in all that come; its downlink codec is {FLOATS}"
        )
    if differences and grid:
        raise ValueError(
            f"{feedback} needs the same members from round to round, and a grid mixes them; use ef"
        )
    if Rule.parse(rule).kind is not RuleKind.MEAN:
        if sparse:
            raise ValueError(
                f"{up.name} does not go with the rule {rule}, which compares members' values one "
                "by one, and most of them would be left out"
            )
        if kept is not None:
            raise ValueError(
                f"error feedback does not go with the rule {rule}: what is owed counts only if it "
                "is added in a later round, which the rule may not do; choose none"
            )
    return CodecPair(up, down, feedback)


def _is_narrow(codec: Codec) -> bool:
    """Whether it has less than a byte for each value."""
    return codec.size_limit_bytes(CHUNK_ELEMENTS) < CHUNK_ELEMENTS
