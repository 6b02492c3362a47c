"""`manyhands train RECIPE --role …`: the server or a client of a recipe that is split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tools.addresses import farthest_first
from tools.failures import ILL, MISUSED, WELL, CommandError
from tools.output import console, print_json

if TYPE_CHECKING:
    from training.recipe import Recipe
    from training.split.recipe_run import SplitResult, SplitRunOptions

STEPS_PER_LINE = 50


def check_role(recipe: Recipe, role: str | None, name: str) -> None:
    """See that a role is given for a recipe that is split, and for no other.

    Raises:
        CommandError: it is not so.
    """
    if recipe.split is None and role is not None:
        raise CommandError(
            f"The recipe {name} is not split between a server and clients, so there is no --role",
            next_step="Leave it out, or take a recipe with a [split], such as split-digits.",
            exit_code=MISUSED,
        )
    if recipe.split is not None and role not in ("client", "server"):
        said = "needs --role client or --role server" if role is None else f"has no role {role!r}"
        raise CommandError(
            f"The recipe {name} is split between a server and clients: it {said}",
            next_step=f"Start one with: manyhands train {name} --role server",
            exit_code=MISUSED,
        )


def check_no_options(given: Mapping[str, bool]) -> None:
    """See that none of the options was given that mean nothing here.

    Raises:
        CommandError: one was.
    """
    for option in (name for name, is_given in given.items() if is_given):
        raise CommandError(
            f"{option} does nothing in this role of a recipe that is split",
            next_step="Leave it out; docs/guides/split-learning.md says what there is.",
            exit_code=MISUSED,
        )


def run_role(
    recipe: Recipe,
    options: SplitRunOptions,
    *,
    name: str,
    as_json: bool,
    on_event: Callable[[dict[str, Any]], None],
) -> int:
    """Be a server or a client until the run is over; returns the exit code.

    Args:
        name: of the recipe, as the command was given it.
        on_event: sees each event before it is shown.
    """
    from training.split.recipe_run import run_split

    screen = console(as_json=as_json)
    view = _View(screen, name, recipe.steps)

    def on_any(event: dict[str, Any]) -> None:
        on_event(event)
        view.on_event(event)

    result = run_split(recipe, options, on_any)
    if as_json:
        print_json(
            {
                "run": recipe.run,
                "role": result.role,
                "peer_id": result.peer_id,
                "ended": result.ended,
                "step": result.step,
                "seconds": round(result.seconds, 3),
                "loss": result.loss,
                "path": result.path,
                "figures": result.figures,
                "traffic": result.traffic,
            }
        )
    screen.print(_ending(result), markup=False)
    # Nothing else ends a server that was not told for how many clients it is.
    is_meant = result.ended == "finished" or (result.role == "server" and options.clients is None)
    return WELL if is_meant else ILL


def _ending(result: SplitResult) -> str:
    if result.role == "server":
        return f"{result.ended} after {result.step} batches of clients."
    if result.ended == "stopped":
        return f"stopped at step {result.step}; connect again with the same command."
    moved = result.traffic["payload_bytes_sent"] + result.traffic["payload_bytes_received"]
    return (
        f"finished step {result.step}: {result.figures['accuracy']:.1%} of the test set right "
        f"after {result.seconds:.0f} s; {moved / 1e6:.1f} MB went to and fro ({result.path})."
    )


class _View:
    """A line now and then."""

    def __init__(self, screen: Console, name: str, steps: int) -> None:
        self._screen = screen
        self._name = name
        self._steps = steps
        self._shown = 0

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Show one event of the log."""
        if event["event"] == "started" and event["role"] == "server":
            self._screen.print(f"{event['peer_id']} serves the run {event['run']}.", markup=False)
            for address in farthest_first(event["addresses"])[:1]:
                self._screen.print(
                    f"Clients join with: manyhands train {self._name} --role client "
                    f"--initial-peers {address}",
                    markup=False,
                )
        elif event["event"] == "started":
            self._screen.print(f"{event['peer_id']} joined as a client.", markup=False)
        elif event["event"] == "step" and event["step"] - self._shown >= STEPS_PER_LINE:
            self._shown = event["step"]
            loss = "" if event["loss"] is None else f" · loss {event['loss']:.3f}"
            whole = f" · {event['clients']} clients" if "clients" in event else f" of {self._steps}"
            self._screen.print(f"step {event['step']}{whole}{loss}", markup=False)
