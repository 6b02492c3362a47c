"""A short soak, so that the long one (`make soak`) works when it is wanted."""

import subprocess
import sys

import pytest

from tests.processes.command import ENVIRONMENT, ROOT

pytestmark = pytest.mark.timeout(120)

# In a few seconds buffers are still warming up; what is not given back at all comes to far more.
SHORT = ("--seconds", "8", "--growth-mb-max", "100")


def test_a_short_soak_loses_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", *SHORT, "--seed", "5"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost and nothing grew" in done.stdout
