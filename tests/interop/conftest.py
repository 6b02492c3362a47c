"""Each module names the foreign peers it needs; nothing of theirs outlives a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.processes import kill_what_is_left, require


@pytest.fixture(autouse=True)
def _foreign_peers(request: pytest.FixtureRequest) -> Iterator[None]:
    require(*request.module.NEEDS)
    yield
    kill_what_is_left()
