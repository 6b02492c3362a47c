"""The recipe albert trains on text from files, the web and data sets, and resumes in a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.training.data.web import Web, open_web
from training.checkpoint import load_newest_checkpoint
from training.errors import CheckpointError, RecipeError
from training.loop import TrainOptions, TrainResult, run_recipe
from training.recipe import OptimizerRecipe, Recipe, load_recipe
from training.recipes.build import build_task

LINES = [f"It was bright cold day {number} in April, and clocks struck.\n" for number in range(400)]
TEXT = "".join(LINES)
SIZES = {"vocabulary": 300, "length": 16}


def recipe(data: dict[str, Any], steps: int = 1) -> Recipe:
    return msgspec.structs.replace(
        load_recipe("albert"),
        data_options=SIZES | data,
        model_options=SIZES | {"embedding": 8, "hidden": 8, "inner": 8, "heads": 1, "layers": 1},
        optimizer=OptimizerRecipe(name="sgd", options={"lr": 0.1}),
        global_batch=4,
        micro_batch=2,
        steps=steps,
    )


def train(data: dict[str, Any], steps: int = 1, **options: Any) -> TrainResult:
    return run_recipe(recipe(data, steps), TrainOptions(**options), lambda event: None)


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with open_web() as web:
        yield web


def as_json(texts: list[str]) -> str:
    return "".join(json.dumps({"body": text}) + "\n" for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "list", "json lines", "web", "data set"])
def test_it_trains_on_each_source(kind: str, tmp_path: Path, web: Web) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text(as_json(LINES))
    web.files = {"/a.txt": TEXT.encode(), "/b.jsonl": as_json(LINES).encode()}
    data: dict[str, dict[str, Any]] = {
        "folder": {"text": str(tmp_path)},
        "list": {"text": [str(tmp_path / "a.txt"), web.url("/a.txt")]},
        "json lines": {"text": str(tmp_path / "b.jsonl"), "column": "body"},
        "web": {"text": web.url("/b.jsonl"), "column": "body"},
        "data set": {"dataset": f"json:{tmp_path / 'b.jsonl'}", "column": "body"},
    }
    if kind == "data set":
        pytest.importorskip("datasets")
    result = train(data[kind])
    assert (result.ended, result.step) == ("finished", 1)
    assert 4 < result.figures["loss"] < 8


@pytest.mark.slow
def test_a_resumed_peer_goes_on_in_its_share(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(as_json(LINES))
    data = {"text": str(tmp_path / "a.jsonl"), "column": "body"}

    def run(steps: int, folder: str) -> TrainResult:
        return train(
            data,
            steps,
            identity_path=tmp_path / "key",
            checkpoint_dir=tmp_path / folder,
            resume=True,
        )

    whole = run(3, "whole")
    run(2, "parts")
    saved = load_newest_checkpoint(tmp_path / "parts", run="albert")
    assert saved is not None
    assert (saved.drawn, saved.share["place"]) == (8, 8)
    resumed = run(3, "parts")
    assert resumed.parameter_hash == whole.parameter_hash
    # More text means other shards.
    (tmp_path / "a.jsonl").write_text(as_json(LINES * 4))
    with pytest.raises(CheckpointError, match="was made with other data than"):
        run(4, "parts")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "text: is missing; give either text"),
        ({"text": "a.txt", "dataset": "json:a"}, "text: is given twice"),
        ({"text": [3]}, "text: must be a path, an address or a list of these"),
        ({"text": []}, "text: is missing"),
        ({"text": ["missing.txt"]}, "there is no such file or folder of text"),
        ({"text": "ftp://a/b.txt"}, "must begin with http:// or https://"),
        ({"text": "a.txt", "length": 3}, "length: must be at least 4, not 3"),
    ],
)
def test_what_is_wrong_in_the_options_is_told(data: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        build_task(recipe(data))


def test_a_page_that_is_missing_is_told(web: Web) -> None:
    with pytest.raises(RecipeError, match=r"/none.txt: the server says 404 Not Found"):
        build_task(recipe({"text": web.url("/none.txt")}))
