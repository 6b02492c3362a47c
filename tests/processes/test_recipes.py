"""Recipes other than the digits, trained by two processes through the command."""

from pathlib import Path

import pytest

from tests.processes.command import LOOPBACK, TEST_S_MAX, running
from training.recipe import RECIPES

pytestmark = pytest.mark.timeout(TEST_S_MAX)


def test_two_peers_train_a_tiny_albert(tmp_path: Path) -> None:
    text = (RECIPES / "albert-tiny.toml").read_text("utf-8")
    changes = {"global_batch = 128": "global_batch = 16", "micro_batch = 16": "micro_batch = 4"}
    for old, new in (changes | {"steps = 400": "steps = 4", "layers = 2": "layers = 1"}).items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "short.toml"
    path.write_text(text, "utf-8")
    train = ("train", str(path), "--listen", LOOPBACK, "--wait-for-peers", "2")
    with running(*train, folder=tmp_path / "one") as one:
        address = one.read_until("Others can join with").split()[-1]
        others = ("--initial-peers", address, "--json")
        with running(*train, *others, folder=tmp_path / "two") as two:
            assert (one.finish(), two.finish()) == (0, 0), one.stderr + two.stderr
    result = two.json()
    assert (result["ended"], result["step"], result["accuracy"]) == ("finished", 4, None)
    assert sorted(result["figures"]) == ["loss", "masked_accuracy"]
    assert f"masked accuracy {result['figures']['masked_accuracy']:.4g}, loss" in one.stdout
    assert result["hash"] in one.stdout
