"""Tensors of a model as one flat vector: read from them, and written back into them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from training.strategies.strategy import Vector


class FlatLayout:
    """Where each tensor lies in the flat vector: one after another, in the mapping's order."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.sizes = tuple(tensor.numel() for tensor in tensors.values())
        self.elements = sum(self.sizes)
        """E"""

    def split(self, flat_E: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of the vector in the tensors' shapes."""
        pieces = flat_E.split(list(self.sizes))  # type: ignore[no-untyped-call]
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }


class FlatParameters:
    """Reads and writes tensors as one vector of float32, or float64 where one of them is."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = dict(tensors)
        self._layout = FlatLayout(tensors)
        wide = any(tensor.dtype == torch.float64 for tensor in tensors.values())
        self._dtype = torch.float64 if wide else torch.float32

    @property
    def elements(self) -> int:
        """E; there may be none."""
        return self._layout.elements

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each tensor, in order."""
        return self._layout.shapes

    @property
    def dtype(self) -> str:
        """Of the vector: float32 or float64."""
        return "float64" if self._dtype == torch.float64 else "float32"

    def read(self) -> Vector:
        """A copy of all values on the host."""
        flat_E = torch.empty(self.elements, dtype=self._dtype)
        for name, piece in self._layout.split(flat_E).items():
            piece.copy_(self._tensors[name].detach())
        vector_E: Vector = flat_E.numpy()
        return vector_E

    def read_gradients(self) -> Vector:
        """A copy of all gradients; 0 where a tensor has none."""
        flat_E = torch.zeros(self.elements, dtype=self._dtype)
        for name, piece in self._layout.split(flat_E).items():
            gradient = self._tensors[name].grad
            if gradient is not None:
                piece.copy_(gradient)
        vector_E: Vector = flat_E.numpy()
        return vector_E

    def write_gradients(self, vector_E: Vector) -> None:
        """Give each tensor its gradient, where it is and in its own kind of numbers."""
        flat_E = torch.from_numpy(np.ascontiguousarray(vector_E))
        for name, piece in self._layout.split(flat_E).items():
            tensor = self._tensors[name]
            tensor.grad = piece.to(tensor.device, tensor.dtype, copy=True)

    def write(self, vector_E: Vector) -> None:
        """Overwrite the tensors in place, wherever they are, rounded to what they hold."""
        flat_E = torch.from_numpy(np.ascontiguousarray(vector_E))
        with torch.no_grad():
            for name, piece in self._layout.split(flat_E).items():
                self._tensors[name].copy_(piece)
