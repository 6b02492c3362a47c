"""What happens in a run with churn, and what came of it (core).

Processes start, are killed and are replaced by a plan in seconds; a peer's own events say the rest:

    when                                        what is ordered
    the beginning                               start the first processes, as one swarm
    its time, up to two fifths of all,          start a process: its peers join
      and there was a step
    its time, all in the victim have stepped,   kill a process, and all peers in it
      and all in another that lives
    its time                                    start a newcomer for each that is to be killed
    its time, all else done, all have stepped   end: a global step that is the last

Orders keep their order: while a kill has to wait, so do the newcomers that come after it. Else the
last who holds the state may be killed while the others still load, and they would begin anew.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

KILLED_SHARE = 1 / 3
# As shares of the whole time: peers come, a third goes while newcomers arrive, and all end.
JOINED_BY, KILLS_FROM, KILLS_BY, NEWCOMERS_FROM, NEWCOMERS_BY, END_AT = (
    *(0.4, 0.45, 0.65),
    *(0.5, 0.7, 0.9),
)
FIRST_SHARE = 0.3
STEPS_LEFT = 3
"""From the order to end until the last step: no peer may be past it when it hears of it."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Order: start a process."""

    process: str
    peers: int
    together: int
    """Its peers begin when so many are there: those who come first, as one swarm."""


@dataclass(frozen=True)
class Kill:
    """Order: kill a process with SIGKILL."""

    process: str


@dataclass(frozen=True)
class End:
    """Order: tell every peer that this global step is the last."""

    step: int


Order = Start | Kill | End


class Status(Enum):
    """How a peer's session stands."""

    STARTING = "starting"
    TRAINING = "training"
    FINISHED = "finished"
    KILLED = "killed"
    FAILED = "failed"


@dataclass(kw_only=True)
class Session:
    """One peer from its start to its end; times are seconds since the run began."""

    process: str
    newcomer: bool
    status: Status = Status.STARTING
    peer_id: str | None = None
    samples_per_s_alone: float = 0.0
    """What it computes when it need not wait."""
    joined_s: float | None = None
    ended_s: float | None = None
    first_step_s: float | None = None
    step: int = 0
    samples: int = 0
    catch_ups: int = 0
    rounds_failed: int = 0
    hash: str | None = None
    equal: bool = False

    @property
    def alive(self) -> bool:
        """Whether it may still take part."""
        return self.status in (Status.STARTING, Status.TRAINING)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round as its members reported it."""

    step: int
    members: tuple[str, ...]
    succeeded: bool
    seconds: float


def spread(first: float, last: float, count: int) -> list[float]:
    """So many times from the first to the last, evenly."""
    return [first + (last - first) * index / max(count - 1, 1) for index in range(count)]


class Story:
    """A run from its plan to its end.

    Args:
        peers: at the beginning and, after the newcomers, again.
        processes: what they are spread over.
        seconds: from the first start to the order to end.
        rng: chooses the victims.
    """

    def __init__(self, *, peers: int, processes: int, seconds: float, rng: random.Random) -> None:
        if not 2 <= processes <= peers:
            raise ValueError("at least two processes are needed, and a peer in each")
        self.sessions: dict[str, Session] = {}
        self.rounds: dict[tuple[int, tuple[str, ...], bool], Round] = {}
        self.samples: list[tuple[float, float, int]] = []
        """What peers put into steps, and from when until when they computed it."""
        self.catch_ups_s: list[float] = []
        """How long each catch-up took."""
        self.reasons: dict[str, int] = {}
        """Why rounds failed, counted by peer."""
        self.notes: list[str] = []
        """What happened, in sentences for people."""
        self.problem: str | None = None
        self.end_step: int | None = None
        self.last_kill_step: int | None = None
        self._processes: dict[str, list[str]] = {}
        self._newcomers: set[str] = set()
        self._ending_at_s = END_AT * seconds
        self._plan = self._make_plan(peers, processes, seconds, rng)

    def _make_plan(
        self, peers: int, processes: int, seconds: float, rng: random.Random
    ) -> list[tuple[float, Start | Kill]]:
        names = [f"process-{number + 1}" for number in range(processes)]
        sizes = [peers // processes + (number < peers % processes) for number in range(processes)]
        first = max(1, round(processes * FIRST_SHARE))
        times = [0.0] * first + spread(0.0, JOINED_BY * seconds, processes - first + 1)[1:]
        plan: list[tuple[float, Start | Kill]] = []
        for number, (name, size, at_s) in enumerate(zip(names, sizes, times, strict=True)):
            together = sum(sizes[:first]) if number < first else 1
            plan.append((at_s, Start(process=name, peers=size, together=together)))
        victims = sorted(rng.sample(range(processes), max(1, round(processes * KILLED_SHARE))))
        kills = spread(KILLS_FROM * seconds, KILLS_BY * seconds, len(victims))
        arrivals = spread(NEWCOMERS_FROM * seconds, NEWCOMERS_BY * seconds, len(victims))
        for number, victim in enumerate(victims):
            name = f"newcomer-{number + 1}"
            self._newcomers.add(name)
            plan.append((kills[number], Kill(names[victim])))
            plan.append((arrivals[number], Start(process=name, peers=sizes[victim], together=1)))
        return sorted(plan, key=lambda one: one[0])

    @property
    def step(self) -> int:
        """How far the swarm is."""
        return max((one.step for one in self.sessions.values()), default=0)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        everybody_ended = not any(one.alive for one in self.sessions.values())
        return self.problem is not None or (self.end_step is not None and everybody_ended)

    def survivors(self) -> dict[str, Session]:
        """Whoever was not killed."""
        return {name: one for name, one in self.sessions.items() if one.status is not Status.KILLED}

    def next_orders(self, now_s: float) -> list[Order]:
        """What is due; each order once."""
        orders: list[Order] = []
        while self._plan and self._is_due(*self._plan[0], now_s):
            _, order = self._plan.pop(0)
            orders.append(order)
            if isinstance(order, Start):
                self._on_start(order)
            else:
                self._on_kill(order, now_s)
        alive = [process for process in self._processes if self._is_alive(process)]
        ready = not self._plan and all(map(self._all_stepped, alive))
        if self.end_step is None and now_s >= self._ending_at_s and ready:
            self.end_step = self.step + STEPS_LEFT
            self.notes.append(f"step {self.end_step} will be the last")
            orders.append(End(self.end_step))
        return orders

    def _is_due(self, at_s: float, order: Start | Kill, now_s: float) -> bool:
        if at_s > now_s:
            return False
        if isinstance(order, Start):
            return at_s == 0.0 or self.step > 0
        others = [one for one in self._processes if one != order.process and self._is_alive(one)]
        return self._all_stepped(order.process) and any(map(self._all_stepped, others))

    def _on_start(self, order: Start) -> None:
        names = [f"{order.process}.{number + 1}" for number in range(order.peers)]
        self._processes[order.process] = names
        for name in names:
            newcomer = order.process in self._newcomers
            self.sessions[name] = Session(process=order.process, newcomer=newcomer)
        self.notes.append(f"{order.process} starts with {order.peers} peers at step {self.step}")

    def _on_kill(self, order: Kill, now_s: float) -> None:
        for name in self._processes[order.process]:
            self.sessions[name].status = Status.KILLED
            self.sessions[name].ended_s = now_s
        self.last_kill_step = self.step
        peers = len(self._processes[order.process])
        self.notes.append(f"{order.process} is killed, and {peers} peers, at step {self.step}")

    def _is_alive(self, process: str) -> bool:
        return any(self.sessions[name].alive for name in self._processes[process])

    def _all_stepped(self, process: str) -> bool:
        names = self._processes.get(process, [])
        return bool(names) and all(self.sessions[name].first_step_s is not None for name in names)

    def on_event(self, event: Mapping[str, Any], now_s: float) -> None:
        """A peer wrote a line of its log; `now_s` is when it did."""
        one = self.sessions[event["peer"]]
        match event["event"]:
            case "prepared":
                one.samples_per_s_alone = event["samples_per_s_alone"]
            case "started":
                one.peer_id, one.joined_s, one.step = event["peer_id"], now_s, event["step"]
                if one.alive:
                    one.status = Status.TRAINING
            case "caught_up":
                one.step, one.catch_ups = event["step"], one.catch_ups + 1
                self.catch_ups_s.append(event["seconds"])
            case "step":
                one.step, one.samples = event["step"], one.samples + event["samples"]
                one.first_step_s = now_s if one.first_step_s is None else one.first_step_s
                self.samples.append((now_s - event["seconds"], now_s, event["samples"]))
                self._add_round(event["step"], event["round"])
            case "round_failed":
                one.rounds_failed += 1
                self.reasons[event["reason"]] = self.reasons.get(event["reason"], 0) + 1
                self._add_round(event["step"] + 1, event["round"])
            case "finished":
                one.status, one.ended_s = Status.FINISHED, now_s
                one.hash, one.equal, one.step = event["hash"], event["equal"], event["step"]
            case "failed":
                one.status, one.ended_s = Status.FAILED, now_s
                self.fail(f"{event['peer']} failed: {event['error']}")

    def on_exit(self, process: str, exit_code: int, words: str) -> None:
        """A process ended, and all its events were heard."""
        if self._is_alive(process):
            self.fail(f"{process} ended with exit code {exit_code}: {words}")

    def fail(self, problem: str) -> None:
        """Something ended the run; the first such thing is what is told."""
        self.problem = self.problem or problem

    def _add_round(self, step: int, content: Mapping[str, Any] | None) -> None:
        if content is not None:
            members = tuple(content["members"])
            round = Round(
                step=step,
                members=members,
                succeeded=content["succeeded"],
                seconds=content["seconds"],
            )
            self.rounds.setdefault((step, members, round.succeeded), round)
