"""The benchmark of hidden numbers measures every case, and judges by the right rows."""

import pytest

from tools.bench.private import crypto

pytest.importorskip("tenseal")


def test_a_sum_is_measured() -> None:
    row = crypto.measure_sum("ckks", 50, tries=1)
    assert row["error_per_tolerance"] < 1
    assert row["bytes_per_element"] == row["bytes_per_member"] / 50
    assert min(row[f"{part}_seconds"] for part in ("key", "encrypt", "add", "decrypt")) > 0


def test_budgets_judge_the_largest_vectors() -> None:
    def row(scheme: str, elements: int, error: float) -> dict[str, object]:
        return {
            "scheme": scheme,
            "elements": elements,
            "error_per_tolerance": error,
            "encrypt_seconds": elements / 100,
            "bytes_per_element": 30.0,
        }

    rows = [row("ckks", 10, 3.0), row("ckks", 1000, 0.5), row("paillier", 100, 2.0)]
    by_name = {budget.name: budget for budget in crypto.sum_budgets(rows)}
    assert by_name["ckks: error / tolerance"].holds
    assert by_name["ckks: sent by a member"].measured == 30.0
    assert by_name["ckks: to encrypt"].measured == pytest.approx(10_000)
    assert not by_name["paillier: error / tolerance"].holds
    assert by_name["paillier: to encrypt"].measured == pytest.approx(0.01)


@pytest.mark.slow
def test_inference_is_measured() -> None:
    row = crypto.measure_inference((), tries=1)
    assert row["layers"] == "64-10"
    assert row["same_as_plain"] == 1.0
    assert row["bytes_of_one"] < crypto.INFERENCE_BYTES_MAX
    assert not any(budget.measured is None for budget in crypto.inference_budgets([row]))
