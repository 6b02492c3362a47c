"""The paper's program: its table, and that no plan of ours beats it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from averaging import Capacity, plan_spans, planned_seconds
from tools.bench.dedloc_program import seconds_per_byte

ELEMENTS = 1_000_000


def node(rate: float = 1.0) -> Capacity:
    return Capacity(True, True, rate, rate)


def client(rate: float = 1.0) -> Capacity:
    return Capacity(True, False, rate, rate)


def aux(rate: float = 1.0) -> Capacity:
    return Capacity(False, True, rate, rate)


@pytest.mark.parametrize(
    ("capacities", "seconds"),
    [
        ([node()] * 8, 1.75),
        ([node(10)] + [node()] * 7, 1.0),
        ([aux(10)] + [node()] * 8, 1.0),
        ([node()] * 4 + [node(0.2)] * 4, 5.0),
        ([node(rate) for rate in (2, 1, 1, 0.5, 0.5, 0.2, 0.2, 0.1)], 10.0),
        ([node()] * 4 + [client()] * 4, 2.5),
    ],
)
def test_the_papers_table(capacities: list[Capacity], seconds: float) -> None:
    assert seconds_per_byte(capacities) == pytest.approx(seconds, abs=1e-6)


rates = st.floats(0.1, 10.0)
kinds = st.sampled_from([(True, True), (True, False), (False, True)])


@st.composite
def groups(draw: st.DrawFn) -> list[Capacity]:
    others = draw(st.lists(st.tuples(kinds, rates, rates), max_size=5))
    return [
        Capacity(True, True, draw(rates), draw(rates)),
        Capacity(True, True, draw(rates), draw(rates)),
        *(Capacity(*kind, up, down) for kind, up, down in others),
    ]


@settings(max_examples=40)
@given(groups())
def test_no_plan_of_ours_beats_the_program(capacities: list[Capacity]) -> None:
    spans = plan_spans(capacities, ELEMENTS)
    planned = max(planned_seconds(capacities, spans, 1.0))
    assert seconds_per_byte(capacities) * ELEMENTS <= planned * (1 + 1e-6)


@pytest.mark.parametrize(
    "capacities",
    [[node()], [node(), aux()], [client(), client()], [node(), Capacity(True, True, None, 1.0)]],
)
def test_there_must_be_something_to_plan(capacities: list[Capacity]) -> None:
    with pytest.raises(ValueError, match="needs"):
        seconds_per_byte(capacities)
