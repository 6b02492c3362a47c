"""A laboratory for each test, where the machine gives us one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p.testing.netlab import Netlab, NetlabUnavailable, open_netlab
from tests.netlab import table

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real networks take real time, and cannot be had everywhere: said once, not for each test."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120))
    # In continuous integration their absence is a failure, which the fixture raises.
    if ours and os.environ.get("CI") != "true" and (reason := _why_not()):
        for item in ours:
            if {"lab", "world"} & set(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    for number, line in enumerate(table.lines()):
        if number == 0:
            terminalreporter.section("reached")
        terminalreporter.write_line(line)


def _why_not() -> str | None:
    """Why there can be no laboratory here, or None."""
    try:
        with open_netlab():
            return None
    except NetlabUnavailable as exc:
        return f"REAL NETWORKS ARE NOT TESTED HERE: {exc}"


@pytest.fixture
def lab() -> Iterator[Netlab]:
    """A network of this test's own."""
    with open_netlab() as opened:
        yield opened
