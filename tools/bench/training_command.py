"""The commands of `manyhands bench` about training, and about codecs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tools.bench.options import Check, Json, Markdown, Save, end, shown_steps

RESULTS = Path("docs/results")
"""Of a checkout that the command runs in."""


def add_to(app: typer.Typer) -> None:
    """Add them to the others."""
    for command in (dedloc, strategies, overlap, equivalence, sparsifiers, compression):
        app.command()(command)


def dedloc(
    steps: Annotated[
        int, typer.Option(min=2, help="Global steps of each swarm that does not change.")
    ] = 20,
    hours: Annotated[
        float, typer.Option(min=0.1, help="Simulated hours of the swarm that does.")
    ] = 24.0,
    samples_per_s: Annotated[
        float, typer.Option(min=0.1, help="Of each peer's GPU: an assumption.")
    ] = 8.0,
    seed: Annotated[int, typer.Option(help="Decides how long each micro-batch takes.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Peers come and go with delayed updates, too.")
    ] = False,
    measured: Annotated[bool, typer.Option(help="Move bytes, too: a minute of waiting.")] = True,
    plot: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw three SVGs in this folder.")
    ] = None,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """The five swarms of the DeDLOC paper: simulated at full size, and measured small.

    ALBERT-large among 16 to 24 peers with fast, unequal, helped and changing links. Simulated is
    the time, not the training: batches by our rules, spans by our plan, transfers that share links
    fairly. *Optimum* is the paper's linear program; four minutes.

    Example: manyhands bench dedloc --plot docs/results
    """
    from tools.bench.dedloc import DedlocOptions, run_dedloc
    from tools.bench.dedloc_plot import save_plots
    from tools.bench.dedloc_world import Assumptions

    assumed = Assumptions(samples_per_s=samples_per_s, steps=steps, hours=hours, seed=seed)
    options = DedlocOptions(assumed=assumed, full=full, measured=measured)
    with shown_steps() as shown:
        report = run_dedloc(options, shown)
    if plot is not None:
        save_plots(report.rows, hours, plot)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


def strategies(
    steps: Annotated[int, typer.Option(min=30, help="Local steps of each worker.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each case; means count.")] = 3,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """What local strategies learn from as many samples, and what they send.

    Four workers in this process, each with a quarter of the digits; two minutes. *Published* counts
    as papers do, a broadcast being one; the bytes count every transfer.

    Example: manyhands bench strategies --seeds 1
    """
    from tools.bench.strategies import StrategiesOptions, run_strategies

    options = StrategiesOptions(steps=steps, seeds=seeds)
    with shown_steps() as shown:
        report = run_strategies(options, shown)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


def overlap(
    steps: Annotated[int, typer.Option(min=1, help="Global steps of each swarm.")] = 8,
    peers: Annotated[int, typer.Option(min=2, max=64, help="Processes that train.")] = 4,
    parameters: Annotated[int, typer.Option(min=8, help="Of the model.")] = 5_000_000,
    seconds: Annotated[
        float, typer.Option(min=0.01, help="Computing of each peer for one global step.")
    ] = 3.0,
    pairs: Annotated[int, typer.Option(min=1, help="Loops beside a round, and without.")] = 8,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """How much of a swarm's time is computing, synchronous and with delayed updates.

    Links of 100 Mbit/s and 40 ms there and back, float16, a real optimizer. Computing is filled
    up by sleeping and then counts as computing; the last rows compute without, beside a round.

    Example: manyhands bench overlap --steps 20
    """
    from tools.bench.overlap import OverlapOptions, run_overlap

    options = OverlapOptions(
        steps=steps, peers=peers, parameters=parameters, compute_s=seconds, pairs=pairs
    )
    with shown_steps() as shown:
        report = run_overlap(options, shown)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


def equivalence(
    steps: Annotated[int, typer.Option(min=20, help="Global steps of each run.")] = 100,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each case; means count.")] = 3,
    recipe: Annotated[
        list[str] | None, typer.Option(help="One of digits, albert-tiny, swav-tiny; all, if none.")
    ] = None,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Whether 1, 4 and 8 peers, and peers that die and join, learn what one process learns.

    Real processes on this machine train three recipes at reduced steps; half an hour with all.

    Example: manyhands bench equivalence --recipe digits
    """
    from tools.bench.equivalence import FIGURES, EquivalenceOptions, run_equivalence

    recipes = tuple(recipe or FIGURES)
    if unknown := set(recipes) - FIGURES.keys():
        raise typer.BadParameter(f"{min(unknown)} is none of {', '.join(FIGURES)}")
    with shown_steps() as shown:
        report = run_equivalence(
            EquivalenceOptions(recipes=recipes, steps=steps, seeds=seeds), shown
        )
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


def sparsifiers(
    elements: Annotated[
        list[int] | None, typer.Option(min=1, help="Elements of the vector; repeatable.")
    ] = None,
    density: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Of what is picked.")] = 0.001,
    repetitions: Annotated[int, typer.Option(min=1, help="Of each; the median counts.")] = 5,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """How fast the largest elements of a vector are picked, exactly or about; ten seconds.

    One thread. Gaussian_k is compared with the exact Top-k of PyTorch, as in its paper; ours ranks
    only what a sample leaves.

    Example: manyhands bench sparsifiers --elements 10000000
    """
    from tools.bench.sparsifiers import SparsifiersOptions, run_sparsifiers

    options = SparsifiersOptions(density=density, repetitions=repetitions)
    if elements:
        options = replace(options, elements=tuple(elements))
    with shown_steps() as shown:
        report = run_sparsifiers(options, shown)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)


def compression(
    part: Annotated[
        list[str] | None,
        typer.Option(help="operators, training, biased or swarm; repeatable. All, if none."),
    ] = None,
    codec: Annotated[
        list[str] | None,
        typer.Option(help="Of the swarm, as topk:0.01 or topk:0.01/int4-block; repeatable."),
    ] = None,
    uplink: Annotated[
        list[float] | None, typer.Option(min=0.1, help="Of the swarm, in Mbit/s; repeatable.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="The papers' sizes, all codecs and a language model, an hour; written into "
            "docs/results where that is.",
        ),
    ] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write tables and plots into its page.")
    ] = None,
    check: Check = False,
    as_markdown: Markdown = False,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Two papers on compressed gradients again, and a swarm behind slow uplinks; ten minutes.

    Gaussian_k beside Top-k and DGC; what eight workers learn with few elements; biased compressors
    with error feedback and EF21 against bits; and real processes behind rate-limited links.

    Example: manyhands bench compression --part training
    """
    from tools.bench.compression.page import write as write_page
    from tools.bench.compression.run import PARTS, CompressionOptions, run_compression
    from tools.bench.compression.swarm_peer import averager_config

    if unknown := set(part or ()) - set(PARTS):
        raise typer.BadParameter(f"{min(unknown)} is none of {', '.join(PARTS)}")
    options = CompressionOptions(parts=tuple(part or PARTS))
    if full:
        options = options.full()
    try:
        for name in codec or ():
            averager_config(name)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    swarm = options.swarm
    swarm = replace(
        swarm,
        codecs=tuple(codec or swarm.codecs),
        uplinks_mbit=tuple(sorted(uplink or swarm.uplinks_mbit, reverse=True)),
    )
    with shown_steps() as shown:
        report, budgets = run_compression(replace(options, swarm=swarm), shown)
    if write is None and full and RESULTS.is_dir():
        write = RESULTS
    if write is not None:
        write_page(report, budgets, write)
    end(report, check=check, save=save, as_markdown=as_markdown, as_json=as_json)
