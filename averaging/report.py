"""RoundReport: what came of a round, for the caller, the log and the curious."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from averaging.codecs.floating import Span
from averaging.round_id import RoundId
from p2p import Path, PeerId, short

Outcome = Literal["success", "failed", "undecided"]


@dataclass(frozen=True, kw_only=True)
class MemberReport:
    """One member's part in a round."""

    fraction: float
    """How much of the vector contains this member's contribution, 0 to 1."""
    weight: float
    """The weight it declared."""
    norm: float = 0.0
    """The L2 norm of its vector, as it declared it; 0 where its weight is 0 or nothing was agreed.
    After success all voters are told the same."""
    reason: str = ""
    """Why the fraction is below 1, or what else is odd about this member; else empty."""


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What came of a round; str() gives one readable line."""

    group_id: bytes
    """Empty when no group was found."""
    round: RoundId
    members: Mapping[PeerId, MemberReport]
    """The members of the last group, this peer among them."""
    digest: bytes
    """Names the result: equal digests are equal bits. Empty without success."""
    succeeded: bool
    outcome: Outcome
    """`undecided`: this peer voted and never learnt whether the others agreed."""
    reason: str = ""
    """One sentence on what failed; empty on success."""
    attempts: int = 1
    """Groups that were tried."""
    plans: int = 0
    """How often, in the last group, the work of lost aggregators was given to others."""
    lost: tuple[PeerId, ...] = ()
    """Members lost in any attempt."""
    behind: RoundId | None = None
    """The round that the others are in, when this one is not theirs, or is over for them."""
    sent_bytes: int = 0
    """Bulk bytes, in all attempts."""
    received_bytes: int = 0
    bytes_by_path: Mapping[Path, int] = field(default_factory=dict)
    """Both together, by how they travelled: direct, punched or relayed."""
    seconds: float = 0.0
    matchmaking_seconds: float = 0.0
    transfer_seconds: float = 0.0
    """From the group to holding the whole result, in all attempts."""
    reduction_seconds: float = 0.0
    """Of that, spent on averaging what is ours."""
    repair_seconds: float = 0.0
    """Of that, since an aggregator was lost."""
    agreement_seconds: float = 0.0
    """From holding the result to the certificate, or to giving up."""
    codec: str = ""
    """What compressed tensors travelled by, both ways; empty where all were floats."""
    dropped_elements: int = 0
    """Of how many elements something that codecs lost is given up for good here: others average
    them now, or our values were refused for what they said."""
    left_out: tuple[Span, ...] = ()
    """Where the flat vector lacks what this peer contributed; empty without success."""
    refusals: Mapping[PeerId, str] = field(default_factory=dict)
    """What each peer that was asked to lead or join said, when no group was found."""
    secure: bool = False
    """Whether this was a secure sum. Then the weights of others are NaN, or 0 of those who brought
    no vector."""
    weight_sum: float = 0.0
    """Of secure aggregation: of all who are in it; 0 without success."""
    spent: bool = False
    """Of secure aggregation: the vector may be in a sum that somebody knows, so that it must never
    be offered again, not even after a failure."""

    def __str__(self) -> str:
        kind = "secure round" if self.secure else "round"
        said = [f"{kind} {self.round.number} {self.outcome}"]
        if self.reason:
            said[0] += f": {self.reason}"
        if self.members and self.succeeded:
            whole = sum(member.fraction == 1.0 for member in self.members.values())
            said.append(f"{whole} of {len(self.members)} contributed wholly")
        elif self.group_id:
            said.append(f"group of {len(self.members)}")
        said.extend(
            f"{short(peer)} {member.fraction:.0%} ({member.reason})"
            for peer, member in self.members.items()
            if member.reason not in ("", "lost")
        )
        if self.lost:
            said.append(f"lost {', '.join(short(peer) for peer in self.lost)}")
        if self.spent and not self.succeeded:
            said.append("the vector is spent")
        if self.plans:
            said.append("what they had not averaged was given to others")
        if self.behind is not None:
            said.append(f"the others are in round {self.behind.number}")
        indirect = [
            f"{count} bytes {path}"
            for path, count in self.bytes_by_path.items()
            if path != "direct"
        ]
        said.extend(indirect)
        if self.codec:
            said.append(self.codec)
        if self.dropped_elements:
            said.append(f"what was owed for {self.dropped_elements} elements was dropped")
        tries = f" in {self.attempts} attempts" if self.attempts > 1 else ""
        said.append(
            f"{self.seconds:.2f} s{tries}, {self.sent_bytes} bytes sent, "
            f"{self.received_bytes} received"
        )
        return ", ".join(said)
