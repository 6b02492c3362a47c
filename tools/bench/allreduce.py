"""`manyhands bench allreduce`: rounds of averaging by real processes, beside gloo and hivemind."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from tools.bench.allreduce_worker import CODEC
from tools.bench.processes import RivalFailed
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row
from tools.bench.rivals import NAMES as OUR_NAMES
from tools.bench.team import RoundFigures, Team, open_team

COLUMNS = (
    "rival",
    "peers",
    "elements",
    "dtype",
    "step_seconds_median",
    "step_seconds_min",
    "step_seconds_max",
    "matchmaking_seconds",
    "transfer_seconds",
    "cpu_seconds_per_round",
    "sent_bytes_per_peer",
    "error_max",
)
NAMES = {
    "aes": OUR_NAMES["aes"],
    "noise": OUR_NAMES["noise"],
    "bare-aes": "bare, AES",
    "bare-noise": "bare, Noise",
    "gloo": "gloo",
    "hivemind": "hivemind",
}
_ONCE = ("noise", "bare-aes", "bare-noise")
"""Who is measured in one case only: NOISE_CASE."""
PEERS = (2, 4, 8)
ELEMENTS = (1_000, 1_000_000, 10_000_000, 50_000_000)
DTYPES = ("float32", "float16", CODEC)
_LARGEST = (8, 50_000_000)
"""Peers and elements that only --full measures: ten gigabytes of memory."""
_WARM_ROUNDS = 3
"""These come first and are not counted: they make the memory that later ones use again, which is
what two earlier ones have left, and some to work with."""
_ROUNDS = ((10_000, 20), (1_000_000, 10), (10_000_000, 5))
"""Up to so many elements, so many rounds."""
_ROUNDS_MIN = 3
_CODEC_ROUNDS = 20
"""Its rounds are short, and the ratio of five to five others is chance by a tenth."""
_CASE_S_MAX, _CASE_ROUNDS_MIN = 40.0, 2
"""A busy machine makes do with fewer rounds of a case, so that all cases have their turn."""
_HIVEMIND_ROUNDS_MAX = 5
"""Its rounds take seconds each, and no part of one in a hundred that a short one would show."""
_STARTS_MAX = 3
"""A node measures which records are faster here; on a busy machine it may be mistaken once."""
NOISE_CASE = (4, 10_000_000, "float32")
"""Where ours over standard Noise are measured, too."""
_JUDGED, _JUDGED_16, _TINY = NOISE_CASE, (4, 10_000_000, "float16"), (4, 1_000, "float32")
_TINY_MS_MAX = 30.0
_JUDGED_8 = (4, 10_000_000, CODEC)
_FLOATS = "floats"
"""Ours with float32 beside ours with a codec: what a round takes changes from minute to minute."""
_ERROR_MAX = {"float32": 1e-6, "float16": 5e-3, CODEC: 5e-2}
"""Of a mean of values about 1; all but float32 round what each sends and what each gets."""

Case = tuple[int, int, str]
"""Peers, elements, and the dtype that travels."""


@dataclass(frozen=True)
class AllreduceOptions:
    """What is measured."""

    peers: Sequence[int] = PEERS
    elements: Sequence[int] = ELEMENTS
    dtypes: Sequence[str] = DTYPES
    rounds: int | None = None
    """Of each case; None for as many as its size allows."""
    full: bool = False
    hivemind_python: str | None = None
    """A Python that has hivemind."""

    def cases(self) -> list[Case]:
        """All combinations, but the largest unless they are wanted."""
        return [
            (peers, elements, dtype)
            for peers in self.peers
            for elements in self.elements
            for dtype in self.dtypes
            if dtype != CODEC or (peers, elements, dtype) == _JUDGED_8 or self.dtypes == (CODEC,)
            if self.full or peers * elements < _LARGEST[0] * _LARGEST[1]
        ]

    def rounds_of(self, rival: str, case: Case) -> int:
        """How many rounds are timed."""
        elements, dtype = case[1:]
        if dtype == CODEC:
            return self.rounds or _CODEC_ROUNDS
        by_size = (rounds for limit, rounds in _ROUNDS if elements <= limit)
        rounds = self.rounds or next(by_size, _ROUNDS_MIN)
        return min(rounds, _HIVEMIND_ROUNDS_MAX) if rival == "hivemind" else rounds

    def rivals(self) -> list[str]:
        """Who is measured at all."""
        return [one for one in NAMES if one != "hivemind" or self.hivemind_python is not None]

    def rivals_of(self, case: Case) -> list[str]:
        """Who is measured there."""
        if case[2] == CODEC:
            return ["aes", _FLOATS]
        return [one for one in self.rivals() if one not in _ONCE or case == NOISE_CASE]


@dataclass
class Measured:
    """One case of one rival, all its rounds."""

    rival: str
    case: Case
    rounds: list[RoundFigures] = field(default_factory=list)

    def row(self, floats: Measured | None = None) -> Row:
        """What the report says of it; rounds that lacked a peer do not count.

        Args:
            floats: the rounds of float32 that it took turns with.
        """
        peers, elements, dtype = self.case
        whole = [one for one in self.rounds if one.whole]
        steps_s = [one.step_s for one in whole]
        beside = [one.step_s for one in floats.rounds if one.whole] if floats is not None else []
        return {
            "rival": NAMES[self.rival],
            "peers": peers,
            "elements": elements,
            "dtype": dtype,
            "rounds": len(whole),
            "rounds_without_a_peer": len(self.rounds) - len(whole),
            "step_seconds_median": statistics.median(steps_s),
            "step_seconds_min": min(steps_s),
            "step_seconds_max": max(steps_s),
            "matchmaking_seconds": _median([one.matchmaking_s for one in whole]),
            "transfer_seconds": _median([one.transfer_s for one in whole]),
            "cpu_seconds_per_round": statistics.median(one.cpu_s for one in whole),
            "sent_bytes_per_peer": _median([one.sent_bytes for one in whole]),
            "error_max": max(one.error_max for one in whole),
            **({"float32_step_seconds_median": statistics.median(beside)} if beside else {}),
        }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def run_allreduce(options: AllreduceOptions, steps: Steps) -> Report:
    """Measure every case; the rounds of all rivals take turns."""
    report = Report("allreduce", COLUMNS)
    cases = options.cases()
    turns = [
        _WARM_ROUNDS + options.rounds_of(rival, case)
        for case in cases
        for rival in options.rivals_of(case)
    ]
    steps.expect(sum(turns))
    if options.hivemind_python is None:
        report.skip(NAMES["hivemind"], "no Python that has it was named with --hivemind-python")
    run = _Run(options, report, steps)
    for peers in dict.fromkeys(case[0] for case in cases):
        # Processes stay for all sizes: to load PyTorch takes longer than most cases.
        with ExitStack() as stack:
            lasting = [one for one in options.rivals() if one not in _ONCE]
            teams = run.teams(stack, peers, lasting)
            for case in (case for case in cases if case[0] == peers):
                run.measure(case, teams)
    report.budgets = budgets(report.rows)
    return report


@dataclass
class _Run:
    """What is measured, and what has come of it."""

    options: AllreduceOptions
    report: Report
    steps: Steps
    absent: list[str] = field(default_factory=list)
    """Rivals that could not be started, and will not be tried again."""

    def teams(self, stack: ExitStack, peers: int, rivals: Sequence[str]) -> dict[str, Team]:
        """Start the processes of these rivals; who does not come up is skipped."""
        came = {}
        for rival in rivals:
            if rival in self.absent:
                continue
            try:
                came[rival] = self._start(stack, peers, rival)
            except RivalFailed as exc:
                self.report.skip(NAMES[rival], str(exc))
                self.absent.append(rival)
        return came

    def _start(self, stack: ExitStack, peers: int, rival: str) -> Team:
        python = self.options.hivemind_python
        for _ in range(_STARTS_MAX - 1 if rival in OUR_NAMES else 0):
            with suppress(RivalFailed):
                return stack.enter_context(open_team(rival, peers, hivemind_python=python))
        return stack.enter_context(open_team(rival, peers, hivemind_python=python))

    def measure(self, case: Case, lasting: dict[str, Team]) -> None:
        """All rounds of one case; a rival that fails leaves until there are more peers."""
        peers, elements, dtype = case
        text = f"{peers} peers, {elements} elements, {dtype}"
        self.steps.case(text)
        measured: dict[str, Measured] = {}
        with ExitStack() as stack:
            there = self.teams(stack, peers, _ONCE if case == NOISE_CASE else ()) | lasting
            if dtype == CODEC:
                beside = self.teams(stack, peers, ["aes"])
                there |= {_FLOATS: beside["aes"]} if beside else {}
            teams = {one: there[one] for one in self.options.rivals_of(case) if one in there}
            begun_s = time.perf_counter()
            longest = max(self.options.rounds_of(one, case) for one in NAMES)
            for index in range(_WARM_ROUNDS + longest):
                late = time.perf_counter() - begun_s > _CASE_S_MAX
                enough = index >= _WARM_ROUNDS + _CASE_ROUNDS_MIN
                if late and self.options.rounds is None and enough:
                    break
                for rival, team in list(teams.items()):
                    if index >= _WARM_ROUNDS + self.options.rounds_of(rival, case):
                        continue
                    one = measured.setdefault(rival, Measured(rival, case))
                    try:
                        self._turn(team, one, index)
                    except RivalFailed as exc:
                        self.report.skip(NAMES.get(rival, rival), f"{text}: {exc}")
                        del teams[rival]
                        lasting.pop(rival, None)
                    self.steps.step()
        floats = measured.pop(_FLOATS, None)
        for rival, one in measured.items():
            if any(figures.whole for figures in one.rounds):
                self.report.rows.append(one.row(floats))
            elif one.rounds:
                self.report.skip(NAMES[rival], f"{text}: no round had all peers")

    def _turn(self, team: Team, one: Measured, index: int) -> None:
        """One round; the warm ones are not counted."""
        if not index:
            elements, dtype = one.case[1:]
            team.open(elements, "float32" if one.rival == _FLOATS else dtype)
        figures = team.round(index)
        if index >= _WARM_ROUNDS:
            one.rounds.append(figures)


PROMISES: Sequence[tuple[Case, str, str, str, str, float]] = (
    (_JUDGED, "aes", "gloo", "step_seconds_median", "a round", 2.0),
    (_JUDGED, "noise", "gloo", "step_seconds_median", "a round", 3.5),
    (_JUDGED, "aes", "hivemind", "transfer_seconds", "a round", 0.15),
    (_JUDGED_16, "aes", "hivemind", "transfer_seconds", "a round", 0.18),
    (_JUDGED, "aes", "hivemind", "cpu_seconds_per_round", "processor time", 0.2),
    (_JUDGED_16, "aes", "hivemind", "cpu_seconds_per_round", "processor time", 0.2),
)
"""The case, ours, theirs, their figure, what it is, and how many times theirs ours may take."""
_CODEC_TIMES_MAX = 1.0
"""Of a round of float32: fewer bytes must not take longer where processors are the limit."""


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """Judge the promises of which both sides were measured; that means are right, always."""
    by_case = {(row["rival"], row["peers"], row["elements"], row["dtype"]): row for row in rows}
    judged = []
    for case, ours, theirs, figure, what, factor in PROMISES:
        row, other = by_case.get((NAMES[ours], *case)), by_case.get((NAMES[theirs], *case))
        if row is None or other is None:
            continue
        # Their all-reduce alone is held against all that our round takes.
        own = "step_seconds_median" if figure == "transfer_seconds" else figure
        whom = NAMES[theirs] if own == figure else f"{NAMES[theirs]}'s all-reduce alone"
        name = f"{NAMES[ours]}, {case[0]} × {case[1]} {case[2]}: {what}, against {whom}"
        judged.append(Budget(name, row[own] / other[figure], factor, "times as much", "<="))
    if (row := by_case.get((NAMES["aes"], *_TINY))) is not None:
        name = f"{NAMES['aes']}, {_TINY[0]} × {_TINY[1]} {_TINY[2]}: a round"
        milliseconds = 1e3 * row["step_seconds_median"]
        judged.append(Budget(name, milliseconds, _TINY_MS_MAX, "ms", "<="))
    coded = by_case.get((NAMES["aes"], *_JUDGED_8))
    if coded is not None and "float32_step_seconds_median" in coded:
        name = f"{NAMES['aes']}, 4 × 10000000 {CODEC}: a round, against float32"
        ratio = coded["step_seconds_median"] / coded["float32_step_seconds_median"]
        judged.append(Budget(name, ratio, _CODEC_TIMES_MAX, "times as much", "<="))
    for dtype, limit in _ERROR_MAX.items():
        ours_all = [
            row["error_max"]
            for row in rows
            if row["dtype"] == dtype and row["rival"] in (NAMES["aes"], NAMES["noise"])
        ]
        if ours_all:
            name = f"ours: the largest error of any element, {dtype}"
            judged.append(Budget(name, max(ours_all), limit, "off the mean", "<="))
    return judged
