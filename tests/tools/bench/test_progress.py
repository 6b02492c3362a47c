"""Progress of benchmarks: a line for each case where nobody looks, a bar on a terminal."""

import io

from rich.console import Console

from tools.bench.progress import Steps


def shown(*, terminal: bool) -> str:
    """What two cases of two measurements each leave on the screen."""
    written = io.StringIO()
    with Steps(Console(file=written, force_terminal=terminal, width=100)) as steps:
        steps.expect(4)
        for case in ("one [case]", "another"):
            steps.case(case)
            steps.step()
            steps.step()
    return written.getvalue()


def test_a_line_for_each_case_where_there_is_no_terminal() -> None:
    assert shown(terminal=False) == "measuring one [case]\nmeasuring another\n"


def test_a_bar_on_a_terminal() -> None:
    assert "4/4" in shown(terminal=True)
    assert "measuring" not in shown(terminal=True)
