"""Settings that hold for every test: one numeric thread each, and steady hypothesis."""

import os

# Before numpy or torch is imported: many test processes share few cores.
os.environ["OMP_NUM_THREADS"] = "1"

import gc
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

# A background job of a shell is started with Ctrl-C ignored, and so would be what it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROCESSES = Path(__file__).parent / "processes"

# No deadline: a busy machine is not a failure. Derandomized: the same examples on every machine,
# so that a failure is found again; `--hypothesis-profile=explore` looks for new ones, and
# `make check` is content with `quick`.
hypothesis.settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "quick",
    deadline=None,
    derandomize=True,
    max_examples=15,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "explore",
    deadline=None,
    max_examples=1000,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of real processes are slow ones."""
    for item in items:
        if PROCESSES in item.path.parents:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end: garbage is searched among later objects only."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """PyTorch too computes on one thread, where a test has imported it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
