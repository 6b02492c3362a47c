"""Schedules: who is in a group, what befalls whom and when; all of it from one seed, in words."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tests.averaging.allreduce import model_lies
from tests.averaging.allreduce.model import World
from tests.averaging.allreduce.model_group import Setup
from tests.averaging.allreduce.model_member import Member
from tests.averaging.allreduce.model_round import Round

FAULTS_MAX = 6
FAULT_START_S_MAX = 4.0
FAULT_LENGTH_S_MAX = 12.0
END_S = 600.0
DRAIN_S = 3.0


@dataclass
class Report:
    """What came of one schedule."""

    seed: int
    complaints: list[str]
    words: list[str]
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many members ended how, over all groups."""
    groups: int = 0
    events: int = 0


def run_schedule(seed: int, count: int | None = None) -> Report:
    """Run one schedule to its end, and judge it.

    Args:
        count: of how many members; None lets the seed decide, mostly for few.
    """
    schedule = _Schedule(random.Random(seed), count)
    schedule.run()
    world, round_ = schedule.world, schedule.round
    report = Report(seed, world.complaints, world.notes)
    for members in round_.members:
        for member in members.values():
            end = member.ballot.end
            how = "none" if end is None else end.outcome + (" surely" if end.certain else "")
            report.outcomes[how] = report.outcomes.get(how, 0) + 1
    report.groups, report.events = len(round_.groups), world.events_done
    return report


class _Schedule:
    def __init__(self, rng: random.Random, count: int | None) -> None:
        self.rng = rng
        chosen = rng.choice([*range(2, 8)] * 36 + [*range(8, 17)] * 10 + [24, 40, 64])
        count = count or chosen
        self.world = World(rng, count)
        self.hosts = list(range(count))
        self.setup = self._setup(count)
        self.core: tuple[int, ...] = self._core() if rng.random() < 0.6 else ()
        self.world.reliable = frozenset(self.core)
        self._describe()
        self.round = Round(self.world, self.setup, forks=rng.random() < 0.3)
        self._lies()
        for _ in range(rng.randint(0, FAULTS_MAX)):
            self._fault()

    def run(self) -> None:
        """From the forming of the group until all is over, and a little longer."""
        for me, member in self.round.members[0].items():
            enter_s = self.rng.random() * 0.1
            begin_s = enter_s + self.rng.choice([0.0, 0.0, 0.5])
            if me not in self.core and self.rng.random() < 0.05:
                enter_s = self.rng.choice([1.0, 5.0, 1e9])
                self.world.note(f"{me} hears of the group after {enter_s:g} s")
            if me not in self.core and self.rng.random() < 0.05:
                begin_s = enter_s + self.rng.choice([3.0, 15.0])
                self.world.note(f"{me} begins after {begin_s:g} s")
            if enter_s < 1e6:
                member.host.after(enter_s, member.enter)
                member.host.after(begin_s, member.begin)
        world = self.world
        while world.now_s < END_S:
            world.run(self.round.over, END_S)
            # Whatever is still under way arrives, and must not change the past.
            world.run(lambda: False, world.now_s + DRAIN_S)
            if self.round.over() and not self.round.waiting():
                break
        self.round.check(self.core)

    # --- who is there ----------------------------------------------------------------------

    def _setup(self, count: int) -> Setup:
        rng = self.rng
        clients = {host for host in self.hosts[1:] if rng.random() < 0.15}
        helpers: set[int] = set()
        if rng.random() < 0.3:
            helpers = {host for host in self.hosts if host not in clients and rng.random() < 0.25}
            if len(helpers | clients) == count:
                helpers.clear()
        able = [host for host in self.hosts if host not in clients]
        aggregators = [h for h in able if h in helpers or rng.random() < 0.9] or able[:1]
        if count > 8:
            aggregators = sorted(rng.sample(aggregators, min(len(aggregators), rng.randint(1, 6))))
        helpers &= set(aggregators)
        small = count > 16
        pieces = tuple(
            tuple(
                rng.randint(1, 1 if small else 3) for _ in range(rng.randint(1, 2 if small else 4))
            )
            for _ in aggregators
        )
        voters = count - len(helpers)
        tolerated = rng.randint(1, (voters - 1) // 3) if voters >= 4 and rng.random() < 0.3 else 0
        zero = 1.0 if rng.random() < 0.02 else rng.choice([0.0, 0.0, 0.1])
        weights = {h: 0.0 if rng.random() < zero else float(rng.randint(1, 3)) for h in self.hosts}
        for host in self.world.hosts:
            host.part_interval_s = rng.choice([0.005, 0.02, 0.05])
            host.result_interval_s = host.part_interval_s / 2
        return Setup(
            members=tuple(self.hosts),
            clients=frozenset(clients),
            helpers=frozenset(helpers),
            aggregators=tuple(aggregators),
            chunks_of_pieces=pieces,
            tolerated_liars=tolerated,
            weights=weights,
        )

    def _core(self) -> tuple[int, ...]:
        """A quorum of voters and an aggregator, whom nothing befalls."""
        setup, rng = self.setup, self.rng
        core: list[int] = []
        for host in rng.sample(self.hosts, len(self.hosts)):
            core.append(host)
            voters = [peer for peer in core if peer not in setup.helpers]
            weighty = any(setup.weights[peer] for peer in voters)
            aggregates = any(peer in setup.aggregators for peer in core)
            if setup.quorum_reached(setup.voters, voters) and weighty and aggregates:
                return tuple(sorted(core))
        return ()

    def _describe(self) -> None:
        setup, note = self.setup, self.world.note
        note(
            f"{len(self.hosts)} members, clients {sorted(setup.clients)}, "
            f"auxiliary {sorted(setup.helpers)}, aggregators {list(setup.aggregators)}, chunks "
            f"{setup.chunks_of_pieces}, tolerated liars {setup.tolerated_liars}, latency "
            f"{self.world.latency_s:g} s, loss {self.world.loss:g}, "
            f"well all along: {list(self.core)}"
        )
        if len(set(setup.weights.values())) > 1:
            note(f"weights {setup.weights}")

    def _lies(self) -> None:
        """Some schedules have liars; voters lie about votes only where that is tolerated."""
        rng, setup = self.rng, self.setup
        others = [host for host in self.hosts if host not in self.core]
        if not others or rng.random() < 0.7:
            return
        for count, host in enumerate(rng.sample(others, min(len(others), rng.randint(1, 3)))):
            kinds = list(model_lies.KINDS)
            if count >= setup.tolerated_liars:
                kinds = [kind for kind in kinds if kind not in model_lies.VOTING_LIES]
            lies = frozenset(rng.sample(kinds, rng.randint(1, 2)))
            if count < setup.tolerated_liars and rng.random() < 0.5:
                lies |= {rng.choice(model_lies.VOTING_LIES)}
            self.world.hosts[host].lies = lies
            self.world.note(f"{host} lies: {sorted(lies)}")

    # --- what befalls them -----------------------------------------------------------------

    def _fault(self) -> None:
        others = [host for host in self.hosts if host not in self.core]
        if not others:
            return
        start_s = self.rng.random() * self.rng.choice([0.3, 1.0, FAULT_START_S_MAX])
        length_s = self.rng.choice([0.5, 2.0, 3.0, self.rng.random() * FAULT_LENGTH_S_MAX])
        victim = self.rng.choice(others)
        kind = self.rng.choice(
            ["crash", "crash", "freeze", "freeze", "trickle", "cut", "partition", "break", "cancel"]
        )
        if kind == "crash":
            self._crash(victim, start_s)
        elif kind == "freeze":
            self._say(start_s, f"{victim} freezes for {length_s:.2f} s")
            self.world.at(start_s, self.world.hosts[victim].freeze)
            self.world.at(start_s + length_s, self.world.hosts[victim].thaw)
        elif kind == "trickle":
            factor = self.rng.choice([1.5, 3.0])
            self._say(start_s, f"{victim} sends slower and slower, each part {factor:g} times")
            self.world.at(start_s, lambda: self._trickle(victim, factor))
        elif kind == "cut":
            other = self.rng.choice([host for host in self.hosts if host != victim])
            self._cut([(victim, other)], start_s, length_s)
        elif kind == "partition":
            self._partition(start_s, length_s)
        elif kind == "break":
            other = self.rng.choice([host for host in self.hosts if host != victim])
            self._say(start_s, f"the streams between {victim} and {other} break")
            self.world.at(start_s, lambda: self._break(victim, other))
        else:
            self._say(start_s, f"the step of {victim} is cancelled")
            member = self.round.members[0][victim]
            self.world.at(start_s, lambda: self._cancel(member))

    def _say(self, start_s: float, text: str) -> None:
        self.world.at(start_s, lambda: self.world.note(text))

    def _cancel(self, member: Member) -> None:
        if member.entered:
            member.host.do(lambda: member.give_up("cancelled"))

    def _trickle(self, victim: int, factor: float) -> None:
        self.world.hosts[victim].trickle = factor

    def _crash(self, victim: int, start_s: float) -> None:
        loud = self.rng.random() < 0.5
        self._say(start_s, f"{victim} {'is killed' if loud else 'vanishes'}")

        def crash() -> None:
            self.world.hosts[victim].crash()
            if loud:
                for other in self.hosts:
                    self._break(victim, other)

        self.world.at(start_s, crash)

    def _break(self, one: int, other: int) -> None:
        """The streams of all groups between two hosts break; each side sees it after a while."""
        for members in self.round.members:
            for here, there in ((one, other), (other, one)):
                if here not in members or there not in members[here].uplinks:
                    continue
                member, uplink = members[here], members[here].uplinks[there]
                uplink.up.lose()
                uplink.down.lose()
                member.host.after(self.world.delay_s(), lambda m=member, u=uplink: m.on_broken(u))
                theirs, link = members[there].aggregator, uplink.link
                if theirs is not None and link is not None:
                    members[there].host.after(
                        self.world.delay_s(),
                        lambda a=theirs, k=link: a.on_link_closed(k, "connection lost"),
                    )

    def _cut(self, pairs: list[tuple[int, int]], start_s: float, length_s: float) -> None:
        rng, world = self.rng, self.world
        both, heals = rng.random() < 0.6, rng.random() < 0.7
        for one, other in pairs:
            ways = [(one, other), (other, one)] if both else [(one, other)]
            for source, target in ways:
                world.at(start_s, lambda s=source, t=target: world.cut(s, t))
                if heals:
                    world.at(start_s + length_s, lambda s=source, t=target: world.heal(s, t))
        how = "nothing gets to and fro" if both else "nothing gets"
        lasts = f"for {length_s:.2f} s" if heals else "any more"
        self._say(start_s, f"{how} on {pairs} {lasts}")

    def _partition(self, start_s: float, length_s: float) -> None:
        """Two sides; the core stays on one."""
        side = [h for h in self.hosts if h not in self.core and self.rng.random() < 0.5]
        pairs = [(one, other) for one in side for other in self.hosts if other not in side]
        if pairs:
            self._cut(pairs, start_s, length_s)
