"""Reports of benchmarks: when a budget holds, what --check says, and the shape of the object."""

import json

import pytest

from tools.bench.report import Budget, Report


@pytest.mark.parametrize(
    ("comparison", "measured", "holds"),
    [("<=", 1.0, True), ("<=", 1.1, False), (">=", 1.0, True), (">=", 0.9, False)],
)
def test_a_budget_holds_up_to_its_edge(comparison: str, measured: float, holds: bool) -> None:
    assert Budget("b", measured, 1.0, "s", comparison).holds is holds  # type: ignore[arg-type]


def test_check_fails_on_a_miss_and_when_nothing_could_be_judged() -> None:
    report = Report("b")
    assert report.exit_code(check=False) == 0
    assert report.exit_code(check=True) == 1
    report.budgets = [Budget("kept", 1, 2, "s", "<=")]
    assert report.exit_code(check=True) == 0
    report.budgets.append(Budget("missed", 3, 2, "s", "<="))
    assert report.exit_code(check=True) == 1
    assert report.exit_code(check=False) == 0


def test_the_object_says_what_was_measured_where(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("b")
    report.rows = [{"rival": "x", "seconds": 1.5}]
    report.budgets = [Budget("kept", 1, 2, "s", "<=")]
    report.skip("y", "not installed")
    report.show(as_json=True, columns=("rival", "seconds"))
    told = json.loads(capsys.readouterr().out)
    assert told["bench"] == "b"
    assert told["rows"] == report.rows
    assert told["skipped"] == [{"name": "y", "reason": "not installed"}]
    assert told["budgets"][0]["holds"] is True
    assert set(told["machine"]) == {"cpu", "cores", "python", "torch", "load"}
    assert told["commit"]


def test_people_see_every_row_budget_and_what_was_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report("b")
    report.rows = [{"rival": "x", "seconds": 1.5}, {"rival": "z", "seconds": None}]
    report.budgets = [Budget("kept", 1, 2, "s", "<="), Budget("missed", 3, 2, "s", "<=")]
    report.skip("y", "not [installed]")
    report.show(as_json=False, columns=("rival", "seconds"))
    told = capsys.readouterr().out
    for text in ("1.5", "–", "holds", "missed", "not [installed]"):
        assert text in told
