"""The event log of one trainer, fed with reports."""

from __future__ import annotations

from typing import Any

from training import StepReport
from training.run_log import RunLog


def report(*, stepped: bool = False, failure: str = "") -> StepReport:
    return StepReport(
        global_step=int(stepped), stepped=stepped, samples=8, target=16, failure=failure
    )


def test_an_exchange_that_was_not_held_is_told_once_for_each_reason() -> None:
    events: list[dict[str, Any]] = []
    log = RunLog(events.append)
    for one in (
        report(failure="too few"),
        report(),
        report(failure="too few"),
        report(failure="fewer still"),
        report(stepped=True),
        report(failure="fewer still"),
    ):
        log.after_micro_batch(one, 0.5)
    told = [(event["event"], event["step"], event.get("reason")) for event in events]
    assert told == [
        ("postponed", 0, "too few"),
        ("postponed", 0, "fewer still"),
        ("step", 1, None),
        ("postponed", 0, "fewer still"),
    ]
