"""Coding: how a vector travels to aggregators and back, and what is kept from round to round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from averaging.allreduce.partition import CHUNK_ELEMENTS, CHUNK_ELEMENTS_MAX
from averaging.allreduce.schema import PAYLOAD_BYTES_MAX
from averaging.codecs.choice import Candidate, choose
from averaging.codecs.floating import FloatingWire

if TYPE_CHECKING:
    from averaging.codecs.coded import CodedWire
    from averaging.codecs.feedback import DownlinkResidual, Ef21, Feedback

Wire: TypeAlias = "FloatingWire | CodedWire"


class Kept(TypedDict):
    """What a coding keeps from round to round; see Coding."""

    feedback: Feedback | None
    residual: DownlinkResidual | None
    differences: Ef21 | None


@dataclass(frozen=True, kw_only=True)
class Coding:
    """Both ways of a vector through a group; of one averager, for all its rounds.

    PyTorch is needed for what is not a FloatingWire.
    """

    up: Wire
    """How values travel to aggregators."""
    down: Wire
    """How results travel back; decoded to the same bits everywhere."""
    feedback: Feedback | None = None
    """What our own parts lost; None: that is lost."""
    residual: DownlinkResidual | None = None
    """What our results lost, where we are an aggregator."""
    differences: Ef21 | None = None
    """The feedback again, if it is one by which results are differences from a reference."""
    options: tuple[tuple[Candidate, Coding], ...] = ()
    """Of which each group takes one; all keep the same. Empty: this one is taken."""
    name: str = ""
    """What reports call it; empty where both ways are floats."""

    @classmethod
    def floats(cls, wire: FloatingWire) -> Coding:
        """Both ways alike, with nothing lost but what the dtypes cannot hold."""
        return cls(up=wire, down=wire)

    def keeping_with(self, other: Coding) -> Coding:
        """The same codecs, keeping what the other one keeps."""
        return replace(
            self,
            feedback=other.feedback,
            residual=other.residual,
            differences=other.differences,
        )

    @property
    def size_limit_bytes(self) -> int:
        """What the whole vector takes at most, the one way or the other."""
        count = self.up.element_count
        return max(self.up.size_limit_bytes(0, count), self.down.size_limit_bytes(0, count))

    @property
    def bytes_per_element(self) -> float:
        """On the wire at most, the mean of both ways; of a vector that is not empty."""
        count = self.up.element_count
        up, down = self.up.size_limit_bytes(0, count), self.down.size_limit_bytes(0, count)
        return (up + down) / 2 / count

    @property
    def chunk_elements_max(self) -> int:
        """The longest chunk that a group may have, in elements: it fits into a message."""
        codings = self, *(coding for _, coding in self.options)
        longest = CHUNK_ELEMENTS_MAX
        while longest > CHUNK_ELEMENTS and not all(coding.carries(longest) for coding in codings):
            longest //= 2
        return longest

    def carries(self, chunk_elements: int) -> bool:
        """Whether chunks of this length fit into messages, both ways."""
        limits = (wire.chunk_limit_bytes(chunk_elements) for wire in (self.up, self.down))
        return max(limits) <= PAYLOAD_BYTES_MAX

    @property
    def reference(self) -> bytes:
        """Digest of the result that our values are told by their difference from, or empty."""
        return b"" if self.differences is None else self.differences.agreed

    def begun(
        self,
        voters: Sequence[Hashable],
        references: Iterable[bytes],
        seconds_of: Callable[[float], float],
    ) -> Coding:
        """The coding of one group: with nothing kept where its members have no common reference.

        Args:
            voters: who contributes.
            references: what each of them said that its own is.
            seconds_of: how long the group's transfers take with so many bytes for each element.
        """
        if self.options:
            best = choose(
                [candidate for candidate, _ in self.options],
                [coding.bytes_per_element for _, coding in self.options],
                self.up.element_count,
                seconds_of,
            )
            return self.options[best][1].begun(voters, references, seconds_of)
        if self.differences is None:
            return self
        agreed = self.differences.agreed
        alike = agreed and all(reference == agreed for reference in references)
        if alike and set(voters) == self.differences.weights.keys():
            return self
        anew = self.differences.anew()
        return replace(self, feedback=anew, differences=anew)

    def keep(self, begun: Coding) -> None:
        """Keep what a group has come to that begun() was for; the other must not be used again."""
        if self.differences is not None and begun.differences is not None:
            self.differences.become(begun.differences)

    def reset(self) -> None:
        """Forget what was kept."""
        if self.feedback is not None:
            self.feedback.reset()
        if self.residual is not None:
            self.residual.reset()


def seed_of(group_id: bytes, who: int, start: int) -> int:
    """The seed of one chunk's encoding, the same whenever it is encoded again.

    Args:
        who: the member's number in its group, or -1 for the result.
        start: the chunk's first element.
    """
    words = b"".join(number.to_bytes(8, "big", signed=True) for number in (who, start))
    digest = hashlib.sha256(b"manyhands/codec-seed/1" + group_id + words).digest()
    return int.from_bytes(digest[:8], "big") >> 1
