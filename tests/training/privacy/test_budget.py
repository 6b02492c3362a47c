"""A budget: live, enforced, kept through crashes, and corrected to the truth."""

from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from training.errors import PrivacyBudgetExhausted, TrainingError
from training.privacy import PrivacyBudget, epsilon_of

STEP = {"rate": 0.1, "noise_multiplier": 1.0}


def test_what_is_spent_is_told_as_it_goes() -> None:
    budget = PrivacyBudget(epsilon=3.0, delta=1e-5)
    assert (budget.spent, budget.steps) == (0.0, 0)
    for steps in range(1, 4):
        budget.spend(**STEP)
        assert budget.spent == epsilon_of(**STEP, steps=steps, delta=1e-5)
    assert str(budget) == f"epsilon {budget.spent:.3g} of 3 at delta 1e-05"


def test_the_step_that_would_exceed_it_is_not_paid_for() -> None:
    limit = epsilon_of(**STEP, steps=20, delta=1e-5)
    budget = PrivacyBudget(epsilon=limit, delta=1e-5)
    for _ in range(20):
        budget.spend(**STEP)
    for _ in range(2):
        with pytest.raises(PrivacyBudgetExhausted, match="the privacy budget is spent") as caught:
            budget.spend(**STEP)
        assert caught.value.spent == limit
        assert (budget.spent, budget.steps) == (limit, 20)
    # A step that costs less than is left over rounding is none; less noise never is.
    with pytest.raises(PrivacyBudgetExhausted):
        budget.spend(rate=0.1, noise_multiplier=0.5)


def test_a_step_with_less_noise_than_stated_is_counted_as_it_was() -> None:
    stated = epsilon_of(**STEP, steps=1, delta=1e-5)
    budget = PrivacyBudget(epsilon=2 * stated, delta=1e-5)
    budget.spend(**STEP)
    budget.correct(**STEP, actual=0.3)
    assert budget.spent == epsilon_of(rate=0.1, noise_multiplier=0.3, steps=1, delta=1e-5)
    assert budget.spent > 2 * stated
    with pytest.raises(PrivacyBudgetExhausted):
        budget.spend(**STEP)


def test_a_ledger_outlives_the_process_and_the_checkpoints(tmp_path: Path) -> None:
    ledger = tmp_path / "folder" / "privacy.json"
    first = PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=ledger)
    assert not ledger.exists()
    first.spend(**STEP, count=2)
    first.spend(rate=0.2, noise_multiplier=2.0)
    again = PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=ledger)
    assert (again.spent, again.steps) == (first.spent, 3)
    names = sorted(path.name for path in ledger.parent.iterdir())
    assert names == [".privacy.json.lock", "privacy.json"]


def test_runs_at_the_same_time_spend_from_one_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "privacy.json"
    limit = epsilon_of(**STEP, steps=20, delta=1e-5)
    one, other = (PrivacyBudget(epsilon=limit, delta=1e-5, ledger=ledger) for _ in range(2))
    for _ in range(9):
        one.spend(**STEP)
        other.spend(**STEP)
    one.spend(**STEP)
    one.correct(**STEP, actual=STEP["noise_multiplier"])
    other.spend(**STEP)
    assert (one.steps, other.steps, other.spent) == (19, 20, limit)
    with pytest.raises(PrivacyBudgetExhausted):
        one.spend(**STEP)
    assert (one.steps, one.spent) == (20, limit), "it has seen why"
    assert PrivacyBudget(epsilon=1.0, delta=1e-5, ledger=ledger).steps == 20


def test_nobody_else_touches_the_ledger_while_a_step_is_paid_for(tmp_path: Path) -> None:
    ledger = tmp_path / "privacy.json"
    budget = PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=ledger)
    with (
        budget._paying(),
        (tmp_path / ".privacy.json.lock").open("w") as lock,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".privacy.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def spend(_: int) -> None:
        mine = PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=ledger)
        for _ in range(5):
            mine.spend(rate=0.01, noise_multiplier=4.0)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(spend, range(4)))
    assert PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=ledger).steps == 20


def test_a_ledger_that_was_set_back_is_not_gone_on_with(tmp_path: Path) -> None:
    ledger = tmp_path / "privacy.json"
    budget = PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=ledger)
    budget.spend(**STEP)
    older = ledger.read_bytes()
    budget.spend(**STEP)
    ledger.write_bytes(older)
    with pytest.raises(TrainingError, match="tells of 1 paid steps, of which there were 2 before"):
        budget.spend(**STEP)
    ledger.unlink()
    with pytest.raises(TrainingError, match="tells of 0 paid steps"):
        budget.correct(**STEP, actual=0.5)
    assert budget.steps == 2


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'[{"rate": 2, "noise_multiplier": 1, "count": 1}]']
)
def test_a_harmed_ledger_is_not_taken_for_an_empty_one(tmp_path: Path, content: bytes) -> None:
    ledger = tmp_path / "privacy.json"
    ledger.write_bytes(content)
    with pytest.raises(TrainingError, match=r"privacy\.json: what was spent .* cannot be read"):
        PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=ledger)


def test_what_cannot_be_written_down_is_not_spent(tmp_path: Path) -> None:
    budget = PrivacyBudget(epsilon=3.0, delta=1e-5, ledger=tmp_path / "file" / "privacy.json")
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(TrainingError, match="cannot be written"):
        budget.spend(**STEP)
    assert budget.spent == 0.0


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_budgets_out_of_range_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="a budget needs"):
        PrivacyBudget(epsilon=epsilon, delta=delta)
