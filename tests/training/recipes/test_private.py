"""Recipes with [privacy]: what they allow, what they make, and that they end in time."""

from __future__ import annotations

import queue
import threading
from math import sqrt
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from training.data import LabelledData
from training.errors import PrivacyBudgetExhausted, RecipeError
from training.loop import TrainOptions, TrainResult, run_recipe
from training.privacy import NoiseShares, epsilon_of
from training.privacy.clients import PrivateClients
from training.recipe import PrivacyRecipe, Recipe, parse_recipe
from training.recipes.private import (
    LEDGER_NAME,
    PrivateLots,
    build_private,
    group_size_min,
    trust_needed,
)
from training.recipes.together import build_batch, build_strategy
from training.strategies import FederatedAveraging
from training.tasks.classification import Classification

HERE = __name__
WHOLE = """
run = "mine"
model = "{here}:make_model"
data = "{here}:make_data"
micro_batch = 16
steps = {steps}
{keys}
[optimizer]
name = "sgd"
options = {{ lr = 0.5 }}
"""
PRIVATE = "global_batch = {batch}\nprivacy = {{ clip = 1.0, epsilon = 4.0{more} }}"
CLIENT = (
    '[strategy]\nname = "{name}"\noptions = {{ every = 2 }}\n'
    "[privacy]\nclip = 1.0\nepsilon = 4.0\n{more}"
)


def make_model(norm: bool = False) -> nn.Module:
    layers = [nn.Linear(4, 3), nn.BatchNorm1d(3)] if norm else [nn.Linear(4, 3)]
    return nn.Sequential(*layers)


def make_data() -> LabelledData:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 4, generator=rng, dtype=torch.float64)
    labels = inputs[:, :3].argmax(dim=1)
    return LabelledData(
        train_inputs=inputs[:160],
        train_labels=labels[:160],
        test_inputs=inputs[160:],
        test_labels=labels[160:],
    )


def recipe_with(keys: str, steps: int = 9) -> Recipe:
    return parse_recipe(WHOLE.format(keys=keys, here=HERE, steps=steps).encode(), source="my.toml")


def lots_of(recipe: Recipe, folder: Path | None = None) -> PrivateLots:
    made = build_private(recipe, Classification(make_data()), make_model(), folder)
    assert made is not None
    return made


def test_nothing_is_private_unless_asked_for() -> None:
    recipe = recipe_with("global_batch = 16")
    assert recipe.privacy is None
    assert build_private(recipe, Classification(make_data()), make_model(), None) is None
    assert group_size_min(recipe) == 1


def test_the_noise_is_what_the_budget_allows_for_all_steps() -> None:
    lots = lots_of(recipe_with(PRIVATE.format(batch=16, more="")))
    settings = lots.batch.settings
    assert settings.shares == NoiseShares()
    spent = epsilon_of(rate=0.1, noise_multiplier=settings.noise_multiplier, steps=9, delta=1e-5)
    assert 3.99 < spent <= 4.0
    assert lots.batch.samples_at(0) == 16
    given = lots_of(recipe_with(PRIVATE.format(batch=16, more=", noise = 2.5, delta = 1e-3")))
    assert given.batch.settings.noise_multiplier == 2.5
    assert given.budget.delta == 1e-3


def test_peers_share_noise_and_are_taken_to_hold_the_same_examples() -> None:
    more = ", peers = 4, tolerated_drops = 1"
    recipe = recipe_with(PRIVATE.format(batch=64, more=more))
    settings = lots_of(recipe).batch.settings
    assert (settings.shares, settings.copies) == (NoiseShares(peers=4, tolerated_drops=1), 4)
    one = settings.noise_multiplier / sqrt(3)
    assert 3.99 < epsilon_of(rate=0.1, noise_multiplier=one, steps=36, delta=1e-5) <= 4.0
    assert group_size_min(recipe) == 3
    own = recipe_with(PRIVATE.format(batch=64, more=more + ", copies = 1"))
    assert lots_of(own).batch.settings.noise_multiplier < settings.noise_multiplier
    # What each does for itself is no difference between peers.
    alike = lots_of(recipe_with(PRIVATE.format(batch=64, more=more + ", samples_at_once = 3")))
    assert repr(alike.batch) == repr(lots_of(recipe).batch)


def test_whom_a_run_has_to_trust_is_said() -> None:
    client = CLIENT.format(name="federated", more="peers = 3\n")
    for keys, said in (
        ("global_batch = 16", None),
        (PRIVATE.format(batch=16, more=""), None),
        (PRIVATE.format(batch=32, more=", peers = 2"), "DP-SGD cannot be masked, so say peers = 1"),
        (client, "say secure = true in [strategy], or peers = 1"),
        (client.replace("[privacy]", "secure = true\n[privacy]"), None),
    ):
        reason = trust_needed(recipe_with(keys))
        if said is None:
            assert reason is None
        else:
            assert reason is not None
            assert said in reason


def test_with_a_strategy_clients_are_private() -> None:
    recipe = recipe_with(CLIENT.format(name="federated", more="peers = 3\n"))
    strategy = build_strategy(recipe)
    assert isinstance(strategy, PrivateClients)
    assert strategy.strategy == FederatedAveraging(every=2)
    assert strategy.shares == NoiseShares(peers=3)
    spent = epsilon_of(rate=1.0, noise_multiplier=strategy.noise_multiplier, steps=9, delta=1e-5)
    assert 3.99 < spent <= 4.0
    assert build_private(recipe, Classification(make_data()), make_model(), None) is None
    assert build_batch(recipe) is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("global_batch = 16\nprivacy = 3", "my.toml: privacy: must be a table with clip, epsilon"),
        ("global_batch = 16\nprivacy = { epsilon = 1.0 }", "my.toml: privacy.clip: is missing"),
        ("global_batch = 16\nprivacy = { clip = 1.0 }", "my.toml: privacy.epsilon: is missing"),
        (
            PRIVATE.format(batch=16, more=", nois = 1.0"),
            "my.toml: privacy.nois: is not a key of a recipe (did you mean noise?)",
        ),
        (
            PRIVATE.format(batch=16, more=", noise = 0.0"),
            "my.toml: privacy.noise: must be a number above 0, not 0.0",
        ),
        (
            PRIVATE.format(batch=16, more=", delta = 1.0"),
            "my.toml: privacy.delta: must be a number between 0 and 1, not 1.0",
        ),
        (
            PRIVATE.format(batch=64, more=", peers = 4, tolerated_drops = 4"),
            "my.toml: privacy.tolerated_drops: must be less than privacy.peers, which is 4, not 4",
        ),
        (
            PRIVATE.format(batch=48, more=", peers = 4"),
            "my.toml: global_batch: must be one lot of each peer, privacy.peers times micro_batch, "
            "which is 64, not 48",
        ),
        ("delayed = true\n" + PRIVATE.format(batch=16, more=""), "my.toml: delayed: is of no use"),
        (
            'lr_rule = "sqrt"\n' + PRIVATE.format(batch=16, more=""),
            "my.toml: lr_rule: is of no use with privacy",
        ),
        (
            CLIENT.format(name="elastic", more=""),
            "my.toml: privacy: hides the updates of local-sgd, diloco, federated, fedprox; what "
            "elastic exchanges it cannot hide",
        ),
        (
            CLIENT.format(name="diloco", more="copies = 2\n"),
            "my.toml: privacy.copies: is of no use with a strategy",
        ),
    ],
)
def test_what_is_wrong_is_named(keys: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_with(keys)
    assert str(caught.value).startswith(said)


def test_what_cannot_be_trained_privately_is_named() -> None:
    recipe = recipe_with(PRIVATE.format(batch=16, more=""))
    task = Classification(make_data())
    with pytest.raises(
        RecipeError, match=r"make_model cannot be trained with it: layer '1' is a B"
    ):
        build_private(recipe, task, make_model(norm=True), None)
    clients = recipe_with(CLIENT.format(name="diloco", more=""))
    with pytest.raises(RecipeError, match=r"make_model has buffers such as the running means"):
        build_private(clients, task, make_model(norm=True), None)
    with pytest.raises(RecipeError, match="needs labelled data"):
        build_private(recipe, object(), make_model(), None)  # type: ignore[arg-type]
    large = msgspec.structs.replace(recipe, micro_batch=161, global_batch=161)
    with pytest.raises(RecipeError, match="micro_batch: a lot of 161 cannot be drawn from 160"):
        build_private(large, task, make_model(), None)
    careless = PrivacyRecipe(clip=1.0, epsilon=1.0, delta=1 / 160)
    given_away = msgspec.structs.replace(recipe, privacy=careless)
    with pytest.raises(RecipeError, match=r"privacy\.delta: must be below one in the number"):
        build_private(given_away, task, make_model(), None)
    tiny = msgspec.structs.replace(recipe, privacy=PrivacyRecipe(clip=1.0, epsilon=1e-5))
    with pytest.raises(RecipeError, match=r"privacy\.epsilon: no noise gives epsilon"):
        build_private(tiny, task, make_model(), None)


@pytest.mark.slow
def test_a_private_run_tells_what_it_spends_and_ends_within_the_budget(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    recipe = recipe_with(PRIVATE.format(batch=16, more=""), steps=30)
    options = TrainOptions(checkpoint_dir=tmp_path, resume=True)
    result = run_recipe(recipe, options, events.append)
    assert (result.ended, result.step) == ("finished", 30)
    assert result.figures["accuracy"] > 0.5
    spent = [event["epsilon"] for event in events if event["event"] == "privacy"]
    assert (len(spent), spent) == (30, sorted(spent))
    assert 3.9 < spent[-1] <= 4.0
    assert (tmp_path / LEDGER_NAME).exists()
    # Going on for longer is going on from the ledger, and beyond what was planned.
    longer = msgspec.structs.replace(recipe, steps=40, privacy=lower_noise(recipe))
    with pytest.raises(PrivacyBudgetExhausted):
        run_recipe(longer, options, events.append)
    assert events[-1] == events[-1] | {"event": "checkpoint"}
    assert (tmp_path / "step-000000030.pt").exists()


def lower_noise(recipe: Recipe) -> PrivacyRecipe:
    """As before, but with noise that would cost too much at once."""
    assert recipe.privacy is not None
    return msgspec.structs.replace(recipe.privacy, noise=0.5)


def test_a_private_client_tells_what_it_spends() -> None:
    events: list[dict[str, Any]] = []
    recipe = recipe_with(CLIENT.format(name="fedprox", more=""), steps=3)
    assert run_recipe(recipe, TrainOptions(), events.append).step == 3
    spent = [event["epsilon"] for event in events if event["event"] == "privacy"]
    assert len(spent) == 3
    assert 3.99 < spent[-1] <= 4.0


class Together:
    """Peers of one recipe in threads; what each has spent after each step, and how it ended."""

    def __init__(self, recipe: Recipe, count: int, *, leaves_at: int | None = None) -> None:
        self.recipe, self.count, self.leaves_at = recipe, count, leaves_at
        self.spent: list[list[float]] = [[] for _ in range(count)]
        self.results: dict[int, TrainResult] = {}
        self.warnings: list[str] = []
        self._address: queue.Queue[str] = queue.Queue()

    def run(self) -> None:
        threads = [threading.Thread(target=self._run, args=(0, ()))]
        threads[0].start()
        initial = (self._address.get(timeout=60.0),)
        for index in range(1, self.count):
            threads.append(threading.Thread(target=self._run, args=(index, initial)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _run(self, index: int, initial: tuple[str, ...]) -> None:
        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "started" and index == 0:
                self._address.put(event["addresses"][0])
            if event["event"] == "warned":
                self.warnings.append(event["reason"])
            if event["event"] == "privacy":
                self.spent[index].append(event["epsilon"])
                if index == self.count - 1 and event["step"] == self.leaves_at:
                    raise KeyboardInterrupt("leaves")

        options = TrainOptions(wait_for_peers=self.count, initial_peers=initial)
        self.results[index] = run_recipe(self.recipe, options, on_event)


@pytest.mark.slow
def test_two_peers_share_the_noise_of_a_run_and_nobody_pays_for_more_than_planned() -> None:
    recipe = recipe_with(PRIVATE.format(batch=32, more=", peers = 2, copies = 1"), steps=4)
    peers = Together(recipe, 2)
    peers.run()
    assert [(one.ended, one.step) for one in peers.results.values()] == [("finished", 4)] * 2
    assert len({one.parameter_hash for one in peers.results.values()}) == 1
    assert peers.spent[0] == peers.spent[1]
    assert 3.99 < peers.spent[0][-1] <= 4.0
    assert len(peers.spent[0]) == 4
    assert peers.warnings == [trust_needed(recipe)] * 2


@pytest.mark.slow
def test_the_others_bring_what_one_who_left_would_have_and_pay_for_it() -> None:
    more = ", peers = 3, tolerated_drops = 1, copies = 1, noise = 2.0"
    recipe = recipe_with(PRIVATE.format(batch=48, more=more), steps=6)
    peers = Together(recipe, 3, leaves_at=2)
    peers.run()
    assert [peers.results[index].ended for index in range(3)] == ["finished", "finished", "stopped"]
    assert peers.results[0].parameter_hash == peers.results[1].parameter_hash

    def cost(lots: int) -> float:
        return epsilon_of(rate=0.1, noise_multiplier=2.0, steps=lots, delta=1e-5)

    # Two steps of three; then six lots more than planned for two, and never too little noise.
    ends = [spent[-1] for spent in peers.spent[:2]]
    assert peers.spent[2] == [pytest.approx(cost(1), abs=1e-6), pytest.approx(cost(2), abs=1e-6)]
    lots = [next(n for n in range(20) if cost(n) > end - 1e-5) for end in ends]
    assert [cost(n) for n in lots] == [pytest.approx(end, abs=1e-6) for end in ends]
    assert min(lots) >= 6
    assert sum(lots) >= 12 + 4
