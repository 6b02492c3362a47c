"""What may go into secure sums, and what may not, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from averaging import AveragerConfig
from training.errors import UpdateTooLarge
from training.privacy import NoiseShares, PrivateClients
from training.strategies import (
    DiLoCo,
    ElasticAveraging,
    FederatedAveraging,
    FedProx,
    LeaderSGD,
    LocalSGD,
    Scaffold,
    SecureExchange,
    Strategy,
    StreamingDiLoCo,
)
from training.strategies.secure_offers import SecureOffers

PRIVATE = PrivateClients(
    strategy=LocalSGD(),
    clip=2.0,
    noise_multiplier=3.0,
    epsilon=1.0,
    shares=NoiseShares(peers=5, tolerated_drops=1),
)


def offers(
    strategy: Strategy, averager: AveragerConfig | None = None, **options: Any
) -> SecureOffers:
    return SecureOffers(SecureExchange(**options), strategy, averager or AveragerConfig())


@pytest.mark.parametrize("strategy", [LocalSGD(), DiLoCo(), FederatedAveraging(), FedProx()])
def test_means_of_new_steps_can_be_summed(strategy: Strategy) -> None:
    config = offers(strategy, samples_max=100).config
    assert (config.value_max, config.weight_max, config.contributors_min) == (8.0, 100.0, 3)


@pytest.mark.parametrize(
    "strategy",
    [
        StreamingDiLoCo(),
        ElasticAveraging(),
        LeaderSGD(every=2, every_of_swarm=4, pull=0.5, pull_of_swarm=0.5),
        Scaffold(),
    ],
)
def test_what_contains_earlier_offers_is_refused(strategy: Strategy) -> None:
    with pytest.raises(ValueError, match=f"earlier one: .*, not {type(strategy).__name__}"):
        offers(strategy)


@pytest.mark.parametrize(
    ("averager", "reason"),
    [
        ({"rule": "median"}, "robust rules compare the members' vectors, which masks hide"),
        ({"wire_dtype": "float16"}, "a codec chooses its own elements or scale"),
        ({"tolerated_liars": 1}, "nobody can see behind masks"),
        ({"grid": True}, "all peers must go on from one mean"),
        ({"auxiliary": True}, "no auxiliary peers"),
    ],
)
def test_what_needs_single_vectors_is_refused(averager: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        offers(LocalSGD(), AveragerConfig(**averager))


@pytest.mark.parametrize("options", [{"value_max": 0.0}, {"samples_max": 0}, {"bits": 16}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SecureExchange(**options)


def test_a_value_that_does_not_fit_is_an_error_and_not_cut() -> None:
    secure = offers(LocalSGD(), value_max=0.5)
    assert secure.weight_of({"offer": np.array([0.5, -0.5])}, 7.0) == 7.0
    with pytest.raises(UpdateTooLarge, match=r"the update reached 0\.51.*takes values up to 0\.5"):
        secure.weight_of({"offer": np.array([0.0, -0.51])}, 7.0)
    with pytest.raises(UpdateTooLarge, match="the model's buffers reached 9"):
        secure.weight_of({"offer": np.zeros(1), "buffers": np.array([9.0])}, 7.0)
    with pytest.raises(UpdateTooLarge, match="nan"):
        secure.weight_of({"offer": np.array([0.1, np.nan])}, 7.0)
    assert secure.weight_of({"offer": np.array([9.0])}, 0.0) == 0.0, "it is not in the sum"


def test_whoever_trained_on_more_counts_as_with_the_most_that_fits() -> None:
    assert offers(LocalSGD(), samples_max=64).weight_of({}, 65.0) == 64.0


def test_with_noise_the_ring_is_made_for_it_and_each_counts_the_same() -> None:
    secure = offers(PRIVATE)
    # A share of noise has a deviation of 3 · 2 / √(5 − 1).
    assert secure.config.value_max == pytest.approx(2.0 + 8 * 3.0)
    assert secure.config.weight_max == 1.0
    assert secure.noised
    assert secure.weight_of({"offer": np.array([30.0])}, 1.0) == 1.0, "the tail of noise is cut"


def test_as_many_as_share_the_noise_are_in_each_sum() -> None:
    assert offers(PRIVATE, AveragerConfig(group_size_min=5)).config.contributors_min == 5
    secure = offers(PRIVATE)
    assert secure.config.contributors_min == 4
    assert secure.too_few(4) is None
    reason = secure.too_few(3)
    assert reason is not None
    assert reason.startswith("a secure sum needs 4 peers that train, and there are 3")


def test_peers_must_agree_on_how_offers_are_summed() -> None:
    terms = {
        offers(LocalSGD(), **options).terms
        for options in ({}, {"value_max": 1.0}, {"samples_max": 9}, {"bits": 64})
    }
    assert len(terms) == 4
