"""`manyhands bench scaling`: how a round grows with the peers when links are what limits it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.bench.links import open_links
from tools.bench.plot import Point, Series, line_plot
from tools.bench.processes import RivalFailed
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row
from tools.bench.team import open_team
from tools.failures import CommandError

COLUMNS = (
    "peers",
    "seconds_median",
    "seconds_min",
    "seconds_max",
    "ideal_seconds",
    "times_ideal",
    "link_bytes_per_peer",
    "cpu_seconds_per_round",
    "error_max",
)
TIMES_IDEAL_MAX = 1.25
"""What the largest group may take: the slack that a plan for unequal links has, too."""
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class ScalingOptions:
    """How much is measured."""

    peers: Sequence[int] = (2, 4, 8, 16)
    elements: int = 2_500_000
    megabytes_per_s: float = 4.0
    """Of each peer's link, each way: slow enough that two cores are not what limits 16 peers."""
    rounds: int = 3

    @property
    def rate_bytes_per_s(self) -> float:
        """The same in bytes."""
        return self.megabytes_per_s * 1e6

    def ideal_s(self, peers: float) -> float:
        """The shortest time in which such links carry a round.

        Each peer sends all but its own span, and then its span to all others.

        Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, 2009, section 3.
        """
        vector_bytes = self.elements * _FLOAT32_BYTES
        return 2 * (peers - 1) / peers * vector_bytes / self.rate_bytes_per_s


def run_scaling(options: ScalingOptions, steps: Steps) -> Report:
    """Measure groups of each size."""
    report = Report("scaling", COLUMNS)
    steps.expect(len(options.peers) * (1 + options.rounds))
    for peers in options.peers:
        steps.case(f"{peers} peers with {options.megabytes_per_s:g} MB/s each way")
        try:
            report.rows.append(_measure(peers, options, steps))
        except RivalFailed as exc:
            report.skip(f"{peers} peers", str(exc))
    report.budgets = budgets(report.rows, options.peers)
    return report


def _measure(peers: int, options: ScalingOptions, steps: Steps) -> Row:
    """All rounds of one group; raises RivalFailed."""
    with (
        open_links(options.rate_bytes_per_s) as links,
        open_team("ours", peers, routes=links.route) as team,
    ):
        team.open(options.elements, "float32")
        team.round(0)
        steps.step()
        before, _ = links.passed_bytes()
        rounds = []
        for index in range(options.rounds):
            rounds.append(team.round(1 + index))
            steps.step()
        after, _ = links.passed_bytes()
    whole = [one for one in rounds if one.whole]
    if not whole:
        raise RivalFailed("no round had all peers")
    steps_s = [one.step_s for one in whole]
    passed = [(end - begin) / options.rounds for begin, end in zip(before, after, strict=True)]
    sent = statistics.mean(one.sent_bytes or 0.0 for one in rounds)
    if statistics.mean(passed) < sent:
        raise RivalFailed("some bytes went past the links")
    median_s = statistics.median(steps_s)
    return {
        "peers": peers,
        "elements": options.elements,
        "rate_bytes_per_s": options.rate_bytes_per_s,
        "rounds": len(whole),
        "rounds_without_a_peer": len(rounds) - len(whole),
        "seconds_median": median_s,
        "seconds_min": min(steps_s),
        "seconds_max": max(steps_s),
        "ideal_seconds": options.ideal_s(peers),
        "times_ideal": median_s / options.ideal_s(peers),
        "link_bytes_per_peer": statistics.mean(passed),
        "cpu_seconds_per_round": statistics.median(one.cpu_s for one in whole),
        "error_max": max(one.error_max for one in whole),
    }


def budgets(rows: Sequence[Row], wanted: Sequence[int]) -> list[Budget]:
    """Judge the largest group; that it could not be measured is a miss, whatever the others took.

    Args:
        wanted: the sizes that were asked for.
    """
    largest = max(rows, key=lambda row: int(row["peers"]), default=None)
    reached = int(largest["peers"]) if largest is not None else 0
    judged = [Budget("the largest group that was measured", reached, max(wanted), "peers", ">=")]
    if largest is not None:
        name = f"a round of {reached} peers, against what their links allow"
        judged.append(Budget(name, largest["times_ideal"], TIMES_IDEAL_MAX, "times as long", "<="))
    return judged


def plot(rows: Sequence[Row], options: ScalingOptions) -> str:
    """The measured points beside the ideal curve, as SVG."""
    peers = [row["peers"] for row in rows]
    first, last = min(peers, default=2), max(peers, default=16)
    curve = [first + (last - first) * index / 60 for index in range(61)]
    return line_plot(
        "A round whose links are the limit",
        f"peers, each with a link of {options.megabytes_per_s:g} MB/s each way",
        f"seconds for {options.elements:,} float32",
        [
            Series("2(n − 1)/n · vector / rate", [Point(n, options.ideal_s(n)) for n in curve]),
            Series(
                "measured: median, min to max",
                [
                    Point(
                        row["peers"], row["seconds_median"], row["seconds_min"], row["seconds_max"]
                    )
                    for row in rows
                ],
                line=False,
                marks=True,
            ),
        ],
        x_ticks=peers,
    )


def save_plot(rows: Sequence[Row], options: ScalingOptions, path: Path) -> None:
    """Write the plot; raises CommandError."""
    try:
        path.write_text(plot(rows, options), "utf-8")
    except OSError as exc:
        raise CommandError(
            f"{path} cannot be written: {exc.strerror}",
            next_step="Give --save a file in a folder that you may write to.",
        ) from exc
