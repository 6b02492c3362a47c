"""`manyhands bench recovery`: one of four peers is killed or stopped in the middle of a round."""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tools.bench.processes import RivalFailed
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row
from tools.bench.team import ROUND_S_MAX, Team, open_team

COLUMNS = (
    "signal",
    "victim",
    "moment",
    "clean_seconds",
    "seconds",
    "detection_seconds",
    "fraction",
    "same_bits",
    "outcome",
    "victim_outcome",
    "error_max",
)
SIGNALS: Final = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP}
DETECTION_S_MAX = 3.0
"""What the survivors may take beyond a clean round: mostly to notice."""
_MOMENTS = (0.3, 0.7)
"""Between these parts of a clean round's transfer the signal comes; the first time at a half."""
_CLEAN_ROUNDS = 2
_TRIES_MAX = 4
"""A victim that was done before its signal came is not what we want to see."""
_EARLIER = 0.6
"""After such a miss the signal comes at this part of the moment."""
_VICTIM_S_MAX = 15.0
"""So long a peer that goes on after its stop is heard; results are kept for 10 s."""


@dataclass(frozen=True)
class RecoveryOptions:
    """How much is measured."""

    peers: int = 4
    elements: int = 10_000_000
    repeats: int = 3
    """Of each signal."""
    seed: int = 0
    """Decides victims and moments."""


class _DoneBefore(Exception):
    """The victim had finished its round before its signal came, or what others need of it."""


def run_recovery(options: RecoveryOptions, steps: Steps) -> Report:
    """Measure each signal several times, each time with fresh processes."""
    report = Report("recovery", COLUMNS)
    rng = random.Random(options.seed)
    steps.expect(len(SIGNALS) * options.repeats)
    for repeat in range(options.repeats):
        for name in SIGNALS:
            victim = rng.randrange(options.peers)
            moment = rng.uniform(*_MOMENTS) if repeat else statistics.mean(_MOMENTS)
            steps.case(f"{name} to peer {victim}, {repeat + 1} of {options.repeats}")
            try:
                report.rows.append(_lose_one(name, victim, moment, options))
            except RivalFailed as exc:
                report.skip(f"{name} to peer {victim} at {moment:.2f}", str(exc))
            steps.step()
    report.budgets = budgets(report.rows)
    return report


def _lose_one(name: str, victim: int, moment: float, options: RecoveryOptions) -> Row:
    """One loss in the middle of a round; raises RivalFailed."""
    for _ in range(_TRIES_MAX):
        with open_team("ours", options.peers, watch=True) as team:
            try:
                return _lose(team, name, victim, moment, options)
            except _DoneBefore:
                moment *= _EARLIER
    raise RivalFailed(f"the victim was always done before {moment / _EARLIER:.2f} of a transfer")


def _lose(team: Team, name: str, victim: int, moment: float, options: RecoveryOptions) -> Row:
    """Clean rounds, then one with a loss; raises _DoneBefore or RivalFailed."""
    team.open(options.elements, "float32")
    clean = [team.round(index) for index in range(1 + _CLEAN_ROUNDS)][1:]
    found_s = statistics.median(one.matchmaking_s or 0.0 for one in clean)
    transfer_s = statistics.median(one.transfer_s or 0.0 for one in clean)
    signal_at_s = team.begin(len(clean) + 1) + found_s + moment * transfer_s
    time.sleep(max(0.0, signal_at_s - time.perf_counter()))
    team.workers[victim].signal(SIGNALS[name])
    signalled_s = time.perf_counter()
    survivors = [rank for rank in range(options.peers) if rank != victim]
    answers = {rank: team.workers[rank].answer(timeout_s=ROUND_S_MAX) for rank in survivors}
    of_victim = _answer_of_victim(team, victim, name)
    missed = any(str(victim) in answer["noticed_s"] for answer in answers.values())
    if of_victim.get("ended_s", signalled_s) < signalled_s or not missed:
        raise _DoneBefore
    checked = {
        rank: team.workers[rank].ask(do="check", lost=victim, digest=True) for rank in survivors
    }
    return {
        "signal": name,
        "peers": options.peers,
        "elements": options.elements,
        "victim": victim,
        "moment": moment,
        "clean_seconds": statistics.median(one.step_s for one in clean),
        "victim_outcome": of_victim.get("outcome"),
        **summary(victim, signalled_s, answers, checked, of_victim),
    }


def _answer_of_victim(team: Team, victim: int, name: str) -> dict[str, Any]:
    """What the victim says of the round: nothing if it is dead; one that was stopped goes on."""
    worker = team.workers[victim]
    if name == "SIGSTOP":
        worker.signal(signal.SIGCONT)
    try:
        return worker.answer(timeout_s=_VICTIM_S_MAX)
    except RivalFailed:
        return {"outcome": "killed" if name == "SIGKILL" else f"none in {_VICTIM_S_MAX:g} s"}


def summary(
    victim: int,
    signalled_s: float,
    answers: dict[int, dict[str, Any]],
    checked: dict[int, dict[str, Any]],
    of_victim: dict[str, Any],
) -> Row:
    """What the survivors say of the round, and what their vectors show."""
    outcomes = [answer["outcome"] for answer in answers.values()]
    # Pipes carry JSON, where every key is a text.
    claimed = [
        answer["fractions"].get(str(rank), 0.0) for answer in answers.values() for rank in answers
    ]
    found = [one["right_fraction"] for one in checked.values()]
    noticed_s = [
        answer["noticed_s"][str(victim)]
        for answer in answers.values()
        if str(victim) in answer["noticed_s"]
    ]
    digests = {answer["digest"] for answer in answers.values()}
    if of_victim.get("outcome") == "success":
        digests.add(of_victim["digest"])
    bits = {one["tensor_digest"] for one in checked.values()}
    succeeded = all(outcome == "success" for outcome in outcomes)
    return {
        "seconds": max(answer["ended_s"] for answer in answers.values()) - signalled_s,
        "detection_seconds": max(noticed_s) - signalled_s if noticed_s else None,
        "fraction": min(claimed + found) if succeeded else 0.0,
        "victim_fraction": max(
            answer["fractions"].get(str(victim), 0.0) for answer in answers.values()
        ),
        "same_bits": int(succeeded and len(digests) == len(bits) == 1),
        "outcome": next((one for one in outcomes if one != "success"), "success"),
        "reason": next((answer["reason"] for answer in answers.values() if answer["reason"]), ""),
        "attempts": max(answer["attempts"] for answer in answers.values()),
        "error_max": max(one["error_max"] for one in checked.values()),
    }


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge each signal by the worst of its repetitions, each against clean rounds beside it."""
    judged = []
    for name in SIGNALS:
        lost = [row for row in rows if row["signal"] == name]
        if not lost:
            continue
        slowest = max(lost, key=lambda row: float(row["seconds"] - row["clean_seconds"]))
        fraction, same = min(row["fraction"] for row in lost), min(row["same_bits"] for row in lost)
        judged += [
            Budget(
                f"{name}: until the last survivor is done, against a clean round and "
                f"{DETECTION_S_MAX:g} s",
                slowest["seconds"],
                DETECTION_S_MAX + slowest["clean_seconds"],
                "s",
                "<=",
            ),
            Budget(f"{name}: averaged of the survivors' data", fraction, 1.0, "of all", ">="),
            Budget(f"{name}: the survivors hold the same bits", same, 1, "(1 is yes)", ">="),
        ]
    return judged
