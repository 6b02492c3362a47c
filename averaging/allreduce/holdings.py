"""Holdings: where each piece of the result stands at one member, and who owns it (core).

piece       event                                   then
awaited     comes whole from its owner              held
awaited     its owner is suspected                  lost: whoever has it may pass it on
lost        a member holds it                       fetched: from that one
fetched     comes whole                             held
fetched     its holder fails                        lost
held        a certificate is for another version    lost
any         a newer plan gives it to another owner  awaited: from that one
any         a newer plan gives it to a suspect      lost
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from averaging.allreduce.manifest import Pieces
from averaging.allreduce.schema import Plan

Peer = TypeVar("Peer", bound=Hashable)


class Holdings(Generic[Peer]):
    """See the table above.

    Args:
        owners: for each piece, which aggregator averages it in the beginning.
        aggregators: in group order.
    """

    def __init__(self, owners: Sequence[int], aggregators: Sequence[Peer]) -> None:
        self.owners = tuple(owners)
        self.plan: Plan | None = None
        self.fetching: dict[int, Peer] = {}
        self._aggregators = tuple(aggregators)
        self._held: dict[int, bytes] = {}
        self._lost: dict[int, None] = {}
        self._suspects: dict[Peer, None] = {}

    @property
    def plan_number(self) -> int:
        """0 for the group as it was formed."""
        return self.plan.number if self.plan is not None else 0

    @property
    def complete(self) -> Pieces | None:
        """The digests of all pieces, once all are held."""
        if len(self._held) < len(self.owners):
            return None
        return tuple(self._held[piece] for piece in range(len(self.owners)))

    @property
    def lacking(self) -> list[int]:
        """Lost pieces that are not held."""
        return [piece for piece in self._lost if piece not in self._held]

    def digest_of(self, piece: int) -> bytes | None:
        """Of a piece that is held."""
        return self._held.get(piece)

    def holds(self, piece: int) -> bool:
        """Whether some version of the piece is held."""
        return piece in self._held

    def suspected(self, peer: Peer) -> bool:
        """Whether the stream to this aggregator is lost."""
        return peer in self._suspects

    def owned_by(self, peer: Peer) -> list[int]:
        """The pieces that this aggregator averages now."""
        return [p for p, owner in enumerate(self.owners) if self._aggregators[owner] == peer]

    def on_piece(self, piece: int, digest: bytes) -> None:
        """We hold the whole piece, verified; the newest version counts."""
        self._held[piece] = digest
        self.fetching.pop(piece, None)

    def on_suspect(self, peer: Peer) -> None:
        """Nothing more comes from this aggregator."""
        self._suspects[peer] = None
        self._lost.update(dict.fromkeys(self.owned_by(peer)))

    def on_lost(self, piece: int) -> None:
        """The piece will not come from its owner."""
        self._lost[piece] = None

    def on_plan(self, plan: Plan) -> tuple[int, ...]:
        """Pieces that change hands, which it returns, are awaited anew; what we held is void."""
        changed = tuple(p for p, owner in enumerate(plan.owners) if owner != self.owners[p])
        for piece in changed:
            owner = plan.owners[piece]
            self._held.pop(piece, None)
            self._lost.pop(piece, None)
            self.fetching.pop(piece, None)
            if self._aggregators[owner] in self._suspects:
                self._lost[piece] = None
        self.owners = plan.owners
        self.plan = plan
        return changed

    def drop(self, piece: int) -> None:
        """Our version is not the agreed one: another must come from somebody else."""
        self._held.pop(piece, None)
        self._lost[piece] = None

    def clear(self) -> None:
        """The bytes are gone."""
        self._held.clear()
