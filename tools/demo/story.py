"""What happens in the demo and when: a core that reads trainers' events and gives stage orders.

It decides by what the trainers wrote, never by a clock:

    what it sees                              what it orders
    the node is ready                         start the trainers, one of which waits outside
    the swarm reached the step for it         kill the last of the first ones
    the victim is dead, and the next mark     let the one outside join
    a trainer ended that was not killed       nothing: it finished, or the demo has failed
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

# Where along the way things happen: early enough that people see what follows.
KILL_AT_SHARE = 0.2
JOIN_AT_SHARE = 0.4


class Status(Enum):
    """Where a trainer is in its life."""

    STARTING = "starting"
    WAITING = "waiting"
    TRAINING = "training"
    FINISHED = "finished"
    KILLED = "killed"
    FAILED = "failed"


@dataclass(frozen=True)
class StartTrainer:
    """Order: start this trainer."""

    name: str


@dataclass(frozen=True)
class KillTrainer:
    """Order: kill this trainer with SIGKILL."""

    name: str


@dataclass(frozen=True)
class LetJoin:
    """Order: tell this trainer, which waits outside, to join."""

    name: str


Order = StartTrainer | KillTrainer | LetJoin


@dataclass(kw_only=True)
class Trainer:
    """One trainer as its events show it."""

    name: str
    late: bool
    status: Status = Status.STARTING
    peer_id: str | None = None
    started_step: int = 0
    step: int = 0
    samples: int = 0
    samples_per_s: float = 0.0
    loss: float | None = None
    last_round: Mapping[str, Any] | None = None
    accuracy: float | None = None
    parameter_hash: str | None = None
    equal: bool = False


@dataclass(kw_only=True)
class Round:
    """One round as its members reported it."""

    step: int
    members: tuple[str, ...]
    fractions: Mapping[str, float]
    seconds: float
    succeeded: bool


@dataclass(kw_only=True)
class Story:
    """The demo from its first order to its last event."""

    peers: int
    steps: int
    kill_one: bool
    trainers: dict[str, Trainer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What happened, in sentences for people, oldest first."""
    problem: str | None = None
    """Why the demo failed; None while all is well."""
    _rounds: dict[tuple[int, tuple[str, ...], bool], Round] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How far the swarm is."""
        return max((trainer.step for trainer in self.trainers.values()), default=0)

    @property
    def rounds(self) -> list[Round]:
        """Every round that anybody reported, by step; those that failed first."""
        return sorted(self._rounds.values(), key=lambda one: (one.step, one.succeeded))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        if self.problem is not None:
            return True
        ended = (Status.FINISHED, Status.KILLED)
        return len(self.trainers) == self.peers + 1 and all(
            trainer.status in ended for trainer in self.trainers.values()
        )

    def on_node_ready(self) -> list[Order]:
        """The bootstrap node listens."""
        # The late one too, since PyTorch loads slowly where many start: it shall join at its mark.
        return [self._start(late=number == self.peers) for number in range(self.peers + 1)]

    def on_event(self, name: str, event: Mapping[str, Any]) -> list[Order]:
        """A trainer wrote a line of its event log."""
        trainer = self.trainers[name]
        match event.get("event"):
            case "prepared" if trainer.late:
                trainer.status = Status.WAITING
            case "started":
                trainer.status = Status.TRAINING
                trainer.peer_id = event["peer_id"]
                trainer.started_step = trainer.step = event["step"]
                self._note(f"{name} is there: {event['peer_id']}")
            case "progress":
                trainer.samples_per_s = event["samples_per_s"]
            case "caught_up":
                if trainer.step == trainer.started_step:
                    trainer.started_step = event["step"]
                trainer.step = event["step"]
                self._note(f"{name} took over the others' state at step {event['step']}")
            case "step":
                trainer.step, trainer.loss = event["step"], event["loss"]
                trainer.samples += event["samples"]
                trainer.last_round = event["round"]
                self._add_round(event["step"], event["round"])
            case "round_failed":
                # It was for the step after the last one, or for the agreement at the end.
                self._add_round(min(event["step"] + 1, self.steps), event["round"])
                self._note(f"{name}: a round failed at step {event['step']}: {event['reason']}")
            case "finished":
                trainer.accuracy, trainer.parameter_hash = event["accuracy"], event["hash"]
                trainer.step, trainer.equal = event["step"], event["equal"]
                self._note(f"{name} finished at step {event['step']}")
        return self._next_orders()

    def on_exit(self, name: str, exit_code: int) -> list[Order]:
        """A trainer's process ended, and all its events were read."""
        trainer = self.trainers[name]
        if trainer.status is Status.KILLED:
            self._note(f"{name} was killed with SIGKILL at step {trainer.step}")
            self._dead.add(name)
        elif exit_code == 0 and trainer.parameter_hash is not None:
            trainer.status = Status.FINISHED
            self._check_latecomer()
        else:
            trainer.status = Status.FAILED
            self.fail(f"{name} ended with exit code {exit_code}")
        return self._next_orders()

    def fail(self, problem: str) -> None:
        """Something ended the demo; the first such thing is what is told."""
        self.problem = self.problem or problem

    def __post_init__(self) -> None:
        self._dead: set[str] = set()
        self._told_to_join = False

    def _next_orders(self) -> list[Order]:
        return [*self._kill_order(), *self._join_orders()]

    def _kill_order(self) -> list[Order]:
        """The last of the first trainers dies, once it takes part."""
        victim = [trainer for trainer in self.trainers.values() if not trainer.late][-1]
        early = self.step < self._mark(KILL_AT_SHARE)
        if not self.kill_one or early or victim.status is not Status.TRAINING:
            return []
        victim.status = Status.KILLED
        return [KillTrainer(victim.name)]

    def _join_orders(self) -> list[Order]:
        """The last one joins at the mark, if nobody has to die before."""
        waits_for_death = self.kill_one and not self._dead
        early = self.step < self._mark(JOIN_AT_SHARE)
        if waits_for_death or early or self._told_to_join:
            return []
        self._told_to_join = True
        (late,) = (trainer.name for trainer in self.trainers.values() if trainer.late)
        self._note(f"{late}, which waited outside, may join at step {self.step}")
        return [LetJoin(late)]

    def _check_latecomer(self) -> None:
        """Who comes when all others have gone would begin anew, alone."""
        first = [trainer for trainer in self.trainers.values() if not trainer.late]
        outside = [
            trainer.name
            for trainer in self.trainers.values()
            if trainer.status in (Status.STARTING, Status.WAITING)
        ]
        if outside and all(one.status in (Status.FINISHED, Status.KILLED) for one in first):
            self.fail(f"all others finished before {outside[0]} could join; give more --steps")

    def _start(self, *, late: bool) -> Order:
        name = f"trainer-{len(self.trainers) + 1}"
        self.trainers[name] = Trainer(name=name, late=late)
        return StartTrainer(name)

    def _mark(self, share: float) -> int:
        return math.ceil(self.steps * share)

    def _add_round(self, step: int, content: Mapping[str, Any] | None) -> None:
        if content is None:
            return
        members = tuple(content["members"])
        key = (step, members, content["succeeded"])
        self._rounds.setdefault(
            key,
            Round(
                step=step,
                members=members,
                fractions=content["fractions"],
                seconds=content["seconds"],
                succeeded=content["succeeded"],
            ),
        )

    def _note(self, text: str) -> None:
        self.notes.append(text)
