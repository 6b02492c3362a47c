"""The swarm behind slow uplinks: what is made of what peers say, and real processes once."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tools.bench.compression.swarm import (
    SWARM,
    SwarmOptions,
    measure_swarm,
    summary,
    swarm_budgets,
)
from tools.bench.compression.swarm_peer import FLOATS, averager_config
from tools.bench.progress import Steps
from tools.bench.report import Report, Row

LOSSES = [(9, 1.0, 0.9), (10, 1.5, 0.5), (12, 2.0, 0.3), (14, 3.0, 0.4), (15, 4.0, 0.2)]
SENT_MB = [(10, 5.0), (20, 9.0)]


def test_a_loss_is_reached_the_first_time_it_is_so_low() -> None:
    row = summary("topk:0.01", 20.0, LOSSES, SENT_MB, 0.3)
    assert (row["steps_to_loss"], row["seconds_to_loss"]) == (12, 2.0)
    assert row["mb_sent_to_loss"] == pytest.approx(5.8)
    early = summary("topk:0.01", 20.0, LOSSES, SENT_MB, 0.9)
    assert early["mb_sent_to_loss"] == pytest.approx(4.5)
    never = summary("topk:0.01", 20.0, LOSSES, SENT_MB, 0.1)
    assert never["steps_to_loss"] is never["seconds_to_loss"] is never["mb_sent_to_loss"] is None


def made_up(**changed: object) -> list[Row]:
    found: list[Row] = []
    for uplink in (100.0, 20.0):
        for codec, seconds in ((FLOATS, 60.0), ("topk:0.01", 30.0)):
            row: Row = {"part": SWARM, "uplink_mbit_per_s": uplink, "codec": codec}
            row |= {"seconds_to_loss": seconds, "accuracy": 0.96, "same_parameters": 1}
            found.append(row | (changed if codec != FLOATS else {}))
    return found


def test_budgets_hold_or_are_missed() -> None:
    options = SwarmOptions(codecs=(FLOATS, "topk:0.01"))
    assert [one.holds for one in swarm_budgets(made_up(), options)] == [True] * 3
    for wrong in ({"accuracy": 0.93}, {"seconds_to_loss": 50.0}, {"same_parameters": 0}):
        budgets = swarm_budgets(made_up(**wrong), options)
        assert sum(not one.holds for one in budgets) == 1, wrong
    assert len(swarm_budgets(made_up(seconds_to_loss=None), options)) == 2
    assert swarm_budgets([], options) == []


def test_a_slash_parts_the_codecs_of_both_ways() -> None:
    assert averager_config(FLOATS).codec is None
    usual, both = averager_config("topk:0.01"), averager_config("topk:0.01/int4-block")
    assert (usual.codec, usual.downlink_codec) == ("topk:0.01", None)
    assert (both.codec, both.downlink_codec) == ("topk:0.01", "int4-block")
    with pytest.raises(ValueError, match="no codec"):
        averager_config("topk:0.01/nothing")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_percent_of_the_elements_learns_as_well_in_a_swarm() -> None:
    """Three real nodes behind links; within two points of dense after as many steps.

    Half as many leave dense alone between 95 % and 97.5 %: which peer adds what is chance.
    """
    options = SwarmOptions(
        codecs=(FLOATS, "topk:0.01"), uplinks_mbit=(200.0,), peers=3, steps=320, width=128
    )
    report = Report("compression", ())
    steps = Steps(Console(file=io.StringIO()))
    steps.expect(2)
    rows = measure_swarm(options, steps, report)
    assert report.skipped == []
    assert rows[0]["accuracy"] > 0.9
    assert rows[0]["mb_sent_per_step"] > 3 * rows[1]["mb_sent_per_step"]
    for budget in swarm_budgets(rows, options):
        if "accuracy" in budget.name or "parameters" in budget.name:
            assert budget.holds, str(budget)
