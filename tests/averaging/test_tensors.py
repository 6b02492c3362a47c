"""TensorSpec: order, hash, the flat vector and the way back, of numpy's tensors and PyTorch's."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from averaging.codecs.floating import Run
from averaging.tensors import FLOAT_DTYPES, TensorSpec

Tensor = np.ndarray | torch.Tensor

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors_of_all_kinds(draw: st.DrawFn) -> Tensor:
    """A small tensor, of either library, of any dtype and shape, in one piece or not."""
    dtype = draw(st.sampled_from(FLOAT_DTYPES))
    stored = "float32" if dtype == "bfloat16" else dtype
    array = draw(hnp.arrays(stored, draw(SHAPES), elements={"allow_nan": False}))
    layout = draw(st.sampled_from(["plain", "turned", "strided"]))
    if layout == "turned":
        array = array.T
    elif layout == "strided" and array.ndim:
        array = np.repeat(array, 2, axis=-1)[..., ::2]
    if dtype != "bfloat16" and draw(st.booleans()):
        return array
    # from_numpy() keeps the strides, and to() does, too.
    tensor = torch.from_numpy(array).to(getattr(torch, dtype))
    return tensor.requires_grad_(draw(st.booleans()))


TENSORS = st.dictionaries(st.text(max_size=3), tensors_of_all_kinds(), min_size=1, max_size=5)


def empty_like(tensor: Tensor) -> Tensor:
    """One of the same kind and strides, with other values."""
    if isinstance(tensor, np.ndarray):
        return np.full_like(tensor, 7)
    return torch.full_like(tensor, 7).requires_grad_(tensor.requires_grad)


def values(tensor: Tensor) -> np.ndarray:
    """The tensor's values, widened."""
    if isinstance(tensor, torch.Tensor):
        return tensor.detach().to(torch.float64).numpy()
    return tensor.astype(np.float64)


@given(TENSORS)
def test_flatten_and_write_back_are_inverse(tensors: dict[str, Tensor]) -> None:
    spec = TensorSpec.of(tensors)
    flat = spec.flatten(tensors)
    assert flat.shape == (spec.element_count,)
    assert flat.dtype == spec.dtype
    in_order = [values(tensors[name]).reshape(-1) for name in spec.names]
    np.testing.assert_array_equal(flat, np.concatenate(in_order))
    copies = {name: empty_like(tensor) for name, tensor in tensors.items()}
    # What came from the network may be read-only memory.
    flat.flags.writeable = False
    spec.write_back(flat, copies)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(values(copies[name]), values(tensor))
        assert isinstance(tensor, np.ndarray) or copies[name].requires_grad == tensor.requires_grad


@given(
    st.dictionaries(
        st.text("ab", max_size=2),
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(FLOAT_DTYPES),
            st.none() | st.sampled_from(FLOAT_DTYPES),
        ),
        min_size=1,
    )
)
def test_the_flat_vector_has_a_run_for_each_dtype_on_the_wire(
    kinds: dict[str, tuple[int, str, str | None]],
) -> None:
    spec = TensorSpec.of(
        {
            name: torch.zeros(size, dtype=getattr(torch, dtype))
            for name, (size, dtype, _) in kinds.items()
        },
        {name: wire_dtype for name, (_, _, wire_dtype) in kinds.items() if wire_dtype},
    )
    for i, name in enumerate(spec.names):
        size, dtype, wire_dtype = kinds[name]
        assert spec.shapes[i] == (size,)
        assert spec.dtypes[i] == dtype
        assert spec.wire_dtypes[i] == (wire_dtype or dtype)
    sizes = [{"float64": 8, "float32": 4}.get(dtype, 2) for dtype in spec.wire_dtypes]
    assert sizes == sorted(sizes, reverse=True)
    runs = spec.wire.runs
    assert len({run.dtype_name for run in runs}) == len(runs) <= 4
    assert (
        spec.wire.element_count == spec.element_count == sum(run.stop - run.start for run in runs)
    )
    assert spec.wire.dtype == spec.dtype
    assert spec.wire.size_bytes(0, spec.element_count) == sum(
        size * of for size, of in zip(sizes, spec.sizes, strict=True)
    )


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


def test_torch_tensors_of_odd_layouts_are_read_and_written() -> None:
    images = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    pairs = torch.tensor([1 + 2j, 3 + 4j]).conj()
    tensors = {"images": images, "mirrored": pairs.imag}
    assert tensors["mirrored"].is_neg()
    spec = TensorSpec.of(tensors)
    flat = spec.flatten(tensors)
    assert flat.tolist() == [*range(24), -2, -4]
    spec.write_back(-flat, tensors)
    assert images.flatten().tolist() == [-value for value in range(24)]
    assert pairs.imag.tolist() == [2, 4]


def test_writing_back_rounds_once() -> None:
    # As float32 it would be a tie between 1 and the next float16, and go down.
    above_tie = np.array([1 + 2**-11 + 2**-40, 0])
    tensors: list[Mapping[str, Tensor]] = [
        {"a": np.zeros((), np.float16), "b": np.zeros((), np.float64)},
        {"a": torch.zeros((), dtype=torch.float16), "b": torch.zeros((), dtype=torch.float64)},
    ]
    for pair in tensors:
        spec = TensorSpec.of(pair)
        assert spec.names == ("b", "a")
        spec.write_back(above_tie[::-1].copy(), pair)
        assert values(pair["a"]) == 1 + 2**-10


def test_what_a_tensor_cannot_hold_becomes_infinite() -> None:
    tensors = {"a": np.zeros(1, np.float16), "b": np.zeros(1, np.float32)}
    TensorSpec.of(tensors).write_back(np.array([1e6, 1e6], np.float32), tensors)
    assert tensors["a"].tolist() == [np.inf]


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
    hashes = [TensorSpec.of(other).hash for other in others]
    hashes += [TensorSpec.of({"a": first, "b": second}, wire).hash for wire in FLOAT_DTYPES]
    # float32 and float64 are the own dtypes of one tensor each, not of both.
    assert len({spec.hash, *hashes}) == 9


def test_the_hash_is_of_numpy_and_torch_alike() -> None:
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    assert TensorSpec.of(tensors) == TensorSpec.of(arrays)
    assert TensorSpec.of(tensors).hash == TensorSpec.of(arrays).hash


def test_recorded_hashes() -> None:
    spec = TensorSpec(("a", "b"), ((2, 3), ()), ("float32", "float64"))
    assert spec.wire_dtypes == spec.dtypes
    assert spec.hash.hex() == "4241de65c695735d054086c3cf4b51126c61b37a0a2434276c61b37a0a243427"
    spec = spec.with_wire({"b": "bfloat16"})
    assert spec.hash.hex() == "4241de65c695735d054086c3cf4b51126c61b37a0a2434273c7f505d49098466"


def test_wire_dtypes_go_by_name() -> None:
    tensors = {
        name: np.zeros(2, np.float32) for name in ("head", "body.0", "body.1", "body.1.bias", "a")
    }
    spec = TensorSpec.of(
        tensors, {"body.*": "float16", "body.1*": "bfloat16", "body.1": "float64", "h*": "float16"}
    )
    assert dict(zip(spec.names, spec.wire_dtypes, strict=True)) == {
        "body.1": "float64",
        "a": "float32",
        "body.0": "float16",
        "head": "float16",
        "body.1.bias": "bfloat16",
    }
    assert spec.names == ("body.1", "a", "body.0", "head", "body.1.bias")
    assert spec.wire.runs == (
        Run(0, 2, "float64"),
        Run(2, 4, "float32"),
        Run(4, 8, "float16"),
        Run(8, 10, "bfloat16"),
    )
    assert set(TensorSpec.of(tensors, "float16").wire_dtypes) == {"float16"}
    assert spec.with_wire(None) == TensorSpec.of(tensors)


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        ("int8", "cannot be sent as int8"),
        ({"a": "float8"}, "'a' cannot be sent as float8"),
        ({"b": "float16"}, r"no tensor has .* \['b'\]"),
        ({"a": "float16", "b*": "float16"}, r"no tensor has .* \['b\*'\]"),
    ],
)
def test_impossible_wires_are_refused(wire: str | dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        TensorSpec.of({"a": np.zeros(1, np.float32)}, wire)


def test_a_single_plain_tensor_is_its_own_flat_vector() -> None:
    array, tensor = np.ones((2, 3), np.float32), torch.ones(2, 3, requires_grad=True)
    for given_tensors in ({"a": array}, {"a": tensor}):
        spec = TensorSpec.of(given_tensors)
        view = spec.view(given_tensors)
        assert view is not None
        assert view.shape == (6,)
        view[1] = 5
        assert values(given_tensors["a"]).tolist() == [[1, 5, 1], [1, 1, 1]]
        # Writing the view back is writing what is there already.
        spec.write_back(view, given_tensors)
        spec.write_back(2 * view, given_tensors)
        assert values(given_tensors["a"]).tolist() == [[2, 10, 2], [2, 2, 2]]
    scalar = {"a": torch.tensor(3.0)}
    view = TensorSpec.of(scalar).view(scalar)
    assert view is not None
    assert view.tolist() == [3]


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)},
        {"a": np.ones((3, 2), np.float32).T},
        {"a": np.ones(6, np.float32)[::2]},
        {"a": np.ones(3, np.dtype("float32").newbyteorder())},
        {"a": np.frombuffer(bytes(13), np.uint8)[1:].view(np.float32)},
        {"a": torch.ones(3, 2).T},
        {"a": torch.ones(3, dtype=torch.bfloat16)},
        {"a": torch.tensor([1j, 2j]).conj().imag},
    ],
)
def test_other_tensors_must_be_copied(tensors: dict[str, Tensor]) -> None:
    spec = TensorSpec.of(tensors)
    assert spec.view(tensors) is None
    np.testing.assert_array_equal(
        spec.flatten(tensors), np.concatenate([values(t).reshape(-1) for t in tensors.values()])
    )


def test_dtype_holds_all_values() -> None:
    half, single = np.zeros(1, np.float16), np.zeros(1, np.float32)
    assert TensorSpec.of({"a": half}).dtype == np.float16
    assert TensorSpec.of({"a": half, "b": single}).dtype == np.float32
    brain = torch.zeros(1, dtype=torch.bfloat16)
    assert TensorSpec.of({"a": half, "b": brain}).dtype == np.float32
    assert TensorSpec.of({"a": brain, "b": np.zeros(1)}).dtype == np.float64


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"steps": np.zeros(3, np.int64)},
        {"flags": np.zeros(2, bool)},
        {"steps": torch.zeros(3, dtype=torch.int64)},
        {"list": [1.0, 2.0]},
    ],
)
def test_what_cannot_be_averaged_is_refused(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"at least one|can be averaged|'list' is a list; give"):
        TensorSpec.of(tensors)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, device="meta"), torch.zeros(2).to_sparse()],
    ids=["without values", "sparse"],
)
def test_tensors_without_plain_memory_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"'a' (has no values|is not dense)"):
        TensorSpec.of({"a": tensor}).flatten({"a": tensor})


def test_torch_tensors_that_cannot_be_written_are_refused_before_anything_is_written() -> None:
    with torch.inference_mode():
        inferred = torch.zeros(2)
    for unwritable in (inferred, torch.zeros(()).expand(2)):
        tensors = {"a": torch.zeros(2), "b": unwritable}
        spec = TensorSpec.of(tensors)
        assert spec.flatten(tensors).tolist() == [0, 0, 0, 0]
        with pytest.raises(ValueError, match="'b' cannot be written"):
            spec.write_back(np.ones(4, np.float32), tensors)
        assert tensors["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "given_tensors",
    [
        {},
        {"a": np.zeros(3, np.float32)},
        {"a": np.zeros(2, np.float64)},
        {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)},
        {"a": torch.zeros(2, dtype=torch.bfloat16)},
    ],
)
def test_tensors_that_differ_from_the_spec_are_refused(given_tensors: dict[str, Tensor]) -> None:
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


@pytest.mark.parametrize(
    "flat", [np.ones(3, np.float32), np.ones(2), np.ones((1, 2), np.float32), np.ones(4, "f4")[::2]]
)
def test_flat_vectors_that_differ_from_the_spec_are_refused(flat: np.ndarray) -> None:
    tensors = {"a": np.zeros(2, np.float32)}
    spec = TensorSpec.of(tensors)
    with pytest.raises(ValueError, match="the flat vector must"):
        spec.flatten(tensors, flat)
    with pytest.raises(ValueError, match="the flat vector must"):
        spec.write_back(flat, tensors)


@pytest.mark.slow
def test_arrays_of_numpy_do_not_load_torch() -> None:
    code = """
import sys
import numpy as np
from averaging.staging import Staging
from averaging.tensors import TensorSpec

tensors = {"a": np.ones(3, np.float32), "b": np.ones(2)}
spec = TensorSpec.of(tensors, "float32")
staging = Staging(spec)
flat = staging.flatten(tensors)
spec.wire.decode_into(bytes(spec.wire.encode(flat, 1, 5)), 1, flat[1:])
staging.write_back(flat, tensors)
assert spec.view(tensors) is None
print("torch" in sys.modules)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
