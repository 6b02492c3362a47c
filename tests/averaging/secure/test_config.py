"""What secure aggregation is combined with, and what it refuses, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from averaging import SecureConfig, check_secure_options


def test_the_mean_and_noise_go_with_masks() -> None:
    check_secure_options()
    check_secure_options(rule="mean", codec=None, whole=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rule": "median"}, "robust rules compare the members' vectors, which masks hide"),
        ({"rule": "trimmed_mean(0.2)"}, "robust rules"),
        ({"codec": "topk:0.01"}, "all members need the same elements in the same ring"),
        ({"codec": "int8"}, "the ring is the quantisation"),
        ({"whole": False}, "whole inclusion"),
        ({"rule": "sum"}, "no rule"),
    ],
)
def test_what_needs_single_vectors_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_secure_options(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"value_max": 0.0},
        {"value_max": float("nan")},
        {"weight_max": -1.0},
        {"bits": 33},
        {"group_size_max": 2},
        {"group_size_max": 65},
        {"contributors_min": 2},
        {"contributors_min": 33},
        {"patience_s": 0.0},
        {"farewell_s": float("inf")},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ring|positive|between|need"):
        SecureConfig(**{"value_max": 1.0} | options)


def test_members_of_one_group_agree_on_the_ring() -> None:
    one = SecureConfig(value_max=0.1).matchmaking()
    for other in (
        SecureConfig(value_max=0.2),
        SecureConfig(value_max=0.1, weight_max=2.0),
        SecureConfig(value_max=0.1, bits=64),
        SecureConfig(value_max=0.1, contributors_min=4),
    ):
        assert other.matchmaking().terms != one.terms
    assert one.group_size_min == 3
