"""The commands of `manyhands bench`: network, averaging and DHT; others are added."""

from __future__ import annotations

from typing import Annotated

import typer

from tools.bench.options import Check, Json, Markdown, Save, end, shown_steps
from tools.bench.private.command import private
from tools.bench.training_command import add_to

app = typer.Typer(
    name="bench",
    help="Measure this machine: our network beside others, in one run.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


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

    with shown_steps() as steps:
        report = run_bulk(BulkOptions(full=full, seconds=seconds), steps)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


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
    with shown_steps() as steps:
        report = run_rpc(RpcOptions.full(options) if full else options, steps)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def allreduce(
    peers: Annotated[
        list[int] | None, typer.Option(min=2, max=64, help="Processes that average; repeatable.")
    ] = None,
    elements: Annotated[
        list[int] | None, typer.Option(min=1, help="Elements of the vector; repeatable.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="float32, float16 or int8-block, as it travels; repeatable."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of each case, instead of what suits its size.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Also 8 peers with 50 million elements: 10 GB of memory.")
    ] = False,
    hivemind_python: Annotated[
        str | None, typer.Option(metavar="PATH", help="A Python that has hivemind, to measure it.")
    ] = None,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Rounds of averaging by several processes on loopback, beside gloo and hivemind.

    Their rounds take turns. Gloo sends plain text, and has no membership to find, no agreement to
    reach and no faults to survive; it shows what the machine can do. The bare rounds, of four peers
    with 10 million float32, are encrypted and checked like ours, and nothing else: what ours take
    beyond them is the price of the protocol.

    Example: manyhands bench allreduce --peers 4 --elements 10000000 --dtype float32
    """
    from tools.bench.allreduce import DTYPES, ELEMENTS, PEERS, AllreduceOptions, run_allreduce

    for name in dtype or ():
        if name not in DTYPES:
            raise typer.BadParameter(f"{name} is not one of {', '.join(DTYPES)}")
    options = AllreduceOptions(
        peers=tuple(peers or PEERS),
        elements=tuple(elements or ELEMENTS),
        dtypes=tuple(dtype or DTYPES),
        rounds=rounds,
        # Whoever names a size wants it.
        full=full or elements is not None,
        hivemind_python=hivemind_python,
    )
    with shown_steps() as steps:
        report = run_allreduce(options, steps)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def dht(
    nodes: Annotated[
        list[int] | None, typer.Option(min=4, max=256, help="Nodes of a swarm; repeatable.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds for each swarm.")] = 10,
    keys: Annotated[
        int, typer.Option(min=1, help="Keys written and read one by one in each round.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="Decides who writes, reads and is killed.")] = 0,
    hivemind_python: Annotated[
        str | None, typer.Option(metavar="PATH", help="A Python that has hivemind, to measure it.")
    ] = None,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Reads and writes in swarms of 16 and 64 real nodes on loopback, also when 30 % are killed.

    Up to 16 nodes have a process each; more share 16 processes, as each takes 70 MB, and each of
    hivemind's 300. The rounds of both take turns.

    Example: manyhands bench dht --nodes 16 --rounds 20
    """
    from tools.bench.dht import NODES, DhtOptions, run_dht

    options = DhtOptions(
        nodes=tuple(nodes or NODES),
        rounds=rounds,
        keys=keys,
        seed=seed,
        hivemind_python=hivemind_python,
    )
    with shown_steps() as steps:
        report = run_dht(options, steps)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def recovery(
    peers: Annotated[int, typer.Option(min=3, max=64, help="Processes that average.")] = 4,
    elements: Annotated[int, typer.Option(min=1, help="Elements of the vector.")] = 10_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Losses of each kind.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides who is lost, and when.")] = 0,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """What a round costs when one peer is killed, or stops, in the middle of the transfer.

    Seconds count from the signal until the last survivor is done; *fraction* is how much of the
    survivors' data is in the mean.

    Example: manyhands bench recovery --elements 50000000
    """
    from tools.bench.recovery import RecoveryOptions, run_recovery

    options = RecoveryOptions(peers=peers, elements=elements, repeats=repeats, seed=seed)
    with shown_steps() as steps:
        report = run_recovery(options, steps)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def scaling(
    peers: Annotated[
        list[int] | None, typer.Option(min=2, max=64, help="Processes that average; repeatable.")
    ] = None,
    elements: Annotated[int, typer.Option(min=1, help="Elements of the vector.")] = 2_500_000,
    rate: Annotated[
        float, typer.Option(min=0.01, metavar="MB/S", help="Of each peer's link, each way.")
    ] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each group.")] = 3,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Rounds of 2 to 16 peers whose links are the limit, beside the shortest time that they allow.

    With --save FILE.json a plot is drawn beside it, FILE.svg.

    Example: manyhands bench scaling --save benchmarks/results/scaling.json
    """
    from tools.bench.scaling import ScalingOptions, run_scaling, save_plot

    sizes = tuple(sorted(peers or ScalingOptions.peers))
    options = ScalingOptions(peers=sizes, elements=elements, megabytes_per_s=rate, rounds=rounds)
    with shown_steps() as steps:
        report = run_scaling(options, steps)
    if save is not None and report.rows:
        save_plot(report.rows, options, save.with_suffix(".svg"))
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


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

    with shown_steps() as steps:
        report = run_balance(BalanceOptions(elements=elements, rate_bytes_per_s=rate), steps)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


@app.command()
def codecs(
    elements: Annotated[
        list[int] | None, typer.Option(min=1, help="Elements of the vector; repeatable.")
    ] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="Such as int8 or topk:0.01; repeatable. All, if none.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each; the fastest counts.")] = 7,
    hivemind_python: Annotated[
        str | None, typer.Option(metavar="PATH", help="A Python that has hivemind, to measure it.")
    ] = None,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Speed, size and precision of every codec, with one thread, beside hivemind's.

    Gigabytes of float32 values per second, normally distributed; on a GPU, too, if there is one.

    Example: manyhands bench codecs --codec int8 --elements 1000000
    """
    from averaging.codecs.registry import codec_named
    from tools.bench.codecs import ELEMENTS, CodecsOptions, run_codecs

    for name in codec or ():
        try:
            codec_named(name)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
    options = CodecsOptions(
        elements=tuple(elements or ELEMENTS),
        codecs=tuple(codec or ()),
        repeats=repeats,
        hivemind_python=hivemind_python,
    )
    with shown_steps() as steps:
        report = run_codecs(options, steps)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


add_to(app)
app.command()(private)
