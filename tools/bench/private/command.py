"""The command `manyhands bench private`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.bench.options import Check, Json, Markdown, Save, end, shown_steps

PART_NAMES = ("modes", "clients", "nopeek", "split", "dp", "secure", "sums", "inference")
PAGE = "private.md"


def private(
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(PART_NAMES)}; repeatable. All, if none."),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="More seeds, rounds and sizes: half an hour.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="As little as can be, to see that it runs: a minute.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write tables and plots into its page.")
    ] = None,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """What learning privately costs, and what others see all the same, on handwritten digits.

    First all modes in one table, from central training to private inference: accuracy, what a
    client computes and moves, and how well attacks do. Then each kind by itself. Errors of attacks
    are mean squares of a pixel from 0 to 1; 0.074 is that of who knows nothing. Ten minutes.

    Example: manyhands bench private --part modes --part nopeek --write docs/results
    """
    from tools.bench.page import write_page
    from tools.bench.private.parts import PrivateOptions, run_private
    from tools.bench.private.plots import plots

    for name in part or ():
        if name not in PART_NAMES:
            raise typer.BadParameter(f"{name} is not one of {', '.join(PART_NAMES)}")
    if full and quick:
        raise typer.BadParameter("--full and --quick exclude each other")
    options = PrivateOptions()
    if full or quick:
        options = PrivateOptions.full() if full else PrivateOptions.quick()
    with shown_steps() as steps:
        report, budgets = run_private(options, steps, part or ())
    if write is not None:
        drawn = plots(report, options.nopeek)
        write_page(write / PAGE, "Learning privately", report, budgets, drawn)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)
