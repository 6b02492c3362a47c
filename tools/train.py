"""`manyhands train`: a trainer peer, with a progress bar and an event log."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import platformdirs
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from p2p import Identity, NodeConfig
from tools.access import private_config
from tools.addresses import farthest_first
from tools.eta import Eta, in_words
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.heap import freeze_heap
from tools.output import console, print_json
from tools.stopping import sigterm_interrupts
from tools.tensorboard_log import check_tensorboard, open_tensorboard
from tools.train_split import check_no_options, check_role, run_role

if TYPE_CHECKING:
    from training.loop import TrainOptions
    from training.recipe import Recipe

# Where there is no terminal, a line every so many steps tells that it goes on.
STEPS_PER_LINE = 50
WAIT_SLICE_S = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What `manyhands train` was asked for."""

    recipe: str
    """A built-in recipe's name, or the path of a TOML file."""
    changes: Mapping[str, object]
    """Keys of the recipe that options replace; None leaves one as it is."""
    initial_peers: tuple[str, ...]
    """Where to enter the swarm."""
    listen: tuple[str, ...]
    """Multiaddresses to listen on."""
    announce: tuple[str, ...] = ()
    """Addresses to tell others instead of those found."""
    identity_path: Path | None = None
    """Key file; None takes a new identity."""
    client_mode: bool = False
    """Only dial others."""
    private_path: Path | None = None
    """File that says who may connect; None lets everybody in."""
    mdns: bool = False
    """Look for peers of the run on this computer's networks."""
    wait_for_peers: int = 1
    """Begin when so many trainers are there."""
    threads: int = 1
    """CPU threads of PyTorch; one, because peers on one machine would fight over its cores."""
    newcomer_mb_per_s: float | None = None
    """What newcomers are sent of this peer's state at most; None is no such limit."""
    checkpoint_dir: Path | None = None
    """Where checkpoints are saved."""
    resume: bool = False
    """Go on from the newest checkpoint."""
    events_path: Path | None = None
    """Where each event is appended as a line of JSON."""
    tensorboard_dir: Path | None = None
    """Where curves for TensorBoard are written."""
    join_when: threading.Event | None = None
    """When all is prepared, wait for this before joining; None joins at once."""
    role: str | None = None
    """client or server, of a recipe that is split; None for all others."""
    clients: int | None = None
    """A server ends when so many clients have finished; None: never."""
    as_json: bool = False
    """Print the result as one JSON object."""


def run_train(request: TrainRequest) -> int:
    """Train until the last step, Ctrl-C or SIGTERM; returns the exit code.

    Raises:
        CommandError: options that do not go together, or an event log that cannot be written.
        p2p.P2PError, training.TrainingError: the run could not begin or go on.
    """
    if request.resume and request.checkpoint_dir is None:
        raise CommandError(
            "--resume needs --checkpoint-dir to know what to resume from",
            next_step="Give the folder that the checkpoints were saved in.",
            exit_code=MISUSED,
        )
    with sigterm_interrupts():
        try:
            _check_early(request)
            return _train(request)
        except KeyboardInterrupt:  # before the loop began, which handles it from there on
            console(as_json=True).print("Stopped before the run began.")
            return ILL


def _check_early(request: TrainRequest) -> None:
    """Find what is wrong or missing before PyTorch takes its time to load."""
    NodeConfig(listen=request.listen, announce=request.announce)
    private_config(request.private_path)
    if request.identity_path is not None:
        Identity.load_or_create(request.identity_path)
    if request.tensorboard_dir is not None:
        check_tensorboard()


def _train(request: TrainRequest) -> int:
    # Numeric libraries read it once, when they are loaded.
    os.environ["OMP_NUM_THREADS"] = str(request.threads)
    # PyTorch makes a folder for its compiler, used or not; not among the temporary files.
    cache = platformdirs.user_cache_path("manyhands") / "torch"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    import torch

    from training.loop import run_recipe
    from training.recipe import load_recipe, override

    torch.set_num_threads(request.threads)
    torch.set_num_interop_threads(1)
    recipe = override(load_recipe(request.recipe), request.changes, source="options")
    check_role(recipe, request.role, request.recipe)
    if recipe.split is not None:
        return _train_split(recipe, request)
    screen = console(as_json=request.as_json)
    with (
        _event_file(request.events_path) as file,
        open_tensorboard(request.tensorboard_dir) as curves,
        RunView(screen, recipe.steps) as view,
    ):

        def on_event(event: dict[str, Any]) -> None:
            if file is not None:
                file.write(json.dumps(event) + "\n")
            if curves is not None:
                curves.on_event(event)
            view.on_event(event)
            if event["event"] == "prepared":
                freeze_heap()
                if request.join_when is not None:
                    while not request.join_when.wait(WAIT_SLICE_S):
                        pass  # in slices, since a lock's wait hides Ctrl-C on some systems

        result = run_recipe(recipe, _options(request), on_event)
    if request.as_json:
        print_json(
            {
                "run": recipe.run,
                "peer_id": result.peer_id,
                "ended": result.ended,
                "step": result.step,
                "samples": result.samples,
                "seconds": round(result.seconds, 3),
                "accuracy": result.accuracy,
                "figures": result.figures,
                "hash": result.parameter_hash,
            }
        )
    if result.ended == "finished":
        screen.print(
            f"[bold green]finished[/] step {result.step}: {_in_words(result.figures)} "
            f"after {result.seconds:.0f} s; {result.samples} samples were yours.\n"
            f"Parameters {result.parameter_hash}: compare them with the other peers'."
        )
        return WELL
    screen.print(f"[bold yellow]stopped[/] at step {result.step} of {recipe.steps}. ", end="")
    if request.checkpoint_dir is not None:
        screen.print("Go on with the same command and --resume.")
    else:
        screen.print("The others go on; join again with the same command.")
    return ILL


def _train_split(recipe: Recipe, request: TrainRequest) -> int:
    """The server or a client of a recipe that is split."""
    from training.split.recipe_run import SplitRunOptions

    check_no_options(
        {
            "--checkpoint-dir": request.checkpoint_dir is not None,
            "--tensorboard": request.tensorboard_dir is not None,
            "--wait-for-peers": request.wait_for_peers != 1,
            "--newcomer-rate": request.newcomer_mb_per_s is not None,
            "--clients": request.clients is not None and request.role == "client",
        }
    )
    options = SplitRunOptions(
        role="server" if request.role == "server" else "client",
        initial_peers=request.initial_peers,
        listen=request.listen,
        announce=request.announce,
        identity_path=request.identity_path,
        client_mode=request.client_mode,
        node_config=replace(private_config(request.private_path), mdns=request.mdns),
        clients=request.clients,
    )
    with _event_file(request.events_path) as file:

        def on_event(event: dict[str, Any]) -> None:
            if file is not None:
                file.write(json.dumps(event) + "\n")

        return run_role(
            recipe, options, name=request.recipe, as_json=request.as_json, on_event=on_event
        )


def _in_words(figures: Mapping[str, float]) -> str:
    """How well a run went, as its task measures it."""
    if "accuracy" in figures:
        return f"{figures['accuracy']:.1%} of the test set right"
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())


def _options(request: TrainRequest) -> TrainOptions:
    """How this peer takes part."""
    from averaging import DonorConfig
    from training.loop import TrainOptions

    rate = request.newcomer_mb_per_s
    return TrainOptions(
        initial_peers=request.initial_peers,
        listen=request.listen,
        announce=request.announce,
        identity_path=request.identity_path,
        client_mode=request.client_mode,
        node_config=replace(private_config(request.private_path), mdns=request.mdns),
        wait_for_peers=request.wait_for_peers,
        donor=DonorConfig(bandwidth_bytes_per_s=None if rate is None else rate * 1e6),
        checkpoint_dir=request.checkpoint_dir,
        resume=request.resume,
    )


@contextlib.contextmanager
def _event_file(path: Path | None) -> Iterator[TextIO | None]:
    """The event log, flushed line by line; None if none was asked for."""
    if path is None:
        yield None
        return
    try:
        file = path.open("a", encoding="utf-8", buffering=1)
    except OSError as exc:
        raise CommandError(
            f"The event log {path} cannot be written: {exc.strerror}",
            next_step="Give --events a path in a folder that you may write.",
            exit_code=MISUSED,
        ) from exc
    with file:
        yield file


class RunView:
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, screen: Console, steps: int) -> None:
        self._screen = screen
        self._steps = steps
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._task: TaskID | None = None
        self._eta = Eta(steps)
        self._loss: float | None = None
        self._progress: Mapping[str, Any] = {}
        self._spent = ""

    def __enter__(self) -> RunView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show one event of the log."""
        match event["event"]:
            case "started":
                self._started(event)
            case "warned":
                self._screen.print(f"Mind: {event['reason']}", markup=False)
            case "progress":
                self._progress = event
                self._update(event["step"])
            case "step":
                self._step(event)
            case "privacy":
                self._spent = f"epsilon {event['epsilon']:.3g} of {event['budget']:g}"
            case "caught_up":
                self._eta.restart(event["step"], event["time_s"])
                self._screen.print(f"Took over the others' state at step {event['step']}.")
            case "round_failed":
                self._screen.print(
                    f"A round failed at step {event['step']}, trying again: {event['reason']}",
                    markup=False,
                )
            case "postponed":
                self._screen.print(
                    f"No exchange at step {event['step']}: {event['reason']}", markup=False
                )
            case "skipped":
                self._screen.print(
                    f"A micro-batch at step {event['step']} was dropped: {event['reason']}",
                    markup=False,
                )
            case "finished" if event["equal"] is False:
                self._screen.print(
                    "The last averaging failed: the other peers' parameters may differ slightly."
                )

    def _started(self, event: Mapping[str, Any]) -> None:
        self._screen.print(f"[bold]{event['peer_id']}[/] joined the run [bold]{event['run']}[/].")
        addresses = farthest_first(event["addresses"])
        if addresses:
            self._screen.print(f"Others can join with: --initial-peers {addresses[0]}")
        self._task = self._bar.add_task(
            "step", total=self._steps, completed=event["step"], detail=""
        )

    def _step(self, event: Mapping[str, Any]) -> None:
        self._loss = event["loss"]
        self._eta.on_step(event["step"], event["time_s"])
        detail = self._update(event["step"])
        if not self._screen.is_terminal and event["step"] % STEPS_PER_LINE == 0:
            self._screen.print(f"step {event['step']} of {self._steps} · {detail}")

    def _update(self, step: int) -> str:
        """Show how far the run is; returns it in words."""
        said = [] if self._loss is None else [f"loss {self._loss:.3f}"]
        if self._spent:
            said.append(self._spent)
        if now := self._progress:
            if now["global_batch"]:
                said.append(f"{now['swarm_samples']}/{now['global_batch']} samples")
            said += [
                "1 peer" if now["peers"] == 1 else f"{now['peers']} peers",
                f"{now['swarm_samples_per_s']:.0f} samples/s ({now['samples_per_s']:.0f} here)",
            ]
        if self._eta.left_s is not None:
            said.append(f"{in_words(self._eta.left_s)} left")
        detail = " · ".join(said)
        if self._task is not None:
            self._bar.update(self._task, completed=step, detail=detail)
        return detail
