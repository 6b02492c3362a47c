"""The coverage-guided fuzzer searches for a moment, and says so when one breaks."""

import json
import subprocess
import sys

import pytest

from tests.fuzz.targets import targets_of
from tests.processes.command import ENVIRONMENT, ROOT

pytest.importorskip("atheris", reason="atheris has no wheel for this Python or machine")

# The connection's own targets, one second each: it holds the state machines. Hypothesis runs all
# targets, and `make fuzz` searches in all.
NAMES = [target.name for target in targets_of("host")]
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
    chosen = [argument for name in NAMES for argument in ("--target", name)]
    done = fuzz("--seconds", str(len(NAMES)), "--json", *chosen)
    report = json.loads(done.stdout)
    assert [one for one in report["targets"] if not one["ok"]] == []
    assert done.returncode == 0, done.stderr
    # The search is guided: code of ours is instrumented, and was reached.
    assert all(one["executions"] > 100 and one["coverage"] > 0 for one in report["targets"])


def test_unknown_targets_are_named_so() -> None:
    done = fuzz("--target", "nothing")
    assert done.returncode == 2
    assert "no fuzz target is called 'nothing'" in done.stderr
