"""The demo on the screen: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tools.demo.result import DemoResult, summarize_rounds
from tools.demo.story import Status, Story, Trainer

NOTES_SHOWN = 6
STEPS_PER_LINE = 50
STYLES = {
    Status.STARTING: "yellow",
    Status.WAITING: "yellow",
    Status.TRAINING: "green",
    Status.FINISHED: "bold green",
    Status.KILLED: "bold red",
    Status.FAILED: "bold red",
}


class DemoView:
    """Shows a story while it happens."""

    def __init__(self, screen: Console, story: Story) -> None:
        self._screen = screen
        self._story = story
        self._live = Live(console=screen, auto_refresh=False, transient=True)
        self._notes_told = 0
        self._step_told = 0

    def __enter__(self) -> DemoView:
        if self._screen.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self) -> None:
        """Show the story as it stands now."""
        if self._screen.is_terminal:
            self._live.update(render(self._story), refresh=True)
            return
        for note in self._story.notes[self._notes_told :]:
            self._screen.print(note, markup=False)
        self._notes_told = len(self._story.notes)
        if self._story.step - self._step_told >= STEPS_PER_LINE:
            self._step_told = self._story.step // STEPS_PER_LINE * STEPS_PER_LINE
            self._screen.print(f"step {self._step_told} of {self._story.steps}")


def render(story: Story) -> RenderableType:
    """The story as a picture."""
    table = Table(expand=True)
    for heading in ("trainer", "peer", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("step", "samples", "samples/s", "loss", "last round"):
        table.add_column(heading, justify="right", no_wrap=True)
    for trainer in story.trainers.values():
        table.add_row(*_row(trainer))
    head = Text(f"manyhands demo: step {story.step} of {story.steps}", style="bold")
    notes = Text("\n".join(story.notes[-NOTES_SHOWN:]), style="dim", overflow="ellipsis")
    return Group(head, ProgressBar(total=story.steps, completed=story.step), table, notes)


def _row(trainer: Trainer) -> list[RenderableType]:
    """One trainer's line of the table."""
    alive = trainer.status in (Status.TRAINING, Status.FINISHED)
    last_round = ""
    if trainer.last_round is not None:
        members = len(trainer.last_round["members"])
        last_round = f"{members} peers, {trainer.last_round['seconds'] * 1000:.0f} ms"
    return [
        f"{trainer.name} (late)" if trainer.late else trainer.name,
        f"…{trainer.peer_id[-8:]}" if trainer.peer_id else "",
        Text(trainer.status.value, style=STYLES[trainer.status]),
        str(trainer.step),
        str(trainer.samples),
        f"{trainer.samples_per_s:.0f}" if alive else "",
        "" if trainer.loss is None else f"{trainer.loss:.3f}",
        last_round,
    ]


def print_result(screen: Console, story: Story, result: DemoResult) -> None:
    """The end of the demo: what was measured, the verdict and what to do next."""
    table = Table(title="Parameters at the end")
    for heading in ("trainer", "peer id", "ended", "samples", "SHA-256 of its parameters"):
        table.add_column(heading, overflow="fold")
    for trainer in story.trainers.values():
        table.add_row(
            trainer.name,
            trainer.peer_id or "",
            Text(trainer.status.value, style=STYLES[trainer.status]),
            str(trainer.samples),
            trainer.parameter_hash or "",
        )
    screen.print(table)
    for line in summarize_rounds(story):
        screen.print(f"  {line}", markup=False)
    if result.accuracy is not None:
        screen.print(
            f"{result.steps} steps in {result.seconds:.0f} s; {result.accuracy:.1%} of the test "
            "set is right."
        )
    if result.problem is None:
        what = "one was killed and one joined late" if story.kill_one else "one joined late"
        screen.print(
            f"[bold green]well[/] {len(result.hashes)} peers hold the same parameters, to the "
            f"bit, though {what}."
        )
        screen.print("Next: train across two computers, beginning with `manyhands node`.")
    else:
        screen.print("[bold red]ill[/] ", end="")
        screen.print(f"{result.problem}.", markup=False)
