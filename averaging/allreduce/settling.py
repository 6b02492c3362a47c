"""What a round leaves behind once it has succeeded: the agreed values, and what codecs lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from averaging.allreduce.manifest import piece_digest
from averaging.allreduce.reduction import refuses_values
from averaging.allreduce.result import RoundResult
from averaging.allreduce.schema import PieceEnd
from averaging.allreduce.session import Array, Session
from averaging.allreduce.streams import Work
from averaging.codecs.coding import Coding, seed_of
from averaging.codecs.floating import FloatingWire, Payload, Span
from averaging.robust.norms import rough_square_sum

if TYPE_CHECKING:
    from averaging.codecs.rounds import Fate


def final_parts(
    session: Session, flat: Array, weight: float
) -> tuple[float, dict[int, Payload] | None]:
    """The norm of what our parts say, and the parts, if a codec makes them.

    Args:
        flat: shape (element_count,), in the flat dtype.
        weight: above 0.
    """
    if isinstance(session.up, FloatingWire):
        return math.sqrt(rough_square_sum(flat)), None
    from averaging.codecs.rounds import encoded_parts

    me, group_id = session.members.index(session.me), session.group_id
    parts, norm = encoded_parts(
        session.up,
        session.coding.feedback,
        flat,
        [(chunk.start, chunk.stop) for piece in session.pieces for chunk in piece.chunks],
        weight,
        lambda start: seed_of(group_id, me, start),
    )
    return norm, parts


def conclude(
    session: Session,
    kept: Coding,
    result: RoundResult,
    on_success: Callable[[Array], None],
    settles: bool,
) -> int:
    """Settle what codecs lost, then hand the agreed vector over; after success only.

    Args:
        kept: what is to keep what the session's coding came to.
        on_success: takes the vector, shape (element_count,), in the flat dtype; not called at an
            auxiliary member.
        settles: whether anything is to be settled.

    Returns:
        As settle().
    """
    dropped = settle(session) if settles else 0
    if not session.votes:
        return dropped
    agreed = agreed_in_place(session)
    if agreed is not None:
        on_success(agreed)
        return dropped
    # Our own values are needed no more, and other memory of this size would be fresh.
    vector = session.flat
    write_vector(session, vector)
    if settles:
        apply_reference(session, result, vector)
        kept.keep(session.coding)
    on_success(vector)
    return dropped


def agreed_in_place(session: Session) -> Array | None:
    """The agreed vector where it came in, if it lies there whole and as numbers are stored.

    Shape (element_count,), in the flat dtype; a view that is good until the session is dropped.
    """
    if not isinstance(session.down, FloatingWire) or session.coding.differences is not None:
        return None
    for piece in session.pieces:
        for chunk, encoded in zip(piece.chunks, session.held[piece.number].chunks, strict=True):
            place = session.place_of(chunk)
            assert place is not None
            if not np.shares_memory(np.frombuffer(encoded, np.uint8), place):
                return None
    return session.down.stored_in(session.result)


def write_vector(session: Session, out: Array) -> None:
    """Write the agreed vector to out: shape (element_count,), in the flat dtype."""
    for piece in session.pieces:
        for chunk, encoded in zip(piece.chunks, session.held[piece.number].chunks, strict=True):
            session.down.decode_into(encoded, chunk.start, out[chunk.start : chunk.stop])


def apply_reference(session: Session, result: RoundResult, vector: Array) -> None:
    """Make values of agreed differences, where they are such, and remember the new reference.

    Args:
        vector: shape (element_count,), as write_vector() left it; overwritten.
    """
    differences = session.coding.differences
    if differences is None:
        return
    from averaging.codecs.rounds import apply_differences

    assert not isinstance(session.up, FloatingWire)
    before = differences.weights
    for piece in session.pieces:
        end = session.held[piece.number].end
        # Of this piece's table alone: who lies about weights falsifies no more than its own span.
        # Who is not heard of counts with what it told before, and so with the weight of then.
        weights = [
            weight or before.get(peer, 0.0)
            for peer, weight in zip(session.members, end.weights, strict=True)
        ]
        for chunk in piece.chunks:
            apply_differences(
                session.up,
                differences,
                vector[chunk.start : chunk.stop],
                chunk.start,
                included_weight=_included_weight(end, chunk.number),
                # A liar's table may have none.
                weight=math.fsum(weights) or 1.0,
            )
    differences.agreed = result.digest
    differences.weights = {
        peer: result.members[peer].weight or before.get(peer, 0.0) for peer in session.voters
    }


def settle(session: Session) -> int:
    """Keep what the agreed result lacks, of our values and of the means that we made.

    Returns:
        Of how many elements something that was owed is dropped: others average them now, or our
        own values were refused for what they said.
    """
    coding, dropped = session.coding, 0
    if coding.feedback is not None and session.votes and session.weight:
        from averaging.codecs.rounds import settle_parts

        assert not isinstance(session.up, FloatingWire)
        dropped += settle_parts(
            session.up,
            coding.feedback,
            session.flat,
            session.parts or {},
            _fates(session),
            session.weight,
        )
    if coding.residual is not None:
        dropped += coding.residual.settle(
            [lost for work in session.work if _is_agreed(session, work) for lost in work.lost]
        )
    return dropped


def _is_agreed(session: Session, work: Work) -> bool:
    """Whether what we averaged is in the result: a plan may have given it to another, too."""
    number, commit = work.piece.number, session.ballot.commit
    held = session.held.get(number)
    return (
        held is not None
        and commit is not None
        and held.end.chunks == tuple(work.digests)
        and commit.pieces[number] == piece_digest(held.end)
    )


def _fates(session: Session) -> Iterator[tuple[Span, Fate]]:
    """What became of each of our parts, by the agreed tables."""
    from averaging.codecs.rounds import Fate

    me = session.members.index(session.me)
    for piece in session.pieces:
        end = session.held[piece.number].end
        # What is not finite must not be owed, however the others came to be without it.
        refused = refuses_values(end.reasons[me]) or not math.isfinite(session.norm)
        for chunk in piece.chunks:
            fate = Fate.REFUSED if refused else Fate.LEFT_OUT
            if chunk.number < end.included[me] and session.parts:
                fate = Fate.INCLUDED
            yield (chunk.start, chunk.stop), fate


def _included_weight(end: PieceEnd, chunk: int) -> float:
    """The weight of those who are in a chunk."""
    weights = zip(end.included, end.weights, strict=True)
    return math.fsum(weight for count, weight in weights if chunk < count)
