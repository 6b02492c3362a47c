"""Where pictures come from: tensors in memory, or a folder of files that are read when drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from training.errors import RecipeError
from training.extra import load_extra

IntArray = npt.NDArray[np.int64]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Images(Protocol):
    """Pictures by number; their labels serve to judge what was learnt, never to learn."""

    @property
    def labels(self) -> IntArray:
        """The class of each picture, (N)."""

    def load(self, indices: IntArray) -> torch.Tensor:
        """Pictures (B, C, H, W), float32 from 0 to 1."""


class StoredImages:
    """Pictures in memory."""

    def __init__(self, images_NCHW: torch.Tensor, labels: IntArray) -> None:
        if len(images_NCHW) != len(labels) or len(labels) == 0:
            raise ValueError(f"{len(images_NCHW)} pictures and {len(labels)} labels")
        self._images_NCHW = images_NCHW
        self._labels = labels

    @property
    def labels(self) -> IntArray:
        """The class of each picture, (N)."""
        return self._labels

    def load(self, indices: IntArray) -> torch.Tensor:
        """Pictures (B, C, H, W)."""
        return self._images_NCHW[torch.from_numpy(indices)]


class ImageFolder:
    """Files in one folder per class, scaled and cut to squares when they are read.

    Raises:
        RecipeError: there is no picture, or Pillow is not installed.
    """

    def __init__(self, folder: Path, *, side: int, classes: Sequence[str] | None = None) -> None:
        self._pillow = load_extra("PIL.Image")
        self._side = side
        if not folder.is_dir():
            raise RecipeError(f"{folder}: there is no such folder of pictures")
        self.classes = tuple(
            classes or sorted(path.name for path in folder.iterdir() if path.is_dir())
        )
        self._files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            below = sorted((folder / name).rglob("*"))
            files = [path for path in below if path.suffix.lower() in SUFFIXES]
            self._files += files
            labels += [label] * len(files)
        if not self._files:
            raise RecipeError(
                f"{folder}: holds no pictures; it needs one folder for each class, with files "
                f"that end in {', '.join(SUFFIXES)}"
            )
        self._labels = np.array(labels, dtype=np.int64)

    @property
    def labels(self) -> IntArray:
        """The class of each picture, (N)."""
        return self._labels

    def load(self, indices: IntArray) -> torch.Tensor:
        """Pictures (B, 3, side, side): the shorter side scaled, the middle cut out.

        Raises:
            RecipeError: a file is no picture.
        """
        return torch.stack([self._picture(self._files[index]) for index in indices])

    def _picture(self, path: Path) -> torch.Tensor:
        try:
            with self._pillow.open(path) as file:
                picture: Any = file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as exc:
            raise RecipeError(f"{path}: cannot be read as a picture ({exc})") from exc
        scale = self._side / min(picture.size)
        width, height = (max(self._side, round(length * scale)) for length in picture.size)
        left, top = (width - self._side) // 2, (height - self._side) // 2
        square = picture.resize((width, height)).crop(
            (left, top, left + self._side, top + self._side)
        )
        return torch.from_numpy(np.array(square, dtype=np.float32) / 255).permute(2, 0, 1)
