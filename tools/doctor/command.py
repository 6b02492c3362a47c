"""`manyhands doctor`: examines, and says what it found."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

import trio
from rich.console import Console

from p2p import NodeConfig
from tools.doctor.check import Verdict
from tools.doctor.diagnosis import Diagnosis, diagnose
from tools.doctor.examine import Examination, examine
from tools.doctor.facts import Facts
from tools.failures import ILL, WELL
from tools.output import console, print_json
from tools.stopping import run_until_stopped


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What `manyhands doctor` was asked for."""

    identity_path: Path
    listen: tuple[str, ...]
    initial_peers: tuple[str, ...] = ()
    private_path: Path | None = None
    measures: bool = True
    as_json: bool = False


def run_doctor(options: DoctorOptions) -> int:
    """Examine this computer and its place in the swarm; returns the exit code.

    Raises:
        p2p.AddressInvalid: an address is none.
        CommandError: the file of a private swarm cannot be used.
    """
    # Checks the addresses before anything takes time.
    NodeConfig(listen=options.listen, announce=options.initial_peers)
    what = Examination(
        identity_path=options.identity_path,
        listen=options.listen,
        initial_peers=options.initial_peers,
        private_path=options.private_path,
        measures=options.measures,
    )
    found: list[Facts] = []
    screen = console(as_json=options.as_json)

    async def look() -> None:
        # The progress goes where the words go, or beside the object that programs read.
        found.append(await examine(what, lambda line: screen.print(f"[dim]{line}[/]")))

    if not trio.run(run_until_stopped, look):
        return ILL
    diagnosis = diagnose(found[0])
    if options.as_json:
        print_json(_as_object(diagnosis))
    else:
        show(diagnosis, screen)
    return WELL if diagnosis.can_take_part else ILL


def _as_object(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "can_take_part": diagnosis.can_take_part,
        "summary": diagnosis.summary,
        "next": diagnosis.next_step,
        "checks": [asdict(check) for check in diagnosis.checks],
    }


_MARKS: dict[Verdict, str] = {
    "well": "[green]well   [/]",
    "warn": "[yellow]warn   [/]",
    "ill": "[bold red]ill    [/]",
    "unknown": "[dim]unknown[/]",
}
_NAME_WIDTH = 14
_INDENT = " " * (_NAME_WIDTH + 9)
_WIDTH_MIN = 60


def show(diagnosis: Diagnosis, screen: Console) -> None:
    """Print one paragraph for each check, and at the end what to do."""
    screen.print()
    said: set[str] = set()
    for check in diagnosis.checks:
        screen.print(f"{_MARKS[check.verdict]}  {check.name:<{_NAME_WIDTH}}", end="")
        screen.print(_indented(check.evidence, screen), markup=False)
        # Several checks may ask for the same deed; once is enough.
        if check.advice and check.advice not in said:
            said.add(check.advice)
            screen.print(f"{_INDENT}{_indented(f'→ {check.advice}', screen)}", markup=False)
    screen.print()
    screen.print(diagnosis.summary, markup=False, style="bold")
    screen.print(diagnosis.next_step, markup=False)


def _indented(text: str, screen: Console) -> str:
    """Broken into lines that a terminal shows under each other; a pipe gets one line."""
    if not screen.is_terminal:
        return text
    width = max(screen.width, _WIDTH_MIN)
    lines = textwrap.wrap(
        f"{_INDENT}{text}", width, subsequent_indent=_INDENT, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(lines).removeprefix(_INDENT)
