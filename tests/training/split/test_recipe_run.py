"""Recipes that are split: how they run, and what is said of those that cannot."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
import torch

from training.errors import RecipeError
from training.recipe import Recipe, SplitRecipe, load_recipe, parse_recipe
from training.split.recipe_run import SplitResult, SplitRunOptions, run_split

PLAIN = load_recipe("split-digits")


def recipe(steps: int = 4, **changes: Any) -> Recipe:
    """The built-in one, with a few steps and other keys in its [split]."""
    assert PLAIN.split is not None
    split: SplitRecipe = msgspec.structs.replace(PLAIN.split, **changes)
    return msgspec.structs.replace(PLAIN, steps=steps, split=split)


def small(inputs: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """An extra loss: activations near zero tell little."""
    return activations.pow(2).mean()


def run_all(what: Recipe, clients: int) -> tuple[SplitResult, list[SplitResult]]:
    """A server and so many clients, each in a thread; the server's result comes first."""
    addresses: list[str] = []
    opened = threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "started":
            addresses.extend(event["addresses"])
            opened.set()

    def run_client() -> SplitResult:
        options = SplitRunOptions(role="client", initial_peers=tuple(addresses))
        return run_split(what, options, lambda event: None)

    with ThreadPoolExecutor(clients + 1) as pool:
        options = SplitRunOptions(role="server", clients=clients)
        server = pool.submit(run_split, what, options, on_event)
        assert opened.wait(40)
        done = [pool.submit(run_client) for _ in range(clients)]
        ended = [one.result() for one in done]
        return server.result(), ended


@pytest.mark.slow
def test_a_u_shaped_run_in_turns_with_a_loss_of_the_clients_own() -> None:
    what = recipe(
        at=(3, 6),
        client_weights="peers",
        turn=3,
        codec="float16",
        window=2,
        extra_loss=f"{__name__}:small",
        alpha=0.1,
    )
    server, clients = run_all(what, clients=2)
    assert [one.ended for one in (server, *clients)] == ["finished"] * 3
    assert (server.step, [one.step for one in clients]) == (8, [4, 4])
    assert sum(one.traffic["weight_bytes_received"] for one in clients) > 0
    # Neither labels nor anything of the extra loss travelled.
    assert {one.traffic["labels_sent"] for one in clients} == {0}
    width, back, rows = 16 * 16, 32 * 16, 32
    assert {one.traffic["values_sent"] for one in clients} == {4 * rows * (width + back)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at": (7,)}, "split: the model cannot be cut so: cuts at"),
        ({"input_shape": (8, 8)}, "split: the model cannot be cut so"),
        ({"extra_loss": "nowhere:at_all", "alpha": 0.1}, "split.extra_loss: No module named"),
        ({"input_shape": (1, 16, 8)}, r"split.input_shape: the data's samples are \[1, 8, 8\]"),
    ],
)
def test_what_cannot_be_split_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        run_split(recipe(**changes), SplitRunOptions(role="client"), lambda event: None)


def test_a_model_must_be_a_sequence() -> None:
    other = msgspec.structs.replace(PLAIN, model="charlm")
    with pytest.raises(RecipeError, match=r"must return a torch\.nn\.Sequential to be split"):
        run_split(other, SplitRunOptions(role="server"), lambda event: None)
    with pytest.raises(RecipeError, match="split: is missing"):
        run_split(load_recipe("digits"), SplitRunOptions(role="server"), lambda event: None)


WHOLE = """
run = "mine"
model = "digits"
data = "digits"
micro_batch = 8
steps = 9
optimizer = { name = "sgd" }
"""
SPLIT = "[split]\nat = [3]\ninput_shape = [1, 8, 8]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE, "global_batch: give either that, or a strategy"),
        (WHOLE + "global_batch = 8\n" + SPLIT, "or a split between clients and a server"),
        (WHOLE + "clip_norm = 1.0\n" + SPLIT, "clip_norm: is of no use with a split"),
        (WHOLE + "ema_decay = 0.5\n" + SPLIT, "ema_decay: is of no use with a split"),
        (WHOLE + 'schedule = { name = "cosine" }\n' + SPLIT, "schedule: is of no use with a spl"),
        (WHOLE + "delayed = true\n" + SPLIT, "delayed: is of no use with a split"),
        (WHOLE + SPLIT + "alpha = 0.5\n", "split.alpha: goes with an extra_loss, and only with"),
        (WHOLE + SPLIT + 'extra_loss = "a:b"\n', "split.alpha: goes with an extra_loss"),
        (WHOLE + SPLIT.replace("[3]", "[]"), "split.at: must be one or two numbers of layers"),
        (WHOLE + SPLIT.replace("[3]", "3"), "split.at: must be one or two numbers of layers"),
        (WHOLE + SPLIT + "window = 0\n", "split.window: must be a whole number from 1 to 64"),
        (WHOLE + SPLIT + 'client_weights = "x"\n', 'split.client_weights: must be "own", "peers"'),
        (WHOLE + SPLIT + "cuts = 1\n", "split.cuts: is not a key of a recipe"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text.encode(), source="my.toml")
    assert said in str(caught.value)
    assert parse_recipe((WHOLE + SPLIT).encode(), source="my.toml").split is not None
