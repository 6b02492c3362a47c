"""A rival that hangs is killed in time, with all that it has started."""

import pytest

from tools.bench.processes import RivalFailed, Worker


@pytest.mark.slow
def test_a_worker_whose_child_outlives_it_is_not_waited_for_without_end() -> None:
    worker = Worker("the rival", "tests.tools.bench.forking_worker")
    try:
        with pytest.raises(RivalFailed, match="the rival was silent for 2 s"):
            worker.answer(timeout_s=2.0)
    finally:
        worker.end()
