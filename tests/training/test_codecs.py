"""Training with what peers send compressed: together, one after another, and what is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trio

from averaging import AveragerConfig
from p2p import PeerId
from p2p.testing import SimNetwork, run_sim
from tests.averaging.codecs.samples import Bytes, Largest
from tests.training.recipes.test_together import recipe_with
from tests.training.sim_trainer import SimTrainer, replay
from tests.training.strategies.sim_local import make_model as sim_model
from tests.training.strategies.test_optimizer import backward, make_model, momentum, parameters_of
from tests.training.test_session import swarm, train
from training import FixedBatch, NoiseScaleBatch, RecipeError, join
from training.config import SwarmConfig
from training.model_state import ModelState
from training.recipe import load_recipe, override
from training.recipes.together import build_config
from training.session_plan import check_norms
from training.strategies import DiLoCo, Strategy, StreamingDiLoCo
from training.strategies.replica import Replica


def config_of(**options: Any) -> SwarmConfig:
    chosen = {"codec": Bytes(), "downlink_codec": Bytes(), "codec_elements_min": {"theta": 1}}
    return SwarmConfig(averager=AveragerConfig(**(chosen | options)))


def replica_of(strategy: Strategy) -> Replica:
    model = sim_model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Replica(strategy, model, ModelState(model, optimizer), me=PeerId("alice"))


def owed(trainer: SimTrainer) -> bool:
    return bool(trainer.session.averager.feedback.snapshot())


@pytest.mark.slow
def test_peers_that_step_together_stay_equal_and_near_one_process() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 3, elements=200, config=config_of()) as trainers:
            await train(trainers, 12)
            assert len({trainer.theta.tobytes() for trainer in trainers}) == 1
            assert all(trainer.failures == [] for trainer in trainers)
            assert all(owed(trainer) for trainer in trainers)
            logs: dict[int, list[list[tuple[str, int]]]] = {}
            for log in (log for trainer in trainers for log in trainer.steps):
                logs.setdefault(log.step, []).append(log.batches)
            expected = replay(np.zeros(200), logs, 12)
            # Bytes lose little, and what they lose comes later.
            error = np.abs(trainers[0].theta - expected).max()
            assert 1e-5 < error < 0.01

    run_sim(3, main)


def test_who_takes_over_a_state_owes_nothing_any_more() -> None:
    async def main(network: SimNetwork) -> None:
        async with swarm(network, 2, elements=200, config=config_of()) as trainers:
            await train(trainers, 3)
            assert owed(trainers[0])
            await trainers[0].session.settle(trainers[0].position)
            assert not owed(trainers[0])
            assert owed(trainers[1])

    run_sim(3, main)


def test_a_round_that_is_discarded_leaves_what_is_owed() -> None:
    """Its gradients are sent again as a whole."""

    async def main(network: SimNetwork) -> None:
        async with swarm(network, 2, elements=200, config=config_of()) as trainers:
            await train(trainers, 2)
            before = [t.session.averager.feedback.snapshot() for t in trainers]
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    # Eight samples each, of 64 that are wanted.
                    trainer.compute()
                    nursery.start_soon(trainer.hold_round)
            for trainer, kept in zip(trainers, before, strict=True):
                assert trainer.failures == ["discarded"]
                now = trainer.session.averager.feedback.snapshot()
                assert now["0/owed"].equal(kept["0/owed"])

    run_sim(3, main)


def test_states_are_averaged_as_they_are() -> None:
    """With a sparse codec most of a state would be 0."""

    async def main(network: SimNetwork) -> None:
        config = config_of(codec=Largest(0.1))
        async with swarm(network, 2, elements=200, config=config) as trainers:
            await train(trainers, 2)
            before = trainers[0].theta.copy()
            async with trio.open_nursery() as nursery:
                for trainer in trainers:
                    nursery.start_soon(trainer.equalize)
            for trainer in trainers:
                np.testing.assert_array_equal(trainer.theta, before)

    run_sim(3, main)


def test_what_strategies_exchange_is_compressed_and_buffers_are_not() -> None:
    replica = replica_of(StreamingDiLoCo(every=4, fragments=2, delay=0))
    plan = replica.plan("run", "sgd")
    assert plan.vectors == 2
    config = plan.averager_config(AveragerConfig(codec=Bytes(), codec_elements_min=7))
    assert config.codec_elements_min == {"offer": 7, "buffers": None}
    assert plan.averager_config(AveragerConfig()) == AveragerConfig()
    assert replica_of(DiLoCo(every=4)).plan("run", "sgd").vectors == 1


@pytest.mark.parametrize(
    "strategy", [DiLoCo(every=2), StreamingDiLoCo(every=4, fragments=2, delay=1)]
)
def test_strategies_train_with_codecs(strategy: Any) -> None:
    def trained(config: SwarmConfig | None) -> Any:
        model = make_model()
        with join("test", config=config) as alone:
            optimizer = alone.optimizer(momentum(model), model=model, strategy=strategy)
            for number in range(12):
                optimizer.zero_grad()
                backward(model, number)
                optimizer.step(samples=8)
            assert optimizer.global_step >= 5
        return parameters_of(model)

    plain = trained(None)
    compressed = trained(config_of(codec_elements_min=1))
    error = (compressed - plain).abs().max()
    assert 0 < error < 0.01 * plain.abs().max()


def test_peers_with_other_codecs_are_strangers() -> None:
    plan = replica_of(DiLoCo(every=4)).plan("run", "sgd")
    configs = [
        AveragerConfig(),
        AveragerConfig(codec=Bytes()),
        AveragerConfig(codec=Bytes(), downlink_codec="floats"),
        AveragerConfig(codec=Bytes(), codec_elements_min=5),
    ]
    assert len({plan.hash_with(config) for config in configs}) == 4
    assert plan.hash_with(configs[0]) == plan.spec_hash


def test_norms_of_sparse_parts_tell_nothing_of_gradient_noise() -> None:
    noise = NoiseScaleBatch(first=64, smallest=32, largest=512)
    check_norms(noise, AveragerConfig(codec=Bytes()))
    check_norms(FixedBatch(64), AveragerConfig(codec=Largest(0.1), downlink_codec="floats"))
    with pytest.raises(ValueError, match="follows the gradient noise does not go with largest"):
        check_norms(noise, AveragerConfig(codec=Largest(0.1), downlink_codec="floats"))


def test_recipes_name_codecs() -> None:
    plain = load_recipe("digits")
    assert (plain.codec, plain.error_feedback) == (None, "ef")
    assert build_config(plain) == SwarmConfig()
    with pytest.raises(RecipeError, match="codec: there is no codec 'no-such'"):
        build_config(override(plain, {"codec": "no-such"}, source="options"))
    both = {"codec": "topk:0.01", "downlink_codec": "topk:0.05"}
    averager = build_config(override(plain, both, source="options")).averager
    assert (averager.codec, averager.downlink_codec) == ("topk:0.01", "topk:0.05")
    with pytest.raises(RecipeError, match="downlink_codec goes with a codec"):
        build_config(override(plain, {"downlink_codec": "int8"}, source="options"))
    with pytest.raises(RecipeError, match="error_feedback: must be one of"):
        override(plain, {"error_feedback": "more"}, source="options")
    with pytest.raises(RecipeError, match="codec: is of no use with the strategy leader"):
        recipe_with('codec = "int8"\n[strategy]\nname = "leader"')
