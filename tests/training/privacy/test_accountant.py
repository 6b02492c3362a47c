"""The accountant against closed forms and against the one of Opacus."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.privacy.accountant import (
    ORDERS,
    Accountant,
    epsilon_at,
    epsilon_of,
    noise_multiplier_for,
    sampled_gaussian,
)

THEIR_ORDERS = [*(1 + tenth / 10 for tenth in range(1, 100)), *range(12, 64)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("multiplier", [0.5, 1.1, 8.0])
def test_it_agrees_with_opacus_at_the_same_orders(rate: float, multiplier: float) -> None:
    from opacus.accountants.analysis import rdp

    theirs = np.asarray(
        rdp.compute_rdp(q=rate, noise_multiplier=multiplier, steps=1, orders=THEIR_ORDERS)
    )
    ours = sampled_gaussian(rate=rate, noise_multiplier=multiplier, orders=THEIR_ORDERS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-12)
    for steps in (1, 100, 10_000):
        for delta in (1e-3, 1e-6):
            expected, _ = rdp.get_privacy_spent(
                orders=THEIR_ORDERS, rdp=steps * theirs, delta=delta
            )
            got = epsilon_at(steps * ours, delta=delta, orders=THEIR_ORDERS)
            assert got == pytest.approx(max(0.0, expected), rel=1e-6)


def test_a_known_run_costs_what_opacus_says() -> None:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(1.1, 0.01, 10_000)]
    expected = accountant.get_epsilon(delta=1e-5)
    ours = epsilon_of(rate=0.01, noise_multiplier=1.1, steps=10_000, delta=1e-5)
    assert ours == pytest.approx(expected, rel=1e-6)
    assert ours == pytest.approx(5.632, abs=1e-3)


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    got = sampled_gaussian(rate=1.0, noise_multiplier=2.0)
    np.testing.assert_allclose(got, np.asarray(ORDERS) / 8)
    # At a rate of almost 1 the series for fractional orders comes to the same.
    almost = sampled_gaussian(rate=1 - 1e-9, noise_multiplier=2.0)
    np.testing.assert_allclose(almost, np.asarray(ORDERS) / 8, rtol=1e-6)


def test_the_moment_of_order_two_is_known() -> None:
    """E[(p/q)²] = 1 + rate² (e^(1/σ²) − 1)."""
    got = sampled_gaussian(rate=0.3, noise_multiplier=1.5, orders=[2.0])
    assert got[0] == pytest.approx(math.log1p(0.09 * math.expm1(1 / 2.25)))


def test_nothing_drawn_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon_of(rate=0.0, noise_multiplier=1.0, steps=5, delta=1e-5) == 0
    assert epsilon_of(rate=0.1, noise_multiplier=0.0, steps=1, delta=1e-5) == math.inf


def test_mechanisms_add_up() -> None:
    accountant = Accountant()
    assert accountant.epsilon(1e-5) == 0
    accountant.add(rate=0.1, noise_multiplier=1.0, count=30)
    one = accountant.epsilon(1e-5)
    accountant.add(rate=0.2, noise_multiplier=2.0)
    both = accountant.epsilon(1e-5)
    assert one < both < one + epsilon_of(rate=0.2, noise_multiplier=2.0, steps=1, delta=1e-5)
    accountant.add(rate=0.2, noise_multiplier=2.0, count=-1)
    assert (accountant.epsilon(1e-5), accountant.steps) == (one, 30)
    with pytest.raises(ValueError, match="taken back"):
        accountant.add(rate=0.2, noise_multiplier=2.0, count=-1)


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_the_multiplier_for_a_budget_is_enough_and_hardly_more(epsilon: float) -> None:
    sigma = noise_multiplier_for(epsilon=epsilon, delta=1e-5, rate=0.05, steps=300)
    spent = epsilon_of(rate=0.05, noise_multiplier=sigma, steps=300, delta=1e-5)
    assert 0.999 * epsilon < spent <= epsilon


def test_what_is_out_of_range_is_refused() -> None:
    for rate, multiplier, orders in ((1.5, 1.0, ORDERS), (0.1, -1.0, ORDERS), (0.1, 1.0, (1.0,))):
        with pytest.raises(ValueError, match="must be"):
            sampled_gaussian(rate=rate, noise_multiplier=multiplier, orders=orders)
    with pytest.raises(ValueError, match="delta must be"):
        epsilon_of(rate=0.1, noise_multiplier=1.0, steps=1, delta=0.0)
    with pytest.raises(ValueError, match="need epsilon > 0"):
        noise_multiplier_for(epsilon=0, delta=1e-5, rate=0.1, steps=1)
    with pytest.raises(ValueError, match="no noise gives epsilon"):
        noise_multiplier_for(epsilon=1e-4, delta=1e-5, rate=1.0, steps=1)
