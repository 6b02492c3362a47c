"""`manyhands bench private` from the command line, on tiny sizes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.bench.command import app
from tools.bench.private import plots
from tools.bench.private.command import PAGE, PART_NAMES
from tools.bench.private.parts import PARTS


def test_each_part_can_be_named() -> None:
    assert tuple(PARTS) == PART_NAMES


@pytest.mark.slow
def test_parts_are_measured_judged_and_drawn(tmp_path: Path) -> None:
    saved = tmp_path / "private.json"
    options = ["--quick", "--part", "nopeek", "--part", "dp", "--write", str(tmp_path / "new")]
    ended = CliRunner().invoke(app, ["private", *options, "--save", str(saved), "--json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told == json.loads(saved.read_text("utf-8")) | {"seconds": told["seconds"]}
    assert {row["part"] for row in told["rows"]} == {"nopeek", "dp"}
    assert len([one for one in told["budgets"] if one["name"].startswith("NoPeek")]) == 4
    assert len([one for one in told["budgets"] if one["name"].startswith("DP-SGD")]) == 2
    assert told["skipped"] == []
    drawn = (tmp_path / "new" / plots.NOPEEK_PLOT).read_text("utf-8")
    assert "ridge" in drawn
    assert "α = 0.5<" in (tmp_path / "new" / plots.DIGITS_PLOT).read_text("utf-8")
    assert not (tmp_path / "new" / plots.CLIENTS_PLOT).exists()
    page = (tmp_path / "new" / PAGE).read_text("utf-8")
    for part in ("nopeek", "dp", "budgets of nopeek", "budgets of dp"):
        assert f"<!-- measured: {part} -->" in page
    assert "| ridge error |" in page


@pytest.mark.slow
def test_each_part_has_a_table_of_its_own() -> None:
    options = ["--quick", "--part", "dp", "--markdown"]
    told = CliRunner().invoke(app, ["private", *options]).stdout
    assert "**differential privacy, and unequal data**" in told
    assert "**NoPeek**" not in told
    assert "| method | data | epsilon |" in told


def test_a_part_without_its_extra_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    ended = CliRunner().invoke(app, ["private", "--quick", "--part", "sums", "--json"])
    told = json.loads(ended.stdout)
    (skipped,) = told["skipped"]
    assert skipped["name"] == "sums"
    assert "manyhands[homomorphic]" in skipped["reason"]
    # Nothing could be judged.
    assert ended.exit_code == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--part", "nope"], "nope is not one of"), (["--full", "--quick"], "exclude each other")],
)
def test_misuse_is_told(options: list[str], complaint: str) -> None:
    ended = CliRunner().invoke(app, ["private", *options])
    assert ended.exit_code == 2
    assert complaint in " ".join(ended.output.split())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_parts_run(tmp_path: Path) -> None:
    pytest.importorskip("tenseal")
    options = ["--quick", "--write", str(tmp_path), "--json"]
    ended = CliRunner().invoke(app, ["private", *options])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert list(dict.fromkeys(row["part"] for row in told["rows"])) == list(PART_NAMES)
    assert told["skipped"] == []
    secure = [row for row in told["rows"] if row["part"] == "secure"]
    assert [row["averaging"] for row in secure] == ["plain", "secure"]
    assert all(row["whole"] and row["sent_bytes_per_peer"] > 0 for row in secure)
    # How long it took is the machine's affair here.
    (error,) = [one for one in told["budgets"] if one["name"] == "error of a secure mean"]
    assert error["holds"]
    written = {PAGE, plots.NOPEEK_PLOT, plots.DIGITS_PLOT, plots.CLIENTS_PLOT}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_the_published_page_has_a_place_for_each_part() -> None:
    page = (Path(__file__).parents[4] / "docs/results" / PAGE).read_text("utf-8")
    places = re.findall(r"<!-- measured: (.*) -->", page)
    assert sorted(places) == sorted([*PART_NAMES, *(f"budgets of {name}" for name in PART_NAMES)])
    assert page.count("<!-- end -->") == len(places)
