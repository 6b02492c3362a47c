"""The coverage-guided fuzzer runs each target for a moment, and says so when one breaks."""

import json
import subprocess
import sys

import pytest

from tests.fuzz.targets import all_targets
from tests.processes.command import ENVIRONMENT, ROOT

pytest.importorskip("atheris", reason="atheris has no wheel for this Python or machine")

# One second of search for each target; the rest is what processes need to start.
SECONDS = len(all_targets())
TEST_S_MAX = 300.0
pytestmark = pytest.mark.timeout(TEST_S_MAX)


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer as a developer does."""
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TEST_S_MAX,
        check=False,
    )


def test_nothing_breaks_in_a_short_search() -> None:
    done = fuzz("--seconds", str(SECONDS), "--json")
    report = json.loads(done.stdout)
    assert [one for one in report["targets"] if not one["ok"]] == []
    assert done.returncode == 0, done.stderr
    # The search is guided: code of ours is instrumented, and was reached.
    assert all(one["executions"] > 100 and one["coverage"] > 0 for one in report["targets"])


def test_unknown_targets_are_named_so() -> None:
    done = fuzz("--target", "nothing")
    assert done.returncode == 2
    assert "no fuzz target is called 'nothing'" in done.stderr
