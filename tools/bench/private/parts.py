"""`manyhands bench private`: learning privately, part by part, each with rows and budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from averaging import ExtraMissing
from tools.bench.private import clients, crypto, dp, modes, nopeek, secure, split
from tools.bench.processes import RivalFailed
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

BENCH = "private"
Measured = tuple[list[Row], list[Budget]]


@dataclass(frozen=True)
class PrivateOptions:
    """How much is measured, in each part."""

    modes: modes.ModesOptions = field(default_factory=modes.ModesOptions)
    clients: clients.ClientsOptions = field(default_factory=clients.ClientsOptions)
    nopeek: nopeek.NoPeekOptions = field(default_factory=nopeek.NoPeekOptions)
    split: split.SplitOptions = field(default_factory=split.SplitOptions)
    dp: dp.DpOptions = field(default_factory=dp.DpOptions)
    secure: secure.SecureOptions = field(default_factory=secure.SecureOptions)
    crypto: crypto.CryptoOptions = field(default_factory=crypto.CryptoOptions)

    @classmethod
    def full(cls) -> PrivateOptions:
        """More seeds, rounds and sizes: half an hour instead of some minutes."""
        return cls(
            modes=modes.ModesOptions(passes=60, seeds=5),
            nopeek=nopeek.NoPeekOptions(seeds=6),
            split=split.SplitOptions(steps=1_000),
            dp=dp.DpOptions(seeds=6),
            secure=secure.SecureOptions(rounds=20),
            crypto=crypto.CryptoOptions(ckks_elements=(1_000, 10_000, 100_000, 1_000_000)),
        )

    @classmethod
    def quick(cls) -> PrivateOptions:
        """As little of each as there can be, to see that it runs: budgets mean nothing then."""
        ridge = {nopeek.RIDGE: nopeek.ATTACKS[nopeek.RIDGE]}
        return cls(
            modes=modes.ModesOptions(passes=1, seeds=1),
            clients=clients.ClientsOptions(clients=(2, 7)),
            nopeek=nopeek.NoPeekOptions(alphas=(0.0, 0.5), epochs=2, seeds=1, attacks=ridge),
            split=split.SplitOptions(steps=5, equality_steps=2),
            dp=dp.DpOptions(lots=2, exchanges=1, seeds=1),
            secure=secure.SecureOptions(peers=3, elements=10_000, rounds=1),
            crypto=crypto.CryptoOptions(ckks_elements=(100,), paillier_elements=(2,), tries=1),
        )


@dataclass(frozen=True)
class Part:
    """One of the tables."""

    title: str
    columns: Sequence[str]
    steps: Callable[[PrivateOptions], int]
    """How many it tells of."""
    measure: Callable[[PrivateOptions, Steps, Report], Measured]
    """Raises ExtraMissing, ImportError or RivalFailed where it cannot be measured here."""


def _modes(options: PrivateOptions, steps: Steps, report: Report) -> Measured:
    return modes.run_modes(options.modes, steps, report.skip)


def _clients(options: PrivateOptions, steps: Steps, report: Report) -> Measured:
    return clients.run_clients(options.clients, steps)


def _nopeek(options: PrivateOptions, steps: Steps, report: Report) -> Measured:
    begun = 0

    def on_case(text: str) -> None:
        nonlocal begun
        if begun:
            steps.step()
        begun += 1
        steps.case(text)

    measured = nopeek.run_nopeek(options.nopeek, on_case)
    steps.step()
    return measured


def _split(options: PrivateOptions, steps: Steps, report: Report) -> Measured:
    return split.measure_split(options.split, steps)


def _at_once(
    text: str, measure: Callable[[PrivateOptions], Measured]
) -> Callable[[PrivateOptions, Steps, Report], Measured]:
    """A part that tells nothing until it is done."""

    def measured(options: PrivateOptions, steps: Steps, report: Report) -> Measured:
        steps.case(text)
        found = measure(options)
        steps.step()
        return found

    return measured


def _one(options: PrivateOptions) -> int:
    return 1


PARTS = {
    "modes": Part(
        "all modes in one frame", modes.COLUMNS, lambda options: len(modes.MODES), _modes
    ),
    "clients": Part(
        "a pass by number of clients",
        clients.COLUMNS,
        lambda options: len(options.clients.clients),
        _clients,
    ),
    "nopeek": Part("NoPeek", nopeek.COLUMNS, lambda options: len(options.nopeek.alphas), _nopeek),
    "split": Part("split convolutions", split.COLUMNS, lambda options: split.CASES, _split),
    "dp": Part(
        "differential privacy, and unequal data",
        dp.COLUMNS,
        _one,
        _at_once("noise and unequal data", lambda options: dp.run_dp(options.dp)),
    ),
    "secure": Part(
        "secure aggregation",
        (
            *("averaging", "peers", "elements", "step_seconds_median", "cpu_seconds_per_round"),
            *("sent_bytes_per_peer", "error_max"),
        ),
        _one,
        _at_once("secure rounds", lambda options: secure.run_secure(options.secure)),
    ),
    "sums": Part(
        "homomorphic sums",
        (
            *("scheme", "elements", "members", "bytes_per_element", "encrypt_seconds"),
            *("add_seconds", "decrypt_seconds", "error_max"),
        ),
        _one,
        _at_once("encrypted sums", lambda options: crypto.run_sums(options.crypto)),
    ),
    "inference": Part(
        "private inference",
        (
            *("layers", "same_as_plain", "bytes_of_one", "bytes_per_sample_of_fifty"),
            *("seconds_of_one", "seconds_per_sample_of_fifty"),
        ),
        _one,
        _at_once("private inference", lambda options: crypto.run_inference(options.crypto)),
    ),
}
"""By the names that --part takes."""


def run_private(
    options: PrivateOptions, steps: Steps, parts: Sequence[str] = ()
) -> tuple[Report, dict[str, list[Budget]]]:
    """Measure these parts, or all; one that lacks what it needs here is skipped with the reason.

    Returns:
        The report, and beside it which budgets are of which part.
    """
    chosen = {name: part for name, part in PARTS.items() if not parts or name in parts}
    report = Report(BENCH, ())
    report.tables = {name: (part.title, part.columns) for name, part in chosen.items()}
    steps.expect(sum(part.steps(options) for part in chosen.values()))
    budgets = {}
    for name, part in chosen.items():
        try:
            rows, budgets[name] = part.measure(options, steps, report)
        except (ExtraMissing, ImportError, RivalFailed) as exc:
            report.skip(name, str(exc))
            continue
        report.rows += [{"part": name, **row} for row in rows]
        report.budgets += budgets[name]
    return report, budgets
