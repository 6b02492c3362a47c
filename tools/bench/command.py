"""The commands of `manyhands bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from tools.output import console

app = typer.Typer(
    name="bench",
    help="Measure this machine: our network beside others, in one run.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
Check = Annotated[bool, typer.Option("--check", help="Exit with 1 when a budget is missed.")]


def _progress(line: str) -> None:
    console(as_json=True).print(f"measuring {line}", markup=False, highlight=False)


@app.command()
def bulk(
    full: Annotated[
        bool, typer.Option("--full", help="All sizes with 1, 4 and 16 streams.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.01, max=60, help="How long one measurement should take.")
    ] = 0.6,
    check: Check = False,
    as_json: Json = False,
) -> None:
    """Speed and CPU cost of streams: TCP, TLS, stock py-libp2p, and ours over Noise and AES.

    Two processes on loopback for each; the repetitions of all take turns, and the median counts.

    Example: manyhands bench bulk --full
    """
    from tools.bench.bulk import COLUMNS, BulkOptions, run_bulk

    report = run_bulk(BulkOptions(full=full, seconds=seconds), _progress)
    report.show(as_json=as_json, columns=COLUMNS)
    raise typer.Exit(report.exit_code(check=check))


@app.command()
def rpc(
    calls: Annotated[int, typer.Option(min=10, help="Calls to measure.")] = 1_000,
    connections: Annotated[int, typer.Option(min=1, help="Connections to hold at rest.")] = 100,
    check: Check = False,
    as_json: Json = False,
) -> None:
    """Latency of connections, streams and small calls, alone and beside bulk; memory at rest.

    Example: manyhands bench rpc --calls 5000
    """
    from tools.bench.rpc import COLUMNS, RpcOptions, run_rpc

    report = run_rpc(RpcOptions(calls=calls, connections=connections), _progress)
    report.show(as_json=as_json, columns=COLUMNS)
    raise typer.Exit(report.exit_code(check=check))
