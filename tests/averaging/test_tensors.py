"""TensorSpec: order, hash, the flat vector and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from averaging.tensors import TensorSpec

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
TENSORS = st.dictionaries(
    st.text(max_size=3),
    st.tuples(st.sampled_from(["float16", "float32", "float64"]), SHAPES).flatmap(
        lambda kind: hnp.arrays(kind[0], kind[1], elements={"allow_nan": False})
    ),
    min_size=1,
    max_size=5,
)


@given(TENSORS)
def test_flatten_and_write_back_are_inverse(tensors: dict[str, np.ndarray]) -> None:
    spec = TensorSpec.of(tensors)
    flat = spec.flatten(tensors)
    assert flat.shape == (spec.element_count,)
    assert flat.dtype == spec.dtype
    copies = {name: np.full_like(tensor, 7) for name, tensor in tensors.items()}
    spec.write_back(flat, copies)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(copies[name], tensor)


def test_flat_is_a_copy() -> None:
    tensors = {"weights": np.ones(3, np.float32)}
    TensorSpec.of(tensors).flatten(tensors)[...] = 5
    assert tensors["weights"].tolist() == [1, 1, 1]


def test_strided_tensors_are_read_and_written() -> None:
    whole = np.arange(12, dtype=np.float64).reshape(3, 4)
    tensors = {"column": whole[:, 1], "turned": whole.T[2:]}
    spec = TensorSpec.of(tensors)
    spec.write_back(-spec.flatten(tensors), tensors)
    assert whole[:, 1].tolist() == [-1, -5, -9]
    assert whole[:, 3].tolist() == [-3, -7, -11]


def test_hash_ignores_the_order_of_the_mapping_and_nothing_else() -> None:
    first, second = np.zeros((2, 3), np.float32), np.zeros(4, np.float64)
    spec = TensorSpec.of({"a": first, "b": second})
    assert len(spec.hash) == 32
    assert TensorSpec.of({"b": second, "a": first}).hash == spec.hash
    others = [
        {"a": first, "c": second},
        {"a": first.reshape(3, 2), "b": second},
        {"a": first.astype(np.float64), "b": second},
        {"a": first},
    ]
    assert len({spec.hash, *(TensorSpec.of(other).hash for other in others)}) == 5


def test_dtype_holds_all_values() -> None:
    half, single = np.zeros(1, np.float16), np.zeros(1, np.float32)
    assert TensorSpec.of({"a": half}).dtype == np.float16
    assert TensorSpec.of({"a": half, "b": single}).dtype == np.float32


@pytest.mark.parametrize(
    "tensors", [{}, {"steps": np.zeros(3, np.int64)}, {"flags": np.zeros(2, bool)}]
)
def test_what_cannot_be_averaged_is_refused(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"at least one|can be averaged"):
        TensorSpec.of(tensors)


@pytest.mark.parametrize(
    "given_tensors",
    [
        {},
        {"a": np.zeros(3, np.float32)},
        {"a": np.zeros(2, np.float64)},
        {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)},
    ],
)
def test_tensors_that_differ_from_the_spec_are_refused(
    given_tensors: dict[str, np.ndarray],
) -> None:
    spec = TensorSpec.of({"a": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="spec"):
        spec.flatten(given_tensors)


def test_read_only_tensors_are_refused_before_anything_is_written() -> None:
    tensors = {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}
    tensors["b"].flags.writeable = False
    spec = TensorSpec.of(tensors)
    with pytest.raises(ValueError, match="'b' cannot be written"):
        spec.write_back(np.ones(4, np.float32), tensors)
    assert tensors["a"].tolist() == [0, 0]
