"""Staging: tensors to one kept flat vector and back, on the CPU and, where there is one, a GPU."""

import numpy as np
import pytest
import torch

from averaging.staging import Staging
from averaging.tensors import TensorSpec

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="copies from and to a GPU need one that CUDA sees"
)


def tensors_on(device: str) -> dict[str, torch.Tensor]:
    """Tensors of every dtype, with gaps, without dimensions, empty, and needing a gradient."""
    whole = torch.arange(60_000.0, device=device).reshape(200, 300)
    return {
        "single": whole.clone().requires_grad_(),
        "column": whole[:, 1],
        "turned": whole.T[2:],
        "half": whole[0].half(),
        "brain": whole[1].bfloat16().requires_grad_(),
        "double": whole[2].double() / 3,
        "scalar": torch.tensor(5.0, device=device),
        "empty": torch.zeros((3, 0), device=device),
    }


def in_order(spec: TensorSpec, tensors: dict[str, torch.Tensor]) -> list[float]:
    """The values that the flat vector should have."""
    return [
        value
        for name in spec.names
        for value in tensors[name].detach().cpu().double().flatten().tolist()
    ]


def check_there_and_back(device: str) -> None:
    """The vector has the tensors' values, and the tensors get the vector's."""
    tensors = tensors_on(device)
    spec = TensorSpec.of(tensors)
    staging = Staging(spec)
    flat = staging.flatten(tensors)
    assert flat.dtype == np.float64
    assert flat.tolist() == in_order(spec, tensors)
    flat *= -2
    staging.write_back(flat, tensors)
    assert in_order(spec, tensors) == flat.tolist()
    # Another vector, read-only, as one that came from elsewhere.
    other = flat / -2
    other.flags.writeable = False
    staging.write_back(other, tensors)
    assert in_order(spec, tensors) == other.tolist()
    assert tensors["single"].requires_grad
    assert tensors["single"].grad is None


def test_there_and_back_on_the_cpu() -> None:
    check_there_and_back("cpu")


def test_arrays_of_numpy() -> None:
    tensors = {"a": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), np.float16)}
    staging = Staging(TensorSpec.of(tensors))
    flat = staging.flatten(tensors)
    assert flat.tolist() == [0, 1, 2, 1, 1, 1, 1]
    staging.write_back(flat + 1, tensors)
    assert tensors["a"].tolist() == [1, 2, 3]
    assert tensors["b"].tolist() == [[2, 2], [2, 2]]


def test_the_vector_is_kept_and_is_not_the_tensors_memory() -> None:
    tensors = {"a": torch.ones(3)}
    staging = Staging(TensorSpec.of(tensors))
    flat = staging.flatten(tensors)
    flat[...] = 5
    assert tensors["a"].tolist() == [1, 1, 1]
    assert staging.flatten(tensors) is flat
    assert flat.tolist() == [1, 1, 1]


def test_tensors_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    tensors = {"a": torch.ones(3), "b": torch.ones(1)}
    staging = Staging(TensorSpec.of(tensors))
    with pytest.raises(ValueError, match="spec"):
        staging.flatten({"a": torch.ones(3)})
    with pytest.raises(ValueError, match="the spec says"):
        staging.write_back(np.zeros(4, np.float32), {**tensors, "b": torch.ones(2)})
    with pytest.raises(ValueError, match="flat vector"):
        staging.write_back(np.zeros(3, np.float32), tensors)
    assert tensors["a"].tolist() == [1, 1, 1]


@needs_gpu
def test_there_and_back_on_a_gpu() -> None:
    check_there_and_back("cuda")


@needs_gpu
def test_tensors_on_a_gpu_and_on_the_cpu_together() -> None:
    tensors = {
        "a": np.ones(3, np.float32),
        "b": torch.full((2,), 2.0),
        "c": torch.full((2,), 3.0, device="cuda"),
    }
    staging = Staging(TensorSpec.of(tensors))
    flat = staging.flatten(tensors)
    assert flat.tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert torch.from_numpy(flat).is_pinned()
    staging.write_back(-flat, tensors)
    assert tensors["a"].tolist() == [-1, -1, -1]
    assert tensors["b"].tolist() == [-2, -2]
    assert tensors["c"].tolist() == [-3, -3]


@needs_gpu
def test_a_vector_of_the_cpu_gives_way_to_a_pinned_one() -> None:
    staging = Staging(TensorSpec.of({"a": np.ones(3, np.float32)}))
    assert not torch.from_numpy(staging.flatten({"a": torch.ones(3)})).is_pinned()
    flat = staging.flatten({"a": torch.ones(3, device="cuda")})
    assert torch.from_numpy(flat).is_pinned()
    assert staging.flatten({"a": torch.ones(3)}) is flat


@needs_gpu
def test_work_queued_on_another_stream_is_waited_for() -> None:
    values = torch.zeros(1_000_000, device="cuda")
    staging = Staging(TensorSpec.of({"a": values}))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Long enough that the copy would come first if it did not wait.
        for _ in range(2000):
            values += 1
    assert set(staging.flatten({"a": values}).tolist()) == {2000}


@needs_gpu
def test_bfloat16_and_float16_from_float64_are_rounded_alike_on_a_gpu() -> None:
    vector = np.linspace(-70000, 70000, 200_001)
    shapes = {"half": torch.float16, "brain": torch.bfloat16, "double": torch.float64}
    results = []
    for device in ("cpu", "cuda"):
        tensors = {
            name: torch.zeros(66_667, dtype=dtype, device=device) for name, dtype in shapes.items()
        }
        Staging(TensorSpec.of(tensors)).write_back(vector, tensors)
        results.append({name: tensor.cpu() for name, tensor in tensors.items()})
    for name in shapes:
        assert torch.equal(results[0][name], results[1][name])
