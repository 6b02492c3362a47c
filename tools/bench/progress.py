"""How far a benchmark is: a bar on a terminal, a line for each case elsewhere, always on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """Counts measurements; entered while they last."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def expect(self, steps: int) -> None:
        """So many steps there are in all."""
        self._bar.update(self._task, total=steps)

    def case(self, text: str) -> None:
        """What is measured from now on."""
        self._bar.update(self._task, description=text)
        if not self._screen.is_terminal:
            self._screen.print(f"measuring {text}", markup=False)

    def step(self) -> None:
        """One measurement is done."""
        self._bar.advance(self._task)
