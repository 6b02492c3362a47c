"""What all commands of `manyhands bench` share: options, the progress bar, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.output import console

if TYPE_CHECKING:
    from tools.bench.progress import Steps
    from tools.bench.report import Report

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
Markdown = Annotated[
    bool, typer.Option("--markdown", help="Print the table as in benchmarks/RESULTS.md.")
]
# So that a published table and the figures behind it come from one run.
Save = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the JSON object to this file, too.")
]
Check = Annotated[bool, typer.Option("--check", help="Exit with 1 when a budget is missed.")]


def shown_steps() -> Steps:
    """A progress bar on stderr."""
    from tools.bench.progress import Steps

    return Steps(console(as_json=True))


def end(
    report: Report, *, check: bool, save: Path | None, as_markdown: bool, as_json: bool
) -> None:
    """Print what was measured, write it where that is wanted, and exit as the budgets say."""
    report.show("json" if as_json else "markdown" if as_markdown else "table")
    if save is not None:
        report.save(save)
    raise typer.Exit(report.exit_code(check=check))
