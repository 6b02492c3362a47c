"""Fuzz with atheris, guided by coverage: each target in its own process, time split evenly."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.found import keep, target_name_of
from tests.fuzz.target import Target
from tests.fuzz.targets import all_targets, target_named

ROOT = Path(__file__).parent.parent.parent
INSTRUMENTED = ["p2p", "averaging", "training"]
RSS_LIMIT_MB = 2048
# One input may take so long; a decoder that needs seconds is an attack in itself.
INPUT_TIMEOUT_S = 5
# Beyond its fuzzing time: the import of what it tests, which a busy machine draws out.
SPARE_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """What became of one target."""

    target: str
    executions: int
    coverage: int
    """Edges of the instrumented code that inputs have reached."""
    ok: bool
    crash: str
    """Where the input lies that broke it."""
    words: str
    """What it said last, if it broke."""


def saving(run: Callable[[bytes], None], path: Path) -> Callable[[bytes], None]:
    """The same, but an input that raises is written down before anything else happens.

    libFuzzer writes it too, yet not always: a process that ends just then has been seen to skip it.
    """

    def run_and_save(data: bytes) -> None:
        try:
            run(data)
        except BaseException:
            path.write_bytes(data)
            raise

    return run_and_save


def fuzz_here(name: str, artifact: Path, arguments: list[str]) -> None:
    """Run one target until its time is up; ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        target = target_named(name)
    arguments = [*arguments, f"-exact_artifact_path={artifact}"]
    atheris.Setup([sys.argv[0], *arguments], saving(target.run, artifact))
    atheris.Fuzz()


def fuzz(target: Target, seconds: float) -> Outcome:
    """Run one target in a process of its own, starting from its seeds alone."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        artifact = Path(folder) / "crash"
        longest = max([target.size_bytes_max, *map(len, target.seeds)])
        command = [
            *(sys.executable, "-m", "tests.fuzz.run", "--child", target.name, str(artifact)),
            *(f"-max_total_time={max(1, round(seconds))}", f"-max_len={longest}"),
            *(f"-rss_limit_mb={RSS_LIMIT_MB}", f"-timeout={INPUT_TIMEOUT_S}"),
            *("-print_final_stats=1", str(corpus)),
        ]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + SPARE_S,
            check=False,
        )
        words = done.stdout.decode("utf-8", "replace")
        crash = str(keep(target.name, artifact.read_bytes())) if artifact.exists() else ""
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", words)
    coverage = re.findall(r"cov: (\d+)", words)
    ok = done.returncode == 0 and not crash
    return Outcome(
        target=target.name,
        executions=int(executions[-1]) if executions else 0,
        coverage=int(coverage[-1]) if coverage else 0,
        ok=ok,
        crash=crash,
        words="" if ok else words[-4000:],
    )


def say(outcome: Outcome) -> None:
    """One line, and what is to be done if it broke."""
    verdict = "ok" if outcome.ok else "BROKEN"
    print(
        f"{outcome.target:28} {outcome.executions:>10} executions "
        f"{outcome.coverage:>6} edges  {verdict}",
        flush=True,
    )
    if not outcome.ok:
        print(outcome.words)
    if outcome.crash:
        print(f"replay it: python -m tests.fuzz.run --replay {outcome.crash}")


def replay(path: Path) -> int:
    """Run one input through the target that its name tells; its error comes out as it is."""
    target_named(target_name_of(path)).run(path.read_bytes())
    print(f"{path.name} is harmless now; keep it, since the tests replay it")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input that was found")
    parser.add_argument("--json", action="store_true", help="print one object")
    arguments = parser.parse_args()
    if arguments.replay:
        return replay(arguments.replay)
    try:
        names = arguments.target or []
        targets = [target_named(name) for name in names] if names else list(all_targets())
    except ValueError as exc:
        print(exc, file=sys.stderr)
        return 2
    if arguments.list:
        print("\n".join(target.name for target in targets))
        return 0
    outcomes = []
    for target in targets:
        outcomes.append(fuzz(target, arguments.seconds / len(targets)))
        if not arguments.json:
            say(outcomes[-1])
    broken = [outcome.target for outcome in outcomes if not outcome.ok]
    if arguments.json:
        print(json.dumps({"ok": not broken, "targets": [asdict(one) for one in outcomes]}))
    elif broken:
        print(f"broken: {', '.join(broken)}; mend them, and keep the inputs under tests/fuzz/found")
    else:
        print("nothing broke; a longer run looks further: make fuzz FUZZ_SECONDS=3600")
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        fuzz_here(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main())
