"""A few simulated nodes that know each other's addresses and look for groups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from averaging.errors import MatchmakingFailed
from averaging.matchmaking import Group, Matchmaking, MatchmakingConfig, open_matchmaking
from averaging.matchmaking.keys import rank
from averaging.round_id import RoundId
from p2p import Node, PeerId
from p2p.testing import SimNetwork

GROUP_NAME = "run/gradients"
SPEC_HASH = b"s" * 32
ROUND = RoundId(3, b"p" * 32)


@dataclass
class Member:
    """One node, its matchmaking, and what came of its searches."""

    node: Node
    matchmaking: Matchmaking
    group: Group | None = None
    failure: MatchmakingFailed | None = None
    seconds: float = 0.0

    @property
    def peer_id(self) -> PeerId:
        """The node's."""
        return self.node.peer_id

    async def find(self, **wishes: Any) -> None:
        """Look for a group, and note what comes of it."""
        wishes = {"round": ROUND, "weight_cap": 1.0, "deadline_s": 30.0, **wishes}
        start_s = trio.current_time()
        self.group = self.failure = None
        try:
            self.group = await self.matchmaking.find_group(**wishes)
        except MatchmakingFailed as exc:
            self.failure = exc
        self.seconds = trio.current_time() - start_s


@asynccontextmanager
async def open_members(
    network: SimNetwork,
    *names: str,
    config: MatchmakingConfig | None = None,
    clients: Sequence[str] = (),
    skews: Sequence[float] = (),
    elements: int = 1_000,
) -> AsyncIterator[list[Member]]:
    """Nodes with these names, each told the others' addresses."""
    async with AsyncExitStack() as stack:
        members = []
        for index, name in enumerate(names):
            skew_s = skews[index] if skews else 0.0
            opening = network.open_node(name, client_mode=name in clients, clock_skew_s=skew_s)
            node = await stack.enter_async_context(opening)
            matchmaking = await stack.enter_async_context(
                open_matchmaking(node, GROUP_NAME, SPEC_HASH, config, element_count=elements)
            )
            members.append(Member(node, matchmaking))
        introduce([member.node for member in members])
        yield members
        assert network.handler_errors == []


def introduce(nodes: Sequence[Node]) -> None:
    """Tell each node the others' addresses."""
    for node in nodes:
        for other in nodes:
            node.add_addresses(other.peer_id, other.addresses)


def ids(members: Sequence[Member]) -> list[PeerId]:
    """The members' peer ids."""
    return [member.peer_id for member in members]


async def find_all(members: Sequence[Member], **wishes: Any) -> None:
    """Let all look at once, for a group of all unless told otherwise."""
    wishes = {"expected": ids(members), **wishes}
    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(lambda member=member: member.find(**wishes))


def leader_first(members: Sequence[Member], round_id: RoundId = ROUND) -> list[Member]:
    """The members by rank in a round."""
    return sorted(members, key=lambda member: rank(round_id.parent, member.peer_id))


def check_one_group(members: Sequence[Member], *, of: Sequence[Member] = ()) -> Group:
    """All of them found the same group, of exactly these members."""
    groups = [member.group for member in members]
    for member in members:
        assert member.group is not None, member.failure
    first = groups[0]
    assert first is not None
    assert all(group == first for group in groups)
    assert set(first.peer_ids) == set(ids(of or members))
    return first
