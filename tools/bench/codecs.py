"""How fast each codec is, how much it saves and what it costs in precision, beside hivemind's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import torch

from averaging.codecs.codec import Codec
from averaging.codecs.registry import CODEC_NAMES, codec_named
from tools.bench import sparsifiers
from tools.bench.processes import RivalFailed, Worker
from tools.bench.progress import Steps
from tools.bench.report import Budget, Report, Row

COLUMNS = (
    "codec",
    "device",
    "elements",
    "encode_gb_per_s",
    "decode_gb_per_s",
    "times_smaller",
    "relative_error",
)
STEP_ELEMENTS: Final = 5_000_000
ELEMENTS: Final = (1_000_000, STEP_ELEMENTS, 10_000_000)
JUDGED_MIN: Final = ELEMENTS[0]
"""Elements from which on speeds are judged: below, calls take the time."""
STEP_MS_MAX: Final = 50.0
"""5 % of a step of a second, to encode and decode what it sends, with any codec."""
NUMBERS: Final = {
    "topk": "topk:0.001",
    "gaussian-k": "gaussian-k:0.001",
    "rounding": "rounding:4",
    "nearest": "nearest:4",
    "dgc": "dgc:0.001",
    "gaussian-k-paper": "gaussian-k-paper:0.001",
    "rand-k": "rand-k:0.001",
    "rand-k-biased": "rand-k-biased:0.001",
    "sparse-loco": "sparse-loco:0.02",
    "demo": "demo:0.02",
}
"""Of kinds whose own default is not what should be measured, or that have none."""
FAST: Final = {"float16": 5.0, "int8": 2.0}
"""Gigabytes of float32 per second, encoding and decoding."""
GAUSSIAN = NUMBERS["gaussian-k"]
HIVEMIND: Final = ("Float16Compression", "Uniform8BitQuantization", "Quantile8BitQuantization")
CPU, HIVEMIND_DEVICE = "cpu", "cpu, hivemind"
SIGMA: Final = 0.01
"""Of the normally distributed values: a gradient's size, far from float16's ends."""


@dataclass(frozen=True)
class CodecsOptions:
    """What is measured."""

    elements: tuple[int, ...] = ELEMENTS
    codecs: tuple[str, ...] = ()
    """Empty: one of each kind."""
    repeats: int = 7
    """Of which the fastest counts: what else runs here can only slow it down."""
    hivemind_python: str | None = None


def run_codecs(options: CodecsOptions, steps: Steps) -> Report:
    """Measure each codec with one thread, on the CPU and on a GPU if there is one."""
    report = Report("codecs", COLUMNS)
    codecs = []
    for name in options.codecs or one_of_each_kind():
        try:
            codecs.append(codec_named(name))
        except ValueError as exc:
            report.skip(name, str(exc))
    devices = [CPU, "cuda"] if torch.cuda.is_available() else [CPU]
    steps.expect(len(codecs) * len(devices) * len(options.elements))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for count in options.elements:
            for device in devices:
                for codec in codecs:
                    steps.case(f"{codec.name}, {count:,} elements, {device}")
                    report.rows.append(measure(codec, count, device, options.repeats))
                    steps.step()
        picked = _picks(report.rows, report.skip)
    finally:
        torch.set_num_threads(threads)
    if options.hivemind_python is None:
        report.skip("hivemind", "--hivemind-python says where it is installed")
    else:
        _measure_hivemind(report, options.hivemind_python, options, steps)
    report.budgets = budgets(report.rows, report.skip) + sparsifiers.budgets(picked)
    return report


def one_of_each_kind() -> list[str]:
    """A name for each kind of codec that there is."""
    return [NUMBERS.get(kind, kind) for kind in CODEC_NAMES]


def values_of(count: int) -> torch.Tensor:
    """Normally distributed, always the same: shape (count,), float32."""
    generator = torch.Generator().manual_seed(0)
    return SIGMA * torch.randn(count, generator=generator)


def measure(codec: Codec, count: int, device: str, repeats: int) -> Row:
    """One row: encoding and decoding take turns, and the fastest of each counts."""
    values = values_of(count).to(device)
    out = torch.empty_like(values)
    encoding, decoding = [], []
    frame = codec.encode(values, 0)
    for seed in range(repeats):
        begun_s = _now_s(device)
        frame = codec.encode(values, seed)
        encoded_s = _now_s(device)
        codec.decode(frame, out)
        encoding.append(encoded_s - begun_s)
        decoding.append(_now_s(device) - encoded_s)
    missed = float((out - values).norm() / values.norm())
    return row_of(codec.name, device, count, min(encoding), min(decoding), frame.numel(), missed)


def row_of(
    name: str,
    device: str,
    count: int,
    encode_s: float,
    decode_s: float,
    size_bytes: int,
    relative_error: float,
) -> Row:
    """What was measured of one codec at one size."""
    return {
        "codec": name,
        "device": device,
        "elements": count,
        "encode_gb_per_s": 4 * count / encode_s / 1e9,
        "decode_gb_per_s": 4 * count / decode_s / 1e9,
        "times_smaller": 4 * count / size_bytes,
        "relative_error": relative_error,
        "encode_ms": 1e3 * encode_s,
        "decode_ms": 1e3 * decode_s,
    }


def _now_s(device: str) -> float:
    if device != CPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def _measure_hivemind(report: Report, python: str, options: CodecsOptions, steps: Steps) -> None:
    """Add its rows, on the same values, with one thread."""
    try:
        worker = Worker("hivemind", "tools.bench.hivemind_codecs_worker", python=python)
    except OSError as exc:
        report.skip("hivemind", str(exc))
        return
    with ExitStack() as stack:
        stack.callback(worker.end)
        for count in options.elements:
            for name in HIVEMIND:
                steps.case(f"hivemind's {name}, {count:,} elements")
                try:
                    told = worker.ask(
                        codec=name, elements=count, repeats=options.repeats, sigma=SIGMA
                    )
                except RivalFailed as exc:
                    report.skip(f"{name}, {count:,} elements", str(exc))
                    continue
                report.rows.append(row_of(name, HIVEMIND_DEVICE, count, **told))


def budgets(rows: Sequence[Row], skip: Callable[[str, str], None]) -> list[Budget]:
    """Judge what was measured on the CPU; what is not there to be judged is skipped."""
    here = [row for row in rows if row["device"] == CPU]
    found = []
    for name, least in FAST.items():
        theirs = [row for row in here if row["codec"] == name and row["elements"] >= JUDGED_MIN]
        if not theirs:
            skip(f"speed of {name}", f"it was not measured at {JUDGED_MIN:,} elements or more")
        for what in ("encode", "decode"):
            found += [
                Budget(
                    f"{name}, {what}, {row['elements']:,} elements",
                    row[f"{what}_gb_per_s"],
                    least,
                    "GB/s",
                    ">=",
                )
                for row in theirs
            ]
    steps = [row for row in here if row["elements"] == STEP_ELEMENTS]
    if not steps:
        skip("part of a step", f"nothing was measured at {STEP_ELEMENTS:,} elements")
    for row in steps:
        taken_ms = row["encode_ms"] + row["decode_ms"]
        name = f"{row['codec']}, both ways, {STEP_ELEMENTS:,} elements"
        found.append(Budget(name, taken_ms, STEP_MS_MAX, "ms", "<="))
    return found


def _picks(rows: Sequence[Row], skip: Callable[[str, str], None]) -> list[Row]:
    """How fast Gaussian_k finds its threshold, beside PyTorch's way to find the largest."""
    measured = [
        (row["elements"], row["device"])
        for row in rows
        if row["codec"] == GAUSSIAN and row["elements"] >= JUDGED_MIN
    ]
    if not measured:
        skip(
            "Gaussian_k against torch.topk",
            f"{GAUSSIAN} was not measured at {JUDGED_MIN:,} elements or more",
        )
    picked = []
    for count, device in measured:
        values = values_of(count).to(device)
        picked += sparsifiers.rows_of("normal", values, sparsifiers.SparsifiersOptions())
    return picked
