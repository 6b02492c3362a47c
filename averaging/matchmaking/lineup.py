"""Who of those that joined a leader takes part, when not everybody reaches everybody (core)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from averaging.matchmaking.group import Join, capacities_of
from averaging.matchmaking.paths import PathTable
from p2p import PeerId


@dataclass(frozen=True)
class Lineup:
    """The members of a group to be, and who is left out."""

    joins: tuple[Join, ...]
    """The leader's first."""
    over_relay: bool
    """Whether the leader alone aggregates, and relays carry that."""
    left_out: tuple[PeerId, ...] = ()
    """Whom no path leads to that carries the round."""
    too_few: bool = False
    """Whether those are fewer than the group may be."""

    @property
    def most_are_in(self) -> bool:
        """Whether more than half of the contributors are: else the others might go on as well."""
        voters = sum(join.role != "aux" for join in self.joins)
        return not self.left_out or (not self.too_few and voters > len(self.left_out))


def line_up(joins: Sequence[Join]) -> Lineup:
    """As many of the contributors as one aggregator can serve, the leader among them.

    Args:
        joins: the leader's first, which tells its paths to all of them.
    """
    joins = tuple(joins)
    if any(capacity.aggregates for capacity in capacities_of(joins)):
        return Lineup(joins, False)
    table = PathTable(joins)
    owners = [number for number, join in enumerate(joins) if join.role != "client"]
    choices = [(table.served_by(owner), False) for owner in owners]
    choices.append((table.served_by_circuits(), True))
    served, over_relay = max(
        (choice for choice in choices if 0 in choice[0]),
        # The first of equals, so that relays are the last resort.
        key=lambda choice: sum(joins[number].role != "aux" for number in choice[0]),
    )
    return Lineup(
        tuple(joins[number] for number in served),
        over_relay,
        tuple(join.peer_id for number, join in enumerate(joins) if number not in served),
    )
