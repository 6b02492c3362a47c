"""Rules: their text goes there and back, and wrong ones are refused with the choices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.robust.rule import MEAN, Rule, RuleKind

rules = st.one_of(
    st.just(MEAN),
    st.just(Rule(kind=RuleKind.MEDIAN)),
    st.floats(0.001, 0.4999999999).map(lambda f: Rule(kind=RuleKind.TRIMMED_MEAN, fraction=f)),
    st.builds(
        Rule,
        kind=st.just(RuleKind.CENTERED_CLIPPING),
        radius=st.floats(1e-9, 1e9),
        iterations=st.integers(1, 20),
    ),
)


@given(rules)
def test_text_goes_there_and_back(rule: Rule) -> None:
    assert Rule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text", ["mean", "median", "trimmed_mean(0.2)", "centered_clipping(2, 3)", "trimmed_mean(0.05)"]
)
def test_the_text_is_what_one_would_write(text: str) -> None:
    assert str(Rule.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "krum",
        "Mean",
        "mean()",
        "mean(1)",
        "median(0.5)",
        "trimmed_mean",
        "trimmed_mean(0.2, 3)",
        "trimmed_mean(two)",
        "trimmed_mean(nan)",
        "trimmed_mean(0.2) ",
        "trimmed_mean(\u0660.\u0662)",
        "centered_clipping(2)",
        "centered_clipping(2, 3, 4)",
        "centered_clipping(inf, 3)",
        "mean\n",
        "m" * 10_000,
    ],
)
def test_a_wrong_text_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(ValueError, match="choose mean, median, trimmed_mean") as caught:
        Rule.parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("trimmed_mean(0.5)", "fraction"),
        ("trimmed_mean(0)", "fraction"),
        ("trimmed_mean(1e-300)", "fraction"),
        ("centered_clipping(0, 3)", "radius"),
        ("centered_clipping(1e999, 3)", "radius"),
        ("centered_clipping(2, 0)", "iterations"),
        ("centered_clipping(2, 21)", "iterations"),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_name(text: str, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Rule.parse(text)


@pytest.mark.parametrize(
    ("text", "members", "liars"),
    [
        ("mean", 100, 0),
        ("median", 0, 0),
        ("median", 3, 1),
        ("median", 4, 1),
        ("median", 64, 31),
        ("centered_clipping(2, 3)", 8, 3),
        ("trimmed_mean(0.2)", 4, 0),
        ("trimmed_mean(0.2)", 5, 1),
        ("trimmed_mean(0.29)", 100, 29),
        ("trimmed_mean(0.499999999)", 4, 1),
    ],
)
def test_how_many_liars_are_borne(text: str, members: int, liars: int) -> None:
    assert Rule.parse(text).liars_max(members) == liars


@pytest.mark.parametrize(
    ("text", "fewest"),
    [
        ("mean", 1),
        ("median", 3),
        ("centered_clipping(1, 1)", 3),
        ("trimmed_mean(0.2)", 5),
        ("trimmed_mean(0.4)", 3),
        ("trimmed_mean(0.001)", 1000),
    ],
)
def test_the_fewest_members_bear_one_liar(text: str, fewest: int) -> None:
    assert Rule.parse(text).members_min == fewest


@given(rules)
def test_one_member_fewer_bears_no_liar(rule: Rule) -> None:
    fewest = rule.members_min
    if rule != MEAN:
        assert rule.liars_max(fewest) >= 1
    assert rule.liars_max(fewest - 1) == 0
