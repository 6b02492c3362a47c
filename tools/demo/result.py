"""What the demo has shown: one object for programs, a verdict and a summary for people."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tools.demo.story import Round, Status, Story

ACCURACY_MIN = 0.96


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """How the demo ended."""

    accuracy: float | None
    """Share of the test set that is right, on the worst peer; None if nobody finished."""
    steps: int
    """Global steps that the swarm took."""
    seconds: float
    """From the command to its end."""
    hashes: dict[str, str]
    """SHA-256 of the parameters of each peer alive at the end."""
    peers: list[dict[str, Any]]
    """Each trainer, in the order of their start."""
    rounds: list[dict[str, Any]]
    """Each round, by step."""
    problem: str | None
    """Why the demo is ill; None when it is well."""

    def to_json(self) -> dict[str, Any]:
        """The object of `--json`; "problem" is there only when there is one."""
        content = dict(vars(self))
        if self.problem is None:
            del content["problem"]
        return content


def make_result(story: Story, *, seconds: float) -> DemoResult:
    """Sum up a story that is over."""
    trainers = list(story.trainers.values())
    finished = [trainer for trainer in trainers if trainer.status is Status.FINISHED]
    accuracy = min((one.accuracy for one in finished if one.accuracy is not None), default=None)
    hashes = {
        one.peer_id: one.parameter_hash
        for one in finished
        if one.peer_id is not None and one.parameter_hash is not None
    }
    return DemoResult(
        accuracy=accuracy,
        steps=story.step,
        seconds=round(seconds, 2),
        hashes=hashes,
        peers=[
            {
                "peer_id": trainer.peer_id,
                "role": "latecomer" if trainer.late else "trainer",
                "started_step": trainer.started_step,
                "last_step": trainer.step,
                "samples": trainer.samples,
                "ended": trainer.status.value,
            }
            for trainer in trainers
        ],
        rounds=[{**vars(one), "members": list(one.members)} for one in story.rounds],
        problem=story.problem or _verdict(accuracy, set(hashes.values())),
    )


def _verdict(accuracy: float | None, hashes: set[str]) -> str | None:
    """What is ill about an end that was reached, if anything."""
    if accuracy is None:
        return "no trainer finished"
    if len(hashes) != 1:
        return f"the peers hold {len(hashes)} different sets of parameters"
    if accuracy < ACCURACY_MIN:
        return f"the accuracy is {accuracy:.1%}, under {ACCURACY_MIN:.0%}"
    return None


def summarize_rounds(story: Story) -> list[str]:
    """One line per stretch of steps whose rounds had the same members and outcome."""
    names = {trainer.peer_id: name for name, trainer in story.trainers.items()}

    def kind(one: Round) -> tuple[tuple[str, ...], bool]:
        return tuple(sorted(names.get(member, member[-8:]) for member in one.members)), (
            one.succeeded
        )

    lines = []
    for (members, succeeded), group in groupby(story.rounds, key=kind):
        stretch = list(group)
        first, last = stretch[0].step, stretch[-1].step
        where = f"step {first}" if first == last else f"steps {first}–{last}"
        seconds = sum(one.seconds for one in stretch) / len(stretch)
        outcome = "" if succeeded else ", failed"
        lines.append(f"{where}: {', '.join(members)} ({seconds * 1000:.0f} ms each{outcome})")
    return lines
