"""OneStep: steps do not overlap, and one that is done cannot be cancelled any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from averaging.report import RoundReport


class OneStep:
    """Lets one step run at a time."""

    def __init__(self) -> None:
        self._running = False

    @contextmanager
    def running(self) -> Iterator[list[RoundReport]]:
        """A step runs while the block lasts; ValueError when another does.

        A success overwrites tensors, so no cancellation leaves the block once the report of one is
        in the list: it would say that nothing has changed.
        """
        if self._running:
            raise ValueError("one step at a time: the last one has not ended")
        self._running = True
        done: list[RoundReport] = []
        try:
            yield done
        except BaseException as exc:
            if not (done and _is_cancellation(exc)):
                raise
        finally:
            self._running = False


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)
