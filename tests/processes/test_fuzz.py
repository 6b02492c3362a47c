"""The search for bytes that break a decoder runs for seconds here, for minutes in `make fuzz`."""

import json
import subprocess
import sys

import pytest

from tests.processes.command import ENVIRONMENT, ROOT, TEST_S_MAX

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_S_MAX)]

# What every stranger reaches first.
TARGETS = ("host.noise-proof", "host.noise-raw-records", "host.yamux", "host.yamux-raw")


def test_a_short_search_finds_nothing() -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
    arguments = [part for target in TARGETS for part in ("--target", target)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "--seconds", "12", "--json", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told
