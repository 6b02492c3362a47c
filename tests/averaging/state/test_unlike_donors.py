"""Donors whose states differ in a part, such as the running means of a batch norm."""

import numpy as np
import pytest
import trio

from averaging.state import FetchConfig, Manifest, Snapshot, StateTable, fetch_state
from averaging.state.manifest import StateBytes, choose_manifest
from p2p.testing import SimNetwork, run_sim
from tests.averaging.state.test_download import (
    GROUP,
    anything,
    assert_same,
    donors_and_newcomer,
    ids,
    lying_donor,
)

ELEMENTS = 50_000  # 200 kB
BUFFER = 250  # one chunk


def state(buffer: float, *, parameter: float = 1.0) -> Snapshot:
    ramp = np.arange(ELEMENTS, dtype=np.float32)
    arrays = {"buffer": np.full(BUFFER, buffer, np.float32), "parameter": ramp * parameter}
    return Snapshot(3, b"step 3", arrays)


def manifest_of(snapshot: Snapshot) -> Manifest:
    table = StateTable.of(snapshot.arrays)
    spans = [(at, min(at + 1000, table.size_bytes)) for at in range(0, table.size_bytes, 1000)]
    digests = StateBytes(table, snapshot.arrays).hashes(spans)
    return Manifest(snapshot.version, snapshot.metadata, table, 1000, tuple(digests))


def test_all_give_what_they_have_in_common() -> None:
    async def main(network: SimNetwork) -> None:
        states = {"alice": state(1.0), "bob": state(2.0), "carol": state(3.0)}
        async with donors_and_newcomer(network, states) as (nodes, _, me):
            network.default_bytes_per_s = 20_000
            started_s = trio.current_time()
            got = await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=60)
            assert any(np.all(got.arrays["buffer"] == value) for value in (1.0, 2.0, 3.0))
            np.testing.assert_array_equal(got.arrays["parameter"], state(1.0).arrays["parameter"])
            # One alone would take 10 s.
            assert trio.current_time() - started_s < 6

    run_sim(1, main)


@pytest.mark.parametrize("seed", range(3))
def test_a_forged_state_is_outvoted_though_no_two_are_the_same(seed: int) -> None:
    async def main(network: SimNetwork) -> None:
        forged = state(float(seed), parameter=-1.0)
        states = {"alice": state(11.0), "bob": state(12.0), "carol": forged}
        async with donors_and_newcomer(network, states) as (nodes, _, me):
            got = await fetch_state(me, GROUP, ids(nodes), check=anything, timeout_s=60)
            np.testing.assert_array_equal(got.arrays["parameter"], state(1.0).arrays["parameter"])
            assert got.arrays["buffer"][0] in (11.0, 12.0)

    run_sim(seed, main)


def test_when_the_only_one_with_a_chunk_is_lost_what_came_is_kept() -> None:
    async def main(network: SimNetwork) -> None:
        async with (
            donors_and_newcomer(network, {"bob": state(2.0)}) as (nodes, _, me),
            network.open_node("silent") as silent,
        ):
            bob = nodes["bob"].peer_id
            me.add_addresses(silent.peer_id, silent.addresses)
            preferred = next(
                offered
                for offered in (manifest_of(state(-value)) for value in range(1, 100))
                if choose_manifest({bob: manifest_of(state(2.0)), silent.peer_id: offered})
                == offered
            )
            network.default_bytes_per_s = 20_000
            async with lying_donor(silent, preferred.answer(), []):
                started_s = trio.current_time()
                got = await fetch_state(
                    me,
                    GROUP,
                    [bob, silent.peer_id],
                    check=anything,
                    timeout_s=60,
                    config=FetchConfig(silence_s=12),
                )
            assert_same(got, state(2.0))
            # All but one chunk came while the other one was silent; again it would take 10 s.
            assert trio.current_time() - started_s < 16

    run_sim(1, main)
