"""What a run with churn has shown: figures, a verdict and a plot (pure)."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Any

from tests.soak.forty_story import Session, Status, Story
from tools.bench.plot import Point, Series, line_plot

SLICES = 30
"""Of the whole time; samples are counted in each."""
SLICE_S_MIN = 1.0
TICKS_MAX = 8


def verdict(story: Story) -> str | None:
    """Why the run is ill, or None."""
    if story.problem is not None:
        return story.problem
    survivors = story.survivors()
    unfinished = [name for name, one in survivors.items() if one.status is not Status.FINISHED]
    if unfinished or not survivors:
        return f"these did not finish: {', '.join(unfinished) or 'nobody did'}"
    hashes = Counter(one.hash for one in survivors.values())
    if len(hashes) > 1:
        usual, _ = hashes.most_common(1)[0]
        odd = [
            f"{name} {str(one.hash)[:12]} at step {one.step}"
            for name, one in survivors.items()
            if one.hash != usual
        ]
        return f"{len(hashes)} different states at the end; beside {str(usual)[:12]}: " + ", ".join(
            odd
        )
    if story.last_kill_step is None or story.step <= story.last_kill_step:
        return "there was no step after the last kill"
    return None


def figures(story: Story, *, seconds: float, memory_bytes_max: int) -> dict[str, Any]:
    """Everything that was measured; seconds count from the first process's start."""
    sessions = list(story.sessions.values())
    samples = sum(count for _, _, count in story.samples)
    trained_s = _trained_s(story)
    succeeded = [one for one in story.rounds.values() if one.succeeded]
    took_s = sorted(one.seconds for one in succeeded)
    return {
        "seconds": round(seconds, 1),
        "sessions": len(sessions),
        "joined": sum(one.joined_s is not None for one in sessions),
        "newcomers": sum(one.newcomer for one in sessions),
        "killed": sum(one.status is Status.KILLED for one in sessions),
        "survivors": len(story.survivors()),
        "peers_at_once_max": max((alive for _, alive in _alive(story)), default=0),
        "steps": story.step,
        "samples": samples,
        "samples_per_s": round(samples / trained_s, 1) if trained_s else None,
        "share_of_possible": _share_of_possible(story, samples),
        "rounds_succeeded": len(succeeded),
        "round_members_max": max((len(one.members) for one in succeeded), default=0),
        "round_seconds_median": round(statistics.median(took_s), 3) if took_s else None,
        "round_seconds_worst": round(took_s[-1], 3) if took_s else None,
        "rounds_failed": len(story.rounds) - len(succeeded),
        "failures_by_peer": sum(one.rounds_failed for one in sessions),
        "reasons": dict(sorted(story.reasons.items(), key=lambda one: -one[1])),
        "catch_ups": len(story.catch_ups_s),
        "catch_up_seconds_median": round(statistics.median(story.catch_ups_s), 2)
        if story.catch_ups_s
        else None,
        "last_round_failed_at": sum(
            one.status is Status.FINISHED and not one.equal for one in sessions
        ),
        "states_at_the_end": len({one.hash for one in story.survivors().values()}),
        "memory_bytes_max": memory_bytes_max,
        "throughput": throughput(story),
        "peers": [_session(name, one) for name, one in story.sessions.items()],
        "notes": story.notes,
        "problem": verdict(story),
    }


def _session(name: str, one: Session) -> dict[str, Any]:
    joined_s, ended_s = one.joined_s, one.ended_s
    length_s = None if joined_s is None or ended_s is None else round(ended_s - joined_s, 1)
    return {
        "peer": name,
        "peer_id": one.peer_id,
        "newcomer": one.newcomer,
        "ended": one.status.value,
        "joined_s": None if joined_s is None else round(joined_s, 1),
        "session_s": length_s,
        "last_step": one.step,
        "samples": one.samples,
        "catch_ups": one.catch_ups,
        "rounds_failed": one.rounds_failed,
        "hash": one.hash,
    }


def _trained_s(story: Story) -> float:
    """From the first join to the last step."""
    joined = [one.joined_s for one in story.sessions.values() if one.joined_s is not None]
    return _last_s(story) - min(joined, default=0.0)


def _last_s(story: Story) -> float:
    """When the last step was taken."""
    return max((until_s for _, until_s, _ in story.samples), default=0.0)


def _alive(story: Story) -> list[tuple[float, int]]:
    """How many peers there were, from each change on."""
    changes: Counter[float] = Counter()
    for one in story.sessions.values():
        if one.joined_s is not None:
            changes[one.joined_s] += 1
            changes[one.ended_s if one.ended_s is not None else math.inf] -= 1
    alive, steps = 0, []
    for at_s, change in sorted(changes.items()):
        alive += change
        steps.append((at_s, alive))
    return steps


def _possible(story: Story, from_s: float, until_s: float) -> float:
    """Samples that all peers there compute in this time if none ever waits for another."""
    possible = 0.0
    for one in story.sessions.values():
        if one.joined_s is not None:
            ended_s = one.ended_s if one.ended_s is not None else math.inf
            there_s = min(ended_s, until_s) - max(one.joined_s, from_s)
            possible += max(there_s, 0.0) * one.samples_per_s_alone
    return possible


def _share_of_possible(story: Story, samples: int) -> float | None:
    possible = _possible(story, 0.0, _last_s(story))
    return round(samples / possible, 3) if possible else None


def throughput(story: Story) -> list[dict[str, float]]:
    """Samples per second in each slice of the time, what was possible, and the peers there."""
    last_s = _last_s(story)
    slice_s = max(last_s / SLICES, SLICE_S_MIN)
    slices = []
    for index in range(math.ceil(last_s / slice_s)):
        from_s, until_s = index * slice_s, (index + 1) * slice_s
        samples = sum(
            count * max(min(ended_s, until_s) - max(began_s, from_s), 0.0) / (ended_s - began_s)
            for began_s, ended_s, count in story.samples
            if ended_s > began_s
        )
        alive = [count for at_s, count in _alive(story) if at_s <= (from_s + until_s) / 2]
        slices.append(
            {
                "middle_s": round((from_s + until_s) / 2, 1),
                "samples_per_s": round(samples / slice_s, 1),
                "possible_samples_per_s": round(_possible(story, from_s, until_s) / slice_s, 1),
                "peers": alive[-1] if alive else 0,
            }
        )
    return slices


def plot(measured: dict[str, Any]) -> str:
    """Throughput over time beside what the peers there could compute alone, as SVG."""
    slices = measured["throughput"]
    last_s = slices[-1]["middle_s"] if slices else 1.0
    rough_s = last_s / TICKS_MAX
    step_s = next((step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300) if step >= rough_s), 600)
    peers = measured["peers_at_once_max"]
    names = {
        "possible_samples_per_s": "if no peer ever waited",
        "samples_per_s": "put into global steps",
    }
    return line_plot(
        f"Up to {peers} peers, {measured['killed']} killed, {measured['newcomers']} newcomers",
        "seconds",
        "samples per second",
        [
            Series(name, [Point(one["middle_s"], one[key]) for one in slices])
            for key, name in names.items()
        ],
        x_ticks=[step_s * index for index in range(math.ceil(last_s / step_s) + 1)],
    )


def in_words(measured: dict[str, Any]) -> list[str]:
    """The figures for people, a line each."""
    lengths = sorted(one["session_s"] for one in measured["peers"] if one["session_s"] is not None)
    lines = [
        f"{measured['sessions']} sessions: {measured['killed']} peers killed, "
        f"{measured['newcomers']} newcomers, {measured['survivors']} survivors; "
        f"at most {measured['peers_at_once_max']} at once",
    ]
    if lengths:
        lines.append(
            f"a session lasted {lengths[0]:.0f} to {lengths[-1]:.0f} s, "
            f"median {statistics.median(lengths):.0f} s"
        )
    lines += [
        f"{measured['steps']} global steps with {measured['samples']} samples in "
        f"{measured['seconds']:.0f} s: {measured['samples_per_s']} samples per second, "
        f"{measured['share_of_possible']} of what is possible without waiting",
        f"{measured['rounds_succeeded']} rounds succeeded, of up to "
        f"{measured['round_members_max']} peers, median {measured['round_seconds_median']} s, "
        f"worst {measured['round_seconds_worst']} s; {measured['rounds_failed']} failed",
        *(f"  {count} peers: {reason}" for reason, count in measured["reasons"].items()),
        f"{measured['catch_ups']} catch-ups, median {measured['catch_up_seconds_median']} s",
        f"{measured['memory_bytes_max'] / 1e9:.2f} GB of memory at most, all processes together",
    ]
    return lines
