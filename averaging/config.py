"""AveragerConfig: all options of an averager."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from averaging.allreduce.config import AllreduceConfig, BallotTimes
from averaging.matchmaking import MatchmakingConfig
from averaging.robust.rule import Rule, RuleKind
from averaging.tensors import CODED_ELEMENTS_MIN, FLOAT_DTYPES

if TYPE_CHECKING:
    from averaging.codecs.auto import AutomaticPair
    from averaging.codecs.codec import Codec
    from averaging.codecs.pair import CodecPair
    from averaging.codecs.power_sgd import PowerSgdConfig


@dataclass(frozen=True, kw_only=True)
class AveragerConfig:
    """How peers find each other, what they send, and how patient they are."""

    wire_dtype: str | Mapping[str, str] | None = None
    """float16, bfloat16, float32 or float64 for all tensors, or by their names (a `*` stands for
    any ending); None sends each tensor's own. Members must agree."""
    codec: str | Codec | None = None
    """What compresses large tensors on their way to aggregators: int8-block, topk:0.01, or any
    other that `averaging.codecs.registry` names, or one of your own; auto: each group takes what is
    fastest by its members' rates. Members must agree."""
    downlink_codec: str | Codec | None = None
    """What compresses results; None is `codec` itself where that sends every value in at least a
    byte, else int8-block; `floats` is none. Members must agree."""
    codec_error_max: float = 0.02
    """What the codec of auto may lose, ‖C(x) − x‖ / ‖x‖ of normally distributed values, both ways:
    0.02 allows 8 bits for each value, 0.2 four, 0.9 a twentieth of the values, 1 a hundredth.
    Members must agree."""
    error_feedback: str = "ef"
    """How that which codecs lost comes to later rounds: ef, ef21 or ef21-momentum; or none."""
    codec_elements_min: int | Mapping[str, int | None] = CODED_ELEMENTS_MIN
    """Smaller tensors are not compressed, nor those with one dimension and less than 16 times as
    many elements: norms and biases. Or such a number for tensors by their names (a `*` stands for
    any ending), whatever their dimensions, None for never; others go by the usual one. Members must
    agree."""
    auxiliary: bool = False
    """Average for the others without tensors of our own: a fast line helps slow ones."""
    group_size_max: int = 64
    """A group of this size closes at once."""
    group_size_min: int = 1
    """A smaller group does not start, and fewer votes commit nothing. With more than half of all
    peers, set alike at each, a round has one result even when the network is parted."""
    join_window_s: float = 5.0
    """The longest wait for strangers, and for a better-ranked peer that is not yet looking."""
    silence_s: float = 2.5
    """A member from which nothing came for so long is lost. Where machines are too busy to answer
    in time, raise it: whatever else a round waits for grows as much, and members ping less."""
    linger_s: float = 10.0
    """How long a result is kept to serve members that lack a piece of it."""
    partition_patience_s: float = 60.0
    """How long a group waits whose failed predecessor may have succeeded out of sight."""
    grid: bool = False
    """Let swarms larger than a group walk a Moshpit grid: rounds of many small groups, whose
    results mix from round to round. Members must agree."""
    rule: str = "mean"
    """How contributions are combined: mean, median, trimmed_mean(0.2), centered_clipping(2, 3).
    Members must agree."""
    norm_factor_max: float = 10.0
    """A vector whose norm is over so many times the median of the members' is refused, in groups
    of three and more; 0 takes any."""
    tolerated_liars: int = 0
    """Members that may lie about everything without two honest ones ever succeeding with different
    bits; groups need at least three times as many members and one. Members must agree."""

    def __post_init__(self) -> None:
        named = self.wire_dtype
        dtypes = named.values() if isinstance(named, Mapping) else (named,)
        if any(dtype not in (None, *FLOAT_DTYPES) for dtype in dtypes):
            raise ValueError(f"wire_dtype must be one of {FLOAT_DTYPES} or None")
        if self.group_size_max < 3 * self.tolerated_liars + 1:
            raise ValueError("to tolerate liars, groups need at least 3 × tolerated_liars + 1")
        if self.codec in (None, "auto") and self.downlink_codec is not None:
            raise ValueError("downlink_codec goes with a codec; without one, choose a wire_dtype")
        if not 0 < self.codec_error_max <= 1:
            raise ValueError("codec_error_max must be above 0 and at most 1")
        least = self.codec_elements_min
        numbers = least.values() if isinstance(least, Mapping) else (least,)
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError("codec_elements_min must be at least 1")
        if self.power_sgd() is not None:
            _check_low_rank(self)
        # The parts check their own numbers.
        self.matchmaking()
        self.allreduce()

    def codecs(self) -> CodecPair | AutomaticPair | None:
        """The codecs of both ways; None for floats, as which factors travel, too."""
        if self.codec is None or self.power_sgd() is not None:
            return None
        if self.codec == "auto":
            from averaging.codecs.auto import automatic_pair

            return automatic_pair(
                self.codec_error_max, feedback=self.error_feedback, rule=self.rule, grid=self.grid
            )
        from averaging.codecs.pair import codec_pair

        return codec_pair(
            self.codec,
            self.downlink_codec,
            feedback=self.error_feedback,
            rule=self.rule,
            grid=self.grid,
        )

    def power_sgd(self) -> PowerSgdConfig | None:
        """How gradients become factors, if the codec is PowerSGD.

        Raises:
            ValueError: its rank is none.
        """
        if not isinstance(self.codec, str) or self.codec.partition(":")[0] != "powersgd":
            return None
        from averaging.codecs.power_sgd import PowerSgdConfig

        return PowerSgdConfig.named(self.codec)

    def matchmaking(self) -> MatchmakingConfig:
        """The part for finding groups."""
        codecs = self.power_sgd() or self.codecs()
        coded = f", {codecs.name} {self._coded_words()}" if codecs else ""
        liars = f", tolerating {self.tolerated_liars} liars" if self.tolerated_liars else ""
        norms = f", norms up to {self.norm_factor_max:g} medians" if self.norm_factor_max else ""
        return MatchmakingConfig(
            terms=f"{Rule.parse(self.rule)}{liars}{norms}{coded}",
            grid=self.grid,
            tolerated_liars=self.tolerated_liars,
            group_size_max=self.group_size_max,
            group_size_min=max(self.group_size_min, 3 * self.tolerated_liars + 1),
            join_window_s=self.join_window_s,
            join_window_s_min=min(self.join_window_s, MatchmakingConfig.join_window_s_min),
            partition_patience_s=self.partition_patience_s,
        )

    def _coded_words(self) -> str:
        """Which tensors are compressed, in few words that differ where that differs."""
        least = self.codec_elements_min
        if not isinstance(least, Mapping):
            return f"from {least} elements"
        table = repr(sorted(least.items())).encode()
        return f"by table {hashlib.sha256(table).hexdigest()[:8]}"

    def allreduce(self) -> AllreduceConfig:
        """The part for averaging in a group."""
        # Who may be silent for long may also take long to answer. With the usual times each
        # question to such a member is asked again and again, and they keep it from answering.
        slower = max(1.0, self.silence_s / AllreduceConfig.silence_s)
        usual = BallotTimes()
        return AllreduceConfig(
            silence_s=self.silence_s,
            ping_s=min(AllreduceConfig.ping_s * slower, self.silence_s / 4),
            ask_timeout_s=AllreduceConfig.ask_timeout_s * slower,
            farewell_s=AllreduceConfig.farewell_s * slower,
            grace_s=AllreduceConfig.grace_s * slower,
            start_patience_s=max(AllreduceConfig.start_patience_s, self.silence_s),
            times=BallotTimes(
                ask_interval_s=usual.ask_interval_s * slower,
                ask_interval_s_max=usual.ask_interval_s_max * slower,
                vote_patience_s=usual.vote_patience_s * slower,
                plan_patience_s=usual.plan_patience_s * slower,
            ),
            linger_s=self.linger_s,
            votes_min=self.group_size_min,
            rule=self.rule,
            norm_factor_max=self.norm_factor_max,
            tolerated_liars=self.tolerated_liars,
        )


def _check_low_rank(config: AveragerConfig) -> None:
    """Raise ValueError where PowerSGD does not go with the rest."""
    complaint = ""
    if config.downlink_codec is not None:
        complaint = "a downlink_codec: results are the means of thin factors, and travel as floats"
    elif config.error_feedback != "ef":
        complaint = (
            f"error_feedback {config.error_feedback}: it adds what the factors lack to the next "
            "gradient itself; leave the option out"
        )
    elif Rule.parse(config.rule).kind is not RuleKind.MEAN:
        complaint = (
            f"the rule {config.rule}: what factors say of a gradient holds for their means alone"
        )
    elif config.grid:
        complaint = "a grid: all members need the same factors, and a grid mixes groups"
    elif config.auxiliary:
        complaint = "an auxiliary peer, which has no gradients that tell how factors are cut"
    elif isinstance(config.wire_dtype, Mapping):
        complaint = "wire dtypes by name: tensors travel as factors; give one dtype for all"
    if complaint:
        raise ValueError(f"{config.codec} does not go with {complaint}")
