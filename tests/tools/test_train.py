"""What `manyhands train` says at the end."""

import io
from dataclasses import replace

from rich.console import Console
from typer.testing import CliRunner

from tools.cli import app
from tools.train import RunView, TrainRequest, _in_words, _options
from training.errors import RecipeError


def test_figures_in_words() -> None:
    assert _in_words({"accuracy": 0.9749}) == "97.5% of the test set right"
    figures = {"masked_accuracy": 0.25, "loss": 3.14159}
    assert _in_words(figures) == "masked accuracy 0.25, loss 3.142"


def test_how_much_newcomers_may_take() -> None:
    request = TrainRequest(recipe="digits", changes={}, initial_peers=(), listen=())
    assert _options(request).donor.bandwidth_bytes_per_s is None
    limited = replace(request, newcomer_mb_per_s=0.5)
    assert _options(limited).donor.bandwidth_bytes_per_s == 500_000


def test_a_dropped_micro_batch_is_told() -> None:
    screen = Console(file=io.StringIO(), width=200)
    with RunView(screen, 10) as view:
        view.on_event({"event": "skipped", "step": 3, "reason": "its loss is [nan]"})
    assert isinstance(screen.file, io.StringIO)
    said = screen.file.getvalue()
    assert said == "A micro-batch at step 3 was dropped: its loss is [nan]\n"


def test_a_codec_that_is_none_is_refused_before_anything_is_opened() -> None:
    ended = CliRunner().invoke(app, ["train", "digits", "--codec", "nonsense"])
    assert isinstance(ended.exception, RecipeError)
    assert "there is no codec 'nonsense'" in str(ended.exception)
