"""What secure aggregation costs: rounds of it beside plain averaging, by real processes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tools.bench.report import Budget, Row
from tools.bench.team import RoundFigures, open_team

NAMES = {"ours": "plain", "secure": "secure"}
TIMES_MAX = 3.0
"""How many times as long as a plain round a secure one may take, of time and of processors."""
ERROR_MAX = 1e-6
"""Of values up to 8: steps of 8 · 8 / 2^31, and the rounding of float32."""


@dataclass(frozen=True)
class SecureOptions:
    """What is measured."""

    peers: int = 8
    elements: int = 1_000_000
    rounds: int = 5


def run_secure(options: SecureOptions | None = None) -> tuple[list[Row], list[Budget]]:
    """Rounds of plain and of secure averaging take turns, each over processes of its own.

    Returns:
        A row for each of both, and the budgets: what a secure round may cost, and its error.

    Raises:
        RivalFailed: a process failed; the text is the reason.
    """
    options = options or SecureOptions()
    figures: dict[str, list[RoundFigures]] = {rival: [] for rival in NAMES}
    with ExitStack() as stack:
        teams = {rival: stack.enter_context(open_team(rival, options.peers)) for rival in NAMES}
        for team in teams.values():
            team.open(options.elements, "float32")
        # The first round, which opens connections and takes memory, is not counted.
        for number in range(options.rounds + 1):
            for rival, team in teams.items():
                figures[rival].append(team.round(number))
    rows = [_row(options, rival, rounds[1:]) for rival, rounds in figures.items()]
    return rows, budgets(rows)


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """What was promised of a secure round beside a plain one of the same run."""
    plain, secure = rows
    times = secure["step_seconds_median"] / plain["step_seconds_median"]
    cpu_times = secure["cpu_seconds_per_round"] / plain["cpu_seconds_per_round"]
    case = f"{secure['peers']} peers, {secure['elements']} elements"
    return [
        Budget(f"a secure round, {case}", times, TIMES_MAX, "times a plain one", "<="),
        Budget("its processor time, all peers", cpu_times, TIMES_MAX, "times a plain one", "<="),
        Budget("error of a secure mean", secure["error_max"], ERROR_MAX, "", "<="),
    ]


def _row(options: SecureOptions, rival: str, rounds: list[RoundFigures]) -> Row:
    steps_s = [one.step_s for one in rounds]
    return {
        "averaging": NAMES[rival],
        "peers": options.peers,
        "elements": options.elements,
        "step_seconds_median": statistics.median(steps_s),
        "step_seconds_min": min(steps_s),
        "step_seconds_max": max(steps_s),
        "cpu_seconds_per_round": statistics.median(one.cpu_s for one in rounds),
        "sent_bytes_per_peer": rounds[-1].sent_bytes,
        "error_max": max(one.error_max for one in rounds),
        "whole": all(one.whole for one in rounds),
    }
