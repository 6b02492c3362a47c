"""What docs/guides/data.md shows works, and its figures are those of the code."""

import re
from pathlib import Path

import pytest

from training.data import shares, sources, streamed
from training.data.hugging_face import FORMATS
from training.data.remote import RemoteConfig

GUIDE = (Path(__file__).parents[3] / "docs/guides/data.md").read_text("utf-8")


def test_the_code_draws_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    lines = [f"It was bright cold day {number} in April.\n" for number in range(200)]
    Path("corpus.txt").write_text("".join(lines), "utf-8")
    names: dict[str, object] = {}
    exec(code, names)
    samples = names["samples"]
    assert isinstance(samples, list)
    assert [len(sample) for sample in samples] == [64] * 8


def test_figures_are_those_of_the_code() -> None:
    for name in FORMATS:
        assert f"`{name}`" in GUIDE
    for ending in sources.JSON_ENDINGS:
        assert f"`{ending}`" in GUIDE
    config = RemoteConfig()
    assert (config.block_bytes, config.tries) == (4 << 20, 5)
    assert "blocks of 4 MiB" in GUIDE
    assert "five times with longer" in GUIDE
    assert (shares.SHARDS_MAX, shares.PASSES_OPEN, streamed.POOL_SAMPLES) == (1024, 4, 2048)
    assert all(figure in GUIDE for figure in ("1 024", "up to four passes", "pool of 2 048"))
