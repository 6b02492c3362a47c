"""What happens in a simulated internet: how far each trainer is, by which paths, what is due."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tools.simulate.scene import Fault, Scene

State = Literal["starting", "training", "finished", "killed", "failed"]


@dataclass
class Trainer:
    """One host that trains."""

    name: str
    where: str
    """What stands between it and the internet."""
    state: State = "starting"
    peer_id: str | None = None
    step: int = 0
    samples: int = 0
    """That it put into global steps."""
    samples_per_s: float = 0.0
    rounds_failed: int = 0
    paths: dict[str, str] = field(default_factory=dict)
    """To each peer that it is connected to."""
    accuracy: float | None = None
    parameter_hash: str | None = None


class Story:
    """Follows the trainers' event logs, and says which faults are due and when all is over."""

    def __init__(self, scene: Scene) -> None:
        self.steps = scene.steps
        self.trainers = {name: Trainer(name, scene.where(name)) for name in scene.trainers}
        self.notes: list[str] = []
        """What has happened, for people to read."""
        self.problem: str | None = None
        """Why the simulation is ill; None while all is well."""
        self._faults = sorted(scene.faults, key=lambda fault: fault.at_step)

    @property
    def step(self) -> int:
        """How far the swarm is."""
        return max(trainer.step for trainer in self.trainers.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        ended = ("finished", "killed", "failed")
        return self.problem is not None or all(
            trainer.state in ended for trainer in self.trainers.values()
        )

    def next_fault(self) -> Fault | None:
        """A fault that is due now; each is given out once."""
        if not self._faults or self._faults[0].at_step > self.step or not self._all_are_there():
            return None
        fault = self._faults.pop(0)
        self.notes.append(f"step {self.step}: {fault.deed} {fault.to}")
        if fault.deed == "kill" and fault.to in self.trainers:
            self.trainers[fault.to].state = "killed"
        return fault

    def on_event(self, name: str, event: Mapping[str, Any]) -> None:
        """A trainer wrote a line of its event log."""
        trainer = self.trainers[name]
        match event.get("event"):
            case "started":
                trainer.state, trainer.peer_id = "training", event["peer_id"]
                self.notes.append(f"{name} is there: {trainer.peer_id}")
            case "progress":
                trainer.samples_per_s, trainer.paths = event["samples_per_s"], event["paths"]
            case "step":
                trainer.step = event["step"]
                trainer.samples += event["samples"]
            case "caught_up":
                trainer.step = event["step"]
                self.notes.append(f"{name} took over the others' state at step {trainer.step}")
            case "round_failed":
                trainer.rounds_failed += 1
                self.notes.append(f"{name}: a round failed: {event['reason']}")
            case "finished":
                trainer.step, trainer.accuracy = event["step"], event["accuracy"]
                trainer.parameter_hash = event["hash"]
                self.notes.append(f"{name} finished at step {trainer.step}")

    def on_exit(self, name: str, exit_code: int, last_words: str) -> None:
        """A trainer's process ended, and all its events were read."""
        trainer = self.trainers[name]
        if trainer.state == "killed":
            return
        if exit_code == 0 and trainer.parameter_hash is not None:
            trainer.state = "finished"
            return
        trainer.state = "failed"
        self.fail(f"{name} ended with exit code {exit_code}: {last_words}")

    def fail(self, problem: str) -> None:
        """Something ended the simulation; the first such thing is what is told."""
        self.problem = self.problem or problem

    def result(self, *, seconds: float) -> dict[str, Any]:
        """The object of `--json`; "problem" is there only when there is one."""
        content: dict[str, Any] = {
            "steps": self.step,
            "seconds": round(seconds, 2),
            "peers": [
                {**vars(trainer), "paths": dict(sorted(trainer.paths.items()))}
                for trainer in self.trainers.values()
            ],
        }
        problem = self.problem or self._verdict()
        return content if problem is None else content | {"problem": problem}

    def _all_are_there(self) -> bool:
        return all(trainer.state != "starting" for trainer in self.trainers.values())

    def _verdict(self) -> str | None:
        finished = [one for one in self.trainers.values() if one.state == "finished"]
        hashes = {one.parameter_hash for one in finished}
        if not finished:
            return "no trainer finished"
        if len(hashes) > 1:
            return f"the peers hold {len(hashes)} different sets of parameters"
        if self._faults:
            return f"all was over before {self._faults[0].deed} {self._faults[0].to}"
        return None


def describe_paths(paths: Mapping[str, str]) -> str:
    """How many peers one is connected to in which way: "2 direct, 1 relayed"."""
    return ", ".join(f"{count} {path}" for path, count in sorted(Counter(paths.values()).items()))
