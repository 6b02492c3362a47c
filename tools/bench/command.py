"""The commands of `manyhands bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.output import console

if TYPE_CHECKING:
    from tools.bench.progress import Steps
    from tools.bench.report import Report

app = typer.Typer(
    name="bench",
    help="Measure this machine: our network beside others, in one run.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

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


@app.command()
def bulk(
    full: Annotated[
        bool, typer.Option("--full", help="All sizes with 1, 4 and 16 streams.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.01, max=60, help="How long one measurement should take.")
    ] = 0.6,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Speed and CPU cost of streams: TCP, TLS, stock py-libp2p, and ours over Noise and AES.

    Two processes on loopback for each; the repetitions of all take turns, and the median counts.
    TCP and TLS have a socket for each stream.

    Example: manyhands bench bulk --full
    """
    from tools.bench.bulk import BulkOptions, run_bulk

    with _steps() as steps:
        report = run_bulk(BulkOptions(full=full, seconds=seconds), steps)
    _end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def rpc(
    calls: Annotated[int, typer.Option(min=10, help="Calls to measure.")] = 1_000,
    connections: Annotated[int, typer.Option(min=1, help="Connections to hold at rest.")] = 200,
    full: Annotated[bool, typer.Option("--full", help="Five times as many calls.")] = False,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Latency of connections, streams and small calls, alone and beside bulk; memory at rest.

    TCP and TLS have no streams or calls: there each one is a new socket that echoes.

    Example: manyhands bench rpc --calls 5000
    """
    from tools.bench.rpc import RpcOptions, run_rpc

    options = RpcOptions(calls=calls, connections=connections)
    with _steps() as steps:
        report = run_rpc(RpcOptions.full(options) if full else options, steps)
    _end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def averaging(
    peers: Annotated[int, typer.Option(min=2, max=64, help="Processes that average.")] = 4,
    elements: Annotated[int, typer.Option(min=1, help="Elements of the vector.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to measure.")] = 5,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """One averaging round of several processes on loopback, beside gloo.

    Both average the same float32 vectors. Gloo sends plain text, and has no membership to find,
    no agreement to reach and no faults to survive; it shows what the machine can do.

    Example: manyhands bench averaging --peers 4 --elements 10000000
    """
    from tools.bench.averaging import AveragingOptions, run_averaging

    options = AveragingOptions(peers=peers, elements=elements, rounds=rounds)
    with _steps() as steps:
        report = run_averaging(options, steps)
    _end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def balance(
    elements: Annotated[
        int, typer.Option(min=65_536, help="Elements of the vector, four bytes each.")
    ] = 262_144,
    rate: Annotated[
        float, typer.Option(min=10_000, help="Bytes a second of a peer of speed 1.")
    ] = 500_000.0,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """How the vector is split among unequal peers: as planned, in equal spans, and at one server.

    Real TCP streams on loopback with limited links, as in the DeDLOC paper's setups; two
    minutes. Each time is set beside what the theory says; a case that took much longer is tried
    again, up to three times, and its fastest counts.

    Example: manyhands bench balance --rate 1e6
    """
    from tools.bench.balance import BalanceOptions, run_balance

    with _steps() as steps:
        report = run_balance(BalanceOptions(elements=elements, rate_bytes_per_s=rate), steps)
    _end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


def _steps() -> Steps:
    from tools.bench.progress import Steps

    return Steps(console(as_json=True))


def _end(
    report: Report, *, check: bool, save: Path | None, as_markdown: bool, as_json: bool
) -> None:
    report.show("json" if as_json else "markdown" if as_markdown else "table")
    if save is not None:
        report.save(save)
    raise typer.Exit(report.exit_code(check=check))
