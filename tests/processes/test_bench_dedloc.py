"""`manyhands bench dedloc` as users run it: one object on stdout, and plots where asked for."""

from pathlib import Path

import pytest

from tests.processes.command import TEST_S_MAX
from tests.processes.test_bench import bench
from tools.bench.dedloc_setups import ALIKE, ALIKE_HELPED, SETUPS, VARYING
from tools.bench.dedloc_world import DELAYED, SYNCHRONOUS, TRANSFER_ONLY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]


def test_dedloc(tmp_path: Path) -> None:
    told = bench(
        "dedloc", "--steps", "2", "--hours", "0.1", "--no-measured",
        "--plot", str(tmp_path / "plots"),
    )  # fmt: skip
    assert told["skipped"] == []
    expected = [
        (setup.name, how)
        for setup in SETUPS
        for how in (SYNCHRONOUS, DELAYED)
        if (setup, how) != (VARYING, DELAYED)
    ]
    expected += [(setup.name, TRANSFER_ONLY) for setup in (ALIKE, ALIKE_HELPED)]
    assert [(row["setup"], row["how"]) for row in told["rows"]] == expected
    for row in told["rows"]:
        assert row["transfer_seconds"] >= row["optimum_seconds"] * (1 - 1e-6)
        if row["how"] != TRANSFER_ONLY:
            assert row["samples_per_s"] > 0
            assert row["step_seconds"] >= row["computing_seconds"]
    assert len(told["budgets"]) == 5
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["dedloc-day.svg", "dedloc-steps.svg", "dedloc-transfers.svg"]
