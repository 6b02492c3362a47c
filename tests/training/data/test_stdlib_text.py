"""The sources of Python as text: enough, the same each time, and split by files."""

from pathlib import Path

import pytest

from training.data import stdlib_text
from training.errors import RecipeError


def test_about_a_megabyte_a_tenth_of_it_for_testing() -> None:
    text = stdlib_text.standard_library_text()
    assert 500_000 < len(text.train) + len(text.test) <= stdlib_text.SIZE_BYTES_MAX
    assert 0.02 < len(text.test) / len(text.train) < 0.3
    assert b"import" in text.test
    assert stdlib_text.standard_library_text() == text
    assert text.test[:1000] not in text.train


def test_a_python_without_sources_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(RecipeError, match="comes without the sources"):
        stdlib_text.standard_library_text()
