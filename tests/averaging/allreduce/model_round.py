"""One round in the simulated world: a group, and the groups that replace it when it fails.

Whoever failed looks for others that did, after a while; a leader among them forms a new group by
the rules of matchmaking: at once when promises rule the old one out, else with much patience, as
a fork.
"""

from __future__ import annotations

from averaging.allreduce.outputs import End
from averaging.matchmaking.group import Join
from averaging.matchmaking.roster import Joined, Roster
from averaging.round_id import RoundId
from tests.averaging.allreduce import model_checks
from tests.averaging.allreduce.model import World
from tests.averaging.allreduce.model_group import Group, Setup
from tests.averaging.allreduce.model_lies import promise_of
from tests.averaging.allreduce.model_member import Member

GROUPS_MAX = 4
PATIENCE_S = 20.0
ROUND = RoundId(1, bytes(32))


class Round:
    """All groups of one round, first to last."""

    def __init__(self, world: World, setup: Setup, *, forks: bool) -> None:
        self.world = world
        self.groups: list[Group] = []
        self.members: list[dict[int, Member]] = []
        self.forks = forks
        """Whether a small side goes on alone when it has waited long enough."""
        self._clients, self._helpers = setup.clients, setup.helpers
        self._looking: dict[int, float] = {}
        """Since when a host looks for a new group."""
        self._last: dict[int, Member] = {}
        self.form(setup)

    def form(self, setup: Setup, *, fork: bool = False) -> None:
        """A group is formed; its members have yet to hear of it."""
        group = Group(self.world, len(self.groups) + 1, setup, fork)
        group.on_end = self._on_end
        members: dict[int, Member] = {}
        for me in setup.members:
            members[me] = Member(group, me, members)
        self.groups.append(group)
        self.members.append(members)

    def _on_end(self, member: Member, end: End) -> None:
        if end.outcome == "success" or member is not self.members_of(member.me)[-1]:
            return
        # Who is undecided fails, as seen from above, but its user may call again.
        if end.outcome == "failed" or self.world.rng.random() < 0.5:
            self._looking[member.me] = self.world.now_s
            self._last[member.me] = member
            self.world.after(0.1 + self.world.rng.random(), self._look)
            if self.forks:
                self.world.after(PATIENCE_S + 1.5, self._look)

    def members_of(self, host: int) -> list[Member]:
        """A host's parts in the groups, first to last."""
        return [members[host] for members in self.members if host in members]

    def over(self) -> bool:
        """Whether every host that is at work has ended everything."""
        return all(
            member.ballot.end is not None
            for members in self.members
            for member in members.values()
            if member.entered and not member.host.crashed
        )

    def waiting(self) -> bool:
        """Whether somebody still waits for others to go on as a fork."""
        return self.forks and any(
            self.world.now_s < since_s + PATIENCE_S + 2.0 for since_s in self._looking.values()
        )

    # --- the next attempt ------------------------------------------------------------------

    def _look(self) -> None:
        world, rng = self.world, self.world.rng
        here = [
            host for host in sorted(self._looking) if world.hosts[host].well and self._idle(host)
        ]
        leaders = [host for host in here if host not in self._clients]
        if not leaders or len(self.groups) >= GROUPS_MAX:
            return
        leader = rng.choice(leaders)
        joined = [
            host
            for host in here
            if host == leader or not (world.is_cut(host, leader) or world.is_cut(leader, host))
        ]
        blocked = self._unblocked_previous(leader, joined)
        waited = world.now_s >= self._looking[leader] + PATIENCE_S
        voters = [host for host in joined if host not in self._helpers]
        if not voters or (blocked and not (self.forks and waited)):
            return
        for host in joined:
            del self._looking[host]
        world.note(f"a new group of {joined} is formed{', as a fork' if blocked else ''}")
        self.form(self._setup(leader, joined), fork=bool(blocked))
        for member in self.members[-1].values():
            delay_s = world.delay_s()
            member.host.after(delay_s, member.enter)
            member.host.after(delay_s + rng.choice([0.0, 0.2]), member.begin)

    def _idle(self, host: int) -> bool:
        return all(m.ballot.end is not None or not m.entered for m in self.members_of(host))

    def _unblocked_previous(self, leader: int, joined: list[int]) -> list[bytes]:
        roster = Roster(leader, ROUND)  # type: ignore[arg-type]
        joins = {host: self._join(host) for host in joined}
        for number, host in enumerate(joined):
            if host != leader:
                roster.joined[host] = Joined(number, joins[host], 0.0)  # type: ignore[index]
        voters = {group.group_id: group.setup.voters for group in self.groups}
        tolerated = self.groups[0].setup.tolerated_liars
        return roster.unblocked_previous(joins[leader], voters.__getitem__, tolerated)  # type: ignore[arg-type]

    def _join(self, host: int) -> Join:
        last = self._last[host]
        return Join(
            peer_id=host,  # type: ignore[arg-type]
            group_name="model",
            round=ROUND,
            spec_hash=b"",
            terms="",
            role="aux" if host in self._helpers else "node",
            weight_cap=1.0,
            up_bytes_per_s=0.0,
            down_bytes_per_s=0.0,
            addresses=(),
            nonce=b"",
            previous=last.group.group_id,
            abandoned=promise_of(last) is not None,
            signature=b"",
        )

    def _setup(self, leader: int, joined: list[int]) -> Setup:
        first = self.groups[0].setup
        members = (leader, *(host for host in joined if host != leader))
        aggregators = tuple(host for host in members if host not in self._clients)
        return Setup(
            members=members,
            clients=self._clients & frozenset(members),
            helpers=self._helpers & frozenset(members),
            aggregators=aggregators,
            chunks_of_pieces=((1, 1),) * len(aggregators),
            # A small group can tolerate none, and says so; here it simply must agree in full.
            tolerated_liars=first.tolerated_liars,
            weights=first.weights,
            previous=self._last[leader].group.group_id,
        )

    # --- judgement -------------------------------------------------------------------------

    def check(self, core: tuple[int, ...]) -> None:
        """Complain of whatever went wrong."""
        for group, members in zip(self.groups, self.members, strict=True):
            model_checks.check_group(group, members)
        succeeded = [group.number for group in self.groups if group.successes]
        if len(succeeded) > 1 and not any(group.fork for group in self.groups):
            self.world.complain(f"groups {succeeded} of one round succeeded, and none is a fork")
        if core:
            model_checks.check_core(self.groups[0], self.members[0], core)
