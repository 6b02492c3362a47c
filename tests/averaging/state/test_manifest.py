"""Manifests, runs of bytes over arrays, and the plan of who is asked for what."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from averaging.state.manifest import (
    DTYPES,
    ChunkPlan,
    Manifest,
    StateBytes,
    StateTable,
    choose_manifest,
    manifest_untrusted,
)
from averaging.state.schema import ManifestAnswer
from averaging.tensors import Array
from p2p import MessageInvalid, PeerId

ALICE, BOB, CAROL = PeerId("alice"), PeerId("bob"), PeerId("carol")


def random_arrays(seed: int, count: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for index in range(count):
        shape = tuple(rng.integers(0, 5, size=rng.integers(0, 4)))
        dtype = DTYPES[rng.integers(len(DTYPES))]
        raw = rng.integers(0, 2, size=shape)
        arrays[f"tensor {index}"] = raw.astype(dtype)
    return arrays


def manifest_of(arrays: dict[str, Array], *, chunk: int = 16, version: int = 1) -> Manifest:
    table = StateTable.of(arrays)
    spans = [(at, min(at + chunk, table.size_bytes)) for at in range(0, table.size_bytes, chunk)]
    digests = StateBytes(table, arrays).hashes(spans)
    return Manifest(version, b"meta", table, chunk, tuple(digests))


@given(seed=st.integers(0, 10_000), count=st.integers(1, 6), chunk=st.integers(1, 50))
def test_bytes_read_are_the_bytes_written(seed: int, count: int, chunk: int) -> None:
    arrays = random_arrays(seed, count)
    table = StateTable.of(arrays)
    plain = b"".join(arrays[name].tobytes() for name in table.names)
    assert table.size_bytes == len(plain)
    source = StateBytes(table, arrays)
    copies = table.empty_arrays()
    target = StateBytes(table, copies)
    order = list(range(0, len(plain), chunk))
    random.Random(seed).shuffle(order)
    for at in order:
        data = source.read(at, min(at + chunk, len(plain)))
        assert bytes(data) == plain[at : at + chunk]
        target.write(at, bytes(data))
    for name in table.names:
        assert copies[name].dtype == arrays[name].dtype
        assert copies[name].shape == arrays[name].shape
        assert copies[name].tobytes() == arrays[name].tobytes()


def test_scattered_arrays_are_refused() -> None:
    arrays = {"a": np.zeros((4, 4))[:, ::2]}
    with pytest.raises(ValueError, match="C-contiguous"):
        StateBytes(StateTable.of(arrays), arrays)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 6))
def test_a_manifest_survives_the_wire(seed: int, count: int) -> None:
    manifest = manifest_of(random_arrays(seed, count))
    again = manifest_untrusted(manifest.answer())
    assert again == manifest
    assert again.snapshot_id == manifest.snapshot_id


GOOD = ManifestAnswer(1, b"", ("a", "b"), ((2,), ()), ("float32", "int64"), 8, bytes(64))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (ManifestAnswer(1, b"", ("a",), ((2,), ()), ("float32",), 8, bytes(32)), "one shape"),
        (ManifestAnswer(1, b"", ("b", "a"), ((), ()), ("int8", "int8"), 8, bytes(32)), "sorted"),
        (ManifestAnswer(1, b"", ("a", "a"), ((), ()), ("int8", "int8"), 8, bytes(32)), "differ"),
        (ManifestAnswer(1, b"", ("a",), ((2,),), ("object",), 8, bytes(32)), "unknown dtypes"),
        (ManifestAnswer(1, b"", ("a",), ((2,),), ("V8",), 8, bytes(64)), "unknown dtypes"),
        (ManifestAnswer(1, b"", ("a",), ((4,),), ("float32",), 8, bytes(32)), "one hash"),
        (ManifestAnswer(1, b"", ("a",), ((2**47,) * 9,), ("float32",), 8, bytes(32)), "one hash"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(answer: ManifestAnswer, complaint: str) -> None:
    assert manifest_untrusted(GOOD).table.size_bytes == 16
    with pytest.raises(MessageInvalid, match=complaint):
        manifest_untrusted(answer)


def test_the_manifest_of_most_donors_is_chosen_and_the_newest_of_equals() -> None:
    old = manifest_of({"a": np.zeros(3)}, version=4)
    new = manifest_of({"a": np.ones(3)}, version=5)
    other = manifest_of({"a": np.full(3, 2.0)}, version=6)
    assert choose_manifest({}) is None
    assert choose_manifest({ALICE: old, BOB: old, CAROL: new}) == old
    assert choose_manifest({ALICE: old, CAROL: new}) == new
    assert choose_manifest({ALICE: old, BOB: new, CAROL: other}) == other


def with_buffers(value: float, *, parameter: float = 1.0) -> Manifest:
    """Of a peer whose buffers are its own: the first two of eight chunks."""
    arrays = {"buffer/mean": np.full(4, value), "parameter/weight": np.full(12, parameter)}
    return manifest_of(arrays)


def test_honest_donors_whose_buffers_differ_outvote_a_forged_state() -> None:
    honest = {ALICE: with_buffers(1.0), BOB: with_buffers(2.0)}
    for value in range(20):
        forged = with_buffers(float(value), parameter=-1.0)
        assert choose_manifest({**honest, CAROL: forged}) in honest.values()


def test_what_two_states_share() -> None:
    one, other = with_buffers(1.0), with_buffers(2.0)
    assert one.shared_C(other).tolist() == [False] * 2 + [True] * 6
    assert one.shared_C(one).all()
    for unlike in (
        Manifest(2, one.metadata, one.table, 16, one.digests),
        Manifest(1, b"other", one.table, 16, one.digests),
        manifest_of({"another": np.ones(16)}),
        manifest_of({"buffer/mean": np.ones(4), "parameter/weight": np.ones(12)}, chunk=32),
    ):
        assert not one.shared_C(unlike).any()


@given(
    chunk_count=st.integers(0, 12),
    donor_count=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_every_chunk_comes_that_a_living_donor_holds(
    chunk_count: int, donor_count: int, seed: int
) -> None:
    """Random donors, who hold some chunks, answer, repeat or die; the last one never dies."""
    rng = random.Random(seed)
    plan = ChunkPlan(np.zeros(chunk_count, np.bool_))
    donors = [PeerId(f"donor {index}") for index in range(donor_count)]
    holds = {donor: np.array([rng.random() < 0.5 for _ in range(chunk_count)]) for donor in donors}
    for donor in donors:
        plan.on_donor(donor, holds[donor].astype(np.bool_))
    under_way: dict[PeerId, list[int]] = {donor: [] for donor in donors}
    came: set[int] = set()
    for _ in range(2_000):
        if plan.is_done:
            break
        donor = rng.choice(donors)
        action = rng.random()
        if action < 0.1 and len(donors) > 1:
            donors.remove(donor)
            plan.on_donor_lost(donor)
        elif action < 0.6 and under_way[donor]:
            index = under_way[donor].pop(0)
            assert plan.on_chunk(index) == (index not in came)
            came.add(index)
        elif (asked := plan.next_request(donor)) is not None:
            assert holds[donor][asked]
            assert asked not in under_way[donor]
            assert asked not in came
            under_way[donor].append(asked)
    live = [index for index in range(chunk_count) if any(holds[donor][index] for donor in donors)]
    assert came >= set(live)
    assert plan.is_done == (came == set(range(chunk_count)))
    if len(donors) < donor_count:
        assert plan.is_hopeless != (plan.is_done or came | set(live) == set(range(chunk_count)))


def test_an_idle_donor_helps_with_the_last_chunk() -> None:
    plan = ChunkPlan(np.zeros(1, np.bool_))
    for donor in (ALICE, BOB, CAROL):
        plan.on_donor(donor, np.ones(1, np.bool_))
    assert plan.next_request(ALICE) == 0
    assert plan.next_request(ALICE) is None
    assert plan.next_request(BOB) == 0
    assert plan.next_request(CAROL) is None, "two at most are asked for one chunk"
    plan.on_donor_lost(ALICE)
    assert plan.next_request(CAROL) == 0
    assert plan.on_chunk(0)
    assert not plan.on_chunk(0)
    assert plan.is_done


def test_what_is_there_already_is_not_asked_for() -> None:
    plan = ChunkPlan(np.array([True, False, True]))
    plan.on_donor(ALICE, np.array([True, True, False]))
    assert plan.next_request(ALICE) == 1
    assert plan.next_request(ALICE) is None
    assert plan.on_chunk(1)
    assert plan.is_done
