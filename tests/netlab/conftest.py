"""A laboratory for each test, where the machine gives us one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2p.testing.netlab import Netlab, NetlabUnavailable, open_netlab

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real networks take real time."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture
def lab() -> Iterator[Netlab]:
    """A network of this test's own; without namespaces the test skips, and in CI it fails."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(open_netlab())
        except NetlabUnavailable as exc:
            reason = f"REAL NETWORKS ARE NOT TESTED HERE: {exc}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        yield opened
