"""Reports of benchmarks: when a budget holds, what the exit code says, and what is printed."""

import json
from pathlib import Path

import pytest

from tools.bench.report import Budget, Report
from tools.failures import CommandError

KEPT = Budget("kept", 1, 2, "s", "<=")
MISSED = Budget("missed", 3, 2, "s", "<=")


def report(*budgets: Budget) -> Report:
    """One with a row that lacks a figure, and a rival that was skipped."""
    made = Report("b", ("rival", "seconds"))
    made.rows = [{"rival": "x", "seconds": 1.5, "unseen": 7}, {"rival": "z", "seconds": None}]
    made.budgets = list(budgets)
    made.skip("y", "not [installed]")
    return made


@pytest.mark.parametrize(
    ("comparison", "measured", "holds"),
    [("<=", 1.0, True), ("<=", 1.1, False), (">=", 1.0, True), (">=", 0.9, False)],
)
def test_a_budget_holds_up_to_its_edge(comparison: str, measured: float, holds: bool) -> None:
    assert Budget("b", measured, 1.0, "s", comparison).holds is holds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budgets", "exit_code", "exit_code_of_check"),
    [((KEPT,), 0, 0), ((KEPT, MISSED), 0, 1), ((), 1, 1)],
)
def test_the_exit_code_tells_a_miss_with_check_and_always_when_nothing_was_judged(
    budgets: tuple[Budget, ...], exit_code: int, exit_code_of_check: int
) -> None:
    assert report(*budgets).exit_code(check=False) == exit_code
    assert report(*budgets).exit_code(check=True) == exit_code_of_check


def test_the_object_says_what_was_measured_where(capsys: pytest.CaptureFixture[str]) -> None:
    made = report(KEPT)
    made.show("json")
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert list(told) == [
        "bench", "version", "commit", "machine", "seconds", "rows", "budgets", "skipped",
    ]  # fmt: skip
    assert told["bench"] == "b"
    assert told["rows"] == made.rows
    assert told["skipped"] == [{"name": "y", "reason": "not [installed]"}]
    assert told["budgets"] == [
        {
            "name": "kept",
            "measured": 1,
            "budget": 2,
            "unit": "s",
            "comparison": "<=",
            "holds": True,
        }
    ]
    assert set(told["machine"]) == {"cpu", "cores", "python", "torch", "load"}
    assert told["commit"]
    assert "kept: 1 s (budget ≤ 2)" in said.err


def test_people_see_every_row_budget_and_what_was_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(KEPT, MISSED).show("table")
    told = capsys.readouterr().out
    for text in ("1.5", "–", "holds", "missed", "not [installed]", "Run it again"):
        assert text in told
    assert "unseen" not in told


def test_markdown_is_a_table_that_a_page_can_hold(capsys: pytest.CaptureFixture[str]) -> None:
    report(KEPT, MISSED).show("markdown")
    told = capsys.readouterr()
    assert (
        "| rival | seconds |\n| --- | --- |\n| x | 1.5 |\n| z | – |\n\n"
        "- holds: kept: 1 s (budget ≤ 2)\n- **missed**: missed: 3 s (budget ≤ 2)\n"
        "- skipped: y: not [installed]\n"
    ) in told.out
    assert "Run it again" in told.err


def test_figures_go_down_when_there_are_more_of_them_than_rows() -> None:
    made = Report("b", ("rival", "seconds", "bytes"))
    made.rows = [{"rival": "x", "seconds": 1.5, "bytes": 2048.0}]
    lines = made.markdown().splitlines()
    assert lines[-3:] == ["| --- | --- |", "| seconds | 1.5 |", "| bytes | 2048 |"]


def test_a_report_is_saved_as_its_object(tmp_path: Path) -> None:
    made = report(KEPT)
    made.save(tmp_path / "b.json")
    saved = json.loads((tmp_path / "b.json").read_text("utf-8"))
    assert saved["rows"] == made.rows
    assert list(saved) == list(made.as_object())
    with pytest.raises(CommandError, match="cannot be written"):
        made.save(tmp_path / "no such folder" / "b.json")


def test_rows_stand_in_the_tables_that_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    made = Report("b", (), tables={"one": ("x",), "two": ("x", "y"), "three": ("z",)})
    made.rows = [{"table": "two", "x": 1, "y": 2.5}, {"table": "one", "x": 7}]
    made.budgets = [KEPT]
    assert made.rows_of("one") == [{"table": "one", "x": 7}]
    text = made.markdown()
    assert text.index("one:") < text.index("two:")
    assert "three" not in text
    assert "| x | 7 |" in text or "| 7 |" in text
    assert "- holds: kept" in text
    made.show("table")
    shown = capsys.readouterr().out
    assert "one, on" in shown
    assert "2.5" in shown
