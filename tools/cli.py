"""The command line: every command with its options; the work is done in the files beside.

Imports are inside the commands on purpose: `manyhands --help` must not wait for PyTorch, and a
bootstrap node must not carry it in memory.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tools import network_commands, relay_options
from tools.access import Private
from tools.access import app as access
from tools.bench.command import app as bench
from tools.dht.command import app as dht
from tools.failures import ILL, WELL, Failure, explain
from tools.options import (
    Announce,
    Codec,
    InitialPeers,
    JoinWhenTold,
    Json,
    Listen,
    LogFile,
    StopWithStdin,
    Verbose,
    begin,
    split,
)
from tools.output import console, print_json
from tools.simulate.command import app as simulate

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="manyhands",
    help="Train one model together on many computers, peer to peer.",
    epilog="Exit codes: 0 well, 1 ill, 2 misused. Begin with: manyhands demo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)

ClientMode = Annotated[
    bool, typer.Option("--client-mode", help="Listen nowhere; only dial others.")
]
Mdns = Annotated[
    bool, typer.Option("--mdns", help="Find peers of the run on this network without an address.")
]
CheckpointDir = Annotated[
    Path | None,
    typer.Option(help="Save checkpoints in this folder, one folder per trainer."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint in --checkpoint-dir.")
]
Events = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Append each event as a line of JSON.")
]
Tensorboard = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Write curves for TensorBoard there.")
]
RunName = Annotated[
    str | None, typer.Option("--run", help="Name of the run; by default the recipe's.")
]
Steps = Annotated[int | None, typer.Option(help="Global steps; by default the recipe's.")]
GlobalBatch = Annotated[
    int | None, typer.Option(help="Samples in one step; by default the recipe's.")
]
WaitForPeers = Annotated[
    int, typer.Option(min=1, help="Begin when so many trainers are there, this one included.")
]
Role = Annotated[
    str | None,
    typer.Option(metavar="client|server", help="Which side, for a recipe with a [split]."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="Key file; made when missing. By default a new identity each time."),
]
NewcomerRate = Annotated[
    float | None,
    typer.Option(
        metavar="MB/S",
        min=0.001,
        help="MB/s that newcomers, all together, are sent of this peer's state. By default half of "
        "the uplink while a round needs it, else no limit.",
    ),
]
Clients = Annotated[
    int | None,
    typer.Option(min=1, help="With --role server: end when so many clients have finished."),
]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads; more help large models alone on a machine.")
]


@app.command()
def demo(
    peers: Annotated[int, typer.Option(min=1, max=32, help="Trainers at the beginning.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Global steps to train.")] = None,
    global_batch: Annotated[
        int | None, typer.Option(min=1, help="Samples that all put into one step.")
    ] = None,
    kill_one: Annotated[
        bool, typer.Option(help="Kill one trainer with SIGKILL on the way.")
    ] = True,
    keep_logs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep logs and events there.")
    ] = None,
    as_json: Json = False,
    stop_with_stdin: StopWithStdin = False,
) -> None:
    """Watch several processes on this machine train one network on handwritten digits.

    One trainer is killed on the way and another one joins late. All ends in under three minutes.

    Example: manyhands demo --peers 4 --steps 250
    """
    from tools.demo import DemoOptions, run_demo

    begin(stop_with_stdin=stop_with_stdin)
    raise typer.Exit(
        run_demo(
            DemoOptions(
                peers=peers,
                steps=steps,
                global_batch=global_batch,
                kill_one=kill_one,
                keep_logs=keep_logs,
                as_json=as_json,
            )
        )
    )


@app.command()
def node(
    listen: Listen = None,
    announce: Announce = None,
    identity: Annotated[
        Path | None,
        typer.Option(help="Key file; made when missing. By default one of this user's own."),
    ] = None,
    initial_peers: InitialPeers = None,
    private: Private = None,
    relay: relay_options.Relay = False,
    relay_peers: relay_options.Peers = None,
    relay_circuits: relay_options.Circuits = None,
    relay_rate: relay_options.Rate = None,
    relay_hourly: relay_options.Hourly = None,
    relay_circuit_rate: relay_options.CircuitRate = None,
    relay_circuit_size: relay_options.CircuitSize = None,
    relay_circuit_minutes: relay_options.CircuitMinutes = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve Prometheus metrics on 127.0.0.1 at this port."),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
    stop_with_stdin: StopWithStdin = False,
) -> None:
    """Run a bootstrap node: the meeting point whose address others pass to --initial-peers.

    It listens on all interfaces at port 31337 unless told otherwise, keeps its identity from one
    start to the next, trains nothing, and runs until Ctrl-C.

    Example: manyhands node --listen /ip4/0.0.0.0/tcp/4001 --relay --relay-rate 10
    """
    from tools.node import NodeOptions, relay_limits, run_node

    begin(verbose=verbose, log_file=log_file, stop_with_stdin=stop_with_stdin)
    run_node(
        NodeOptions(
            listen=split(listen) or ("/ip4/0.0.0.0/tcp/31337",),
            announce=split(announce),
            identity_path=identity,
            initial_peers=split(initial_peers),
            private_path=private,
            relay=relay,
            relay_limits=relay_limits(
                peers=relay_peers,
                circuits=relay_circuits,
                megabytes_per_s=relay_rate,
                gigabytes_per_hour=relay_hourly,
                circuit_megabytes_per_s=relay_circuit_rate,
                circuit_megabytes=relay_circuit_size,
                circuit_minutes=relay_circuit_minutes,
            ),
            metrics_port=metrics_port,
            as_json=as_json,
        )
    )


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="A built-in recipe, such as digits, or the path of a TOML file.")
    ],
    initial_peers: InitialPeers = None,
    run: RunName = None,
    steps: Steps = None,
    global_batch: GlobalBatch = None,
    codec: Codec = None,
    listen: Listen = None,
    announce: Announce = None,
    identity: KeyFile = None,
    mdns: Mdns = False,
    client_mode: ClientMode = False,
    wait_for_peers: WaitForPeers = 1,
    role: Role = None,
    clients: Clients = None,
    threads: Threads = 1,
    newcomer_rate: NewcomerRate = None,
    private: Private = None,
    checkpoint_dir: CheckpointDir = None,
    resume: Resume = False,
    events: Events = None,
    tensorboard: Tensorboard = None,
    as_json: Json = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
    stop_with_stdin: StopWithStdin = False,
    join_when_told: JoinWhenTold = False,
) -> None:
    """Train a recipe together with whoever else trains the same run.

    Without --initial-peers it begins a swarm of its own and prints how others join. It listens on
    all interfaces at a free port unless told otherwise. Ctrl-C leaves the swarm; as the run is
    then not finished, the exit code is 1.

    Example: manyhands train digits --initial-peers /ip4/192.168.1.5/tcp/31337/p2p/12D3KooW…

    Example: manyhands train split-digits --role server
    """
    from tools.train import TrainRequest, run_train

    told = begin(verbose=verbose, log_file=log_file, stop_with_stdin=stop_with_stdin)
    raise typer.Exit(
        run_train(
            TrainRequest(
                recipe=recipe,
                changes={"run": run, "steps": steps, "global_batch": global_batch, "codec": codec},
                initial_peers=split(initial_peers),
                listen=split(listen) or ("/ip4/0.0.0.0/tcp/0",),
                announce=split(announce),
                identity_path=identity,
                mdns=mdns,
                client_mode=client_mode,
                wait_for_peers=wait_for_peers,
                threads=threads,
                newcomer_mb_per_s=newcomer_rate,
                private_path=private,
                checkpoint_dir=checkpoint_dir,
                resume=resume,
                events_path=events,
                tensorboard_dir=tensorboard,
                join_when=told if join_when_told else None,
                role=role,
                clients=clients,
                as_json=as_json,
            )
        )
    )


@app.command()
def identity(
    path: Annotated[
        Path | None,
        typer.Argument(help="Key file; by default the one that `manyhands node` uses."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the peer id of a key file; the file is made when missing.

    Example: manyhands identity trainer.key
    """
    from tools.identity import show_identity

    begin()
    show_identity(path, as_json=as_json)


network_commands.add_to(app)
app.add_typer(simulate)
app.add_typer(bench)
app.add_typer(access)
app.add_typer(dht)


def main() -> NoReturn:
    """Run the command; whatever goes wrong ends in a sentence, a next step and an exit code."""
    as_json = "--json" in sys.argv
    try:
        app(prog_name="manyhands")
    except KeyboardInterrupt:
        sys.exit(ILL)
    except Exception as error:
        sys.exit(_tell(error, as_json=as_json))
    sys.exit(WELL)


def _tell(error: Exception, *, as_json: bool) -> int:
    """Say what went wrong, and give the exit code."""
    failure = explain(error)
    logger.error("command_failed error=%s", type(error).__name__, exc_info=failure is None)
    if failure is None:
        failure = Failure(
            sentence=f"manyhands failed where it should not have: {type(error).__name__}: {error}",
            next_step="Run it again with --verbose, and report what it shows.",
        )
    screen = console(as_json=True)
    screen.print("[bold red]error[/] ", end="")
    screen.print(_sentence(failure.sentence), markup=False)
    screen.print(_sentence(failure.next_step), markup=False)
    if as_json:
        print_json({"error": failure.sentence, "next": failure.next_step})
    return failure.exit_code


def _sentence(text: str) -> str:
    """One line with a capital at its beginning and a full stop at its end."""
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."


if __name__ == "__main__":
    main()
