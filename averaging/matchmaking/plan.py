"""How a leader splits the vector among its group, and how its members check that (core)."""

from __future__ import annotations

from collections.abc import Sequence

from averaging.allreduce.balance import (
    Capacity,
    check_spans_untrusted,
    grid_for,
    solve,
    span_lengths,
)
from averaging.matchmaking.group import Group, capacities_of, parse_group_untrusted
from averaging.matchmaking.paths import PathTable
from p2p import MessageInvalid, relayed_bytes_needed, short


def plan_spans(capacities: Sequence[Capacity], element_count: int) -> tuple[int, ...]:
    """The spans, one for each member that averages, by the rates that all of them tell.

    Nobody tells of limits between pairs, so this is the exact optimum, in O(n log n).
    """
    shares = solve(capacities).shares
    owned = [share for share, one in zip(shares, capacities, strict=True) if one.aggregates]
    return span_lengths(owned, element_count, grid=grid_for(element_count, len(owned)))


def parse_planned_untrusted(data: bytes, element_count: int, vector_bytes: int = 0) -> Group:
    """Check a group's body and its plan for our vector.

    Args:
        vector_bytes: what it takes as it travels.

    Raises:
        MessageInvalid: either is bad.
    """
    group = parse_group_untrusted(data)
    check_plan_untrusted(group, element_count, vector_bytes)
    return group


def check_plan_untrusted(group: Group, element_count: int, vector_bytes: int = 0) -> None:
    """Check that the group's spans cover our vector, and are not much slower than need be.

    Bulk goes over relays only where nobody could aggregate without, and no more than they carry.

    Raises:
        MessageInvalid: they do not or are; names the leader.
    """
    if group.over_relay:
        _check_relayed_untrusted(group, vector_bytes)
    try:
        check_spans_untrusted(group.span_elements, group.capacities, element_count)
    except MessageInvalid as exc:
        raise MessageInvalid(f"{short(group.leader)} split the vector badly: {exc}") from exc


def _check_relayed_untrusted(group: Group, vector_bytes: int) -> None:
    if any(one.aggregates for one in capacities_of(group.members)):
        raise MessageInvalid(f"{short(group.leader)} wants relays to carry what needs none")
    if len(PathTable(group.members).served_by_circuits()) < len(group.members):
        raise MessageInvalid(f"{short(group.leader)} has no path to some member of its group")
    carried = group.members[0].paths.relayed_bytes
    if carried < relayed_bytes_needed(vector_bytes):
        raise MessageInvalid(
            f"{short(group.leader)} wants relays to carry more than their {carried} bytes"
        )
