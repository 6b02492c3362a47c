"""The command `manyhands simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.logs import set_up_logs


def simulate(
    netns: Annotated[
        Path,
        typer.Option(
            metavar="FILE.toml",
            help="What the internet looks like, who runs what in it, and what goes wrong when.",
        ),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of what the links lose and delay.")] = 0,
    keep_logs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep logs and events there.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Watch peers train behind routers and slow links, in network namespaces of this machine.

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

    Example: manyhands simulate --netns home.toml
    """
    from tools.simulate.stage import SimulateOptions, run_simulation

    set_up_logs(verbose=False, log_file=None)
    raise typer.Exit(
        run_simulation(
            SimulateOptions(scene_path=netns, seed=seed, keep_logs=keep_logs, as_json=as_json)
        )
    )
