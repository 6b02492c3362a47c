"""The commands `manyhands simulate` and `manyhands simulate dht`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.logs import set_up_logs

app = typer.Typer(
    name="simulate",
    invoke_without_command=True,
    rich_markup_mode="markdown",
)


HELP = """Watch peers train behind routers and slow links, in network namespaces of this machine.

Each host is a namespace of its own, with real TCP. You see how far each peer is, and whether
it talks to the others directly, through a punched hole or over a relay. It needs root; all of
it is gone when it ends. A whole file:

```toml
recipe = "digits"       # as for manyhands train
steps = 100

[hosts.boot]            # behind no router: public
runs = "node"           # or "train", or "nothing"
# further options of the command; through a relay those behind
# routers meet, and most then punch holes
options = ["--relay"]

[routers.home]
# or none, firewall, full-cone, symmetric, carrier-grade, upnp
nat = "port-restricted"
up_mbit_per_s = 20
down_mbit_per_s = 100
delay_ms = 25           # one way; also jitter_ms, and loss = 0.01
# also: behind = "another router"
# outbound_ports = [80, 443], blocks_udp = true

[hosts.alice]
behind = "home"
runs = "train"

[hosts.bob]
runs = "train"

[[faults]]
at_step = 50
deed = "cut"            # or heal, kill, forget-mappings, change-address
to = "home"             # a host or a router
```

`manyhands simulate dht` is another world: thousands of nodes in one process, without root.

Example: manyhands simulate --netns home.toml
"""


@app.callback(help=HELP)
def simulate(
    context: typer.Context,
    netns: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="What the internet looks like, who runs what in it, and what goes wrong when.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what the links lose and delay.")] = 0,
    keep_logs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep logs and events there.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Watch peers train behind routers and slow links, in network namespaces of this machine."""
    if context.invoked_subcommand is not None:
        return
    if netns is None:
        raise typer.BadParameter(
            "there is nothing to simulate: give --netns a file, or try manyhands simulate dht"
        )
    from tools.simulate.stage import SimulateOptions, run_simulation

    set_up_logs(verbose=False, log_file=None)
    raise typer.Exit(
        run_simulation(
            SimulateOptions(scene_path=netns, seed=seed, keep_logs=keep_logs, as_json=as_json)
        )
    )


@app.command()
def dht(
    nodes: Annotated[int, typer.Option(min=2, help="Nodes of the largest swarm.")] = 1_000,
    minutes: Annotated[float, typer.Option(min=0.1, help="Simulated time that is measured.")] = 30,
    churn: Annotated[float, typer.Option(min=0, help="Share of nodes replaced in an hour.")] = 0.2,
    loss: Annotated[float, typer.Option(min=0, max=0.9, help="Share of messages lost.")] = 0.05,
    liars: Annotated[float, typer.Option(min=0, max=0.9, help="Share of nodes that lie.")] = 0.1,
    gets: Annotated[float, typer.Option(min=0, help="Reads of each node in an hour.")] = 12,
    partition: Annotated[
        str | None,
        typer.Option(metavar="AT:MINUTES:SHARE", help="Cut a share off, as 10:5:0.3, then heal."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="One seed, one outcome.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also simulate smaller swarms, and draw cost by size."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 on a missed budget.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ] = False,
) -> None:
    """A whole DHT in this process: churn, loss, liars and a partition, in simulated time.

    Thousands of nodes run the DHT's own rules. Each has a signed record, and reads those of others.

    Example: manyhands simulate dht --nodes 1000 --partition 10:5:0.3
    """
    from tools.simulate.dht import DhtOptions, run_dht

    report = run_dht(
        DhtOptions(
            nodes=nodes,
            minutes=minutes,
            churn_per_h=churn,
            loss=loss,
            liars=liars,
            gets_per_node_h=gets,
            partition=partition,
            seed=seed,
            plot=plot,
        )
    )
    report.show("json" if as_json else "table")
    raise typer.Exit(report.exit_code(check=check))
